"""Convolutions in groups, in the groups that ONNX Runtime's integer kernels are quick with, to the same integers.

QLinearConv computes a depthwise convolution in one kernel where it has as many outputs as channels, and any other group by
group. For images of 56x56 on one thread of an x86 processor, in milliseconds: 64 depthwise outputs of 32 channels take 12, of
channels that are there twice 0.3; 32 groups of 4 channels take 12, 8 groups of 16 with zeros for weights between them 1.6
(float: 1.4).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.program.program import Instruction, Program

from .depth_to_space import PHASES_FIRST
from .writer import Writer

#: The least number of inputs and outputs of a group; more bring little.
_LEAST = 16
_KINDS = ("conv2d", "conv3d")


def merge_groups(program: Program) -> Program:
    """Return a program whose groups of few channels are merged, with zeros for the weights between them."""
    return replace(program, instructions=tuple(_merged(instruction) for instruction in program.instructions))


def repeat_channels(writer: Writer, instruction: Instruction) -> tuple[Instruction, str]:
    """Return a convolution of as many outputs as channels, and the integers that it reads; an empty name: those of its input.

    TensorRT's builder chooses kernels by itself: for it nothing changes.
    """
    groups, weight = int(instruction.attrs["groups"]), instruction.weight
    assert weight is not None
    outputs = len(weight) // groups
    if groups == 1 or outputs == 1 or weight.shape[1] > 1 or writer.program.strict_qdq:
        return instruction, ""
    source, name = instruction.inputs[0], f"{instruction.name}/repeated"
    if instruction.attrs.get(PHASES_FIRST):  # all channels again for each phase
        repeated = writer.node("Concat", [source] * outputs, name, axis=1)
    else:
        channels = writer.constant(f"{instruction.name}.channels", np.repeat(np.arange(groups), outputs))
        repeated = writer.node("Gather", [source, channels], name, axis=1)
    return _of(instruction, weight, len(weight)), repeated


def _merged(instruction: Instruction) -> Instruction:
    groups, weight = int(instruction.attrs.get("groups", 1)), instruction.weight
    if weight is None or instruction.kind not in _KINDS or instruction.mode != "static" or groups == 1 or weight.shape[1] == 1:
        return instruction
    outputs = len(weight) // groups
    merged = _merging(groups, min(weight.shape[1], outputs))
    return _of(instruction, _with_zeros(weight, outputs, merged), groups // merged)


def _merging(groups: int, width: int) -> int:
    """Return how many groups become one: the fewest that make it wide enough, of those that divide the groups evenly."""
    return next((n for n in range(1, groups + 1) if groups % n == 0 and n * width >= _LEAST), groups)


def _with_zeros(weight: np.ndarray, outputs: int, merged: int) -> np.ndarray:
    """Return a weight for ``merged`` times the inputs: zeros but for those of an output's own group."""
    count, inputs, *window = weight.shape
    wide = np.zeros((count, merged, inputs, *window), weight.dtype)
    rows = np.arange(count)
    wide[rows, rows // outputs % merged] = weight
    return wide.reshape(count, merged * inputs, *window)


def _of(instruction: Instruction, weight: np.ndarray, groups: int) -> Instruction:
    return replace(instruction, weight=weight, attrs={**instruction.attrs, "groups": groups})
