"""The kernels of attention against both runtimes, which get integers and return integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.arithmetic import attention
from qat.arithmetic.encoding import Encoding, of_probabilities
from qat.arithmetic.grid import f32
from qat.exporters import export_program
from qat.program import interpreter as reference
from qat.program.program import Instruction, Program, Value
from qat.runtimes import open_session

RUNTIMES = {
    "onnxruntime": (".onnx", "mlas", "NCHW", (0, 255), {"matmul": "QLinearMatMul", "softmax": "QLinearSoftmax"}),
    "litert": (".tflite", "xnnpack", "NHWC", (-128, 127), {"matmul": "BATCH_MATMUL", "softmax": "SOFTMAX"}),
}
seeds = st.integers(0, 2**32 - 1)


def run_both(
    runtime: str, step: Instruction, encodings: dict[str, Encoding], shapes: dict[str, tuple[int, ...]], feeds: list[np.ndarray],
    folder: Path,
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:  # fmt: skip
    """Return an instruction's integers as the runtime and as the reference compute them, and the operators that ran."""
    suffix, kernels, layout, _, _ = RUNTIMES[runtime]
    values, steps = {}, []
    for name in step.inputs:
        values[f"{name}_real"] = Value(f"{name}_real", (None, *shapes[name][1:]))
        values[name] = Value(name, (None, *shapes[name][1:]), encodings[name])
        steps.append(Instruction(f"quantize_{name}", "quantize", (f"{name}_real",), (name,)))
    (output,) = step.outputs
    values[output] = Value(output, (None, *shapes[output][1:]), encodings[output])
    values["real"] = Value("real", (None, *shapes[output][1:]))
    steps += [step, Instruction("dequantize", "dequantize", (output,), ("real",))]
    inputs = tuple(f"{name}_real" for name in step.inputs)
    program = Program("p", layout, kernels, runtime, "r", inputs, ("real",), values, tuple(steps))
    path = folder / f"m{suffix}"
    export_program(program, path, io_dtype="float32", overwrite=True)
    session = open_session(path)
    (found,) = session.run(*feeds)
    return found, reference.run(program, *feeds)["real"], session.ops()


def encoding(rng: np.random.Generator, limits: tuple[int, int], scale: float | None = None) -> Encoding:
    scale = float(np.exp(rng.uniform(-6, 0))) if scale is None else scale
    return Encoding(np.asarray(scale, f32), int(rng.integers(limits[0], limits[1] + 1)), *limits)


def real(rng: np.random.Generator, e: Encoding, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(e.lo, e.hi + 1, shape).astype(f32) * f32(e.scale)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=30, deadline=None)
@given(
    seed=seeds, lead=st.sampled_from([(2,), (1,), (2, 3)]), rows=st.integers(1, 20), depth=st.sampled_from([1, 3, 16, 64, 300]),
    columns=st.integers(1, 20), transpose=st.booleans(), centred=st.booleans(), halves=st.booleans(),
)  # fmt: skip
def test_products_of_any_integers(
    runtime, tmp_path_factory, seed, lead, rows, depth, columns, transpose, centred, halves
):  # fmt: skip
    """``centred``: what LiteRT's delegate takes. ``halves``: scales of which many products lie halfway between two integers."""
    rng, limits = np.random.default_rng(seed), RUNTIMES[runtime][3]
    shapes = {"a": (*lead, rows, depth), "b": (*lead, *((columns, depth) if transpose else (depth, columns)))}
    encodings = {name: encoding(rng, limits, 2.0**-5 if halves else None) for name in shapes}
    if centred:
        encodings["b"] = Encoding(encodings["b"].scale, 0, *limits)
    feeds = [real(rng, encodings[name], shape) for name, shape in shapes.items()]
    exact = feeds[0] @ (feeds[1].swapaxes(-1, -2) if transpose else feeds[1])
    scale = max(float(np.std(exact)) / 60, 1e-4)
    encodings["y"], shapes["y"] = encoding(rng, limits, 2.0 ** round(np.log2(scale)) if halves else scale), exact.shape
    step = Instruction("product", "matmul", ("a", "b"), ("y",), {"transpose_b": transpose})
    found, expected, ops = run_both(runtime, step, encodings, shapes, feeds, tmp_path_factory.mktemp("m"))
    np.testing.assert_array_equal(found, expected)
    assert ops[RUNTIMES[runtime][4]["matmul"]] == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=25, deadline=None)
@given(
    seed=seeds, lead=st.sampled_from([(4,), (2, 3), (2, 3, 5)]), length=st.sampled_from([2, 3, 17, 64, 197, 512]),
    beta=st.sampled_from([1.0, 0.125, 0.3]), spread=st.sampled_from([0.0, 3.0, 20.0, 200.0]),
    greatest=st.sampled_from([1.0, 0.3, 0.01, 0.0]),
)  # fmt: skip
def test_softmax_of_any_integers(runtime, tmp_path_factory, seed, lead, length, beta, spread, greatest):
    rng, limits = np.random.default_rng(seed), RUNTIMES[runtime][3]
    x = encoding(rng, limits)
    shapes = {"x": (*lead, length), "y": (*lead, length)}
    grid = np.clip(np.rint(rng.normal(rng.integers(x.lo, x.hi), spread, shapes["x"])), x.lo, x.hi)
    y = of_probabilities(max(greatest, 1 / length), *limits)
    step = Instruction("s", "softmax", ("x",), ("y",), {"beta": beta})
    feeds = [grid.astype(f32) * f32(x.scale)]
    found, expected, ops = run_both(runtime, step, {"x": x, "y": y}, shapes, feeds, tmp_path_factory.mktemp("m"))
    np.testing.assert_array_equal(found, expected)
    assert ops[RUNTIMES[runtime][4]["softmax"]] == 1
    logits = beta * feeds[0].astype(np.float64)
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    # LiteRT rounds to 32768ths first, and twice more on the way to 8 bits.
    bound = 0.51 * float(y.scale) if runtime == "onnxruntime" else 0.76 * float(y.scale) + 0.5 / 32768
    np.testing.assert_allclose(found, np.minimum(exact / exact.sum(-1, keepdims=True), 255 * float(y.scale)), atol=bound)


#: Sums of squares of up to 258 and 1032 integers are exact in float32; 1280 and 4096 have such parts, 1033 (a prime) has none.
widths = st.sampled_from([1, 3, 64, 192, 258, 259, 768, 1032, 1033, 1280, 4096])


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds, lead=st.sampled_from([(4,), (2, 3), (2, 3, 5)]), width=widths, spread=st.sampled_from([0.0, 1.0, 20.0, 1e4]),
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-3]), plain=st.booleans(),
)  # fmt: skip
def test_layer_norm_of_any_integers(tmp_path_factory, seed, lead, width, spread, epsilon, plain):
    """``plain``: without parameters, whose nodes are left out."""
    rng, limits = np.random.default_rng(seed), (0, 255)
    x, y = encoding(rng, limits), encoding(rng, limits, 0.03)
    shape = (*lead, width)
    grid = np.clip(np.rint(rng.normal(rng.integers(x.lo, x.hi), spread, shape)), x.lo, x.hi)
    gamma, beta = rng.normal(1, 0.0 if plain else 0.3, width).astype(f32), rng.normal(0, 0.0 if plain else 0.3, width).astype(f32)
    step = Instruction("n", "layer_norm", ("x",), ("y",), {"epsilon": epsilon}, gamma, None, beta)
    feeds = [grid.astype(f32) * f32(x.scale)]
    shapes, folder = {"x": shape, "y": shape}, tmp_path_factory.mktemp("m")
    found, expected, _ = run_both("onnxruntime", step, {"x": x, "y": y}, shapes, feeds, folder)
    np.testing.assert_array_equal(found, expected)
    real_x = feeds[0].astype(np.float64)
    deviation = np.sqrt(real_x.var(-1, keepdims=True) + epsilon)
    exact = (real_x - real_x.mean(-1, keepdims=True)) / deviation * gamma + beta
    inside = np.abs(exact) < 0.9 * min(-y.lo, y.hi) * 0.03
    np.testing.assert_allclose(found[inside], exact[inside], atol=0.0151)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds, lead=st.sampled_from([(4,), (2, 3), (2, 3, 5)]), width=widths, spread=st.sampled_from([0.0, 1.0, 20.0, 1e4]),
    epsilon=st.sampled_from([0.0, 1e-12, 1e-6, 1e-3]), least=st.sampled_from([0.0, 1e-12, 0.5]),
)  # fmt: skip
def test_rms_norm_of_any_integers(tmp_path_factory, seed, lead, width, spread, epsilon, least):
    rng, limits = np.random.default_rng(seed), (0, 255)
    x, y = encoding(rng, limits), encoding(rng, limits, 0.03)
    shape = (*lead, width)
    grid = np.clip(np.rint(rng.normal(rng.integers(x.lo, x.hi), spread, shape)), x.lo, x.hi)
    gamma = rng.normal(1, 0.3, width).astype(f32)
    step = Instruction("n", "rms_norm", ("x",), ("y",), {"epsilon": epsilon, "least": least}, gamma)
    feeds = [grid.astype(f32) * f32(x.scale)]
    shapes, folder = {"x": shape, "y": shape}, tmp_path_factory.mktemp("m")
    found, expected, _ = run_both("onnxruntime", step, {"x": x, "y": y}, shapes, feeds, folder)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("kind", "nodes"), [("layer_norm", 16), ("rms_norm", 9)])
def test_norms_are_few_passes(kind, nodes, tmp_path):
    """Each node is a pass over the tensor, which takes the time that the arithmetic does not."""
    rng, shape = np.random.default_rng(0), (2, 4, 96)
    x, y = (Encoding(np.asarray(0.03, f32), 128, 0, 255) for _ in range(2))
    weight, bias = rng.normal(1, 0.3, 96).astype(f32), rng.normal(0, 0.3, 96).astype(f32)
    step = Instruction(
        "n", kind, ("x",), ("y",), {"epsilon": 1e-6, "least": 0.0}, weight, None, bias if kind == "layer_norm" else None
    )
    encodings, shapes = {"x": x, "y": y}, {"x": shape, "y": shape}
    found, expected, ops = run_both("onnxruntime", step, encodings, shapes, [real(rng, x, shape)], tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert sum(ops.values()) == nodes + len(("quantize", "dequantize"))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("greatest", [1.0, 0.43, 0.1])
def test_softmax_near_the_border_of_two_integers(runtime, greatest, tmp_path):
    """Of 1.6 million values some lie so near it that the last bit of the sum, the table or the division decides."""
    rng, shape = np.random.default_rng(0), (100_000, 16)
    limits = RUNTIMES[runtime][3]
    x, y = Encoding(np.asarray(0.0063, f32), 3 + limits[0], *limits), of_probabilities(greatest, *limits)
    feeds = [np.clip(np.rint(rng.normal(100, 40, shape)), x.lo, x.hi).astype(f32) * f32(x.scale)]
    step = Instruction("s", "softmax", ("x",), ("y",), {"beta": 1.0})
    found, expected, _ = run_both(runtime, step, {"x": x, "y": y}, {"x": shape, "y": shape}, feeds, tmp_path)
    np.testing.assert_array_equal(found, expected)


def test_exponentials_are_those_of_the_c_library():
    ctypes = pytest.importorskip("ctypes")
    try:
        libm = ctypes.CDLL("libm.so.6")
    except OSError:
        pytest.skip("no GNU C library here")
    libm.expf.restype, libm.expf.argtypes = ctypes.c_float, [ctypes.c_float]
    x = -np.random.default_rng(0).uniform(0, 90, 20000).astype(f32)
    np.testing.assert_array_equal(attention.expf(x), np.array([libm.expf(float(v)) for v in x], f32))
