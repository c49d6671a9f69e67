"""Functions of one tensor in a ``.tflite``: a kernel of LiteRT's own, or a look-up of the integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic import lookup as functions
from qat.graph.kinds import FUNCTIONS
from qat.program.program import Instruction

_Op = schema.BuiltinOperator


def _options(kind: str, **fields: Any) -> tuple[Any, str]:
    options = getattr(schema, f"{kind}T")()
    for name, value in fields.items():
        setattr(options, name, value)
    return options, kind


#: ``(operator, version, options)`` of the functions with an int8 kernel, from their attributes; None where it has not these. Each
#: kernel's table was measured on all 256 integers; see :func:`qat.arithmetic.lookup.table`.
_KERNELS: dict[str, Callable[[Mapping[str, Any]], tuple[int, int, tuple[Any, str]] | None]] = {
    "sigmoid": lambda attrs: (_Op.LOGISTIC, 2, (None, "")),
    "tanh": lambda attrs: (_Op.TANH, 2, (None, "")),
    "gelu": lambda attrs: (_Op.GELU, 2, _options("GeluOptions", approximate=bool(attrs["approximate"]))),
    "elu": lambda attrs: (_Op.ELU, 1, (None, "")) if attrs["alpha"] == 1 else None,
    "exp": lambda attrs: (_Op.EXP, 2, _options("ExpOptions")),
    "hard_swish": lambda attrs: (_Op.HARD_SWISH, 1, _options("HardSwishOptions")),
    "leaky_relu": lambda attrs: (_Op.LEAKY_RELU, 2, _options("LeakyReluOptions", alpha=attrs["alpha"])),
}


def _function(w: Any, step: Instruction) -> None:
    kernel = _KERNELS[step.kind](step.attrs) if step.kind in _KERNELS else None
    source, output = w.grid(step.inputs[0]), w.grid(step.outputs[0])
    if kernel is not None:
        code, version, (options, kind) = kernel
        w.operator(code, [source], [output], version, options, kind)
    else:
        _look_up(w, step, source, output)


def _look_up(w: Any, step: Instruction, source: str, output: str) -> None:
    """Write a GATHER from the 256 integers. Its indices must be int32 and count from 0."""
    x, y = w.encoding(step.inputs[0]), w.encoding(step.outputs[0])
    values = functions.table(step.kind, step.attrs, x, y, w.program.kernels) + y.zero_point
    table = w.add_tensor(f"{output}.table", values.shape, "int8", y.scale, y.zero_point, data=values.astype(np.int8))
    shape = w.program.values[step.inputs[0]].shape
    signed, index = (w.add_tensor(f"{output}.{name}", shape, "int32") for name in ("integers", "index"))
    w.operator(_Op.CAST, [source], [signed], 1, *_options("CastOptions"))
    w.operator(_Op.ADD, [signed, w.constant(f"{output}.first", np.array([-x.qmin]))], [index], 1, *_options("AddOptions"))
    w.operator(_Op.GATHER, [table, index], [output], 2, *_options("GatherOptions", axis=0))


OPERATORS: dict[str, Callable[[Any, Instruction], None]] = dict.fromkeys(FUNCTIONS, _function)
