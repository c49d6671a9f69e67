"""Functions of one tensor in a ``.tflite``: a kernel of LiteRT's own, sums and products, or a lookup table of the integers.

A kernel makes its table in float32 when the file is loaded; it stands where that gives the prepared model's integers on every
machine. :func:`qat.calibration.clear_borders.clear_borders` moves scales so that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qat.arithmetic import hard_functions, lookup
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.float_functions import float_is_exact, in_float
from qat.program.program import Instruction

from .hard_functions import write_hard_function
from .writer import Op, Writer

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class _Kernel:
    """An operator with an int8 kernel: the arguments of :meth:`Writer.operator`, some of them from a function's attributes."""

    code: int
    version: int
    options: str = ""
    fields: Callable[[Attributes], dict[str, object]] = field(default=lambda attrs: {})
    fits: Callable[[Attributes], bool] = field(default=lambda attrs: True)


#: The functions that have an int8 kernel. Its table was measured on all 256 integers; see :func:`qat.arithmetic.lookup.table`.
_KERNELS = {
    "sigmoid": _Kernel(Op.LOGISTIC, 2),
    "tanh": _Kernel(Op.TANH, 2),
    "gelu": _Kernel(Op.GELU, 2, "GeluOptions", lambda attrs: {"approximate": bool(attrs["approximate"])}),
    "elu": _Kernel(Op.ELU, 1, fits=lambda attrs: bool(attrs["alpha"] == 1)),
    "exp": _Kernel(Op.EXP, 2, "ExpOptions"),
    "hard_swish": _Kernel(Op.HARD_SWISH, 1, "HardSwishOptions"),
    "leaky_relu": _Kernel(Op.LEAKY_RELU, 2, "LeakyReluOptions", lambda attrs: {"alpha": attrs["alpha"]}),
}


def write_function(writer: Writer, instruction: Instruction) -> None:
    """Write a function of one tensor."""
    ends = instruction.inputs[0], instruction.outputs[0]
    source, output = (writer.integer_tensor(name) for name in ends)
    kernel, attrs = _KERNELS.get(instruction.kind), instruction.attrs
    in_integers = hard_functions.IN_INTEGERS.get(instruction.kind)
    x, y = (writer.program.encoding_of(name) for name in ends)
    if in_integers is not None and in_integers(x, y, writer.program.kernels) is not None:
        write_hard_function(writer, instruction)
    elif kernel is not None and kernel.fits(attrs) and _is_exact(instruction, x, y):
        writer.operator(kernel.code, [source], output, kernel.version, kernel.options, **kernel.fields(attrs))
    else:
        _write_table(writer, instruction)


def _is_exact(instruction: Instruction, x: Encoding, y: Encoding) -> bool:
    """Return whether a kernel gives the integers of the table: in fixed point, or by float arithmetic that cannot change one."""
    kind, attrs = instruction.kind, instruction.attrs
    return not in_float(kind, "xnnpack") or float_is_exact(kind, attrs, x, y, "xnnpack")


def _write_table(writer: Writer, instruction: Instruction) -> None:
    """Write a GATHER from the 256 integers. Its indices must be int32 and count from 0."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    x, y = writer.program.encoding_of(source), writer.program.encoding_of(output)
    values = lookup.table(instruction.kind, instruction.attrs, x, y, writer.program.kernels) + y.zero_point
    table = writer.add_tensor(f"{output}.table", values.shape, "int8", y.scale, y.zero_point, data=values.astype(np.int8))
    shape = writer.program.values[source].shape
    signed, index = (writer.add_tensor(f"{output}.{name}", shape, "int32") for name in ("integers", "index"))
    writer.operator(Op.CAST, [source], signed, 1, "CastOptions")
    writer.operator(Op.ADD, [signed, writer.constant(f"{output}.first", [-x.qmin])], index, 1, "AddOptions")
    writer.operator(Op.GATHER, [table, index], output, 2, "GatherOptions", axis=0)
