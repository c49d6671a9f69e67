"""The ``mlas`` arithmetic against ONNX Runtime where it is hardest: every pair of integers, ties, large accumulators."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.arithmetic import mlas
from qat.arithmetic.grid import BIAS_LIMIT, dequantize, f32
from qat.exporters.onnx import model as exporter
from qat.runtimes.onnxruntime import OnnxSession
from support.programs import Sketch

seeds = st.integers(0, 2**32 - 1)


def integers_of(sketch: Sketch, output: str) -> np.ndarray:
    """Return ONNX Runtime's integers of a value, all optimizations on."""
    program = sketch.program(sketch.real(output, "y"))
    session = OnnxSession(exporter.build(program, (output,)).SerializeToString())
    raw = session.run_named(*sketch.feeds.values())[output]
    return raw.astype(np.int64) - sketch.of(output).zero_point


def feed(sketch: Sketch, name: str, integers: np.ndarray) -> None:
    """Set an input to the real values of given integers (zero point included)."""
    e = sketch.of(f"{name}_quantized")
    grid = integers.astype(np.int64) - e.zero_point
    sketch.feeds[name] = dequantize(grid, e)
    sketch.grid[f"{name}_quantized"] = grid.astype(f32)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["add", "mul"]))
def test_every_pair_of_integers(seed, kind):
    sketch = Sketch(seed, (1, 65536))
    other = sketch.input("z", (1, 65536))
    a, b = np.divmod(np.arange(65536)[None], 256)
    feed(sketch, "x", a)
    feed(sketch, "z", b)
    output = sketch.binary(kind, sketch.x, other)
    np.testing.assert_array_equal(integers_of(sketch, output), sketch.grid[output])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_quantize_of_ties_and_extremes(seed):
    sketch = Sketch(seed, (1, 1024))
    e = sketch.of(sketch.x)
    ties = (np.arange(512) - 256 + 0.5).astype(f32) * f32(e.scale)
    wide = sketch.rng.normal(0, 1e6, 500).astype(f32)
    values = np.concatenate([ties, wide, f32([0, -0.0, 1e30, -1e30, 1e-38, 1e-45, 3.4e38, -3.4e38, 1, -1, 0.5, -0.5])])
    sketch.feeds["x"] = values[None]
    np.testing.assert_array_equal(integers_of(sketch, sketch.x)[0], mlas.quantize(values, e))


@settings(max_examples=10, deadline=None)
@given(seeds, st.booleans())
def test_accumulators_beyond_the_mantissa_of_float32(seed, convolution):
    # 512 inputs of up to 255 times 64, and a bias at its limit: the sum passes 2^24 and rounds on its way to float32.
    sketch = Sketch(seed, (4, 512, 1, 1) if convolution else (4, 512))
    feed(sketch, "x", sketch.rng.integers(200, 256, sketch.feeds["x"].shape))
    sketch.rng = _Extreme(seed)
    output = sketch.conv(sketch.x, 8, (1, 1)) if convolution else sketch.dense(sketch.x, 8)
    np.testing.assert_array_equal(integers_of(sketch, output), sketch.grid[output])


class _Extreme:
    """A generator whose biases lie at the limit."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def integers(self, low: int, high: int, size: object = None) -> np.ndarray:
        if low == -20000:
            return self._rng.integers(BIAS_LIMIT - 1000, BIAS_LIMIT, size)
        return self._rng.integers(low, high, size)

    def uniform(self, low: float, high: float, size: object = None) -> np.ndarray:
        return self._rng.uniform(low, high, size)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_global_average_of_large_images(seed, height, width):
    sketch = Sketch(seed, (1, 3, height, width))
    feed(sketch, "x", sketch.rng.integers(0, 256, (1, 3, height, width)))
    output = sketch.mean(sketch.x, keepdims=True)
    np.testing.assert_array_equal(integers_of(sketch, output), sketch.grid[output])
