"""Equations of ``einsum`` that are neither a dense layer nor one matrix product: the operations of which they consist."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import KerasTensor, ops

from .builder import Builder
from .layer_calls import Call
from .opening import recorded


def of_parts(b: Builder, c: Call, equation: str) -> str | None:
    """Add the operations of an equation, :func:`qat.graph.einsum.spelled_out`; None where axes are free or the batch moves."""
    terms, _, result = equation.partition("->")
    labels, tensors = terms.split(","), c.arguments.keras_tensors
    plain = all(len(set(term)) == len(term) and term[:1] == result[:1] != "" for term in (*labels, result))
    if not plain or len(tensors) != len(labels) or any(None in t.shape[1:] for t in tensors):
        return None
    total, have = tensors[0], labels[0]
    for i in range(1, len(labels)):
        later = {*result, *"".join(labels[i + 1 :])}
        part = "".join(label for label in dict.fromkeys(have + labels[i]) if label in later)
        total, have = _product(total, have, tensors[i], labels[i], part), part
    total = _laid(total, have, result)
    for node in recorded([total], b.names.keys()) or ():
        b.walk(node, f"{c.path}/")
    return b.names[id(total)]


def _product(x: KerasTensor, of_x: str, y: KerasTensor, of_y: str, result: str) -> KerasTensor:
    """Return the product of two tensors, summed over the axes that the result has not."""
    of_both = [label for label in of_x if label in of_y]
    x, of_x = _summed(x, of_x, result + of_y)
    y, of_y = _summed(y, of_y, result + of_x)
    summed = "".join(label for label in of_both if label not in result)
    batch = "".join(label for label in of_both if label in result)
    rows, columns = ("".join(label for label in term if label not in of_both) for term in (of_x, of_y))
    if not (summed and rows and columns):
        return _laid(_spread(x, of_x, result + summed) * _spread(y, of_y, result + summed), result + summed, result)
    sizes = dict(zip(of_x + of_y, (*x.shape, *y.shape), strict=True))
    x, y = _merged(x, of_x, (*batch, rows, summed), sizes), _merged(y, of_y, (*batch, summed, columns), sizes)
    shape = (-1, *(sizes[label] for label in (batch + rows + columns)[1:]))
    return _laid(ops.reshape(ops.matmul(x, y), shape), batch + rows + columns, result)


def _summed(x: KerasTensor, labels: str, kept: str) -> tuple[KerasTensor, str]:
    """Return the sums over the axes that are not kept, and the labels that are left."""
    axes = [axis for axis, label in enumerate(labels) if label not in kept]
    return (ops.sum(x, axes) if axes else x), "".join(label for label in labels if label in kept)


def _laid(x: KerasTensor, labels: str, order: str) -> KerasTensor:
    """Return a tensor with its axes in an order of some of their labels; the others are summed."""
    x, labels = _summed(x, labels, order)
    return x if labels == order else ops.transpose(x, [labels.index(label) for label in order])


def _spread(x: KerasTensor, labels: str, order: str) -> KerasTensor:
    """Return a tensor with an axis for each label, of size 1 where it has none."""
    x = _laid(x, labels, "".join(label for label in order if label in labels))
    absent = [axis for axis, label in enumerate(order) if label not in labels]
    return ops.expand_dims(x, absent) if absent else x


def _merged(x: KerasTensor, labels: str, groups: Sequence[str], sizes: dict[str, int]) -> KerasTensor:
    """Return a tensor with one axis for each group of labels; the first is the batch's."""
    shape = (-1, *(math.prod(sizes[label] for label in group) for group in groups[1:]))
    return ops.reshape(_laid(x, labels, "".join(groups)), shape)
