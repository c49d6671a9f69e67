"""Hard swish and hard sigmoid in a ``.tflite`` as MUL and ADD, which the delegate runs: :mod:`qat.arithmetic.hard_functions`."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.arithmetic.hard_functions import HALF, gate_of, sixth_of
from qat.program.program import Instruction

from .writer import Op, Writer, schema


def write_hard_function(writer: Writer, instruction: Instruction) -> None:
    """Write ``clamp(x / 6 + 1/2, 0, 1)``, for a hard swish times ``x``.

    The lower limit is the lowest integer of the sum's output.
    """
    (source,), (output,) = instruction.inputs, instruction.outputs
    x, shape = writer.program.encoding_of(source), writer.program.values[source].shape
    sixth = _tensor(writer, f"{output}/sixth", shape, sixth_of(x))
    # x's own integers at a sixth of its scale: the product's multiplier is 1.
    _write(writer, Op.MUL, "MulOptions", [source, _number(writer, f"{output}.sixth", 1, f32(1) / f32(6))], sixth)
    half = _number(writer, f"{output}.half", *HALF)
    limited = schema.ActivationFunctionType.RELU_N1_TO_1
    if instruction.kind == "hard_sigmoid":
        _write(writer, Op.ADD, "AddOptions", [sixth, half], output, limited)
        return
    encoding = gate_of(x)
    assert encoding is not None
    gate = _tensor(writer, f"{output}/gate", shape, Encoding(encoding.scale, x.qmin, x.qmin, x.qmax))
    _write(writer, Op.ADD, "AddOptions", [sixth, half], gate, limited)
    _write(writer, Op.MUL, "MulOptions", [source, gate], output)


def _write(writer: Writer, code: int, options: str, inputs: list[str], output: str, activation: int = 0) -> None:
    writer.operator(code, inputs, output, 2, options, fusedActivationFunction=activation)


def _tensor(writer: Writer, name: str, shape: tuple[int | None, ...], encoding: Encoding) -> str:
    return writer.add_tensor(name, shape, encoding.dtype, encoding.scale, encoding.zero_point)


def _number(writer: Writer, name: str, integer: int, scale: np.float32) -> str:
    return writer.add_tensor(name, (), "int8", scale, data=np.asarray(integer, np.int8))
