"""The forms in which two files hold one value: images with channels first or last, or other axes of the same size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.errors import DataError

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """How a float value takes the form of another file's, given that value, and back."""

    to: Callable[[np.ndarray, np.ndarray], np.ndarray]
    back: Callable[[np.ndarray, np.ndarray], np.ndarray]


#: By name, the most likely first.
LAYOUTS = {
    "same": Layout(lambda value, other: value, lambda value, other: value),
    "channels_last": Layout(lambda value, other: value.transpose(_LAST), lambda value, other: value.transpose(_FIRST)),
    "channels_first": Layout(lambda value, other: value.transpose(_FIRST), lambda value, other: value.transpose(_LAST)),
    "reshaped": Layout(lambda value, other: value.reshape(other.shape), lambda value, other: value.reshape(other.shape)),
}


def best_layout(value: np.ndarray, other: np.ndarray) -> str | None:
    """Return the layout in which a float value has another's shape and is closest to it; None where none has the shape."""
    fitting: list[tuple[float, str]] = []
    for name, layout in LAYOUTS.items():
        if name.startswith("channels") and value.ndim != 4:
            continue
        if name == "reshaped" and (value.size != other.size or fitting):
            continue
        turned = layout.to(value, other)
        if turned.shape == other.shape:
            fitting.append((float(np.square(turned.astype(np.float64) - other).sum()), name))
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def as_input(array: np.ndarray, shape: Sequence[int | None], name: str, path: Path) -> np.ndarray:
    """Return samples in the form that an input of another file wants.

    Raises:
        DataError: they fit in no form.
    """

    def fits(candidate: np.ndarray) -> bool:
        return candidate.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape[1:], candidate.shape[1:], strict=True))

    turned = [array, *((array.transpose(_LAST), array.transpose(_FIRST)) if array.ndim == 4 else ())]
    found = next((candidate for candidate in turned if fits(candidate)), None)
    if found is None:
        sizes = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(
            f"input '{name}' of {path} takes ({sizes}), and the samples are {array.shape}: the files are not of one "
            "model, or the data are of another"
        )
    return np.ascontiguousarray(found)
