"""Nests: arrays in mappings, tuples, lists and dataclasses, as batches hold inputs and labels. No framework is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

#: The keys, fields and indices that lead to one leaf of a nest.
Path = tuple[str | int, ...]


def leaves(nest: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the path and the value of each leaf, in their order; None is no leaf, and what is no nest is the only one."""
    found = _parts(nest)
    if found is None or not is_nest(nest):
        if nest is not None:
            yield (), nest
        return
    for key, part in found:
        yield from (((key, *path), leaf) for path, leaf in leaves(part))


def array_leaves(nest: Any) -> list[tuple[Path, Any]]:
    """Return the leaves of a nest but for flags, numbers and texts that stand by themselves: arguments that are no arrays."""
    return [(path, leaf) for path, leaf in leaves(nest) if not isinstance(leaf, (bool, int, float, str))]


def mapped(function: Callable[[Any], Any], nest: Any) -> Any:
    """Return a nest of the same form with the results of a function in place of the leaves; None stays."""
    found = _parts(nest)
    if found is None or not is_nest(nest):
        return None if nest is None else function(nest)
    values = [mapped(function, part) for _, part in found]
    if isinstance(nest, Mapping):
        return dict(zip(nest, values, strict=True))
    if dataclasses.is_dataclass(nest):
        return dataclasses.replace(nest, **dict(zip((str(key) for key, _ in found), values, strict=True)))  # type: ignore[type-var]
    return type(nest)(*values) if hasattr(nest, "_fields") else type(nest)(values)


def is_nest(value: Any) -> bool:
    """Whether a value holds arrays; a list of numbers is one array."""
    found = _parts(value)
    return found is not None and (isinstance(value, Mapping) or any(is_nest(part) or _is_array(part) for _, part in found))


def is_argument(nest: Any, names: Collection[str], needed: int) -> bool:
    """Whether a named tuple is the only argument that a function of ``names`` needs, and none of its fields is an argument's."""
    fields = getattr(nest, "_fields", ())
    return bool(fields) and needed <= 1 and not {*names} & {*fields}


def arrays_of(nest: Any) -> Any:
    """Return a nest with its leaves as arrays of NumPy; None stays."""
    return mapped(lambda x: np.asarray(x.detach().cpu() if hasattr(x, "detach") else x), nest)


def fields_of(value: Any) -> list[str]:
    """Return the fields with which a dataclass is made; empty for anything else."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    return [field.name for field in dataclasses.fields(value) if field.init]


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0


def _parts(value: Any) -> list[tuple[str | int, Any]] | None:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    names = fields_of(value)
    return [(name, getattr(value, name)) for name in names] if names else None
