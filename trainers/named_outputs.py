"""Several outputs of a model, as a metric takes them: by number, and by the names that the model's author gave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from qat.program.caller_names import Path, caller_names


class NamedOutputs(tuple[np.ndarray, ...]):
    """A tuple of arrays, which also have names.

    Examples:
        >>> outputs = NamedOutputs([np.zeros((2, 4)), np.ones(2)], ["boxes", "scores"])
        >>> boxes, scores = outputs
        >>> outputs["scores"] is scores is outputs[1]
        True
    """

    names: tuple[str, ...]

    def __new__(cls, arrays: Iterable[np.ndarray], names: Sequence[str]) -> NamedOutputs:
        """Return the arrays with their names, in one order."""
        made = super().__new__(cls, arrays)
        made.names = tuple(names)
        return made

    def __getitem__(self, key: Any) -> Any:
        """Return the output of a name or a number. Raises KeyError for another name."""
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"there is no output '{key}', only {', '.join(self.names)}")
            key = self.names.index(key)
        return super().__getitem__(key)

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and arrays, as a dictionary does."""
        return zip(self.names, self, strict=True)


def named(paths: Iterable[Path], leaves: Sequence[np.ndarray]) -> Any:
    """Return a model's outputs as a metric takes them: the array of a single one, else all in order, with their names.

    Args:
        paths: where each stands in what the model returns.
        leaves: the arrays.
    """
    return leaves[0] if len(leaves) == 1 else NamedOutputs(leaves, caller_names(paths, map(str, range(len(leaves)))))
