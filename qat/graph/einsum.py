"""Equations of ``einsum`` that a matrix product or a dense layer computes, in either framework's spelling."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple


def spelled_out(equation: str, ranks: Sequence[int]) -> str:
    """Return an equation with a letter for each axis of an ellipsis, and with its result.

    Examples:
        >>> spelled_out("...si, ...id", (3, 2))
        'asi,id->ads'
    """
    terms, arrow, result = equation.replace(" ", "").partition("->")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    labels = terms.split(",")
    counts = [rank - len(term.replace("...", "")) for term, rank in zip(labels, ranks, strict=True)]
    most = max((count for count, term in zip(counts, labels, strict=True) if "." in term), default=0)
    if not arrow:
        once = sorted(letter for letter in terms if letter.isalpha() and terms.count(letter) == 1)
        result = "".join(("..." if most else "", *once))
    axes = "".join(free[:most])
    labels = [term.replace("...", axes[most - count :]) for count, term in zip(counts, labels, strict=True)]
    return f"{','.join(labels)}->{result.replace('...', axes)}"


class Product(NamedTuple):
    """A product of two permuted tensors: the axes that each operand and the result are permuted by, the second operand's place.

    Leading axes are the batch's; ``transposed``: the second operand is [..., n, k] instead of [..., k, n].
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    transposed: bool
    result: tuple[int, ...]


def as_product(equation: str) -> Product | None:
    """Return how a product of two tensors computes an equation that sums over one index; None where none does.

    >>> as_product("bqhd,bkhd->bhqk")
    Product(a=(0, 2, 1, 3), b=(0, 2, 1, 3), transposed=True, result=(0, 1, 2, 3))
    """
    terms, _, result = equation.replace(" ", "").partition("->")
    labels = terms.split(",")
    if len(labels) != 2 or "." in equation or any(len(set(term)) != len(term) for term in (*labels, result)):
        return None
    left, right = labels
    batch = "".join(c for c in result if c in left and c in right)
    rows = "".join(c for c in left if c not in right)
    columns = "".join(c for c in right if c not in left)
    summed = "".join(c for c in left if c in right and c not in result)
    if any(len(part) != 1 for part in (rows, columns, summed)) or sorted(batch + rows + columns) != sorted(result):
        return None
    transposed = right.index(summed) > right.index(columns)
    second = batch + (columns + summed if transposed else summed + columns)
    return Product(
        _axes(left, batch + rows + summed), _axes(right, second), transposed, _axes(batch + rows + columns, result)
    )  # fmt: skip


def _axes(have: str, want: str) -> tuple[int, ...]:
    return tuple(have.index(c) for c in want)


class DenseTerms(NamedTuple):
    """A dense layer between permutations: of its input, of its weight (outputs first), and of its result.

    Attributes:
        input: the input's axes: those that the result keeps, then the summed ones.
        weight: the weight's axes: those of the result, then the summed ones.
        result: the axes of the result, of those that the input keeps and those of the weight.
        summed: the labels that both operands have, and the result has not.
    """

    input: tuple[int, ...]
    weight: tuple[int, ...]
    result: tuple[int, ...]
    summed: str


def dense_terms(left: str, weight: str, result: str) -> DenseTerms | None:
    """Return how a dense layer computes the terms of an equation; None where it does not.

    The input's first axis is the batch, which the result must keep first.

    >>> dense_terms("bij", "oj", "bio")
    DenseTerms(input=(0, 1, 2), weight=(0, 1), result=(0, 1, 2), summed='j')
    >>> dense_terms("bji", "jko", "bkoi").result
    (0, 2, 3, 1)
    """
    terms = (left, weight, result)
    summed = "".join(label for label in left if label in weight and label not in result)
    kept, made = ("".join(label for label in term if label not in summed) for term in (left, weight))
    plain = all(len(set(term)) == len(term) for term in terms) and sorted(kept + made) == sorted(result)
    if not plain or not summed or set(kept) & set(made) or left[:1] != result[:1]:
        return None
    return DenseTerms(_axes(left, kept + summed), _axes(weight, made + summed), _axes(kept + made, result), summed)


class DenseSum(NamedTuple):
    """A dense layer over permuted axes.

    Attributes:
        source: the order of the input's axes in which the summed ones are last, in the order of the kernel's.
        summed: how many those are.
        made: the axes of the kernel that become the last ones of the output.
        result: the order of the axes of the layer's output that is the result's.
    """

    source: tuple[int, ...]
    summed: int
    made: tuple[int, ...]
    result: tuple[int, ...]


def as_dense_sum(equation: str) -> DenseSum | None:
    """Return how a dense layer computes an equation of an input and a kernel; None where it does not, or the batch moves.

    >>> as_dense_sum("btd,ndh->btnh")
    DenseSum(source=(0, 1, 2), summed=1, made=(0, 2), result=(0, 1, 2, 3))
    """
    terms, _, result = equation.replace(" ", "").partition("->")
    left, _, kernel = terms.partition(",")
    found = dense_terms(left, kernel, result) if "." not in equation else None
    if found is None or len(found.weight) == len(found.summed):
        return None
    count = len(found.summed)
    summed = tuple(left.index(label) for label in sorted(found.summed, key=kernel.index))
    return DenseSum((*found.input[:-count], *summed), count, found.weight[:-count], found.result)
