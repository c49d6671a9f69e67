"""The zeros of pruned weights, which training is to keep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .computed_weights import is_computed
from .graph import Graph
from .kinds import KINDS


def masks_of(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return, for each weight of a layer that holds zeros, where it does not: bool arrays, by parameter.

    A weight that is computed is left out: the mask that it is computed with keeps its zeros.
    """
    weights = {op.params["weight"] for op in graph.ops if KINDS[op.kind].linear}
    found = {name: np.asarray(params[name]) != 0 for name in sorted(weights) if not is_computed(params, name)}
    return {name: mask for name, mask in found.items() if not mask.all()}
