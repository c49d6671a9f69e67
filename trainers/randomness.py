"""The states of Python's and NumPy's global random generators, as arrays."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np


def state() -> dict[str, np.ndarray]:
    """Return both states by name."""
    _, python, spare = random.getstate()
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": np.array(python, np.uint64),
        "python_spare": np.array(np.nan if spare is None else spare, np.float64),
        "numpy": np.array(keys, np.uint32),
        "numpy_place": np.array([position, has_gauss], np.int64),
        "numpy_spare": np.array(gauss, np.float64),
    }


def restore(state: Mapping[str, np.ndarray]) -> None:
    """Put back the states that :func:`state` returned."""
    spare = float(state["python_spare"])
    random.setstate((3, tuple(int(v) for v in state["python"]), None if np.isnan(spare) else spare))
    position, has_gauss = (int(v) for v in state["numpy_place"])
    np.random.set_state(("MT19937", state["numpy"], position, has_gauss, float(state["numpy_spare"])))
