"""Transposed convolutions as convolutions, for a runtime without an integer kernel for them: ONNX Runtime.

A transposed convolution of stride ``s`` writes ``s`` outputs for each element of its input, each output by a part of the filter.
It is a convolution to ``s`` times as many channels, and a shuffle that lays those channels side by side (Shi et al. 2016, "Is the
deconvolution layer the same as a convolutional layer?"). The sums, scales and roundings are the same. The only additional
products are with the zeros that fill the filter up to a multiple of the stride.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.program.program import Instruction, Value


def conv_transpose_as_conv(instruction: Instruction, values: MutableMapping[str, Value]) -> list[Instruction]:
    """Return a transposed convolution as ``conv2d``, ``depth_to_space`` and ``crop``, as far as each is needed.

    The values between them have the transposed convolution's encoding. Its weight becomes
    ``[out * s_h * s_w, in / groups, ceil(k_h / s_h), ceil(k_w / s_w)]``; its scales and its bias are repeated.

    Args:
        instruction: a ``conv_transpose2d`` of images in NCHW.
        values: those of the program. The values between the new instructions are added.
    """
    assert instruction.weight is not None
    name, strides = instruction.name, instruction.attrs["strides"]
    kernel = instruction.weight.shape[2:]
    axes = [_along(k, s, *cut) for k, s, cut in zip(kernel, strides, instruction.attrs["padding"], strict=True)]
    padding, crop = (tuple(axis[i] for axis in axes) for i in (0, 1))
    output = values[instruction.outputs[0]]
    out, images = instruction.weight.shape[0], values[instruction.inputs[0]]
    between = [
        None if size is None else size + sum(pads) - -(-k // s) + 1
        for size, pads, k, s in zip(images.shape[2:], padding, kernel, strides, strict=True)
    ]
    repeats = strides[0] * strides[1]
    attrs = {"strides": (1, 1), "padding": padding, "dilations": (1, 1), "groups": instruction.attrs["groups"]}
    followers = [
        (kind, attribute, value)
        for kind, attribute, value, idle in (
            ("depth_to_space", "blocks", strides, (1, 1)),
            ("crop", "padding", crop, ((0, 0), (0, 0))),
        )
        if value != idle
    ]
    names = [f"{output.name}_{kind}_input" for kind, *_ in followers] + [output.name]
    shapes = {
        "depth_to_space": (output.shape[0], out * repeats, *between),
        "crop": (output.shape[0], out, *(None if n is None else n * s for n, s in zip(between, strides, strict=True))),
    }
    for tensor, (kind, *_) in zip(names, followers, strict=False):
        values[tensor] = Value(tensor, shapes[kind], output.encoding)
    conv = replace(
        instruction,
        kind="conv2d",
        outputs=(names[0],),
        attrs=attrs,
        weight=_filters_of_each_phase(instruction.weight, strides),
        weight_encoding=_repeated(instruction.weight_encoding, repeats),
        bias=None if instruction.bias is None else np.repeat(instruction.bias, repeats),
    )
    rest = [
        Instruction(f"{name}_{kind}", kind, (source,), (result,), {attribute: value}, scope=instruction.scope)
        for (kind, attribute, value), source, result in zip(followers, names, names[1:], strict=False)
    ]
    return [conv, *rest]


def _along(kernel: int, stride: int, first: int, last: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding of the convolution along one axis, and the elements to be cut off the shuffled result.

    Output ``s q + r`` of the full result is ``sum_t x[q - t] w[s t + r]``, for ``t`` below ``ceil(k / s)``. Its ``first`` and
    ``last`` elements are not wanted. The convolution leaves out each block of ``s`` unwanted elements by a smaller padding; the
    crop cuts off the rest.
    """
    reach = -(-kernel // stride) - 1
    before, after = min(first // stride, reach), max((kernel - last - 1) // stride, 0)
    return (reach - before, after), (first - stride * before, stride * after + last - kernel + stride)


def _filters_of_each_phase(weight: np.ndarray, strides: tuple[int, int]) -> np.ndarray:
    """Return the filters of a convolution that computes every element of a block. Those of one channel follow each other."""
    out, inputs, *kernel = weight.shape
    (sh, sw), (kh, kw) = strides, kernel
    filled = np.pad(weight, ((0, 0), (0, 0), (0, -kh % sh), (0, -kw % sw)))
    blocks = filled.reshape(out, inputs, -(-kh // sh), sh, -(-kw // sw), sw)[:, :, ::-1, :, ::-1]
    return np.ascontiguousarray(blocks.transpose(0, 3, 5, 1, 2, 4)).reshape(out * sh * sw, inputs, *blocks.shape[2:5:2])


def _repeated(encoding: Encoding | None, times: int) -> Encoding | None:
    if encoding is None or encoding.axis is None:
        return encoding
    return replace(encoding, scale=np.repeat(encoding.scale, times))
