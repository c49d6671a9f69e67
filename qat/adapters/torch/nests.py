"""Nests of tensors: the tuples, mappings, dataclasses and other containers in which a model takes and returns them."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from qat.system.nests import Path, fields_of


@dataclass(frozen=True)
class Nest:
    """The form of a container, without its leaves: all that PyTorch's pytree knows, other mappings, and dataclasses.

    Attributes:
        type: of the container.
        context: what pytree keeps of it; the keys of a mapping that pytree does not know.
        keys: the key, the field or the index of each part.
        parts: the form of each part; None for a leaf.
    """

    type: Any
    context: Any
    keys: tuple[str | int, ...]
    parts: tuple[Nest | None, ...]

    def paths(self) -> Iterator[Path]:
        """Yield the path of each leaf, in their order."""
        for key, part in zip(self.keys, self.parts, strict=True):
            yield from ((key, *path) for path in paths_of(part))

    def filled(self, leaves: Iterator[Any]) -> Any:
        """Return a container of this form that holds the next leaves."""
        values = [filled(part, leaves) for part in self.parts]
        node = pytree.SUPPORTED_NODES.get(self.type)
        if node is not None:
            return node.unflatten_fn(values, self.context)
        make: Any = self.type
        if dataclasses.is_dataclass(self.type):
            return make(**dict(zip(map(str, self.keys), values, strict=True)))
        return make(dict(zip(self.context, values, strict=True)))

    @property
    def is_plain(self) -> bool:
        """Whether an FX graph can hold such a container: tuples, lists and dictionaries of nothing else."""
        return self.type in (tuple, list, dict, namedtuple) and all(part is None or part.is_plain for part in self.parts)


def opened(value: Any) -> tuple[Nest | None, list[Any]]:
    """Return the form of a value and its leaves; a value that is no container is a leaf itself."""
    found = _parts(value)
    if found is None:
        return None, [value]
    kind, context, keys, values = found
    inner = [opened(v) for v in values]
    nest = Nest(kind, context, tuple(keys), tuple(part for part, _ in inner))
    return nest, [leaf for _, leaves in inner for leaf in leaves]


def paths_of(nest: Nest | None) -> Iterator[Path]:
    """Yield the path of each leaf of a form; that of a leaf itself is empty."""
    if nest is None:
        yield ()
    else:
        yield from nest.paths()


def filled(nest: Nest | None, leaves: Iterator[Any]) -> Any:
    """Return a value of a form that holds the next leaves."""
    return next(leaves) if nest is None else nest.filled(leaves)


def _parts(value: Any) -> tuple[Any, Any, Sequence[str | int], Sequence[Any]] | None:
    """Return the type of a container, its context, and its keys and parts; None for anything else."""
    kind: Any = namedtuple if isinstance(value, tuple) and hasattr(value, "_fields") else type(value)
    node = pytree.SUPPORTED_NODES.get(kind)
    if node is not None:
        values, context = node.flatten_fn(value)
        values = list(values)
        names = [str(key) for key in value] if isinstance(value, Mapping) else getattr(value, "_fields", None) or fields_of(value)
        return kind, context, names if len(names) == len(values) else range(len(values)), values
    if isinstance(value, Mapping):
        return kind, tuple(value), [str(key) for key in value], list(value.values())
    names = fields_of(value)
    return (kind, None, names, [getattr(value, name) for name in names]) if names else None
