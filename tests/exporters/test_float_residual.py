"""The recipe that keeps a transformer's residual stream float: the plan, the artifacts, and a stream that 8 bits cannot hold."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat

RECIPE = "static_wi8_ai8_float_residual"
WIDTH = 16
CROSSED = (("torch", "litert"), ("keras", "onnxruntime"))


class Block(nn.Module):
    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, branch in zip(self.norms, (self.attention, self.mlp), strict=True):
            x = x + branch(norm(x)) if self.before else norm(x + branch(x))
        return x


class Net(nn.Module):
    """Images to scores: four patches as tokens."""

    def __init__(self, before: bool, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, WIDTH, 4, 4)
        self.position = nn.Parameter(0.1 * torch.randn(1, 4, WIDTH) + shift)
        self.blocks = nn.Sequential(Block(before), Block(before))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def keras_net(before: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((4, WIDTH))(layers.Conv2D(WIDTH, 4, 4)(inputs))
    x = x + layers.Embedding(4, WIDTH)(keras.ops.arange(4))
    for _ in range(2):
        norms = [layers.LayerNormalization() for _ in range(2)]
        y = norms[0](x) if before else x
        x = layers.Add()([x, layers.MultiHeadAttention(2, WIDTH // 2)(y, y)])
        x = x if before else norms[0](x)
        y = norms[1](x) if before else x
        x = layers.Add()([x, layers.Dense(WIDTH)(layers.Dense(32, activation="gelu")(y))])
        x = x if before else norms[1](x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def images(framework: str, count: int = 32) -> np.ndarray:
    shape = (count, 1, 8, 8) if framework == "torch" else (count, 8, 8, 1)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "target", "before"),
    [("torch", "onnxruntime", True), ("torch", "litert", False), ("keras", "litert", True), ("keras", "onnxruntime", False)],
)
def test_stream_is_float_products_are_integers(tmp_path, framework, target, before):
    x = images(framework)
    net = Net(before).eval() if framework == "torch" else keras_net(before)
    model = qat.calibrate(qat.prepare(net, x[:2], RECIPE, target), [x])
    stream = model.plan.residual_stream()
    assert len([p for p in stream if p.op.kind == "add"]) == 5
    assert not any(p.integer for p in stream)
    assert all(p.integer for p in model.plan.ops if p.op.kind in ("conv2d", "dense", "matmul", "softmax", "gelu"))
    artifact = qat.export(model, tmp_path / ("m.onnx" if target == "onnxruntime" else "m.tflite"), verify=[x])
    assert artifact.parity.max_lsb <= 1  # a float kernel's last bit may move an integer after it by one
    assert artifact.parity.exact > 0.9


def raised(framework: str, factor: float) -> nn.Module | keras.Model:
    """Return the net with three channels of each norm that a block reads raised, and the weights that read them lowered."""
    channels = [1, 7, 12]
    if framework == "keras":
        net = keras_net(True)
        norms = [layer for layer in net.layers if isinstance(layer, keras.layers.LayerNormalization)]
        attention = [layer for layer in net.layers if isinstance(layer, keras.layers.MultiHeadAttention)]
        dense = [layer for layer in net.layers if isinstance(layer, keras.layers.Dense)]
        readers = [[attention[0].query_dense, attention[0].key_dense, attention[0].value_dense], [dense[0]]]
        readers += [[attention[1].query_dense, attention[1].key_dense, attention[1].value_dense], [dense[2]], [dense[4]]]
        scale = np.ones(WIDTH, np.float32)
        scale[channels] = factor
        for norm, layers in zip(norms, readers, strict=True):
            norm.gamma.assign(norm.gamma * scale)
            for layer in layers:
                layer.kernel.assign(np.asarray(layer.kernel) / scale.reshape(-1, *[1] * (len(layer.kernel.shape) - 1)))
        return net
    net = Net(True).eval()
    pairs = [(block.norms[index], layer) for block in net.blocks for index, layer in enumerate((block.qkv, block.mlp[0]))]
    with torch.no_grad():
        for norm, layer in (*pairs, (net.norm, net.head)):
            norm.weight[channels] *= factor
            layer.weight[:, channels] /= factor
    return net


def outputs(model: nn.Module | keras.Model, x: np.ndarray) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return model.eval()(torch.from_numpy(x)).numpy()
    return np.asarray(model(x))


def error(net: nn.Module | keras.Model, recipe: str, target: str, x: np.ndarray) -> float:
    """Return the squared error of a calibrated model, as a share of the float outputs' variance."""
    want = outputs(net, x)
    prepared = qat.prepare(net, x[:2], recipe, target)
    np.testing.assert_allclose(outputs(prepared, x), want, rtol=0, atol=1e-3 * np.abs(want).max())
    found = outputs(qat.calibrate(prepared, [x]), x)
    return float(np.square(found - want).mean() / want.var(0).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "target"), [("torch", "onnxruntime"), ("keras", "litert"), *CROSSED])
def test_large_channels_of_norms_are_lost_in_8_bits_alone(tmp_path, framework, target):
    """Gamma is raised and the next weights lowered: the float function is the same, and so are the integers of the recipe."""
    x = images(framework, 64)
    net = raised(framework, 100.0)
    assert error(net, "static_wi8_ai8", target, x) > 0.2
    assert error(net, RECIPE, target, x) < 0.01
    prepared = qat.calibrate(qat.prepare(net, x[:2], RECIPE, target), [x])
    artifact = qat.export(prepared, tmp_path / ("m.onnx" if target == "onnxruntime" else "m.tflite"), verify=[x])
    assert artifact.parity.max_lsb <= 1 and artifact.parity.exact > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_stream_far_from_zero_is_lost_in_8_bits_alone(target):
    """A norm takes no notice of a number that is added to every channel; 8 bits for the sums do."""
    x, net = images("torch", 64), Net(True, shift=300.0).eval()
    assert error(net, "static_wi8_ai8", target, x) > 0.5
    assert error(net, RECIPE, target, x) < 0.01
