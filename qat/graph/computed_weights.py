"""Weights that a model computes from its parameters, as weight normalization does, while a graph is rewritten.

The parameters keep the value of such a weight under a name of its own, and a factor beside it. A pass that scales a weight scales
the factor with it: the model goes on computing the weight, and multiplies it. No pass may change such a weight otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def factor_of(weight: str) -> str:
    """Return the name of a computed weight's factor, an array that broadcasts to the weight."""
    return f"{weight}.factor"


def is_computed(params: Mapping[str, np.ndarray], name: str) -> bool:
    """Return whether a parameter of a graph is computed from others."""
    return factor_of(name) in params
