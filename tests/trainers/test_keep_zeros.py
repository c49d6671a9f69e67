"""A pruned weight keeps its zeros in training, in both frameworks."""

import numpy as np
import pytest
import torch
from torch import nn

import qat

X = np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32)
Y = np.arange(128) % 3
DATA = [(X[:64], Y[:64]), (X[64:], Y[64:])]


def torch_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        net[0].weight[torch.rand(16, 6) < 0.5] = 0
    return net


def zeros_of_torch(model):
    return (model.tensor("0.weight") == 0).numpy()


def keras_net():
    import keras

    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, activation="relu", name="first"), keras.layers.Dense(3)])
    kernel = net.layers[0].kernel
    kernel.assign(np.where(np.random.default_rng(0).random((6, 16)) < 0.5, 0, kernel))
    return net


def zeros_of_keras(model):
    return np.asarray(next(iter(model.parameters.values()))) == 0


CASES = {
    "torch": (torch_net, zeros_of_torch, "m.onnx"),
    "keras": (keras_net, zeros_of_keras, "m.tflite"),
}


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=[pytest.mark.slow, pytest.mark.ci])])
def test_zeros_stay_in_training(framework, tmp_path):
    make, zeros_of, artifact = CASES[framework]
    for keep in (True, False):
        model = qat.calibrate(qat.prepare(make(), X, keep_zeros=keep), [X])
        before = zeros_of(model)
        assert 30 < before.sum() < 70
        qat.finetune(model, DATA, epochs=2, learning_rate=0.05, progress=False)
        assert (zeros_of(model)[before]).all() == keep
        assert not zeros_of(model)[~before].any()
    model = qat.calibrate(qat.prepare(make(), X, keep_zeros=True), [X])
    qat.finetune(model, DATA, epochs=1, learning_rate=0.05, checkpoint_dir=tmp_path / "c", progress=False)
    qat.adaround(model, [X])
    assert zeros_of(model)[before].all()
    assert qat.export(model, tmp_path / artifact, verify=[X]).parity.exact == 1.0
    path = next((tmp_path / "c").glob("last.*"))
    loaded = qat.load_prepared(qat.prepare(make(), X, keep_zeros=True), path)
    qat.finetune(loaded, DATA, epochs=1, learning_rate=0.05, progress=False)
    assert zeros_of(loaded)[before].all()
