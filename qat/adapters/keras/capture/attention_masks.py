"""Masks of attention: where a mask does nothing but hide scores, the softmax's integers need not hold it.

A mask is an argument of a layer, or is written before the softmax: ``where(mask, scores, -1e9)``, ``scores + (1 - mask) * -1e9``.
Each becomes a choice between a score and the least integer, see :mod:`qat.arithmetic.masks`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from qat.arithmetic.masks import MAKES_MASK, SHOWN, reach
from qat.graph.graph import Op

from .batch_operations import PerSample
from .builder import Builder, Shape
from .layer_calls import fill

#: What is added to a score, or stands in its place, and is not above this hides it.
HIDES = -32.0
#: More different numbers than these are not followed.
_FEW = 8


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
    numbers = np.where(array > 0.5, SHOWN, -SHOWN).astype(np.float32)
    return b.constant(numbers.reshape((1,) * (rank - array.ndim) + array.shape), path) if array.ndim <= rank else None


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
    op = next((op for op in b.ops if op.output == source), None)
    found = None if op is None else _of_where(b, op, path) if op.attrs.get("target") == "Where" else _of_sum(b, op, path)
    if found is None:
        return source
    b.spare.add(source)
    scores, seen = found
    return masked(b, written_masks(b, scores, path), seen, path)


def _of_where(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the scores of a choice between them and a number that hides, and where they are shown."""
    args, kwargs = fill(b.arguments[op.name], [*op.inputs])
    given: list[Any] = list(args) + [kwargs[name] for name in ("condition", "x1", "x2") if name in kwargs]
    if len(given) != 3:
        return None
    condition, *branches = given
    for scores, number, kept in ((*branches, True), (*branches[::-1], False)):
        hides = np.ndim(number) == 0 and not isinstance(number, str) and float(number) <= HIDES
        if not hides or not isinstance(scores, str) or b.specs[scores].shape != b.specs[op.output].shape:
            continue
        rank, sign = len(b.specs[scores].shape), 1.0 if kept else -1.0
        if isinstance(condition, str):
            same = len(b.specs[condition].shape) == rank
            return (scores, _scaled(b, condition, 2 * sign * SHOWN, -sign * SHOWN, path)) if same else None
        array = np.asarray(keras.ops.convert_to_numpy(condition)).astype(bool)
        numbers = np.where(array == kept, SHOWN, -SHOWN).astype(np.float32)
        return scores, b.constant(numbers.reshape((1,) * (rank - array.ndim) + array.shape), path)
    return None


def _of_sum(b: Builder, op: Op, path: str) -> tuple[str, str] | None:
    """Return the scores of a sum with numbers that only hide, and where they are shown."""
    for scores, mask in (op.inputs, op.inputs[::-1]) if op.kind == "add" and len(op.inputs) == 2 else ():
        numbers = _numbers(b, mask)
        only_hides = numbers and min(numbers) <= HIDES and all(n == 0 or n <= HIDES for n in numbers)
        if only_hides and len(b.specs[mask].shape) == len(b.specs[scores].shape):
            return scores, _scaled(b, mask, SHOWN, -HIDES / 2 * SHOWN, path)
    return None


def _numbers(b: Builder, tensor: str) -> frozenset[float]:
    """Return the numbers that a tensor may hold: 0 and 1 of what was cast from an integer; none where they are many."""
    op = next((op for op in b.ops if op.output == tensor), None)
    if op is None:
        return frozenset()
    if op.kind == "constant":
        fixed = op.params["value"] in b.frozen
        different = np.unique(b.params[op.params["value"]]) if fixed else np.zeros(_FEW + 1)
        return frozenset(map(float, different)) if len(different) <= _FEW else frozenset()
    if op.attrs.get("target") == "Cast" and b.specs[op.inputs[0]].dtype in ("bool", "int32", "int64", "uint8", "int8"):
        return frozenset((0.0, 1.0))
    if op.attrs.get("target") in ("ExpandDims", "Squeeze", "GetItem") or op.kind in ("reshape", "transpose"):
        return _numbers(b, op.inputs[0])
    if op.kind not in ("add", "mul") or len(op.inputs) != 2:
        return frozenset()
    first, second = (_numbers(b, name) for name in op.inputs)
    made = {x + y if op.kind == "add" else x * y for x in first for y in second}
    return frozenset(made) if len(made) <= _FEW else frozenset()


def _scaled(b: Builder, mask: str, scale: float, offset: float, path: str) -> str:
    """Add ``mask * scale + offset`` in float."""
    made = keras.KerasTensor(b.specs[mask].shape, "float32")
    layer = keras.layers.Rescaling(scale, offset, dtype="float32")
    return b.keep("float", layer, [mask], [made], path, target="shown", reason=MAKES_MASK)[0]
