"""Loops and branches, whose parts are functions: which of Keras' operations they are, and whether a call of a layer has any."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.ops import core

from qat.graph.graph import TensorSpec

from .layer_calls import Arguments, fill
from .unrolling import unrolled, without_dropout

log = logging.getLogger("qat")

#: Keras' operations that hold functions of the user's: no configuration holds these.
_OF_FUNCTIONS = {"WhileLoop", "ForiLoop", "VectorizedMap", "Cond", "Switch"}
#: TensorFlow's operators that run other graphs.
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_RUNS_GRAPHS = {"While", "StatelessWhile", *_BRANCHES}
#: The most steps of a loop that are recorded one by one.
_MOST_STEPS = 128
#: Why a layer is kept whole.
BRANCHES = "has a loop or a branch in its call"


@contextlib.contextmanager
def step_by_step() -> Iterator[None]:
    """Let ``scan``, ``associative_scan`` and ``fori_loop`` of few steps be recorded as these steps, and not as a loop."""
    forms = {core.Scan: _scanned, core.AssociativeScan: _gathered, core.ForiLoop: _repeated}
    for operation, form in forms.items():
        operation.symbolic_call = form
    try:
        yield
    finally:
        for operation in forms:
            del operation.symbolic_call  # the class inherits Keras' own


def _scanned(scan: Any, f: Any, init: Any, xs: Any = None) -> Any:
    lines = keras.tree.flatten(xs)
    steps = lines[0].shape[0] if scan.length is None and lines else scan.length
    if not _is_few(steps):
        return keras.Operation.symbolic_call(scan, f, init, xs)
    made: dict[int, Any] = {}
    for step in reversed(range(steps)) if scan.reverse else range(steps):
        line = None if xs is None else keras.tree.map_structure(lambda x, step=step: x[step], xs)
        init, made[step] = f(init, line)
    return init, keras.tree.map_structure(lambda *parts: keras.ops.stack(parts), *(made[step] for step in range(steps)))


def _gathered(scan: Any, f: Any, elems: Any) -> Any:
    axis, steps = scan.axis, keras.tree.flatten(elems)[0].shape[scan.axis]
    if not _is_few(steps):
        return keras.Operation.symbolic_call(scan, f, elems)
    lines = [
        keras.tree.map_structure(lambda x, step=step: keras.ops.take(x, [step], axis), elems)
        for step in (reversed(range(steps)) if scan.reverse else range(steps))
    ]
    made = list(itertools.accumulate(lines, f))
    ordered = made[::-1] if scan.reverse else made
    return keras.tree.map_structure(lambda *parts: keras.ops.concatenate(parts, axis), *ordered)


def _repeated(loop: Any, value: Any) -> Any:
    bounds = loop.lower, loop.upper
    if not all(isinstance(bound, int) for bound in bounds) or not _is_few(loop.upper - loop.lower):
        return keras.Operation.symbolic_call(loop, value)
    for step in range(*bounds):
        value = loop.body_fun(step, value)
    return value


def _is_few(steps: Any) -> bool:
    return isinstance(steps, int) and 0 < steps <= _MOST_STEPS


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
