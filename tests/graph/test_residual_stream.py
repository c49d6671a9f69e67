"""The residual stream: which sums and norms belong to it, in nets of every build and in both frameworks."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.graph.graph import Graph, Op, TensorSpec
from qat.graph.residual_stream import residual_stream


def graph(*ops, inputs=("x",)):
    """Return a graph of ``(name, kind, inputs)``; an operator's output carries its name."""
    made = tuple(Op(name, kind, tuple(sources), (name,), {}, {}, f"net.{name}") for name, kind, sources in ops)
    tensors = {name: TensorSpec(name, (None, 4, 8)) for name in (*inputs, *(op.name for op in made))}
    return Graph("g", "NHWC", inputs, (made[-1].name,), made, tensors)


BEFORE = (
    ("p", "constant", ()), ("s", "add", ("x", "p")),
    ("n1", "layer_norm", ("s",)), ("f1", "dense", ("n1",)), ("a1", "add", ("s", "f1")),
    ("n2", "rms_norm", ("a1",)), ("f2", "dense", ("n2",)), ("a2", "add", ("f2", "a1")),
    ("n3", "layer_norm", ("a2",)), ("h", "dense", ("n3",)),
)  # fmt: skip
AFTER = (
    ("e", "embedding", ("x",)), ("p", "constant", ()), ("s", "add", ("e", "p")), ("n0", "layer_norm", ("s",)),
    ("f1", "dense", ("n0",)), ("a1", "add", ("n0", "f1")), ("n1", "layer_norm", ("a1",)),
    ("f2", "dense", ("n1",)), ("a2", "add", ("n1", "f2")), ("n2", "layer_norm", ("a2",)), ("h", "dense", ("n2",)),
)  # fmt: skip


#: Swin 2: a branch ends in its norm.
ENDS = (
    ("f1", "dense", "x"), ("n1", "layer_norm", ("f1",)), ("a1", "add", ("x", "n1")),
    ("f2", "dense", ("a1",)), ("n2", "layer_norm", ("f2",)), ("a2", "add", ("a1", "n2")), ("n3", "layer_norm", ("a2",)),
)  # fmt: skip
#: Attention and multilayer perceptron side by side.
PARALLEL = (
    ("n", "layer_norm", "x"), ("f", "dense", ("n",)), ("g", "dense", ("n",)),
    ("a", "add", ("x", "f")), ("b", "add", ("a", "g")), ("m", "layer_norm", ("b",)),
)  # fmt: skip
MOVED = (
    ("f", "dense", "x"), ("r", "reshape", ("f",)), ("a", "add", ("x", "r")), ("t", "transpose", ("a",)), ("n", "layer_norm", "t"),
    ("u", "reshape", ("n",)), ("g", "dense", ("u",)), ("b", "add", ("a", "g")), ("v", "move", ("b",)), ("m", "mean", ("v",)),
    ("l", "layer_norm", ("m",)),
)  # fmt: skip
BIAS = (("f", "dense", "x"), ("b", "constant", ()), ("a", "add", ("f", "b")), ("n", "layer_norm", ("a",)))
RESNET = (("f", "conv2d", "x"), ("a", "add", ("x", "f")), ("r", "relu", ("a",)), ("h", "dense", ("r",)))


@pytest.mark.parametrize(
    ("ops", "stream"),
    [
        pytest.param(BEFORE, "s n1 a1 n2 a2 n3", id="norms before"),
        pytest.param(AFTER, "s n0 a1 n1 a2 n2", id="norms after"),
        pytest.param((*BEFORE[:-2], ("h", "dense", ("a2",))), "s n1 a1 n2 a2", id="no last norm"),
        pytest.param(ENDS, "n1 a1 n2 a2 n3", id="norms at the ends of branches"),
        pytest.param(PARALLEL, "n a b m", id="parallel branches"),
        pytest.param(MOVED, "a t n b v m l", id="movement between"),
        pytest.param(RESNET, "", id="ResNet"),
        pytest.param(BIAS, "", id="a bias"),
        pytest.param((("f", "dense", "x"), ("n", "layer_norm", ("f",)), ("h", "dense", ("n",))), "", id="no sum"),
    ],
)
def test_members(ops, stream):
    assert " ".join(residual_stream(graph(*ops))) == stream


def test_a_norm_that_its_framework_computes_counts():
    ops = graph(("f", "dense", "x"), ("a", "add", ("x", "f")), ("n", "float", ("a",)))
    assert residual_stream(ops) == ()
    named = Op("n", "float", ("a",), ("n",), {}, {"target": "LayerNormalization", "computes": "layer_norm"})
    assert residual_stream(ops.replace(ops=(*ops.ops[:2], named))) == ("a", "n")


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_pytorch_s_own_encoder(before):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=before, dropout=0.1)
    net = nn.Sequential(nn.Linear(4, 8), *nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers, nn.LayerNorm(8))
    plan = qat.plan(net.eval(), torch.zeros(2, 5, 4))
    kinds = [p.op.kind for p in plan.residual_stream()]
    assert kinds.count("add") == 4
    assert kinds.count("layer_norm") == 5


def test_norms_in_pieces():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.gamma = nn.ModuleList(nn.Linear(8, 8) for _ in range(2)), nn.Parameter(torch.rand(8))

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gamma)
            return x

    stream = qat.plan(Net(), torch.zeros(2, 5, 8)).residual_stream()
    assert [p.op.kind for p in stream] == ["rms_norm", "add", "rms_norm", "add"]


def test_keras_layers():
    import keras
    from keras import layers

    x = inputs = keras.Input((6, 8))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dropout(0.1)(layers.MultiHeadAttention(2, 4)(y, y))])
        x = x + layers.Dense(8)(layers.Dense(16, activation="gelu")(layers.RMSNormalization()(x)))
    x = layers.LayerNormalization()(layers.Dropout(0.1)(x))
    plan = qat.plan(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x))))
    labels = [p.op.label for p in plan.residual_stream()]
    assert labels == ["layer_norm", "add", "rms_norm", "add"] * 2 + ["layer_norm"]


def test_convolution_nets_have_none():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return torch.relu(x + self.norm(self.conv(x)))

    assert qat.plan(nn.Sequential(Block(), Block()).eval(), np.zeros((1, 3, 4, 4), np.float32)).residual_stream() == ()
