"""Bilinear up-sampling as a transposed convolution of fixed integers, for a runtime without an integer kernel for it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import numpy as np

from qat.arithmetic.accumulators import bilinear
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.program.program import Instruction, Value

from .conv_transpose import conv_transpose_as_conv


def upsample_as_conv(instruction: Instruction, values: MutableMapping[str, Value]) -> list[Instruction]:
    """Return a bilinear up-sampling as a padding that repeats the edges, and a transposed convolution as a convolution.

    Args:
        instruction: an ``upsample_bilinear2d`` of images in NCHW.
        values: those of the program. The values between the new instructions are added.
    """
    factors = instruction.attrs["factors"]
    taps, divisor, cut = bilinear(factors)
    source, output = values[instruction.inputs[0]], values[instruction.outputs[0]]
    shape = (*source.shape[:2], *(None if size is None else size + 2 for size in source.shape[2:]))
    padded = Value(f"{output.name}_edges", shape, source.encoding)
    values[padded.name] = padded
    edges = {"padding": ((1, 1), (1, 1)), "mode": "edge"}
    pad = Instruction(f"{instruction.name}_edges", "pad", instruction.inputs, (padded.name,), edges, scope=instruction.scope)
    channels = source.shape[1] or 0
    window = {"strides": factors, "padding": tuple((c, c) for c in cut), "dilations": (1, 1), "groups": channels}
    conv_transpose = replace(
        instruction,
        kind="conv_transpose2d",
        inputs=(padded.name,),
        attrs=window,
        weight=np.broadcast_to(taps, (channels, 1, *taps.shape)).astype(np.int8),
        weight_encoding=Encoding(np.asarray(f32(1.0) / f32(divisor)), 0, -127, 127),
        bias=None,
    )
    return [pad, *conv_transpose_as_conv(conv_transpose, values)]
