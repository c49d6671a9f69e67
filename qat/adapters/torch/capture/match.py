"""What a rule says of a captured operator, and what it reads off the captured node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx


class Match(NamedTuple):
    """What an operator is: its kind, its operands (nodes; numbers where a constant may stand), parameters and attributes."""

    kind: str
    inputs: Sequence[fx.Node | float]
    params: Mapping[str, str] = {}
    attrs: Mapping[str, Any] = {}


def argument(node: Any, index: int, name: str, default: Any) -> Any:
    """Return an argument of a captured node, wherever it stands."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape of a captured node's tensor; sizes that are not fixed are symbols."""
    return tuple(node.meta["val"].shape)


def pair(value: Any) -> tuple[int, int]:
    """Return an argument of a window of two axes."""
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else (int(value), int(value))


def is_tensor(node: fx.Node) -> bool:
    """Whether a captured node gives one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)
