"""Functions in pieces in Keras: every spelling gets the kernels of the functional form."""

import math
from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops as O

import qat

X = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)


def centred(x):
    return x - O.mean(x, -1, keepdims=True)


def below(x):
    return x - O.max(x, -1, keepdims=True)


#: By name: the functional form where Keras has one, then spellings.
SPELLINGS = {
    "hard swish": (
        lambda x: L.Activation("hard_silu")(x),
        lambda x: x * O.relu6(x + 3) / 6,
        lambda x: x * O.clip(x / 6 + 0.5, 0, 1),
        lambda x: L.Multiply()([x, L.Rescaling(1 / 6)(O.relu6(x + 3.0))]),
        lambda x: L.Multiply()([L.Activation("hard_sigmoid")(x), x]),
        lambda x: L.Multiply()([L.ReLU(6.0)(x + 3.0), x]) * (1 / 6),
        lambda x: L.Activation(lambda y: y * O.relu6(y + 3) / 6)(x),
    ),
    "gelu": (lambda x: O.gelu(x, False), lambda x: 0.5 * x * (1 + O.erf(x / math.sqrt(2)))),
    "gelu by tanh": (
        lambda x: O.gelu(x, True),
        lambda x: 0.5 * x * (1 + O.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * O.power(x, 3)))),
    ),
    "silu": (
        lambda x: O.silu(x),
        lambda x: x * O.sigmoid(x),
        lambda x: x / (1 + O.exp(-x)),
        lambda x: L.Multiply()([x, L.Activation("sigmoid")(x)]),
    ),
    "mish": (lambda x: L.Activation("mish")(x), lambda x: x * O.tanh(O.softplus(x)), lambda x: x * O.tanh(O.log1p(O.exp(x)))),
    "leaky relu": (lambda x: O.leaky_relu(x, 0.1), lambda x: O.maximum(x, 0.1 * x), lambda x: O.relu(x) - 0.1 * O.relu(-x)),
    "relu6": (lambda x: O.relu6(x), lambda x: O.minimum(O.maximum(x, 0), 6), lambda x: O.clip(x, 0, 6)),
    "sigmoid": (lambda x: O.sigmoid(x), lambda x: 1 / (1 + O.exp(-x))),
    "layer norm": (
        lambda x: centred(x) / O.sqrt(O.mean(O.square(centred(x)), -1, keepdims=True) + 1e-5),
        lambda x: centred(x) * O.rsqrt(O.var(x, -1, keepdims=True) + 1e-5),
    ),
    "rms norm": (
        lambda x: x * O.rsqrt(O.mean(O.square(x), -1, keepdims=True) + 1e-5),
        lambda x: x / O.sqrt(O.sum(x * x, -1, keepdims=True) / 6 + 1e-5),
    ),
    "attention": (
        lambda x: O.matmul(O.softmax(x), x),
        lambda x: O.matmul(O.exp(x) / O.sum(O.exp(x), -1, keepdims=True), x),
        lambda x: O.matmul(O.exp(below(x)) / O.sum(O.exp(below(x)), -1, keepdims=True), x),
    ),
    "factors and shifts": (lambda x: L.Rescaling(0.5, -0.25)(x), lambda x: (x - 0.5) / 2.0, lambda x: 1 - x),
}  # fmt: skip

KINDS = {"layer norm": "layer_norm", "rms norm": "rms_norm", "attention": "softmax", "factors and shifts": "conv2d"}


def branches(functions):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    return keras.Model(image, [L.Conv2D(2, 1)(f(L.Conv2D(6, 1)(image))) for f in functions])


def kinds(plan):
    return Counter((p.op.kind, p.integer) for p in plan.ops if p.op.kind != "constant")


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gets_the_kernels_of_the_functional_form(name):
    functions = SPELLINGS[name]
    for target in ("litert", "onnxruntime"):
        alone = kinds(qat.plan(branches(functions[:1]), target=target))
        assert KINDS.get(name, next(iter(alone))[0]) in {kind for kind, _ in alone}
        found = kinds(qat.plan(branches(functions), target=target))
        assert found == Counter({kind: count * len(functions) for kind, count in alone.items()})


@pytest.mark.parametrize(("target", "suffix"), [("litert", "tflite"), ("onnxruntime", "onnx")])
def test_spellings_are_exact(target, suffix, tmp_path):
    functions = [SPELLINGS[name][-1] for name in ("hard swish", "gelu", "layer norm", "rms norm", "attention")]
    model = branches([*functions, lambda x: x * O.sigmoid(1.702 * x), lambda x: 2 / (x * x + 1)])
    prepared = qat.calibrate(qat.prepare(model, target=target), [X])
    for found, expected in zip(prepared.predict(X, verbose=0), model.predict(X, verbose=0), strict=True):
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.06
    parity = qat.export(prepared, tmp_path / f"m.{suffix}", verify=[X, X[:3]]).parity
    assert parity.exact == 1.0, parity.first_difference
