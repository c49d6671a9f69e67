"""Arithmetic with shapes: what a converter writes to compute a shape from that of an input is computed while reading.

A size of a free axis is a :class:`qat.sources.module_writer.Value` among the numbers of an array of objects.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from qat.sources.module_writer import Value

from .flatbuffer import Operator
from .importer import Importer
from .shapes import slices_of

#: Computes the output of an operator from inputs that are all known.
Fold = Callable[[Importer, Operator], np.ndarray]


def shape_of(b: Importer, op: Operator) -> np.ndarray:
    """SHAPE: the sizes of the axes, in the file's order."""
    x = b.laid(op, 0)
    return _array([b.writer.size(x.value, x.axis(axis)) for axis in range(x.rank)])


def _array(numbers: list[int | Value]) -> np.ndarray:
    array = np.empty(len(numbers), object)
    array[:] = numbers
    return array if any(isinstance(n, Value) for n in numbers) else array.astype(np.int64)


def _arithmetic(function: Callable[..., object]) -> Fold:
    def fold(b: Importer, op: Operator) -> np.ndarray:
        x, y = np.broadcast_arrays(b.known(op, 0), b.known(op, 1))
        numbers = [b.writer.arithmetic(function, _plain(m), _plain(n)) for m, n in zip(x.ravel(), y.ravel(), strict=True)]
        return _array(numbers).reshape(x.shape)

    return fold


def _plain(n: int | Value) -> int | Value:
    return n if isinstance(n, Value) else int(n)


def _product(b: Importer, op: Operator) -> np.ndarray:
    total: int | Value = 1
    for n in b.known(op, 0).ravel():
        total = b.writer.arithmetic(operator.mul, total, _plain(n))
    return _array([total]).reshape((1,) if op.options.keepDims else ())


def _strided_slice(b: Importer, op: Operator) -> np.ndarray:
    x = b.known(op, 0)
    picked = x[tuple(slices_of(b, op, x.ndim))]
    return picked if isinstance(picked, np.ndarray) else _array([picked]).reshape(())


def _pack(b: Importer, op: Operator) -> np.ndarray:
    return np.stack([np.asarray(b.known(op, i)) for i in range(len(op.inputs))], op.options.axis)


def _concatenation(b: Importer, op: Operator) -> np.ndarray:
    return np.concatenate([b.known(op, i) for i in range(len(op.inputs))], op.options.axis)


def _gather(b: Importer, op: Operator) -> np.ndarray:
    picked = np.take(b.known(op, 0), b.known(op, 1).astype(np.int64), op.options.axis if op.options else 0)
    return picked if isinstance(picked, np.ndarray) else _array([picked]).reshape(())


#: Of arrays with a free size among their numbers; all others are computed by their rows.
FOLDS: dict[str, Fold] = {
    "STRIDED_SLICE": _strided_slice,
    "PACK": _pack,
    "CONCATENATION": _concatenation,
    "GATHER": _gather,
    "REDUCE_PROD": _product,
    "ADD": _arithmetic(operator.add),
    "SUB": _arithmetic(operator.sub),
    "MUL": _arithmetic(operator.mul),
    "DIV": _arithmetic(operator.floordiv),
    "FLOOR_DIV": _arithmetic(operator.floordiv),
    "CAST": lambda b, op: b.known(op, 0),
    "RESHAPE": lambda b, op: b.known(op, 0).reshape(b.integers(op, 1)),
    "SQUEEZE": lambda b, op: b.known(op, 0).reshape(()),
    "EXPAND_DIMS": lambda b, op: np.expand_dims(b.known(op, 0), b.integers(op, 1)[0]),
}
