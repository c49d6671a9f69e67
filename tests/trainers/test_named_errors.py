"""What a user's model or loss does not take is named by the batch, in every call and both frameworks."""

import numpy as np
import pytest

import qat
from qat.errors import CaptureError, DataError

X, Y = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), np.array([0, 1, 2, 1])


def of_torch():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 3)

        def forward(self, image):
            return self.layer(image)

    return Net()


def of_keras():
    import keras

    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])


@pytest.mark.parametrize("net", [of_torch, of_keras])
def test_the_model(net):
    data = [(X, Y), (X[:, :5], Y)]
    with pytest.raises(DataError, match=r"^evaluation batch 1: the model does not take its values: .+"):
        qat.evaluate(net(), data)
    with pytest.raises(DataError, match=r"^step 1: the model (or the loss )?does not take its values: .+"):
        qat.finetune(net(), data, steps=2)


def test_a_layer_that_fails_in_training_alone_is_quoted():
    """Keras says the reason first and then what the layer was given, in a traceback of TensorFlow's that ends with the reason."""
    import keras

    class Untrained(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                raise ValueError("no training today")
            return x

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), Untrained()])
    with pytest.raises(DataError, match=r"^step 0: the model or the loss does not take its values: .*no training today"):
        qat.finetune(model, [(X, Y)], steps=1)


@pytest.mark.parametrize("net", [of_torch, of_keras])
def test_the_loss_and_the_teacher(net):
    def loss(outputs, labels):
        raise KeyError("boxes")

    with pytest.raises(DataError, match=r"^step 0: the (model or the )?loss does not take its values: .*boxes"):
        qat.finetune(net(), [(X, Y)], steps=1, loss=loss)
    other = qat.prepare(net(), X)
    qat.calibrate(other, [X])

    def failing(*args, **kwargs):
        raise RuntimeError("no teacher today")

    teacher = net()
    setattr(teacher, "forward" if net is of_torch else "call", failing)
    with pytest.raises(DataError, match=r"^evaluation batch 0: the teacher does not take its values: no teacher today"):
        qat.evaluate(other, [X], teacher=teacher, labels="none")


def test_a_loss_that_cannot_be_lowered():
    def trained(net, loss, *weights):
        return qat.finetune(net(), [(X, Y, *weights)], steps=1, loss=loss)

    with pytest.raises(DataError, match=r"^the loss has no gradient: compute it from the model's outputs"):
        trained(of_torch, lambda outputs, labels: outputs.detach().mean())
    with pytest.raises(DataError, match=r"^the loss has no gradient: compute it from the model's outputs"):
        trained(of_torch, lambda outputs, labels: outputs.detach().mean(), np.ones(len(X), np.float32))
    with pytest.raises(DataError, match=r"^the loss has no gradient: compute it from the model's outputs"):
        trained(of_keras, lambda outputs, labels: np.float32(1))
    cases = ((lambda y: None, "NoneType"), (lambda y: {"loss": y.sum()}, "dict"), (lambda y: y.sum(0), r"shape \(3,\)"))
    for found, said in cases:
        with pytest.raises(DataError, match=f"^the loss returned {said}: return a tensor of one number"):
            trained(of_torch, lambda outputs, labels, found=found: found(outputs))


def test_a_mistyped_key():
    said = r"\('imge' is none of the model's inputs, image: the mapping was taken for one of them\)$"
    with pytest.raises(CaptureError, match=said):
        qat.prepare(of_torch(), {"imge": X})
    with pytest.raises(DataError, match=r"^step 0: the model does not take its values: .+" + said):
        qat.finetune(of_torch(), [({"imge": X}, Y)], steps=1)
    with pytest.raises(DataError, match=said):
        qat.evaluate(of_torch(), [({"imge": X}, Y)])


def test_a_mapping_of_any_keywords_is_not_called_one_argument():
    import torch

    class Wrapped(torch.nn.Module):
        def forward(self, **inputs):
            return inputs["x"] if inputs["x"].sum() > 0 else -inputs["x"]

    with pytest.raises(CaptureError, match=r"prepare the part of the model before it$"):
        qat.prepare(Wrapped(), {"x": torch.ones(2, 3)})


@pytest.mark.parametrize("labels", [0, 0.5, np.array(1), {"a": 1}])
@pytest.mark.parametrize("net", [of_torch, of_keras])
def test_labels_of_a_batch_that_are_one_value(net, labels):
    with pytest.raises(DataError, match="yield arrays with a row for each sample"):
        qat.evaluate(net(), [(X, labels)])
    with pytest.raises(DataError, match="yield arrays with a row for each sample"):
        qat.compare([net()], [(X, labels)], latency_runs=0)
