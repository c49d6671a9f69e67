"""The rule of ``TimeDistributed``: the steps are folded into the batch, where the layer within sees them as samples."""

from __future__ import annotations

import keras
from keras.src.ops.symbolic_arguments import SymbolicArguments

from .builder import Builder
from .counted_batch import Record
from .layer_calls import Call


def time_distributed(b: Builder, c: Call) -> str | None:
    """``TimeDistributed`` of a layer, over a fixed number of steps, without a mask."""
    layer, source = c.layer, b.specs[c.inputs[0]]
    if len(c.inputs) != 1 or None in source.shape[1:] or None in c.shape[1:] or source.dtype != "float32":
        return None
    step = keras.KerasTensor((None, *source.shape[2:]), source.dtype)
    made = keras.KerasTensor((None, *c.shape[2:]), c.output.dtype)
    folded = b.emit("reshape", c.inputs, tuple(step.shape), f"{c.path}/folded", shape=(-1, *step.shape[1:]), folds=True)
    b.names[id(step)] = folded
    b.opened += [step, made]  # names go by ids
    b.walk(Record(layer.layer, SymbolicArguments(step), [made]), f"{c.path}/")
    return b.emit("reshape", [b.names[id(made)]], c.output, c.path, shape=(-1, *c.shape[1:]), folds=True)
