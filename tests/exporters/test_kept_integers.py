"""Products by a number that change no integer take no operator of an ``.onnx``; a number has the axes of its tensor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qat
from qat.runtimes import open_session

IMAGES = np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)


def _torch_model(of):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(of(self.first(x).mean((2, 3), keepdim=True)))

    return Model().eval(), IMAGES


def _keras_model(of):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    outputs = keras.layers.Conv2D(4, 1)(of(keras.layers.GlobalAveragePooling2D(keepdims=True)(keras.layers.Conv2D(8, 3)(inputs))))
    return keras.Model(inputs, outputs), IMAGES.transpose(0, 2, 3, 1)


def _exported(made, folder, train=False):
    model, images = made
    prepared = qat.calibrate(qat.prepare(model, images[:2], target="onnxruntime"), [images])
    if train:
        labels = np.zeros((len(images), 1), np.float32)
        qat.finetune(prepared, [(images, labels)] * 3, loss=_square, progress=False)
    artifact = qat.export(prepared, folder / "model.onnx", verify=[images])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    return artifact


def _square(outputs, labels):
    return (outputs**2).mean() if hasattr(outputs, "mean") else pytest.importorskip("keras").ops.mean(outputs**2)


def _products(artifact):
    return open_session(artifact.path).ops().get("QLinearMul", 0)


@pytest.mark.parametrize("make", [_torch_model, _keras_model])
@pytest.mark.parametrize("train", [False, True])
def test_a_product_by_a_number_takes_no_operator(make, train, tmp_path):
    artifact = _exported(make(lambda x: x * 3.0), tmp_path, train)
    assert _products(artifact) == 0
    assert not [i.name for i in onnx.load(artifact.path).graph.initializer if "number" in i.name]


def test_a_product_that_turns_the_sign_stays(tmp_path):
    artifact = _exported(_torch_model(lambda x: x * -3.0), tmp_path)
    assert _products(artifact) == 1


def test_a_clipped_product_is_exact(tmp_path):
    torch = pytest.importorskip("torch")
    _exported(_torch_model(lambda x: torch.clamp(x * 3.0, -0.2, 0.3)), tmp_path)


def test_a_number_that_two_read_stays_for_the_other(tmp_path):
    torch = pytest.importorskip("torch")

    def two(x):
        number = torch.tensor(2.0)
        return x * number + number

    _exported(_torch_model(two), tmp_path)


def test_a_number_has_as_many_axes_as_the_tensor_beside_it(tmp_path):
    artifact = _exported(_torch_model(lambda x: x + 0.7), tmp_path)
    graph = onnx.load(artifact.path).graph
    (number,) = (i for i in graph.initializer if "number" in i.name and i.data_type == onnx.TensorProto.UINT8 and len(i.dims))
    assert list(number.dims) == [1, 1, 1, 1]
