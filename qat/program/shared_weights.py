"""Weights that several instructions read: the file holds one tensor of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.arithmetic.encoding import Encoding

from .program import Instruction, Program


def share_weights(program: Program) -> Program:
    """Return a program in which instructions with the same integers of one parameter name one tensor.

    The integers may differ in spite of the one parameter: a large bias widens the scales of one call, or a layout orders the
    weight of one call after an image that is flattened before it.

    Args:
        program: in the format's layout and operators: its weights as the file holds them.
    """
    first: dict[tuple[str, str, str], list[Instruction]] = {}
    steps = []
    for step in program.instructions:
        if step.parameter and step.weight is not None:
            known = first.setdefault((step.kind, step.mode, step.parameter), [])
            same = next((other for other in known if _is_same(program, step, other)), None)
            if same is None:
                known.append(step)
            else:
                step = replace(step, weight_name=same.weight_tensor)
        steps.append(step)
    return replace(program, instructions=tuple(steps))


def _is_same(program: Program, step: Instruction, other: Instruction) -> bool:
    a, b = (_encoding(program, each) for each in (step, other))
    assert step.weight is not None and other.weight is not None
    same = (step.packed, a is None) == (other.packed, b is None) and np.array_equal(step.weight, other.weight)
    return same and (a is None or b is None or a.to_dict() == b.to_dict())


def _encoding(program: Program, step: Instruction) -> Encoding | None:
    """Return the encoding of a weight; that of an embedding is its output's."""
    return step.weight_encoding or program.values[step.outputs[0]].encoding
