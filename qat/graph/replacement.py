"""Activations that another stands for, where a recipe asks for it: a device may have no quick kernel for the trained one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from qat.errors import nearest

from .graph import Graph
from .kinds import FUNCTIONS, KINDS

log = logging.getLogger("qat")

#: The activations that may be replaced.
REPLACEABLE: tuple[str, ...] = (*(name for name in FUNCTIONS if name != "composed"), "relu", "relu6")
#: Those that may stand for them: a function that is complete without a number.
REPLACEMENTS: tuple[str, ...] = tuple(name for name in REPLACEABLE if not KINDS[name].attrs)


def fault_of(old: str, new: str) -> str:
    """Return what is wrong with a replacement; empty where nothing is."""
    for name, valid, what in ((old, REPLACEABLE, "be replaced"), (new, REPLACEMENTS, "replace another")):
        if name not in valid:
            return f"'{name}'{nearest(name, valid)} is no activation that can {what}; valid: {', '.join(valid)}"
    return ""


def replaced(graph: Graph, kinds: Mapping[str, str]) -> Graph:
    """Return the graph with activations of the kinds before replaced by those after, wherever they are.

    The weights were trained with the first: fine-tuning, best with the float model as teacher, has to follow.
    """
    found = {op.kind for op in graph.ops}
    for old in kinds:
        if old not in found:
            log.warning("the model has no %s that %s could replace", old, kinds[old])
    if not found.intersection(kinds):
        return graph
    ops = tuple(replace(op, kind=kinds[op.kind], attrs={}) if op.kind in kinds else op for op in graph.ops)
    return graph.replace(ops=ops)
