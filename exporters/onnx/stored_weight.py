"""Operators on float activations whose weight is stored in 8, 4 or 16 bits, as ONNX nodes.

- weight_only: DequantizeLinear of an int8 or int4 weight, then the float operator. The weight of a dense layer is stored as
  [out, in] and transposed where it is used: an [in, out] weight would become a MatMulNBits in ONNX Runtime, which rounds the
  activations, too.
- float16: Cast of a float16 weight. ONNX Runtime evaluates the Cast when it loads the file.
- dynamic: DynamicQuantizeLinear, ConvInteger or MatMulInteger, and a product with both scales. ONNX Runtime makes one
  DynamicQuantizeMatMul of a dense layer. The bias is added in float.

An embedding that is tied to a dense layer is a look-up of its rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qat.arithmetic.encoding import packed_int4
from qat.arithmetic.grid import f32
from qat.errors import ExportError
from qat.graph.kinds import KINDS
from qat.program.program import Instruction

from .linear import conv_attributes
from .writer import Writer

#: Operators whose second input is an integer weight without a DequantizeLinear. The weight's scale is the constant
#: ``<weight>.scale``.
INTEGER_PRODUCTS = ("ConvInteger", "MatMulInteger")


def write_stored_weight(writer: Writer, instruction: Instruction) -> None:
    """Write an operator in one of :data:`qat.planning.modes.STORED`.

    Raises:
        ExportError: the format has no nodes for the operator in this mode.
    """
    name, mode, output = instruction.name, instruction.mode, instruction.outputs[0]
    if instruction.kind == "embedding":
        write_rows(writer, instruction, output)
        return
    if not KINDS[instruction.kind].stored_weight or instruction.weight is None:
        raise ExportError(f"{instruction.layer}: there is no ONNX form of a {mode} {instruction.kind}")
    result = output if instruction.activation is None else f"{name}/linear"
    if mode == "dynamic":
        _write_dynamic(writer, instruction, instruction.weight, result)
    else:
        _write_float(writer, instruction, instruction.weight, result)
    if instruction.activation == "relu":
        writer.node("Relu", [result], output)
    elif instruction.activation == "relu6":
        writer.node("Clip", [result, writer.constant("float/zero", f32(0.0)), writer.constant("float/six", f32(6.0))], output)


def write_rows(writer: Writer, instruction: Instruction, output: str) -> str:
    """Write a look-up of rows of a dense layer's weight, and of their scales; return ``output``, their real values."""
    assert instruction.weight is not None
    weight, (indices,), encoding, name = instruction.weight, instruction.inputs, instruction.weight_encoding, instruction.name
    if instruction.packed:  # a Gather of 4 bits there is not; the layer dequantizes the whole weight, too
        return writer.node("Gather", [_float_weight(writer, instruction, weight), indices], output, name, axis=0)
    held = weight if encoding is None else weight.astype(np.int8)
    rows = writer.node("Gather", [writer.constant(instruction.weight_tensor, held), indices], f"{name}/rows", name, axis=0)
    if encoding is None:
        return writer.node("Cast", [rows], output, to=TensorProto.FLOAT)
    real = writer.node("Cast", [rows], f"{name}/rows/real", to=TensorProto.FLOAT)
    scale = writer.constant(f"{instruction.weight_tensor}.scale", np.asarray(encoding.scale, f32))
    if np.ndim(encoding.scale):
        chosen = writer.node("Gather", [scale, indices], f"{name}/scales", axis=0)
        scale = writer.node("Unsqueeze", [chosen, writer.constant("rows/last", np.array([-1], np.int64))], f"{name}/scale")
    return writer.node("Mul", [real, scale], output)


def _write_float(writer: Writer, instruction: Instruction, weight: np.ndarray, result: str) -> None:
    """Write the float operator behind its dequantized weight."""
    name, source = instruction.name, instruction.inputs[0]
    real = _float_weight(writer, instruction, weight)
    bias = [] if instruction.bias is None else [writer.constant(f"{name}.bias", instruction.bias)]
    if KINDS[instruction.kind].spatial:
        writer.node("Conv", [source, real, *bias], result, name, **conv_attributes(instruction))
    elif len(writer.program.values[source].shape) == 2:
        writer.node("Gemm", [source, real, *bias], result, name, transB=1)
    else:
        transposed = writer.node("Transpose", [real], f"{real}/transposed")
        product = writer.node("MatMul", [source, transposed], f"{name}/product" if bias else result, name)
        if bias:
            writer.node("Add", [product, *bias], result)


def _float_weight(writer: Writer, instruction: Instruction, weight: np.ndarray) -> str:
    """Write the stored weight and its conversion to float32."""
    name, real = instruction.weight_tensor, f"{instruction.name}.weight/real"
    if instruction.weight_encoding is None:
        return writer.node("Cast", [writer.constant(name, weight)], real, to=TensorProto.FLOAT)
    scale = np.asarray(instruction.weight_encoding.scale, f32)
    if not instruction.packed:
        return writer.dequantize_constant(name, weight.astype(np.int8), scale, real)
    writer.constants[name] = _int4(name, weight)
    writer.constants[f"{name}.zero_point"] = _int4(f"{name}.zero_point", np.zeros(scale.shape, np.int8))
    inputs = [name, writer.constant(f"{name}.scale", scale), f"{name}.zero_point"]
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return writer.node("DequantizeLinear", inputs, real, **axis)


def _int4(name: str, values: np.ndarray) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT4, values.shape, packed_int4(values).tobytes(), raw=True)


def _is_looked_up(writer: Writer, instruction: Instruction) -> bool:
    """Return whether an embedding reads rows of a dense layer's weight."""
    others = (i for i in writer.program.instructions if i.kind == "embedding")
    return any(i.weight_tensor == instruction.weight_tensor for i in others)


def _write_dynamic(writer: Writer, instruction: Instruction, weight: np.ndarray, result: str) -> None:
    """Write the integer operator between the quantization of its input and the scales of its accumulator."""
    assert instruction.weight_encoding is not None
    name, dense = instruction.name, not KINDS[instruction.kind].spatial
    per_channel = (-1,) if dense else (1, -1, 1, 1)
    attributes: dict[str, Any] = {} if dense else conv_attributes(instruction)
    quantized = [f"{name}/{part}" for part in ("integers", "scale", "zero_point")]
    integers, x_scale, zero_point = quantized
    writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [instruction.inputs[0]], quantized, name=f"{name}/quantize"))
    rows = dense and _is_looked_up(writer, instruction)
    stored = writer.constant(instruction.weight_tensor, (weight.T if dense and not rows else weight).astype(np.int8))
    if rows:  # ONNX Runtime transposes a constant as it loads the file
        stored = writer.node("Transpose", [stored], f"{name}/transposed")
    kind = "MatMulInteger" if dense else "ConvInteger"
    accumulator = writer.node(kind, [integers, stored, zero_point], f"{name}/accumulator", name, **attributes)
    accumulator = writer.node("Cast", [accumulator], f"{name}/accumulator_real", to=TensorProto.FLOAT)
    scale = np.asarray(instruction.weight_encoding.scale, f32)
    scale = scale.reshape(per_channel) if scale.ndim else scale
    scales = writer.node("Mul", [x_scale, writer.constant(f"{instruction.weight_tensor}.scale", scale)], f"{name}/scales")
    real = writer.node("Mul", [accumulator, scales], result if instruction.bias is None else f"{name}/scaled")
    if instruction.bias is not None:
        writer.node("Add", [real, writer.constant(f"{name}.bias", instruction.bias.reshape(per_channel))], result)
