"""Operators whose weight alone is stored in another form, as ONNX nodes: float in, float out.

- weight_only: DequantizeLinear of an int8 or int4 weight, then the float operator. The weight of a dense layer is [out, in] and
  transposed as it is used: of an [in, out] one ONNX Runtime would make a MatMulNBits, which rounds the activations, too.
- float16: Cast of a float16 weight, which ONNX Runtime folds when it loads the file.
- dynamic: DynamicQuantizeLinear, ConvInteger or MatMulInteger, and the two scales. ONNX Runtime makes one DynamicQuantizeMatMul
  of a dense layer. The bias is added in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qat.arithmetic.encoding import packed_int4
from qat.arithmetic.numerics import f32
from qat.errors import ExportError
from qat.program.program import Instruction

from .operators import Writer, conv_attributes

#: Operators whose second input is an integer weight without a DequantizeLinear; its scale is ``<weight>.scale``.
INTEGER_PRODUCTS = ("ConvInteger", "MatMulInteger")


def write_stored(w: Writer, step: Instruction) -> None:
    """Write an operator in one of :data:`qat.planning.modes.STORED`.

    Raises:
        ExportError: the target has no nodes for it.
    """
    if step.kind not in ("conv2d", "depthwise_conv2d", "dense") or step.weight is None:
        raise ExportError(f"{step.scope or step.name}: there is no ONNX form of a {step.mode} {step.kind}")
    dense = step.kind == "dense"
    attributes: dict[str, Any] = {} if dense else conv_attributes(step)
    shape = (-1,) if dense else (1, -1, 1, 1)
    made = step.outputs[0] if step.activation is None else f"{step.name}/linear"
    if step.mode == "dynamic":
        _dynamic(w, step, attributes, shape, made)
    else:
        real = _real_weight(w, step, step.weight)
        bias = [] if step.bias is None else [w.constant(f"{step.name}.bias", step.bias)]
        if not dense:
            w.node("Conv", [step.inputs[0], real, *bias], made, step.name, **attributes)
        elif len(w.program.values[step.inputs[0]].shape) == 2:
            w.node("Gemm", [step.inputs[0], real, *bias], made, step.name, transB=1)
        else:
            turned = w.node("Transpose", [real], f"{real}/transposed")
            product = w.node("MatMul", [step.inputs[0], turned], f"{step.name}/product" if bias else made, step.name)
            if bias:
                w.node("Add", [product, *bias], made)
    if step.activation == "relu":
        w.node("Relu", [made], step.outputs[0])
    elif step.activation == "relu6":
        w.node("Clip", [made, w.constant("float/zero", f32(0.0)), w.constant("float/six", f32(6.0))], step.outputs[0])


def _real_weight(w: Writer, step: Instruction, weight: np.ndarray) -> str:
    """Write the stored weight and its way back to float32."""
    name = f"{step.name}.weight"
    if step.weight_encoding is None:
        return w.node("Cast", [w.constant(name, weight)], f"{name}/real", to=TensorProto.FLOAT)
    scale = np.asarray(step.weight_encoding.scale, f32)
    if not step.packed:
        return w.constant_real(name, weight.astype(np.int8), scale)
    w.constants[name] = _int4(name, weight)
    w.constants[f"{name}.zero_point"] = _int4(f"{name}.zero_point", np.zeros(scale.shape, np.int8))
    inputs = [name, w.constant(f"{name}.scale", scale), f"{name}.zero_point"]
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return w.node("DequantizeLinear", inputs, f"{name}/real", **axis)


def _int4(name: str, values: np.ndarray) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT4, values.shape, packed_int4(values).tobytes(), raw=True)


def _dynamic(w: Writer, step: Instruction, attributes: dict[str, Any], shape: tuple[int, ...], made: str) -> None:
    assert step.weight is not None and step.weight_encoding is not None
    weight = step.weight.T if step.kind == "dense" else step.weight
    name = f"{step.name}.weight"
    integers, x_scale, zero_point = (f"{step.name}/{part}" for part in ("integers", "scale", "zero_point"))
    written = [integers, x_scale, zero_point]
    w.nodes.append(helper.make_node("DynamicQuantizeLinear", [step.inputs[0]], written, name=f"{step.name}/quantize"))
    product = "MatMulInteger" if step.kind == "dense" else "ConvInteger"
    inputs = [integers, w.constant(name, weight.astype(np.int8)), zero_point]
    acc = w.node(product, inputs, f"{step.name}/accumulator", step.name, **attributes)
    acc = w.node("Cast", [acc], f"{step.name}/accumulator_real", to=TensorProto.FLOAT)
    scale = np.asarray(step.weight_encoding.scale, f32)
    scale = scale.reshape(shape) if scale.ndim else scale
    both = w.node("Mul", [x_scale, w.constant(f"{name}.scale", scale)], f"{step.name}/scales")
    real = w.node("Mul", [acc, both], made if step.bias is None else f"{step.name}/scaled")
    if step.bias is not None:
        w.node("Add", [real, w.constant(f"{step.name}.bias", step.bias.reshape(shape))], made)
