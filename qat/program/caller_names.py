"""The names by which callers of an artifact know its inputs and outputs: those that the model's author gave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from qat.system.nests import Path


def paths_of(structure: object) -> Iterator[Path]:
    """Yield the path of each leaf of nested mappings, tuples and lists, in their order."""
    if isinstance(structure, Mapping):
        pairs = [(str(key), value) for key, value in structure.items()]
    elif isinstance(structure, tuple) and hasattr(structure, "_fields"):  # a named tuple
        pairs = list(zip(structure._fields, structure, strict=True))
    elif isinstance(structure, (tuple, list)):
        yield from ((index, *path) for index, value in enumerate(structure) for path in paths_of(value))
        return
    else:
        yield ()
        return
    yield from ((key, *path) for key, value in pairs for path in paths_of(value))


def caller_names(paths: Iterable[Path], otherwise: Iterable[str]) -> tuple[str, ...]:
    """Return a distinct name for each tensor.

    Args:
        paths: of the tensors, where they stand nested. A path that has a key is joined by ``_``: ``{"boxes": [a, b]}`` gives
            ``boxes_0`` and ``boxes_1``.
        otherwise: the names of the tensors whose paths have no key.
    """
    found: list[str] = []
    for path, own in zip(paths, otherwise, strict=True):
        name = wanted = "_".join(map(str, path)) if any(isinstance(part, str) for part in path) else own
        number = 1
        while name in found:
            name, number = f"{wanted}_{number}", number + 1
        found.append(name)
    return tuple(found)


def said_of_whole(names: Sequence[str], inputs: object) -> str:
    """Return what to say of a mapping none of whose keys is an input's name, so that it was taken for one input; else nothing."""
    if not isinstance(inputs, Mapping) or not inputs or not names or not set(inputs).isdisjoint(names):
        return ""
    return f" ('{next(iter(inputs))}' is none of the model's inputs, {', '.join(names)}: the mapping was taken for one of them)"
