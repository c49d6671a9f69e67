"""Masks of attention: where a mask does nothing but hide scores, the softmax's integers need not hold it.

A mask is an argument of a layer, or is written before the softmax: ``where(mask, scores, -1e9)``, ``scores + (1 - mask) * -1e9``.
Each becomes a choice between a score and the least integer, see :mod:`qat.arithmetic.masks`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from qat.arithmetic.masks import HIDES, MAKES_MASK, SHOWN, only_limits, reach
from qat.graph.graph import Op

from .batch_operations import PerSample
from .builder import Builder, Shape
from .numbers import Numbers, choice_of


def shown(b: Builder, mask: Any, rank: int, path: str) -> str | None:
    """Add the numbers of a mask that is true where scores are shown: positive there, negative elsewhere.

    Args:
        b: the graph.
        mask: a tensor of ``rank`` axes, or an array that broadcasts to them.
        rank: of the scores.
        path: of the layer.

    Returns:
        The name of their tensor; None of a tensor with another number of axes.
    """
    if isinstance(mask, keras.KerasTensor):
        return _scaled(b, b.names[id(mask)], 2 * SHOWN, -SHOWN, path) if len(mask.shape) == rank else None
    array = np.asarray(keras.ops.convert_to_numpy(mask.row if isinstance(mask, PerSample) else mask))
    return _seen(b, array > 0.5, rank, path) if array.ndim <= rank else None


def causal(b: Builder, scores: Shape, path: str) -> str:
    """Add the numbers of a mask that shows each query the keys before it."""
    queries, keys = (int(n or 0) for n in scores[-2:])
    return b.constant(np.where(np.tri(queries, keys) > 0, SHOWN, -SHOWN).astype(np.float32)[None, None], path)


def masked(b: Builder, scores: str, shown: str, path: str, beta: float = 1.0) -> str:
    """Add a mask of scores that a softmax reads ``beta`` times, and return the output's name."""
    shape = b.specs[scores].shape
    return b.emit("mask", [scores, shown], shape, f"{path}/mask", reach=reach(shape[-1]) / beta)


def cleared(b: Builder, shares: str, shown: str, path: str) -> str:
    """Add the zeros of a softmax's shares where scores are hidden, and return the output's name."""
    return b.emit("mask", [shares, shown], b.specs[shares].shape, f"{path}/cleared", reach=0.0, hidden=0.0)


def hides_rows(mask: Any) -> bool:
    """Return whether a mask that is true where scores are shown may hide a row whole."""
    return isinstance(mask, (keras.KerasTensor, PerSample)) or not bool(
        (np.asarray(keras.ops.convert_to_numpy(mask)) > 0.5).any(-1).all()
    )


def written_masks(b: Builder, source: str, path: str) -> str:
    """Return the scores behind a tensor that a softmax reads, with the masks that are written there as such."""
    found = _masking(b, source, path)
    if found is None:
        return source
    b.spare.add(source)
    scores, seen = found
    return masked(b, written_masks(b, scores, path), seen, path)


def _masking(b: Builder, tensor: str, path: str) -> tuple[str, str] | None:
    """Return the scores, and where they are shown, of a tensor in which some are hidden; None of any other tensor.

    What comes behind the mask, a factor, a bias or another shape, moves before it.
    """
    op = b.writer(tensor)
    if op is None:
        return None
    if op.attrs.get("target") == "Where":
        return _of_where(b, op, path)
    return _of_sum(b, op, path) or _of_limit(b, op, path) or _before(b, op, path)


def _before(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the same of an operator that follows a mask, and does to scores what it may do before it."""
    places = {"add": (0, 1), "mul": (0, 1), "transpose": (0,), "reshape": (0,)}.get(op.kind, ())
    for place in places:
        others = [name for i, name in enumerate(op.inputs) if i != place]
        if op.kind == "mul" and not all(numbers and min(numbers) > 0 for numbers in map(Numbers(b).of, others)):
            continue
        found = _masking(b, op.inputs[place], path)
        if found is None:
            continue
        b.spare.add(op.inputs[place])
        scores, seen = found
        if op.kind in ("transpose", "reshape"):
            if op.kind == "reshape" and b.specs[seen].shape != b.specs[scores].shape:
                return None
            seen = b.emit(op.kind, [seen], _shaped(b, seen, op), f"{path}_shown", **op.attrs)
        moved = [scores if name == op.inputs[place] else name for name in op.inputs]
        return b.emit(op.kind, moved, b.specs[op.output].shape, op.layer, **op.attrs), seen
    return None


def _shaped(b: Builder, seen: str, op: Op) -> Shape:
    """Return the shape of a mask that is moved as an operator moves the scores."""
    before = b.specs[seen].shape
    return tuple(before[axis] for axis in op.attrs["axes"]) if op.kind == "transpose" else b.specs[op.output].shape


def _of_where(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the scores of a choice between them and a number that hides, and where they are shown."""
    condition, *branches = choice_of(b, op)
    for scores, number, kept in ((*branches, True), (*branches[::-1], False)):
        values = Numbers(b).of_operand(number)
        hides = values and max(values) <= HIDES
        if not hides or not isinstance(scores, str) or b.specs[scores].shape != b.specs[op.output].shape:
            continue
        rank, sign = len(b.specs[scores].shape), 1.0 if kept else -1.0
        if isinstance(condition, str):
            same = len(b.specs[condition].shape) == rank
            return (scores, _scaled(b, condition, 2 * sign * SHOWN, -sign * SHOWN, path)) if same else None
        return scores, _seen(b, np.asarray(keras.ops.convert_to_numpy(condition)).astype(bool) == kept, rank, path)
    return None


def _of_sum(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the scores of a sum with numbers that only hide, or that also shift what they show, and where they are shown."""
    for scores, mask in (op.inputs, op.inputs[::-1]) if op.kind == "add" and len(op.inputs) == 2 else ():
        if Numbers(b).only_hide(mask):
            return _hidden_by(b, scores, mask, path)
        shift = b.writer(mask)
        for bias, hiding in (shift.inputs, shift.inputs[::-1]) if shift is not None and shift.kind == "add" else ():
            if Numbers(b).only_hide(hiding) and len(b.specs[bias].shape) == len(b.specs[scores].shape):
                b.spare.add(mask)
                shifted = b.emit("add", [scores, bias], b.specs[op.output].shape, op.layer)
                return _hidden_by(b, shifted, hiding, path)
    return None


def _of_limit(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the same of a minimum of scores and numbers of which each lies far below all scores, or far above."""
    for scores, limit in (op.inputs, op.inputs[::-1]) if op.kind == "minimum" else ():
        if only_limits(Numbers(b).of(limit)):
            return _hidden_by(b, scores, limit, path)
    return None


def _hidden_by(b: Builder, scores: str, mask: str, path: str) -> tuple[str, str] | None:
    """Return scores that a tensor of numbers hides, and where they are shown."""
    rank, value = len(b.specs[scores].shape), Numbers(b).constant(mask)
    if value is not None:
        return scores, _seen(b, value > HIDES / 2, rank, path)
    if len(b.specs[mask].shape) != rank:
        return None
    limited = b.emit("clamp", [mask], b.specs[mask].shape, f"{path}_limited", low=HIDES, high=None)  # it may be minus infinity
    return scores, _scaled(b, limited, SHOWN, -HIDES / 2 * SHOWN, path)


def _seen(b: Builder, true: np.ndarray, rank: int, path: str) -> str:
    """Add the numbers of a fixed mask that is true where scores of a rank are shown."""
    numbers = np.where(true, SHOWN, -SHOWN).astype(np.float32)
    return b.constant(numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape), path)


def _scaled(b: Builder, mask: str, scale: float, offset: float, path: str) -> str:
    """Add ``mask * scale + offset`` in float."""
    made = keras.KerasTensor(b.specs[mask].shape, "float32")
    layer = keras.layers.Rescaling(scale, offset, dtype="float32")
    return b.keep("float", layer, [mask], [made], path, target="shown", reason=MAKES_MASK)[0]
