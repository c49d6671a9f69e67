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
        if step.parameter and step.weight is not None and not _is_tied(step):
            known = first.setdefault((step.kind, step.mode, step.parameter), [])
            same = next((other for other in known if _is_same(program, step, other)), None)
            if same is None:
                known.append(step)
            else:
                step = replace(step, weight_name=same.weight_tensor)
        steps.append(step)
    layers: dict[str, list[Instruction]] = {}
    for (kind, _, parameter), known in first.items():
        if kind == "dense":
            layers.setdefault(parameter, []).extend(known)
    return replace(program, instructions=tuple(_of_layer(step, layers) if _is_tied(step) else step for step in steps))


def _is_tied(step: Instruction) -> bool:
    """Return whether an instruction looks up rows of a dense layer's weight."""
    return step.kind == "embedding" and (step.weight_encoding is not None or step.mode != "static")


def _of_layer(step: Instruction, layers: dict[str, list[Instruction]]) -> Instruction:
    """Return a look-up that reads the tensor of a layer with the same rows: of zeros, such as a padding's, the scale is any."""
    weight = step.weight
    assert weight is not None
    told = np.any(weight, axis=1)
    for layer in layers.get(step.parameter, ()):
        a, b = step.weight_encoding, layer.weight_encoding
        if layer.weight is None or step.packed != layer.packed or not np.array_equal(weight, layer.weight):
            continue
        if (a is None) == (b is None) and (a is None or b is None or np.array_equal(_scales(a, told), _scales(b, told))):
            return replace(step, weight_name=layer.weight_tensor, weight_encoding=b)
    return step


def _scales(encoding: Encoding, told: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.ravel(encoding.scale), told.shape)[told]


def _is_same(program: Program, step: Instruction, other: Instruction) -> bool:
    a, b = (_encoding(program, each) for each in (step, other))
    assert step.weight is not None and other.weight is not None
    same = (step.packed, a is None) == (other.packed, b is None) and np.array_equal(step.weight, other.weight)
    return same and (a is None or b is None or a.to_dict() == b.to_dict())


def _encoding(program: Program, step: Instruction) -> Encoding | None:
    """Return the encoding of a weight; that of an embedding is its output's."""
    return step.weight_encoding or program.values[step.outputs[0]].encoding
