"""Hand-made integer programs with random weights and encodings, and what the NumPy reference computes for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.arithmetic import accumulators, mlas
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import dequantize, f32
from qat.program.program import FrameworkBlock, Instruction, Program, Value

Pads = tuple[tuple[int, int], tuple[int, int]]
NONE: Pads = ((0, 0), (0, 0))


class Sketch:
    """Adds instructions to a program, each with its integers on the grid for one random input."""

    def __init__(self, seed: int, shape: tuple[int, ...], limits: tuple[int, int] = (0, 255), name: str = "x") -> None:
        self.rng = np.random.default_rng(seed)
        self.limits = limits
        self.values: dict[str, Value] = {}
        self.steps: list[Instruction] = []
        self.grid: dict[str, np.ndarray] = {}
        self.feeds: dict[str, np.ndarray] = {}
        self.floats: dict[str, np.ndarray] = {}
        self.x = self.input(name, shape)

    def input(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a float input and its quantize; returns the quantized value."""
        e = self.encoding()
        self.feeds[name] = self.rng.normal(0, 64 * float(e.scale), shape).astype(f32)
        self.values[name] = Value(name, (None, *shape[1:]))
        output = f"{name}_quantized"
        self.steps.append(Instruction(f"quantize_{name}", "quantize", (name,), (output,)))
        return self.emit(output, mlas.quantize(self.feeds[name], e), e)

    def encoding(self, scale: float | None = None, zero_point: int | None = None) -> Encoding:
        """Return a random encoding."""
        low, high = self.limits
        if scale is None:
            scale = float(np.exp(self.rng.uniform(-6, 0)))
        if zero_point is None:
            zero_point = int(self.rng.integers(low, high + 1))
        return Encoding(np.asarray(scale, f32), zero_point, low, high)

    def emit(self, name: str, integers: np.ndarray, encoding: Encoding) -> str:
        """Declare a quantized value."""
        self.values[name] = Value(name, (None, *integers.shape[1:]), encoding)
        self.grid[name] = np.asarray(integers, f32)
        return name

    def of(self, name: str) -> Encoding:
        """Return a value's encoding."""
        encoding = self.values[name].encoding
        assert encoding is not None
        return encoding

    def fitted(self, v: np.ndarray, activation: str | None, absorbed: bool) -> tuple[Encoding, tuple[int, int]]:
        """Return an encoding in which most of ``v`` (real values) fits, and the limits of its activation."""
        low = self.limits[0]
        e = self.encoding(max(float(np.std(v)) / 60, 1e-6), low if activation and absorbed else None)
        lo, hi = e.qmin, e.qmax
        if activation:
            lo = max(lo, e.zero_point)
        if activation == "relu6":
            hi = min(hi, int(np.rint(f32(6) / f32(e.scale))) + e.zero_point)
        return e, (lo, hi)

    def weighted(
        self,
        kind: str,
        source: str,
        acc_of: Any,
        weight: np.ndarray,
        per_channel: bool,
        bias: bool,
        options: dict[str, Any],
    ) -> str:
        """Add a convolution or dense layer."""
        channels = weight.shape[0]
        scale = np.exp(self.rng.uniform(-7, -3, channels if per_channel else ())).astype(f32)
        weight_encoding = Encoding(np.asarray(scale), 0, -64, 64, 0 if per_channel else None)
        b = self.rng.integers(-20000, 20000, channels).astype(np.int32) if bias else None
        acc = acc_of(self.grid[source], weight, b)
        shape = [1] * acc.ndim
        shape[1 if kind != "dense" else -1] = -1
        x = self.of(source)
        real = acc * (np.broadcast_to(scale, (channels,)).reshape(shape) * float(x.scale))
        e, (lo, hi) = self.fitted(real, options.get("activation"), options.get("absorbed", True))
        m = mlas.multiplier(float(x.scale), np.broadcast_to(scale, (channels,)), float(e.scale)).reshape(shape)
        y = mlas.requantize(acc, m, lo - e.zero_point, hi - e.zero_point)
        output = f"{kind}_{len(self.steps)}"
        self.steps.append(
            Instruction(
                f"{output}_op", kind, (source,), (output,), options.get("attrs", {}), weight, weight_encoding, b,
                options.get("activation"), (lo, hi),
            )
        )  # fmt: skip
        return self.emit(output, y, e)

    def conv(
        self, source: str, out: int, kernel: tuple[int, int] = (3, 3), *, strides: tuple[int, int] = (1, 1),
        padding: Pads = NONE, dilations: tuple[int, int] = (1, 1), groups: int = 1, per_channel: bool = True,
        bias: bool = True, **options: Any,
    ) -> str:  # fmt: skip
        """Add a convolution."""
        channels = self.grid[source].shape[1]
        weight = self.rng.integers(-64, 65, (out, channels // groups, *kernel)).astype(np.int8)
        attrs = {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups}
        kind = "depthwise_conv2d" if groups == channels and groups > 1 else "conv2d"
        acc = lambda x, w, b: accumulators.conv2d(x, w, b, strides, padding, dilations, groups)  # noqa: E731
        return self.weighted(kind, source, acc, weight, per_channel, bias, {**options, "attrs": attrs})

    def dense(self, source: str, out: int, *, per_channel: bool = True, bias: bool = True, **options: Any) -> str:
        """Add a dense layer."""
        weight = self.rng.integers(-64, 65, (out, self.grid[source].shape[-1])).astype(np.int8)
        return self.weighted("dense", source, accumulators.dense, weight, per_channel, bias, options)

    def binary(self, kind: str, a: str, b: str, activation: str | None = None, absorbed: bool = True) -> str:
        """Add an add or mul."""
        ea, eb, xa, xb = self.of(a), self.of(b), self.grid[a], self.grid[b]
        ra, rb = xa * float(ea.scale), xb * float(eb.scale)
        e, (lo, hi) = self.fitted(ra + rb if kind == "add" else ra * rb, activation, absorbed)
        kernel = mlas.add if kind == "add" else mlas.mul
        y = kernel(xa, xb, ea, eb, e, lo - e.zero_point, hi - e.zero_point)
        output = f"{kind}_{len(self.steps)}"
        step = Instruction(f"{output}_op", kind, (a, b), (output,), activation=activation, clamp=(lo, hi))
        self.steps.append(step)
        return self.emit(output, y, e)

    def mean(self, source: str, keepdims: bool) -> str:
        """Add a global average pooling."""
        x = self.of(source)
        e, clamp = self.fitted(self.grid[source].mean((2, 3)) * float(x.scale), None, True)
        y = mlas.mean(self.grid[source], (2, 3), x, e, keepdims)
        return self.step("mean", (source,), y, e, {"axes": (2, 3), "keepdims": keepdims}, clamp)

    def step(
        self, kind: str, sources: tuple[str, ...], integers: np.ndarray, e: Encoding, attrs: dict[str, Any],
        clamp: tuple[int, int] | None = None,
    ) -> str:  # fmt: skip
        """Add an instruction whose integers are given."""
        output = f"{kind}_{len(self.steps)}"
        self.steps.append(Instruction(f"{output}_op", kind, sources, (output,), attrs, clamp=clamp or (e.qmin, e.qmax)))
        return self.emit(output, integers, e)

    def pool(self, kind: str, source: str, kernel: tuple[int, int], strides: tuple[int, int], padding: Pads = NONE) -> str:
        """Add a max or average pooling."""
        x, e = self.grid[source], self.of(source)
        if kind == "max_pool2d":
            y = accumulators.max_pool2d(x, kernel, strides, padding)
        else:
            y = mlas.avg_pool2d(x, kernel, strides, padding, e)
        return self.step(kind, (source,), y, e, {"kernel": kernel, "strides": strides, "padding": padding})

    def relu(self, source: str, kind: str = "relu") -> str:
        """Add an activation of its own."""
        e = self.of(source)
        top = min(e.hi, int(np.rint(f32(6) / f32(e.scale)))) if kind == "relu6" else e.hi
        return self.step(kind, (source,), np.clip(self.grid[source], 0, top), e, {})

    def concat(self, sources: tuple[str, ...], axis: int = 1) -> str:
        """Add a concatenation of values that share one encoding."""
        e = self.of(sources[0])
        return self.step("concat", sources, np.concatenate([self.grid[s] for s in sources], axis), e, {"axis": axis})

    def reshape(self, source: str, shape: tuple[int, ...]) -> str:
        """Add a reshape; ``shape`` without the batch."""
        x = self.grid[source]
        return self.step("reshape", (source,), x.reshape(len(x), *shape), self.of(source), {"shape": (-1, *shape)})

    def pad(self, source: str, padding: Pads) -> str:
        """Add a padding with zeros."""
        y = np.pad(self.grid[source], ((0, 0), (0, 0), *padding))
        return self.step("pad", (source,), y, self.of(source), {"padding": padding})

    def real(self, source: str, name: str = "") -> str:
        """Add a dequantize; returns the float value."""
        output = name or f"{source}_dequantized"
        self.floats[output] = dequantize(self.grid[source], self.of(source))
        self.values[output] = Value(output, self.values[source].shape)
        self.steps.append(Instruction(f"dequantize_{source}", "dequantize", (source,), (output,)))
        return output

    def program(self, *outputs: str, block: FrameworkBlock | None = None, target: str = "onnxruntime") -> Program:
        """Return the program with these float outputs."""
        inputs = tuple(self.feeds)
        steps = tuple(self.steps)
        return Program("net", "NCHW", "mlas", target, "static_wi8_ai8", inputs, outputs, self.values, steps, block)
