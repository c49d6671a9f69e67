"""Functions of each element, with broadcasting: activations, arithmetic, comparisons.

tensorflow/lite/kernels/{activations,elementwise,add,mul,sub,div,maximum_minimum,comparisons,select,pow}.cc.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from qat.sources.module_writer import Argument, Value

from .flatbuffer import Operator
from .importer import Importer, Row, torch_type
from .laid import Laid, as_in_file, channels_first

#: An operand: a tensor, or the number that a constant of one element is.
Operand = Value | int | float | bool


def operands(
    b: Importer, op: Operator, indices: Sequence[int], arrange: Callable[[int, np.ndarray], np.ndarray] = lambda _, w: w
) -> tuple[list[Operand], tuple[int, ...]]:
    """Return the inputs of an operator that broadcasts, all with one rank and one order of their axes, and that order.

    ``arrange`` changes a constant input, given its index.
    """
    computed = [b.laid(op, i) for i in indices if not b.is_known(op, i)]
    rank = max([x.rank for x in computed] + [b.known(op, i).ndim for i in indices if b.is_known(op, i)])
    orders = [x.order for x in computed if x.rank == rank]
    order = next((o for o in orders if o != as_in_file(rank)), as_in_file(rank))
    return [_operand(b, op, i, rank, order, arrange) for i in indices], order


def _operand(
    b: Importer, op: Operator, i: int, rank: int, order: tuple[int, ...], arrange: Callable[[int, np.ndarray], np.ndarray]
) -> Operand:
    if not b.is_known(op, i):
        laid = b.laid(op, i)
        if laid.rank == rank:
            return b.ordered(laid, order)
        sizes = (1,) * (rank - laid.rank)
        # Axes that broadcast are before all others, the batch among them: only one of size 1 can stand for them.
        value = b.call(torch.reshape, b.ordered(laid), (*sizes, *(b.writer.size(b.ordered(laid), a) for a in range(laid.rank))))
        return b.ordered(Laid(value, as_in_file(rank)), order)
    array = b.known(op, i)
    if array.dtype != object and array.size == 1:
        number: Operand = arrange(i, array).item()
        return number
    return b.weight(
        op, i, lambda w: np.ascontiguousarray(arrange(i, w).reshape((1,) * (rank - w.ndim) + w.shape).transpose(order))
    )


def _binary(function: Callable[..., object]) -> Row:
    def row(b: Importer, op: Operator) -> Laid:
        (x, y), order = operands(b, op, (0, 1))
        return Laid(b.activated(b.call(function, x, y), op), order)

    return row


def _sub(b: Importer, op: Operator) -> Laid:
    """SUB: a constant is added, with its sign changed."""
    constant = b.is_known(op, 1)
    (x, y), order = operands(b, op, (0, 1), lambda i, w: -w if i == 1 and w.dtype.kind == "f" else w)
    function = operator.add if constant and b.known(op, 1).dtype.kind == "f" else operator.sub
    return Laid(b.activated(b.call(function, x, y), op), order)


def _div(b: Importer, op: Operator) -> Laid:
    """DIV: by a constant of several elements, a product with their inverses. Integers are rounded towards zero."""
    if b.tensor(op, 0).dtype != "FLOAT32":
        (x, y), order = operands(b, op, (0, 1))
        return Laid(b.activated(b.call(torch.div, x, y, rounding_mode="trunc"), op), order)
    inverse = b.is_known(op, 1) and b.known(op, 1).size > 1 and bool(np.all(b.known(op, 1)))
    (x, y), order = operands(b, op, (0, 1), lambda i, w: np.float32(1) / w if i == 1 and inverse else w)
    return Laid(b.activated(b.call(operator.mul if inverse else operator.truediv, x, y), op), order)


def _limit(function: Callable[..., object], side: str) -> Row:
    """Return the row of a maximum or minimum; one with a number is a clamp."""

    def row(b: Importer, op: Operator) -> Laid:
        (x, y), order = operands(b, op, (0, 1))
        x, y = (x, y) if isinstance(x, Value) else (y, x)
        return Laid(b.call(function, x, y) if isinstance(y, Value) else b.call(torch.clamp, x, **{side: y}), order)

    return row


def _power(b: Importer, op: Operator) -> Laid:
    (x, y), order = operands(b, op, (0, 1))
    return Laid(b.call(operator.pow, x, y), order)


def _squared_difference(b: Importer, op: Operator) -> Laid:
    (x, y), order = operands(b, op, (0, 1), lambda i, w: -w if i == 1 else w)
    difference = b.call(operator.add if b.is_known(op, 1) else operator.sub, x, y)
    return Laid(b.call(torch.square, difference), order)


def _add_n(b: Importer, op: Operator) -> Laid:
    (first, *rest), order = operands(b, op, range(len(op.inputs)))
    for value in rest:
        first = b.call(operator.add, first, value)
    assert isinstance(first, Value)
    return Laid(first, order)


def _select(b: Importer, op: Operator) -> Laid:
    """SELECT and SELECT_V2. The condition of the former may have the first axis alone."""
    if op.code == "SELECT" and not b.is_known(op, 0):
        condition, x = b.laid(op, 0), b.laid(op, 1)
        if condition.rank == 1 and x.rank > 1:
            column = b.call(torch.reshape, condition.value, (-1, *[1] * (x.rank - 1)))
            y, z = b.plain(op, 1), b.plain(op, 2)
            return Laid(b.call(torch.where, column, y, z), as_in_file(x.rank))
    values, order = operands(b, op, (0, 1, 2))
    return Laid(b.call(torch.where, *values), order)


def _unary(function: Callable[..., object], **fixed: Argument) -> Row:
    def row(b: Importer, op: Operator) -> Laid:
        x = b.laid(op, 0)
        return Laid(b.call(function, x.value, **fixed), x.order)

    return row


def _leaky_relu(b: Importer, op: Operator) -> Laid:
    x = b.laid(op, 0)
    return Laid(b.call(F.leaky_relu, x.value, float(op.options.alpha)), x.order)


def _gelu(b: Importer, op: Operator) -> Laid:
    x = b.laid(op, 0)
    return Laid(b.call(F.gelu, x.value, approximate="tanh" if op.options.approximate else "none"), x.order)


def _prelu(b: Importer, op: Operator) -> Laid:
    """PRELU: one slope, one for each channel, or (written as two rectifications) one for any other place."""
    x, slopes = b.laid(op, 0), b.known(op, 1) if b.is_known(op, 1) else None
    if slopes is not None and slopes.size == 1:
        return Laid(b.call(F.leaky_relu, x.value, float(slopes.item())), x.order)
    if slopes is not None and slopes.size == slopes.shape[-1] and x.rank in (2, 4, 5):
        return Laid(b.call(F.prelu, b.image(op, 0), b.weight(op, 1, np.ravel)), channels_first(x.rank))
    (value, slope), order = operands(b, op, (0, 1))
    below = b.call(operator.mul, b.call(torch.clamp, value, max=0), slope)
    return Laid(b.call(operator.add, b.call(F.relu, value), below), order)


def _cast(b: Importer, op: Operator) -> Laid:
    x = b.laid(op, 0)
    return Laid(b.call(torch.Tensor.to, x.value, torch_type(b.graph.tensors[op.outputs[0]])), x.order)


ROWS: dict[str, Row] = {
    # of two tensors
    "ADD": _binary(operator.add),
    "SUB": _sub,
    "MUL": _binary(operator.mul),
    "DIV": _div,
    "FLOOR_DIV": _binary(torch.floor_divide),
    "FLOOR_MOD": _binary(torch.remainder),
    "POW": _power,
    "SQUARED_DIFFERENCE": _squared_difference,
    "MAXIMUM": _limit(torch.maximum, "min"),
    "MINIMUM": _limit(torch.minimum, "max"),
    "LESS": _binary(operator.lt),
    "LESS_EQUAL": _binary(operator.le),
    "GREATER": _binary(operator.gt),
    "GREATER_EQUAL": _binary(operator.ge),
    "EQUAL": _binary(torch.eq),
    "NOT_EQUAL": _binary(torch.ne),
    "LOGICAL_AND": _binary(torch.logical_and),
    "LOGICAL_OR": _binary(torch.logical_or),
    "ATAN2": _binary(torch.atan2),
    "ADD_N": _add_n,
    "SELECT": _select,
    "SELECT_V2": _select,
    "PRELU": _prelu,
    # of one tensor
    "RELU": _unary(F.relu),
    "RELU6": _unary(F.relu6),
    "RELU_N1_TO_1": _unary(F.hardtanh, min_val=-1.0, max_val=1.0),
    "RELU_0_TO_1": _unary(F.hardtanh, min_val=0.0, max_val=1.0),
    "LEAKY_RELU": _leaky_relu,
    "ELU": _unary(F.elu),
    "GELU": _gelu,
    "HARD_SWISH": _unary(F.hardswish),
    "LOGISTIC": _unary(torch.sigmoid),
    "TANH": _unary(torch.tanh),
    "EXP": _unary(torch.exp),
    "LOG": _unary(torch.log),
    "SQRT": _unary(torch.sqrt),
    "RSQRT": _unary(torch.rsqrt),
    "SQUARE": _unary(torch.square),
    "ABS": _unary(torch.abs),
    "NEG": _unary(torch.neg),
    "SIN": _unary(torch.sin),
    "COS": _unary(torch.cos),
    "FLOOR": _unary(torch.floor),
    "CEIL": _unary(torch.ceil),
    "ROUND": _unary(torch.round),
    "SIGN": _unary(torch.sign),
    "LOGICAL_NOT": _unary(torch.logical_not),
    "ZEROS_LIKE": _unary(torch.zeros_like),
    "CAST": _cast,
}
