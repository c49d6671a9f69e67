"""The order of the operators in a file."""

import pytest

from qat.errors import ExportError
from qat.program.ordering import by_dependency


def order(*operators, available=("x",)):
    """Sort operators of a line each: ``"y <- a b"``."""
    reads = lambda line: line.split("<-")[1].split()  # noqa: E731
    return by_dependency(operators, reads, lambda line: line.split()[:1], available)


def test_an_operator_stands_behind_those_whose_results_it_reads():
    assert order("b <- a", "a <- x", "c <- x a") == ["a <- x", "c <- x a", "b <- a"]


def test_a_block_that_comes_last_stands_together():
    """The bytes of an artifact depend on it: a sort that takes whatever is ready would put ``late`` between the two."""
    assert order("first <- x", "late <- f", "f <- first", "g <- first") == ["first <- x", "f <- first", "g <- first", "late <- f"]


def test_a_value_that_nothing_writes_is_named():
    with pytest.raises(ExportError, match="nothing writes: lost"):
        order("y <- lost", "z <- y")


def test_a_circle_is_an_error():
    with pytest.raises(ExportError, match="form a circle"):
        order("a <- b x", "b <- a")
