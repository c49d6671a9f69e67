"""Parameters that are operands of their own, as positions are, train from any start: zeros and equal values too."""

import numpy as np
import pytest

import qat

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(64, 8)).astype(np.float32), RANDOM.integers(0, 4, 64)
STARTS = {"zeros": np.zeros(8), "equal": np.full(8, 0.01), "random": RANDOM.normal(size=8) * 0.02}


def of_torch(start):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
            self.places = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))

        def forward(self, x):
            return self.last(torch.relu(self.first(x)) + self.places)

    torch.manual_seed(0)
    return Net()


def of_keras(start):
    keras = pytest.importorskip("keras")

    class Places(keras.layers.Layer):
        def build(self, shape):
            self.places = self.add_weight(shape=(8,), name="places", initializer=lambda shape, dtype=None: start)

        def call(self, x):
            return x + self.places

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = Places()(keras.layers.Dense(8, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def places(model):
    """Return the parameter's values, of either framework."""
    if hasattr(model, "named_parameters"):
        return next(p for name, p in model.named_parameters() if "places" in name).detach().numpy()
    return np.asarray(next(w for w in model.weights if "places" in w.path))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("net", "suffix"), [(of_torch, "onnx"), (of_keras, "tflite")])
def test_every_element_trains(net, suffix, start, tmp_path):
    model = qat.calibrate(qat.prepare(net(STARTS[start]), X[:2]), [X])
    before = places(model).copy()
    qat.finetune(model, [(X, Y)] * 20, learning_rate=0.05, progress=False)
    assert (places(model) != before).all()
    assert qat.export(model, tmp_path / f"m.{suffix}", verify=[X]).parity.exact == 1.0
