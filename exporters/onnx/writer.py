"""The graph of an ``.onnx`` as it is written: its nodes, its constants, and the nodes that most operators share.

Every input of an operator, an int32 bias included, comes from a DequantizeLinear, and one QuantizeLinear reads the operator's
output: ONNX Runtime fuses that pattern (onnxruntime/core/optimizer/qdq_transformer/selectors_actions/). A fused activation needs
no node where the output's limits imply it. Elsewhere it is a Clip of the integers, which keeps the operator before it fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qat.arithmetic.grid import f32
from qat.errors import ExportError
from qat.program.program import Instruction, Program

#: Ends the name of the QuantizeLinear behind an operator. The optimized graph has no such node where the operator was fused.
REQUANTIZE = "/requantize"
#: The domain of ONNX Runtime's own operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
MICROSOFT = "com.microsoft"


class Writer:
    """The nodes and constants that were written so far.

    Attributes:
        program: the program that becomes a file.
        nodes: in the order of the program's instructions.
        constants: by tensor name.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant, unless there is one of that name, and return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """Add a node of one output and return the output's name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or f"{output}/{kind}", **attributes))
        return output

    def scale_and_zero_point(self, name: str) -> list[str]:
        """Return the constants that hold the scale and the zero point of a quantized value."""
        return [self.constant(f"{name}.scale", np.asarray(self.program.encoding_of(name).scale, f32)), self.zero_point(name)]

    def zero_point(self, name: str) -> str:
        """Return the constant that holds the zero point of a quantized value."""
        encoding = self.program.encoding_of(name)
        return self.constant(f"{name}.zero_point", np.asarray(encoding.zero_point, encoding.dtype))

    def shape(self, name: str, first: int = 0) -> str:
        """Return a constant that holds a value's shape, as Reshape takes it: 0 copies the batch, -1 is what is left over.

        Raises:
            ExportError: more than one size beside the batch is not fixed.
        """
        sizes = self.program.values[name].shape[1:]
        if sizes.count(None) > 1:
            raise ExportError(f"'{name}' is reshaped to {sizes}, of which one size but the batch may be dynamic")
        return self.constant(f"{name}.shape", np.array([first, *(-1 if size is None else size for size in sizes)], np.int64))

    # --- the nodes around an operator ---

    def dequantize_input(self, instruction: Instruction, index: int = 0, integers: str = "") -> str:
        """Dequantize an input, or the tensor ``integers`` that was made from it.

        Each reader has a node of its own, even for a value that it reads twice: the optimizer fuses no node that two share.
        """
        name = instruction.inputs[index]
        inputs = [integers or name, *self.scale_and_zero_point(name)]
        return self.node("DequantizeLinear", inputs, f"{instruction.name}/input{index}")

    def dequantize_inputs(self, instruction: Instruction) -> list[str]:
        """Dequantize every input."""
        return [self.dequantize_input(instruction, index) for index in range(len(instruction.inputs))]

    def dequantize_constant(self, name: str, values: np.ndarray, scale: np.ndarray, real: str = "") -> str:
        """Dequantize a constant with zero point 0 and one scale, or one for each entry of axis 0.

        Each reader has a node of its own, which ``real`` names the result of.
        """
        zero_point = self.constant(f"{name}.zero_point", np.zeros(scale.shape, values.dtype))
        inputs = [self.constant(name, values), self.constant(f"{name}.scale", scale), zero_point]
        axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
        return self.node("DequantizeLinear", inputs, real or f"{name}/real", **axis)

    def parameters(self, instruction: Instruction) -> tuple[np.ndarray, list[str]]:
        """Dequantize an operator's weight and bias; return the integer weight, and the names of the float tensors."""
        if instruction.weight is None or instruction.weight_encoding is None:
            raise ExportError(f"{instruction.layer}: a {instruction.kind} without a weight")
        scale = np.asarray(instruction.weight_encoding.scale, f32)
        integers, real = instruction.weight.astype(np.int8), f"{instruction.name}.weight/real"
        names = [self.dequantize_constant(instruction.weight_tensor, integers, scale, real)]
        if instruction.bias is not None:
            bias_scale = np.asarray(f32(self.program.encoding_of(instruction.inputs[0]).scale) * scale, f32)
            name = f"{instruction.name}.bias"
            if self.program.bias == "float32":
                names.append(self.constant(name, (instruction.bias * bias_scale).astype(f32)))
            else:
                names.append(self.dequantize_constant(name, instruction.bias.astype(np.int32), bias_scale))
        return instruction.weight, names

    def quantize_output(self, instruction: Instruction, real: str, shape: str = "") -> None:
        """Quantize an operator's result ``real``, clip it to the limits of its fused activation, reshape it to ``shape``."""
        output = instruction.outputs[0]
        encoding = self.program.encoding_of(output)
        low, high = instruction.clamp or (encoding.qmin, encoding.qmax)
        clipped = (low, high) != (encoding.qmin, encoding.qmax)
        if clipped and self.program.strict_qdq:
            limits = [f32(encoding.scale) * f32(limit - encoding.zero_point) for limit in (low, high)]
            names = [self.constant(f"{output}.{end}", limit) for end, limit in zip(("lo", "hi"), limits, strict=True)]
            real, clipped = self.node("Clip", [real, *names], f"{output}/clipped"), False
        # The names are given from the last node to the first: the value's own name belongs to the last result.
        reshaped = f"{output}/flat" if shape else output
        quantized = f"{output}/unclamped" if clipped else reshaped
        inputs = [real, *self.scale_and_zero_point(output)]
        self.node("QuantizeLinear", inputs, quantized, instruction.name + REQUANTIZE)
        if clipped:
            self.clip(quantized, reshaped, encoding.dtype, (low, high), f"{output}/clamp")
        if shape and self.program.strict_qdq:
            again = self.node("DequantizeLinear", [reshaped, *self.scale_and_zero_point(output)], f"{output}/flat/real")
            turned = self.node("Reshape", [again, shape], f"{output}/reshaped")
            self.node("QuantizeLinear", [turned, *self.scale_and_zero_point(output)], output)
        elif shape:
            self.node("Reshape", [reshaped, shape], output)

    def operator(self, instruction: Instruction, kind: str, inputs: Sequence[str], shape: str = "", **attributes: Any) -> None:
        """Write an operator on float tensors and quantize its result."""
        real = self.node(kind, inputs, f"{instruction.name}/real", instruction.name, **attributes)
        self.quantize_output(instruction, real, shape)

    def clip(self, integers: str, output: str, dtype: str, limits: tuple[int, int], name: str) -> None:
        """Clip integers to ``limits``."""
        ends = zip(("lo", "hi"), limits, strict=True)
        constants = [self.constant(f"{output}.{end}", np.asarray(limit, dtype)) for end, limit in ends]
        self.node("Clip", [integers, *constants], output, name)


#: Writes one instruction of a program.
WriteOperator = Callable[[Writer, Instruction], None]
