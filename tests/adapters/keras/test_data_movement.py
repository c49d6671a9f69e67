"""Keras layers that move integers about, and every integer of a function: LiteRT computes what the model does."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import qat
from qat.arithmetic import lookup as functions
from qat.arithmetic.encoding import Encoding, from_range
from qat.exporters.tflite import write
from qat.graph.kinds import FUNCTIONS
from qat.program.program import Instruction, Program, Value
from qat.runtimes.litert import LiteRTSession

BLOCKS = {
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "slice": lambda x: L.Concatenate()([x[:, :, :, :4], x[:, :, :, 4:]]),
    "crop": L.Cropping2D(1),
    "upsample": lambda x: L.UpSampling2D(2)(x),
    "permute": L.Permute((3, 1, 2)),
    "maximum": L.GlobalMaxPooling2D(),
    "minimum": lambda x: ops.min(x, (1, 2), keepdims=True),
    "flip": lambda x: ops.flip(x, 1),
    "stop gradient": lambda x: x + ops.stop_gradient(ops.relu(x)),
}


def net(block):
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, padding="same")(x)
    x = block(x)
    return keras.Model(inputs, L.Dense(5)(L.Flatten()(x)))


def proved(model, shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(24, *shape)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [x])
    qat.finetune(prepared, [(x, rng.integers(0, 5, 24))] * 3, learning_rate=0.001)
    return prepared, x


def test_a_minimum_is_exact_in_an_onnx(tmp_path):
    x = np.random.default_rng(0).normal(size=(24, 6, 6, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(net(BLOCKS["minimum"]), target="onnxruntime"), [x])
    assert prepared.plan.floats() == {}
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


@pytest.mark.parametrize("name", BLOCKS)
def test_move_is_exact(name, tmp_path):
    keras.utils.set_random_seed(1)
    prepared, x = proved(net(BLOCKS[name]), (6, 6, 3))
    assert prepared.plan.floats() == {}
    artifact = qat.export(prepared, tmp_path / "m.tflite", verify=[x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


def test_a_prepared_model_with_functions_and_moves_is_saved_and_loaded(tmp_path):
    keras.utils.set_random_seed(1)
    prepared, x = proved(net(lambda t: BLOCKS["slice"](L.Activation("softplus")(t))), (6, 6, 3))
    prepared.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), prepared.predict(x, verbose=0))


ARGUMENTS = {
    "gelu": {"approximate": True},
    "leaky_relu": {"alpha": 0.1},
    "elu": {"alpha": 1.0},
    "clamp": {"low": -0.5, "high": 1.5},
    "power": {"exponent": 3.0},
    "composed": {"steps": (("mul", "x", 1.702), ("sigmoid", "#0"), ("div", "x", 2.0), ("mul", "#1", "#2"))},
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_integer_of_a_function_is_that_of_litert(kind):
    rng = np.random.default_rng(0)
    attrs = ARGUMENTS.get(kind, {})
    for _ in range(8):
        low = -rng.uniform(0.1, 8)
        x = from_range(low, rng.uniform(1, 16), -128, 127)
        y = functions.real(kind, attrs, np.arange(x.lo, x.hi + 1) * float(x.scale))
        y = from_range(*(float(v) for v in np.quantile(y[np.isfinite(y)], [0.02, 0.98])), -128, 127)
        if kind in ("sigmoid", "tanh"):
            y = Encoding(np.float32(1 / 256 if kind == "sigmoid" else 1 / 128), -128 if kind == "sigmoid" else 0, -128, 127)
        values = {"x": Value("x", (None, 256)), "y": Value("y", (None, 256))}
        values |= {"xq": Value("xq", (None, 256), x), "yq": Value("yq", (None, 256), y)}
        steps = (
            Instruction("q", "quantize", ("x",), ("xq",)),
            Instruction("f", kind, ("xq",), ("yq",), attrs),
            Instruction("d", "dequantize", ("yq",), ("y",)),
        )
        program = Program("p", "NHWC", "xnnpack", "litert", "static_wi8_ai8", ("x",), ("y",), values, steps)
        integers = np.arange(x.lo, x.hi + 1, dtype=np.float32)[None] * np.float32(x.scale)
        (found,) = LiteRTSession(write(program)).run_named(integers).values()
        assert np.array_equal(found[0].astype(int) - y.zero_point, functions.table(kind, attrs, x, y, "xnnpack"))
