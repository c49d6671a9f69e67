"""Loops and branches, whose parts are functions: which of Keras' operations they are, and whether a call of a layer has any."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from qat.graph.graph import TensorSpec

from .layer_calls import Arguments, fill
from .unrolling import unrolled, without_dropout

log = logging.getLogger("qat")

#: Keras' operations that hold functions of the user's: no configuration holds these.
_OF_FUNCTIONS = {"WhileLoop", "ForiLoop", "VectorizedMap", "Cond", "Switch"}
#: TensorFlow's operators that run other graphs.
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_RUNS_GRAPHS = {"While", "StatelessWhile", *_BRANCHES}
#: Why a layer is kept whole.
BRANCHES = "has a loop or a branch in its call"


def of_functions(operation: keras.Operation) -> bool:
    """Return whether an operation is a loop or a branch of Keras', which is made of functions."""
    return type(operation).__module__.startswith("keras.") and type(operation).__name__ in _OF_FUNCTIONS


def runs_graphs(layer: keras.Operation, arguments: Arguments, specs: Sequence[TensorSpec]) -> bool:
    """Return whether a call of a layer, its recurrent layers aside, has a loop or a branch in TensorFlow."""

    def call(*tensors: Any) -> Any:
        args, kwargs = fill(arguments, list(tensors))
        return keras.tree.flatten(layer(*args, **kwargs))

    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in specs]
    with unrolled(layer), without_dropout(layer), keras.StatelessScope():
        try:
            graph = tf.function(call).get_concrete_function(*signature).graph
        except Exception:  # whatever the user's call raises in a graph: the export has to trace it too, and says so
            log.debug("%s cannot be traced", layer.name, exc_info=True)
            return False
    own = [op for op in graph.get_operations() if not (op.type in _BRANCHES and _is_known(op.inputs[0].op))]
    called = [node.op for function in graph.as_graph_def().library.function for node in function.node_def]
    return not _RUNS_GRAPHS.isdisjoint([*(op.type for op in own), *called])


def _is_known(op: tf.Operation) -> bool:
    """Return whether an operator's results follow from constants and sizes alone: the converter takes such a branch apart."""
    waiting, seen = [op], {op}
    while waiting:
        found = waiting.pop()
        if found.type in ("Placeholder", "ReadVariableOp"):
            return False
        if found.type != "Shape":
            sources = {value.op for value in found.inputs} - seen
            seen |= sources
            waiting += sources
    return True
