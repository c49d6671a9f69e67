"""Recognition, pass by pass: what each operator's functional form would be, its pieces become."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set

import numpy as np

from ..graph import Graph, Op
from .affine import fold_affine, join_biases, merge_affine
from .attention import join_factors
from .constants import compute_constants, lay_constants
from .functions import compose, recognise_functions
from .normalization import normalize_last_axes, recognise_normalizations
from .sheet import Sheet

#: A graph, its parameters, and the names of those that are not trained.
Recognised = tuple[Graph, dict[str, np.ndarray], frozenset[str]]


def recognise(
    graph: Graph,
    params: Mapping[str, np.ndarray],
    fixed: Set[str],
    admits: Callable[[Op], bool],
    worth: Collection[str] = (),
) -> Recognised:
    """Return the graph with functions that were written in pieces as the operators that they are.

    Args:
        graph: as traced.
        params: its parameters by name.
        fixed: the parameters that are not trained. Only those count as numbers.
        admits: whether the recipe has an operator run in integers of 8 bits or fewer; any other operator stays as it is.
        worth: the operators of which one must be among those that become one table, see :func:`compose`.
    """
    sheet = Sheet(graph, params, fixed, admits)
    normalize_last_axes(sheet)
    lay_constants(sheet)
    compute_constants(sheet)
    recognise_normalizations(sheet)
    recognise_functions(sheet)
    join_factors(sheet)
    join_biases(sheet)
    fold_affine(sheet)
    compose(sheet, worth)
    merge_affine(sheet)
    return sheet.finished(), sheet.params, frozenset(sheet.fixed)
