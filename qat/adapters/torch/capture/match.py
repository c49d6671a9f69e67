"""The answer of a rule about a captured operator, and the questions that rules ask of captured nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx


class Match(NamedTuple):
    """An operator of the neutral graph: its kind, operands, parameters and attributes.

    A number among the operands stands for a constant, and so does the name of one that :meth:`Builder.derived` has added.
    """

    kind: str
    inputs: Sequence[fx.Node | float | str]
    params: Mapping[str, str] = {}
    attrs: Mapping[str, Any] = {}


def argument(node: Any, index: int, name: str, default: Any) -> Any:
    """Return an argument of a captured node, given by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def padding_of(node: Any) -> tuple[list[Any], float, str]:
    """Return what a padding adds at both sides of each axis, the last axis first, which number that is, and in which mode."""
    amounts = list(argument(node, 1, "pad", ()))
    if node.target is torch.ops.aten.constant_pad_nd.default:
        return amounts, argument(node, 2, "value", 0), "constant"
    return amounts, argument(node, 3, "value", None) or 0, argument(node, 2, "mode", "constant")


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape of a captured node's tensor; a size that is not fixed is a symbol."""
    return tuple(node.meta["val"].shape)


def for_axes(value: Any, count: int) -> tuple[int, ...]:
    """Return an argument of a window, a number or one for each axis, as one for each of ``count`` axes."""
    values = [int(v) for v in value] if isinstance(value, (tuple, list)) else [int(value)]
    return tuple(values * count if len(values) == 1 else values)


def is_tensor(node: fx.Node) -> bool:
    """Return whether the value of a captured node is one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)
