"""The reference interpreter: executes a :class:`qat.program.program.Program` in NumPy, kernel by kernel, without any framework.

It is what the frameworks' nodes and the runtimes' artifacts are compared with. It is slow, and meant for small inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from qat.arithmetic import accumulators, dynamic, int16
from qat.arithmetic import lookup as functions
from qat.arithmetic.attention import product_kernels
from qat.arithmetic.grid import dequantize
from qat.arithmetic.kernels import KERNELS
from qat.arithmetic.layer_norm import group_norm, layer_norm, rms_norm
from qat.arithmetic.upsampling import UPSAMPLING
from qat.errors import DataError
from qat.graph.kinds import FUNCTIONS, STEPS, bounds
from qat.planning.modes import STORED

from .build import clamp_of
from .program import FrameworkBlock, Instruction, Program

#: Runs a float block on arrays; the default calls its module with them, which PyTorch modules do not take.
CallBlock = Callable[[FrameworkBlock, Sequence[np.ndarray]], Sequence[Any]]


def call_block(block: FrameworkBlock, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
    """Call a float block's module with arrays."""
    outputs: Sequence[Any] = block.module(*arrays)
    return outputs


def run(program: Program, *inputs: np.ndarray, call: CallBlock = call_block) -> dict[str, np.ndarray]:
    """Return every value of a program by name: on the grid as ``q - zero_point`` in float32, else as real values.

    Args:
        program: from an adapter's ``lower``.
        inputs: one array for each of ``program.inputs``, in the program's layout.
        call: how the float block, if there is one, is run on arrays.

    Raises:
        DataError: the number of inputs is not the program's.
    """
    if len(inputs) != len(program.inputs):
        raise DataError(
            f"program '{program.name}' has {len(program.inputs)} inputs, {len(inputs)} were given: pass one array each"
        )
    values = {name: np.asarray(x) for name, x in zip(program.inputs, inputs, strict=True)}
    for step in program.instructions:
        if step.kind == "float":
            values.update(_float(program, step, values, len(inputs[0]), call))
        elif step.mode in STORED:
            stored = _rows if step.kind == "embedding" else _stored
            values[step.outputs[0]] = stored(program, step, values[step.inputs[0]])
        else:
            values[step.outputs[0]] = _STEPS[step.kind](program, step, [values[name] for name in step.inputs])
    return values


def _float(
    program: Program, step: Instruction, values: Mapping[str, np.ndarray], batch: int, call: CallBlock
) -> dict[str, np.ndarray]:
    """Return those outputs of the float block that this step writes."""
    block = program.block
    if block is None:
        raise DataError(f"program '{program.name}' has the float operator '{step.name}' but no float block to run it with")
    if not set(step.outputs) & set(block.outputs):
        return {}
    # Integer kernels may stand between two operators of the block. What this step writes depends on what was computed
    # before it only, so that zeros do for the rest.
    arrays = [values[name] if name in values else _zeros(program, name, batch) for name in block.inputs]
    outputs = dict(zip(block.outputs, call(block, arrays), strict=True))
    return {name: np.asarray(outputs[name]) for name in step.outputs if name in outputs}


def _zeros(program: Program, name: str, batch: int) -> np.ndarray:
    value = program.values[name]
    return np.zeros([batch if n is None else n for n in value.shape], value.dtype)


# --- one function an instruction -----------------------------------------------------------------------------------------


def _limits(program: Program, step: Instruction) -> tuple[float, float]:
    """Return the output's limits on the grid, narrowed by the fused activation."""
    encoding = program.encoding_of(step.outputs[0])
    lo, hi = step.clamp if step.clamp is not None else (encoding.qmin, encoding.qmax)
    return lo - encoding.zero_point, hi - encoding.zero_point


def _channels_first(program: Program, x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2) if program.layout == "NHWC" else x


def _own_layout(program: Program, x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if program.layout == "NHWC" else x


def _quantize(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return KERNELS[program.kernels].quantize(xs[0], program.encoding_of(step.outputs[0]))


def _dequantize(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return dequantize(xs[0], program.encoding_of(step.inputs[0]))


def _conv2d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    a = step.attrs
    x = _channels_first(program, xs[0])
    acc = accumulators.conv2d(x, step.weight, step.bias, a["strides"], a["padding"], a["dilations"], a["groups"])
    return _own_layout(program, _requantize(program, step, acc, (1, -1, 1, 1)))


def _conv3d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    a, last = step.attrs, program.layout == "NHWC"
    x = np.moveaxis(xs[0], -1, 1) if last else xs[0]
    acc = accumulators.conv3d(x, step.weight, step.bias, a["strides"], a["padding"], a["dilations"], a["groups"])
    y = _requantize(program, step, acc, (1, -1, 1, 1, 1))
    return np.moveaxis(y, 1, -1) if last else y


def _conv_transpose2d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    a, x = step.attrs, _channels_first(program, xs[0])
    acc = accumulators.conv_transpose2d(x, step.weight, step.bias, a["strides"], a["padding"], a["groups"])
    return _own_layout(program, _requantize(program, step, acc, (1, -1, 1, 1)))


def _dense(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    return _requantize(program, step, accumulators.dense(xs[0], step.weight, step.bias), (-1,))


def _requantize(program: Program, step: Instruction, acc: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    assert step.weight_encoding is not None
    scale = np.ravel(step.weight_encoding.scale).reshape(shape)
    x, y = (float(program.encoding_of(name).scale) for name in (step.inputs[0], step.outputs[0]))
    if step.kernels == "int16":
        exact = x * scale.astype(np.float64) / y
        requantize = int16.requantize_conv if STEPS[step.kind].spatial else int16.requantize_dense
        return requantize(acc, exact, *_limits(program, step))
    kernels = KERNELS[step.kernels or program.kernels]
    return kernels.requantize(acc, kernels.multiplier(x, scale, y), *_limits(program, step))


def _matmul(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    encodings = [program.encoding_of(name) for name in (*step.inputs, *step.outputs)]
    a, b, y = (float(e.scale) for e in encodings)
    kernels = KERNELS[product_kernels(program.kernels, encodings[1].zero_point)]
    value = kernels.product_multiplier(a, b, y)
    acc = accumulators.matmul(xs[0], xs[1], step.attrs["transpose_b"])
    return kernels.requantize(acc, np.asarray(value), *_limits(program, step))


def _softmax(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    ex, ey = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    return KERNELS[program.kernels].softmax(xs[0], ex, ey, step.attrs["beta"])


def _embedding(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    if step.weight_encoding is not None:
        return KERNELS[program.kernels].quantize(_rows(program, step, xs[0]), program.encoding_of(step.outputs[0]))
    return _constant(program, step, xs)[np.asarray(xs[0], np.int64)]


def _rows(program: Program, step: Instruction, indices: np.ndarray) -> np.ndarray:
    """The real values of rows of a dense layer's weight."""
    assert step.weight is not None
    chosen = np.asarray(indices, np.int64)
    rows = step.weight[chosen].astype(np.float32)
    if step.weight_encoding is None:
        return rows
    scale = np.asarray(step.weight_encoding.scale, np.float32)
    return rows * (scale[chosen][..., None] if scale.ndim else scale)


def _constant(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    return np.asarray(step.weight, np.float32) - program.encoding_of(step.outputs[0]).zero_point


def _layer_norm(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None and step.bias is not None
    x, y = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    uncentered = bool(step.attrs.get("uncentered", False))
    return layer_norm(xs[0], step.weight, step.bias, step.attrs["epsilon"], x, y, program.kernels, uncentered)


def _group_norm(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None and step.bias is not None
    x, y = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    groups, axis = step.attrs["groups"], step.attrs["axis"]
    return group_norm(xs[0], step.weight, step.bias, step.attrs["epsilon"], groups, axis, x, y, program.kernels)


def _rms_norm(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    assert step.weight is not None
    x, y = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    return rms_norm(xs[0], step.weight, step.attrs["epsilon"], step.attrs["least"], x, y, program.kernels)


def _binary(name: Literal["add", "mul"]) -> Callable[..., np.ndarray]:
    def step_of(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
        encodings = [program.encoding_of(name) for name in (*step.inputs, *step.outputs)]
        if step.kernels == "int16":
            return getattr(int16, name)(*xs, *encodings, *_limits(program, step))
        return getattr(KERNELS[program.kernels], name)(*xs, *encodings, *_limits(program, step))

    return step_of


def _minimum(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return np.minimum(*xs)


def _maximum(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return np.maximum(*xs)


def _mask(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return np.where(xs[1] > 0, xs[0], np.float32(program.encoding_of(step.outputs[0]).lo))


def _concat(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(xs, step.attrs["axis"])


def _clip(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    """Clip integers at the bounds of a relu or relu6, whose input and output share one scale."""
    encoding = program.encoding_of(step.outputs[0])
    low, high = clamp_of(encoding, step.kind)
    return np.clip(xs[0], low - encoding.zero_point, high - encoding.zero_point)


def _max_pool2d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    a = step.attrs
    return _own_layout(program, accumulators.max_pool2d(_channels_first(program, xs[0]), a["kernel"], a["strides"], a["padding"]))


def _avg_pool2d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    a, encoding = step.attrs, program.encoding_of(step.outputs[0])
    x = _channels_first(program, xs[0])
    return _own_layout(
        program, KERNELS[program.kernels].avg_pool2d(x, a["kernel"], a["strides"], a["padding"], encoding)
    )  # fmt: skip


def _upsample_bilinear2d(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    encoding = program.encoding_of(step.outputs[0])
    up = UPSAMPLING[program.kernels]
    return _own_layout(program, up(_channels_first(program, xs[0]), step.attrs["factors"], encoding))


def _mean(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    x, y = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    if step.kernels == "int16":
        return int16.mean(xs[0], tuple(step.attrs["axes"]), x, y, bool(step.attrs["keepdims"]))
    return KERNELS[program.kernels].mean(xs[0], tuple(step.attrs["axes"]), x, y, bool(step.attrs["keepdims"]))


def _reshape(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return xs[0].reshape(-1 if step.attrs.get("folds") else len(xs[0]), *step.attrs["shape"][1:])


def _transpose(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    return xs[0].transpose(step.attrs["axes"])


def _pad(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    padded = np.pad(_channels_first(program, xs[0]), ((0, 0), (0, 0), *step.attrs["padding"]))
    return _own_layout(program, padded)


def _function(program: Program, step: Instruction, xs: list[np.ndarray]) -> np.ndarray:
    x, y = program.encoding_of(step.inputs[0]), program.encoding_of(step.outputs[0])
    return functions.table(step.kind, step.attrs, x, y, program.kernels)[xs[0].astype(np.int64) - x.lo].astype(np.float32)


def _stored(program: Program, step: Instruction, x: np.ndarray) -> np.ndarray:
    """An operator on real values whose weight alone is stored; a ``dynamic`` one on the grid that its kernel chooses.

    Equal to the nodes in every bit where sums are of integers; those of a float kernel are float64's here.
    """
    assert step.weight is not None
    dense, a = not STEPS[step.kind].spatial, step.attrs
    x = np.asarray(x if dense else _channels_first(program, x), np.float32)
    scale = np.float32(1.0) if step.weight_encoding is None else np.asarray(step.weight_encoding.scale, np.float32)
    weight = step.weight.astype(np.float32)

    def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        if dense:
            return np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
        return accumulators.real_conv2d(x, w, a["strides"], a["padding"], a["dilations"], a["groups"])

    along = (-1,) if dense else (-1, 1, 1)
    bias = None if step.bias is None else step.bias.reshape(along)
    if step.mode == "dynamic":
        axes = dynamic.range_axes(not dense, a.get("strides", ()), step.kernels, x.shape, weight.shape[2:], channel_axis=1)
        q, x_scale = dynamic.on_grid(x, axes, step.kernels)
        y = dynamic.dequantize_accumulator(product(q, weight), x_scale, scale.reshape(along), bias, step.kernels)
    else:
        real = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        y = np.asarray(product(x, real) + (0.0 if bias is None else bias), np.float32)
    y = np.clip(y, *bounds(step.activation)) if step.activation else y
    return y if dense else _own_layout(program, y)


#: In the order of :data:`qat.graph.kinds.KINDS`.
_STEPS: dict[str, Callable[[Program, Instruction, list[np.ndarray]], np.ndarray]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "conv3d": _conv3d,
    "conv_transpose2d": _conv_transpose2d,
    "dense": _dense,
    "matmul": _matmul,
    "softmax": _softmax,
    "mask": _mask,
    "embedding": _embedding,
    "constant": _constant,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "add": _binary("add"),
    "mul": _binary("mul"),
    "minimum": _minimum,
    "maximum": _maximum,
    "concat": _concat,
    "relu": _clip,
    "relu6": _clip,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "upsample_bilinear2d": _upsample_bilinear2d,
    "mean": _mean,
    "reshape": _reshape,
    "transpose": _transpose,
    "pad": _pad,
    **dict.fromkeys(FUNCTIONS, _function),
    "quantize": _quantize,
    "dequantize": _dequantize,
}
