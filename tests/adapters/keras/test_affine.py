"""Keras layers written as other kernels: Rescaling, averages, means, maxima, PReLU, resizing; exact in both runtimes."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

import qat
from qat.adapters import keras as adapter
from qat.program import interpreter as reference
from support.rows import by_turns

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 8, 8, 3)).astype(np.float32)
TABLE = RNG.normal(3, 2, (8, 5)).astype(np.float32)
SLOPES = keras.initializers.RandomUniform(0.1, 0.4, seed=0)


def adapted(data):
    layer = L.Normalization()
    layer.adapt(data)
    return layer


def first(x):
    return L.Conv2D(4, 3, 2, padding="same", activation="relu")(x)


#: By name: the samples, what is built on them, and the kinds in front of what follows.
CASES = {
    "rescaling": (PIXELS, lambda x: first(L.Rescaling(1 / 127.5, -1)(x)), ["depthwise_conv2d", "conv2d"]),
    "rescaling and normalization": (
        PIXELS, lambda x: first(adapted(PIXELS / 255)(L.Rescaling(1 / 255)(x))), ["depthwise_conv2d", "conv2d"],
    ),
    "a number a channel": (PIXELS, lambda x: first(L.Rescaling([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])(x)), ["depthwise_conv2d"]),
    "after a convolution": (PIXELS, lambda x: L.Rescaling(0.5, 1.0)(L.Conv2D(4, 3)(x)), ["conv2d", "reshape"]),
    "a table": (TABLE, lambda x: L.Dense(4, activation="relu")(adapted(TABLE)(x)), ["constant", "mul", "constant", "add"]),
    "inverse": (TABLE, lambda x: L.Normalization(mean=2.0, variance=3.0, invert=True)(L.Dense(4)(x)), ["dense", "reshape"]),
    "average": (PIXELS / 99, lambda x: L.Average()([L.Conv2D(4, 3)(x) for _ in range(3)]), ["conv2d"] * 3 + ["add", "add"]),
    "prelu": (PIXELS, lambda x: L.PReLU(SLOPES, shared_axes=[1, 2])(L.Conv2D(4, 3)(x)), ["conv2d", "constant", "clamp"]),
    "prelu of each place": (PIXELS, lambda x: L.PReLU(SLOPES)(L.Conv2D(4, 3)(x)), ["conv2d", "constant", "clamp"]),
    "inception-resnet's branch": (
        PIXELS / 99, lambda x: CustomScaleLayer(0.2)([L.Conv2D(4, 3)(x), L.Conv2D(4, 3)(x)]), ["conv2d", "conv2d", "add"],
    ),
    "convnext's branch": (
        PIXELS / 99, lambda x: L.Activation("linear")(LayerScale(0.5, 4)(L.Conv2D(4, 3)(x))), ["conv2d", "constant", "mul"],
    ),
    "maximum": (PIXELS / 99, lambda x: L.Maximum()([L.Conv2D(4, 3)(x) for _ in range(3)]), ["conv2d"] * 3 + ["maximum"] * 2),
    "mean of channels": (
        PIXELS / 99,
        lambda x: ops.mean(L.Conv2D(4, 3)(x), -1, True),
        ["conv2d", "transpose", "reshape", "mean"],
    ),
    "mean of axes apart": (
        PIXELS / 99,
        lambda x: ops.mean(L.Conv2D(4, 3)(x), (1, 3)),
        ["conv2d", "transpose", "reshape", "mean"],
    ),
    "mean of the rows": (PIXELS / 99, lambda x: ops.mean(L.Conv2D(4, 3)(x), 1), ["conv2d", "reshape", "mean"]),
    "mean of all": (PIXELS / 99, lambda x: ops.mean(L.Conv2D(4, 3)(x), (1, 2, 3)), ["conv2d", "reshape", "mean"]),
    "mean of places": (PIXELS / 99, lambda x: ops.mean(L.Conv2D(4, 3)(x), (1, 2)), ["conv2d", "mean"]),
    "resizing": (PIXELS, lambda x: L.Resizing(12, 18, "nearest")(L.Conv2D(4, 3)(x)), ["conv2d", "move"]),
}  # fmt: skip

#: Whose training step is traced, which is slow: one for each kind of operator that the others consist of.
TRACED = {
    "rescaling and normalization",
    "a table",
    "inverse",
    "prelu",
    "convnext's branch",
    "maximum",
    "mean of axes apart",
    "resizing",
}


@pytest.mark.parametrize(("name", "target"), by_turns(CASES))
def test_artifact_equals_the_trained_model(name, target, tmp_path):
    keras.utils.set_random_seed(0)
    samples, build, kinds = CASES[name]
    inputs = keras.Input(samples.shape[1:])
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(build(inputs))))
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(samples), model(samples), atol=1e-4)
    assert [p.op.kind for p in prepared.plan.ops][: len(kinds)] == kinds
    qat.calibrate(prepared, [samples])
    assert prepared.plan.floats() == {}
    prepared.compile(keras.optimizers.SGD(1e-5), "mse", run_eagerly=target == "onnxruntime" or name not in TRACED)
    assert np.isfinite(prepared.train_on_batch(samples, np.zeros((8, 3), np.float32)))
    artifact = qat.export(prepared, tmp_path / ("m.tflite" if target == "litert" else "m.onnx"), verify=[samples])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    if "move" not in {p.op.kind for p in prepared.plan.ops}:  # which has no reference but the framework's own
        expected = reference.run(adapter.lower(prepared), samples)
        for value, integers in adapter.grid_values(prepared, samples).items():
            np.testing.assert_array_equal(integers, expected[value], err_msg=value)


def test_statistics_stay_and_slopes_are_trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.PReLU(SLOPES, shared_axes=[1, 2])(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(inputs)))
    prepared = qat.calibrate(qat.prepare(keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))), [PIXELS])
    before = {name: np.asarray(v).copy() for name, v in prepared.parameters.items()}
    prepared.compile(keras.optimizers.SGD(0.1), "mse")
    prepared.train_on_batch(PIXELS, np.ones((8, 3), np.float32))
    moved = {name for name, v in prepared.parameters.items() if np.abs(np.asarray(v) - before[name]).max() > 0}
    assert {name for name in before if name not in moved} == {name for name in before if name.startswith("rescaling")}
    assert any(name.endswith("alpha") for name in moved)


@pytest.mark.parametrize(
    "layer",
    [L.Resizing(11, 13, "nearest"), L.Resizing(16, 16, "bilinear"), L.Resizing(16, 24, "nearest", pad_to_aspect_ratio=True)],
)
def test_other_resizing_stays_float(layer):
    inputs = keras.Input((8, 8, 3))
    prepared = qat.prepare(keras.Model(inputs, L.Conv2D(2, 1)(layer(L.Conv2D(4, 3, padding="same")(inputs)))))
    assert list(prepared.plan.floats()) == [layer.name]


BILINEAR = {
    "layer": L.Resizing(21, 13),
    "up-sampling": L.UpSampling2D((2, 7), interpolation="bilinear"),
    "operation": lambda x: keras.ops.image.resize(x, (5, 4)),
    "one row": L.Resizing(1, 5),
}


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
@pytest.mark.parametrize("name", BILINEAR)
def test_a_bilinear_resize_at_the_end_is_equal_in_every_bit(name, target, suffix, tmp_path):
    inputs = keras.Input((8, 6, 3))
    model = keras.Model(inputs, BILINEAR[name](L.Conv2D(4, 3, padding="same")(inputs)))
    x = np.random.default_rng(0).normal(size=(16, 8, 6, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model, target=target), [x])
    np.testing.assert_allclose(prepared(x), model(x), atol=0.2)
    parity = qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity
    assert parity.exact == 1.0 or name == "one row", parity.first_difference
