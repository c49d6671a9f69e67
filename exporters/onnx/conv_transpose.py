"""Transposed convolutions as convolutions, for a runtime without an integer kernel for them: ONNX Runtime.

A transposed convolution of stride ``s`` writes ``s`` outputs for each place of its input, each by a part of the filter: it is a
convolution to ``s`` times as many channels, which a shuffle lays side by side (Shi et al. 2016, "Is the deconvolution layer the
same as a convolutional layer?"). Sums, scales and roundings are the same, and nothing else is multiplied than the zeros that
fill the filter up to a multiple of the stride.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.numerics import bilinear, f32
from qat.program.program import Instruction, Program, Value


def without_transposed(program: Program) -> Program:
    """Return a program with each ``conv_transpose2d`` as ``conv2d``, ``depth_to_space`` and ``crop``, as far as they are needed.

    A bilinear up-sampling is a transposed convolution of fixed integers.

    Program and images are in NCHW. The three instructions' values have the transposed convolution's encoding; its weight becomes
    ``[out * s_h * s_w, in / groups, ceil(k_h / s_h), ceil(k_w / s_w)]``, its scales and its bias are repeated.
    """
    if not any(step.kind in ("conv_transpose2d", "upsample_bilinear2d") for step in program.instructions):
        return program
    values = dict(program.values)
    steps: list[Instruction] = []
    for step in program.instructions:
        if step.kind == "upsample_bilinear2d":
            edges, step = _by_fixed_integers(step, values)
            steps.append(edges)
        steps += _parts(step, values) if step.kind == "conv_transpose2d" else [step]
    return replace(program, values=values, instructions=tuple(steps))


def _by_fixed_integers(step: Instruction, values: dict[str, Value]) -> tuple[Instruction, Instruction]:
    """Return a bilinear up-sampling as a padding that repeats the edges and a transposed convolution."""
    factors = step.attrs["factors"]
    taps, divisor, cut = bilinear(factors)
    source, output = values[step.inputs[0]], values[step.outputs[0]]
    attrs = {"padding": ((1, 1), (1, 1)), "mode": "edge"}
    shape = (*source.shape[:2], *(None if size is None else size + 2 for size in source.shape[2:]))
    padded = Value(f"{output.name}_edges", shape, source.encoding)
    values[padded.name] = padded
    edges = Instruction(f"{step.name}_edges", "pad", step.inputs, (padded.name,), attrs, scope=step.scope)
    channels = source.shape[1] or 0
    weight = np.broadcast_to(taps, (channels, 1, *taps.shape)).astype(np.int8)
    window = {"strides": factors, "padding": tuple((c, c) for c in cut), "dilations": (1, 1), "groups": channels}
    scale = Encoding(np.asarray(f32(1.0) / f32(divisor)), 0, -127, 127)
    made = replace(
        step, kind="conv_transpose2d", inputs=(padded.name,), attrs=window, weight=weight, weight_encoding=scale, bias=None
    )
    return edges, made


def _parts(step: Instruction, values: dict[str, Value]) -> list[Instruction]:
    """Return what a transposed convolution becomes, and declare the values between."""
    assert step.weight is not None
    strides: tuple[int, int] = step.attrs["strides"]
    kernel = step.weight.shape[2:]
    axes = [_along(k, s, *cut) for k, s, cut in zip(kernel, strides, step.attrs["padding"], strict=True)]
    padding, crop = (tuple(axis[i] for axis in axes) for i in (0, 1))
    output = values[step.outputs[0]]
    out, images = step.weight.shape[0], values[step.inputs[0]]
    between = [
        None if size is None else size + sum(pads) - -(-k // s) + 1
        for size, pads, k, s in zip(images.shape[2:], padding, kernel, strides, strict=True)
    ]
    repeats = strides[0] * strides[1]
    attrs = {"strides": (1, 1), "padding": padding, "dilations": (1, 1), "groups": step.attrs["groups"]}
    moves = [
        (kind, attribute, value)
        for kind, attribute, value, idle in (
            ("depth_to_space", "blocks", strides, (1, 1)),
            ("crop", "padding", crop, ((0, 0), (0, 0))),
        )
        if value != idle
    ]
    names = [f"{output.name}_{kind}_input" for kind, *_ in moves] + [output.name]
    shapes = {
        "depth_to_space": (output.shape[0], out * repeats, *between),
        "crop": (output.shape[0], out, *(None if n is None else n * s for n, s in zip(between, strides, strict=True))),
    }
    for name, (kind, *_) in zip(names, moves, strict=False):
        values[name] = Value(name, shapes[kind], output.encoding)
    made = replace(
        step,
        kind="conv2d",
        outputs=(names[0],),
        attrs=attrs,
        weight=_subfilters(step.weight, strides),
        weight_encoding=_repeated(step.weight_encoding, repeats),
        bias=None if step.bias is None else np.repeat(step.bias, repeats),
    )
    followers = [
        Instruction(f"{step.name}_{kind}", kind, (source,), (result,), {attribute: value}, scope=step.scope)
        for (kind, attribute, value), source, result in zip(moves, names, names[1:], strict=False)
    ]
    return [made, *followers]


def _along(kernel: int, stride: int, first: int, last: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding of the convolution along one axis, and what is cut off the shuffled result.

    Output ``s q + r`` of the full result is ``sum_t x[q - t] w[s t + r]``, for ``t`` below ``ceil(k / s)``. Its ``first`` and
    ``last`` elements are not wanted: whole places are left out of the convolution, as far as it has them as padding.
    """
    reach = -(-kernel // stride) - 1
    before, after = min(first // stride, reach), max((kernel - last - 1) // stride, 0)
    return (reach - before, after), (first - stride * before, stride * after + last - kernel + stride)


def _subfilters(weight: np.ndarray, strides: tuple[int, int]) -> np.ndarray:
    """Return the filters of a convolution that computes all places of a block: those of one channel lie together."""
    out, inputs, *kernel = weight.shape
    (sh, sw), (kh, kw) = strides, kernel
    filled = np.pad(weight, ((0, 0), (0, 0), (0, -kh % sh), (0, -kw % sw)))
    blocks = filled.reshape(out, inputs, -(-kh // sh), sh, -(-kw // sw), sw)[:, :, ::-1, :, ::-1]
    return np.ascontiguousarray(blocks.transpose(0, 3, 5, 1, 2, 4)).reshape(out * sh * sw, inputs, *blocks.shape[2:5:2])


def _repeated(encoding: Encoding | None, times: int) -> Encoding | None:
    if encoding is None or encoding.axis is None:
        return encoding
    return replace(encoding, scale=np.repeat(encoding.scale, times))
