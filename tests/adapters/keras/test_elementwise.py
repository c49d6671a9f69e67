"""Activations, broadcasting and arithmetic with constants: exact in LiteRT, through the public calls."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import qat
from qat.adapters import keras as adapter
from qat.program import interpreter as reference
from support.rows import every_second


def squeeze_excite(x):
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)])


#: By name: what follows a convolution, and how many operators stay float (the flattening after one does, too).
CASES = {
    **{
        name: (lambda x, name=name: layers.Activation(name)(x), 0)
        for name in ("sigmoid", "tanh", "silu", "gelu", "leaky_relu", "elu", "exponential", "hard_sigmoid", "hard_silu", "relu6")
    },
    "LeakyReLU": (lambda x: layers.LeakyReLU(0.1)(x), 0),
    "ReLU with a slope": (lambda x: layers.ReLU(negative_slope=0.3)(x), 0),
    "ELU": (lambda x: layers.ELU()(x), 0),
    "ELU with alpha": (lambda x: layers.ELU(0.5)(x), 0),
    "ops.gelu by tanh": (lambda x: ops.gelu(x, approximate=True), 0),
    "ops.silu": (lambda x: ops.silu(x), 0),
    "activation argument": (lambda x: layers.Conv2D(5, 1, activation="swish")(x), 0),
    "softplus": (lambda x: layers.Activation("softplus")(x), 0),
    "softmax": (lambda x: layers.Softmax()(x), 0),
    "squeeze and excite": (squeeze_excite, 0),
    "broadcast add": (lambda x: x + layers.Conv2D(1, 1)(x), 0),
    "times a number": (lambda x: x * 0.5, 0),
    "number plus": (lambda x: 1.5 + x, 0),
    "minus a number": (lambda x: x - 0.25, 0),
    "number minus": (lambda x: 1.0 - x, 0),
    "divided by a number": (lambda x: x / 3.0, 0),
    "number divided by": (lambda x: 3.0 / (x + 20.0), 0),
    "times an array": (lambda x: x * np.array([0.5, -1.0, 2.0, 0.1], np.float32), 0),
    "difference": (lambda x: layers.Subtract()([x, layers.Conv2D(4, 1)(x)]), 0),
}
#: Whose training step is traced, which is slow: one for each kind of operator that the others consist of.
TRACED = {
    "silu", "relu6", "LeakyReLU", "softplus", "softmax", "squeeze and excite", "broadcast add", "number minus",
    "number divided by", "times an array", "difference",
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("name", every_second(CASES))
def test_artifact_equals_the_trained_model(name, images, tmp_path):
    keras.utils.set_random_seed(0)
    middle, floats = CASES[name]
    inputs = keras.Input((6, 6, 3))
    outputs = layers.Dense(3)(layers.Flatten()(middle(layers.Conv2D(4, 3)(inputs))))
    prepared = qat.calibrate(qat.prepare(keras.Model(inputs, outputs)), [images])
    assert len(prepared.plan.floats()) == floats, prepared.plan.floats()
    prepared.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=name not in TRACED)
    assert np.isfinite(prepared.train_on_batch(images, np.zeros((16, 3), np.float32)))
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[images])
    if not floats:
        assert artifact.parity.exact == 1.0, artifact.parity.first_difference
        expected = reference.run(adapter.lower(prepared), images)
        for value, integers in adapter.grid_values(prepared, images).items():
            np.testing.assert_array_equal(integers, expected[value], err_msg=value)
    else:
        assert artifact.parity.max_lsb <= 2


def test_rewritten_functions_compute_the_float_model(images):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3)(inputs)
    outputs = [layers.Activation(name)(x) for name in ("silu", "hard_sigmoid", "hard_silu")]
    model = keras.Model(inputs, outputs)
    for mine, theirs in zip(qat.prepare(model)(images), model(images), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def prelu():
    layer = layers.PReLU(alpha_initializer="uniform", shared_axes=[1, 2])
    layer.build((None, 4, 4, 4))
    return layer


#: Ways to write the activation of a layer, and the kind that each is, None for one of several operators.
ACTIVATIONS = {
    "a layer": (lambda: layers.LeakyReLU(negative_slope=0.5), "leaky_relu"),
    "a layer with a limit": (lambda: layers.ReLU(max_value=6), "relu6"),
    "a layer with a slope": (lambda: layers.ReLU(negative_slope=0.1), "leaky_relu"),
    "a layer of a layer": (lambda: layers.Activation(layers.ELU(0.5)), "elu"),
    "a layer with weights": (prelu, None),
    "a name": (lambda: "leaky_relu", "leaky_relu"),
    "a function": (lambda: keras.activations.leaky_relu, "leaky_relu"),
    "an operation": (lambda: ops.leaky_relu, "leaky_relu"),
    "a partial function": (lambda: functools.partial(keras.activations.leaky_relu, negative_slope=0.3), "leaky_relu"),
    "a function of one's own": (lambda: lambda x: keras.activations.relu(x, max_value=6), "relu6"),
    "several operations": (lambda: lambda x: x * ops.sigmoid(1.5 * x), None),
}


@pytest.mark.parametrize("place", ["argument", "Activation"])
@pytest.mark.parametrize("way", ACTIVATIONS)
def test_an_activation_is_what_it_computes_however_it_is_written(way, place, images):
    make, kind = ACTIVATIONS[way]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    if place == "argument":
        model = keras.Model(inputs, layers.Conv2D(4, 3, activation=make())(inputs))
    else:
        model = keras.Model(inputs, layers.Activation(make())(layers.Conv2D(4, 3)(inputs)))
    prepared = qat.prepare(model)
    assert prepared.plan.floats() == {}
    assert kind is None or kind in " ".join(row["op"] for row in prepared.plan.table())
    np.testing.assert_allclose(prepared(images), model(images), atol=1e-5)


def test_an_activation_that_no_kind_computes_stays_as_it_is(images):
    def half_known(x):
        return ops.softplus(ops.sigmoid(x) - ops.log_sigmoid(x))

    inputs = keras.Input((6, 6, 3))
    for function in (half_known, lambda x: tf.nn.leaky_relu(x, 0.2)):
        model = keras.Model(inputs, layers.Conv2D(4, 3, activation=function)(inputs))
        prepared = qat.prepare(model)
        assert [row["runs"] for row in prepared.plan.table()] == ["integer", "float"]
        np.testing.assert_allclose(prepared(images), model(images), atol=1e-5)


def test_gradient_reaches_through_a_function(images):
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 3, activation="silu")(inputs))))
    prepared = qat.calibrate(qat.prepare(model), [images])
    before = {name: np.asarray(v).copy() for name, v in prepared.parameters.items()}
    prepared.compile(keras.optimizers.SGD(0.1), "mse")
    prepared.train_on_batch(images, np.ones((16, 3), np.float32))
    assert all(np.abs(np.asarray(v) - before[name]).max() > 0 for name, v in prepared.parameters.items())
