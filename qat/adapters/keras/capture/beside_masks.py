"""Scores in which a mask does more than a kernel hides, and what only makes masks: these operators stay float.

One scale for scores and for a mask's far numbers would leave the scores no integers. A bias, of positions for example, is no
mask, whether it is learned, fixed or computed by a layer: its addition runs in integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from qat.arithmetic.masks import FAR, MAKES_MASK, TAKES_PART, reach
from qat.graph.graph import Op

from .builder import Builder
from .numbers import Numbers, choice_of

#: What these compute of activations is a bias, and no mask.
_LAYERS = ("dense", "matmul", "conv2d", "depthwise_conv2d", "embedding")
_SHAPES = ("reshape", "transpose", "move")


def left_float(b: Builder) -> list[Op]:
    """Return the operators of a graph; those that a mask keeps float say so."""
    numbers = Numbers(b)
    writers = numbers.writers
    found: dict[str, str] = {}
    for op in b.ops:
        if op.kind == "softmax":
            between, others = _to_product(b, op.inputs[0], writers)
            if not all(_is_bias(numbers, other, reach(None)) for other in others):
                found |= dict.fromkeys((*between, op.name), TAKES_PART)
        elif _adds_mask(numbers, op):
            found[op.name] = TAKES_PART
    masks = [op.inputs[1] for op in b.ops if op.kind == "mask" and op.name not in found]
    found |= {writers[name].name: MAKES_MASK for name in masks if name in writers and writers[name].kind != "constant"}
    if found:
        _spread(b.ops, found)
    return [replace(op, stays_float=found[op.name]) if op.name in found else op for op in b.ops]


def _spread(ops: Sequence[Op], found: dict[str, str]) -> None:
    """Add the operators that nothing else reads but those found, each with the reason of a reader."""
    readers: dict[str, list[str]] = {}
    for op in reversed(ops):
        reading = list(chain.from_iterable(readers.get(name, ()) for name in op.outputs))
        if op.name not in found and op.kind not in ("matmul", "constant") and reading and all(name in found for name in reading):
            found[op.name] = found[reading[0]]
        for name in op.inputs:
            readers.setdefault(name, []).append(op.name)


def _adds_mask(numbers: Numbers, op: Op) -> bool:
    """Return whether a sum is one of scores and of a mask's far numbers."""
    pairs = (op.inputs, op.inputs[::-1]) if op.kind == "add" and len(op.inputs) == 2 else ()
    return any(numbers.only_hide(mask) and min(numbers.of(mask)) <= -FAR and not numbers.of(scores) for scores, mask in pairs)


def _to_product(b: Builder, tensor: str, writers: Mapping[str, Op]) -> tuple[list[str], list[str]]:
    """Return the operators from a softmax's input back to a product, and their other operands; both empty without a product."""
    op = writers.get(tensor)
    if op is None or op.kind == "matmul":
        return [], []
    for scores, others in _ways(b, op):
        if _leads_to_product(b, scores, writers):
            between, more = _to_product(b, scores, writers)
            return [op.name, *between], [*others, *more]
    return [], []


def _ways(b: Builder, op: Op) -> list[tuple[str, list[str]]]:
    """Return the operands of an operator that may be scores, each with the others that take part."""
    if op.kind in _SHAPES or op.kind == "mask":
        return [(op.inputs[0], [])]
    if op.kind in ("add", "mul", "minimum", "maximum") and len(op.inputs) == 2:
        return [(op.inputs[0], [op.inputs[1]]), (op.inputs[1], [op.inputs[0]])]
    if op.attrs.get("target") == "Where":
        return [(branch, [*op.inputs]) for branch in choice_of(b, op)[1:] if isinstance(branch, str)]
    return []


def _leads_to_product(b: Builder, tensor: str, writers: Mapping[str, Op]) -> bool:
    op = writers.get(tensor)
    return op is not None and (op.kind == "matmul" or any(_leads_to_product(b, scores, writers) for scores, _ in _ways(b, op)))


def _is_bias(numbers: Numbers, tensor: str, most: float) -> bool:
    """Return whether a tensor is trained, spans no more than ``most``, or follows from such tensors and results of layers."""
    op, specs = numbers.writers.get(tensor), numbers.b.specs
    if op is None or specs[tensor].dtype != "float32":
        return False
    if op.kind == "constant":
        value = numbers.constant(tensor)
        return value is None or float(np.ptp(value)) <= most
    floats = [name for name in op.inputs if specs[name].dtype == "float32"]
    return op.kind in _LAYERS or (bool(floats) and all(_is_near(numbers, name, most) for name in floats))


def _is_near(numbers: Numbers, tensor: str, most: float) -> bool:
    value = numbers.constant(tensor)
    return _is_bias(numbers, tensor, most) if value is None else float(np.abs(value).max(initial=0)) <= most
