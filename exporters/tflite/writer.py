"""The flatbuffer of a ``.tflite`` as it is written: its tensors, its buffers, its operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic.grid import f32
from qat.errors import ExportError
from qat.program.ordering import by_dependency
from qat.program.program import Instruction, Program

#: An object of the schema's Python classes, which have no types.
Table = Any

_TYPES = {
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "float64": schema.TensorType.FLOAT64,
    "int4": schema.TensorType.INT4,
}
#: The types of quantized activations.
INTEGER_TYPES = (schema.TensorType.INT8, schema.TensorType.INT16)

#: The key of a file's signature, as TensorFlow's converter calls it.
SIGNATURE = "serving_default"

#: The codes of operators.
Op = schema.BuiltinOperator

#: The versions of operators that read or write int16.
INT16_VERSIONS = {
    Op.CONV_2D: 4, Op.DEPTHWISE_CONV_2D: 5, Op.FULLY_CONNECTED: 7, Op.ADD: 3, Op.MUL: 4, Op.MEAN: 3, Op.CONCATENATION: 3,
    Op.MAX_POOL_2D: 3, Op.AVERAGE_POOL_2D: 3, Op.RELU: 3, Op.RELU6: 3, Op.PAD: 3, Op.PADV2: 3, Op.TRANSPOSE: 5,
    Op.QUANTIZE: 2, Op.DEQUANTIZE: 3,
}  # fmt: skip

#: The schema's name of a fused activation.
ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


class Writer:
    """The tensors, buffers and operators that were written so far.

    Attributes:
        program: the program that becomes a file.
        io_dtype: of the file's inputs and outputs.
        index: of each tensor among ``tensors``, by name.
        tensors, buffers, codes, operators: as the schema lists them. The first buffer is empty, for tensors without data.
        io: the tensor that stands for a float input or output of the program.
        read_as_float: the float values that operators read, which no integer input can stand for.
    """

    def __init__(self, program: Program, io_dtype: str) -> None:
        self.program, self.io_dtype = program, io_dtype
        self.index: dict[str, int] = {}
        self.tensors: list[Table] = []
        self.buffers: list[Table] = [schema.BufferT()]
        self.codes: list[Table] = []
        self.operators: list[Table] = []
        self.io: dict[str, str] = {}
        self._code_index: dict[tuple[int, int], int] = {}
        readers = [i for i in program.instructions if i.kind in ("float", "transpose") or i.mode != "static"]
        self.read_as_float = {name for i in readers for name in i.inputs if program.values[name].encoding is None}
        for name in program.inputs:
            if io_dtype == "float32" or name in self.read_as_float:
                self.io[name] = self.float_tensor(name)

    # --- tensors ---

    def add_tensor(
        self, name: str, shape: Sequence[int | None], dtype: str, scale: npt.ArrayLike | None = None, zero_point: int = 0,
        axis: int = 0, data: np.ndarray | None = None,
    ) -> str:  # fmt: skip
        """Add a tensor, unless there is one of that name, and return the name. ``axis`` is that of several scales."""
        if name in self.index:
            return name
        tensor = schema.TensorT()
        tensor.name = name
        tensor.type = _TYPES[dtype]
        tensor.shape = np.array([1 if d is None else d for d in shape], np.int32)
        if any(d is None for d in shape):
            tensor.shapeSignature = np.array([-1 if d is None else d for d in shape], np.int32)
            tensor.hasRank = True
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, f32))
            q.zeroPoint = np.full(len(q.scale), zero_point, np.int64)
            q.quantizedDimension = axis if len(q.scale) > 1 else 0
            tensor.quantization = q
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = self.add_buffer(np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8))
        self.index[name] = len(self.tensors)
        self.tensors.append(tensor)
        return name

    def add_buffer(self, data: np.ndarray) -> int:
        """Add a buffer of bytes and return its index."""
        buffer = schema.BufferT()
        buffer.data = data
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def integer_tensor(self, name: str) -> str:
        """Return the int8 or int16 tensor of a quantized value."""
        return self.tensor_like(name, name, self.program.values[name].shape)

    def tensor_like(self, name: str, value: str, shape: Sequence[int | None]) -> str:
        """Return a tensor of another shape with the encoding of a quantized value."""
        encoding = self.program.encoding_of(value)
        return self.add_tensor(name, shape, encoding.dtype, encoding.scale, encoding.zero_point)

    def float_tensor(self, name: str) -> str:
        """Return the tensor of a value that is not quantized."""
        return self.add_tensor(name, self.program.values[name].shape, self.program.values[name].dtype)

    def uint8_tensor(self, name: str, value: str) -> str:
        """Return a uint8 tensor with the scale of an int8 value."""
        encoding = self.program.encoding_of(value)
        if encoding.bits != 8:
            raise ExportError(
                f"'{name}' has {encoding.bits} bits: export with io_dtype 'float32' or 'int8' (the kernels' own integers)"
            )
        shape = self.program.values[value].shape
        return self.add_tensor(name, shape, "uint8", encoding.scale, encoding.zero_point + 128)

    def tensor(self, name: str) -> str:
        """Return the tensor of a value, quantized or float."""
        return self.float_tensor(name) if self.program.values[name].encoding is None else self.integer_tensor(name)

    def constant(self, name: str, data: npt.ArrayLike) -> str:
        """Return an int32 tensor that holds numbers: axes, amounts, a shape."""
        numbers = np.asarray(data).astype(np.int32)
        return self.add_tensor(name, numbers.shape, "int32", data=numbers)

    def sizes(self, name: str, shape: Sequence[int | None], like: str) -> str:
        """Return an int32 tensor that holds a shape. Several sizes that are free are those of the first axes of ``like``."""
        if list(shape).count(None) < 2:
            return self.constant(f"{name}.shape", [-1 if size is None else size for size in shape])
        leading = max(axis for axis, size in enumerate(shape) if size is None) + 1
        rank = len(self.tensors[self.index[like]].shape)
        whole = self.add_tensor(f"{name}/sizes_of_input", (rank,), "int32")
        self.operator(Op.SHAPE, [like], whole, 1, "ShapeOptions", outType=schema.TensorType.INT32)
        part = self.add_tensor(f"{name}/leading_sizes", (leading,), "int32")
        ends = [self.constant(f"{name}/{end}", [number]) for end, number in (("first", 0), ("leading", leading))]
        self.operator(Op.SLICE, [whole, *ends], part, 1, "SliceOptions")
        rest = self.constant(f"{name}/last_sizes", np.array(shape[leading:], np.int32))
        made = self.add_tensor(f"{name}/sizes", (len(shape),), "int32")
        self.operator(Op.CONCATENATION, [part, rest], made, 1, "ConcatenationOptions", axis=0)
        return made

    # --- operators ---

    def operator(
        self, code: int, inputs: Sequence[str], output: str, version: int = 1, options: str = "", **fields: object
    ) -> None:
        """Add an operator of one output.

        Args:
            code: of the schema's builtin operators.
            inputs: the names of tensors.
            output: the name of a tensor.
            version: of the operator's 8-bit kernel.
            options: the name of the operator's table of options; empty where it has none.
            fields: of that table.
        """
        op = schema.OperatorT()
        op.opcodeIndex = self._code(code, self._version(code, version, (*inputs, output)))
        op.inputs = np.array([self.index[name] for name in inputs], np.int32)
        op.outputs = np.array([self.index[output]], np.int32)
        if options:
            table = getattr(schema, f"{options}T")()
            for name, field in fields.items():
                setattr(table, name, field)
            op.builtinOptions = table
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        self.operators.append(op)

    def _version(self, code: int, version: int, names: Sequence[str]) -> int:
        int16 = any(self.tensors[self.index[name]].type == schema.TensorType.INT16 for name in names)
        return INT16_VERSIONS.get(code, version) if int16 else version

    def _code(self, code: int, version: int) -> int:
        """Return the index of an operator's code, which is added where the file does not have it yet."""
        if (code, version) not in self._code_index:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, 127)
            self._code_index[code, version] = len(self.codes)
            self.codes.append(entry)
        return self._code_index[code, version]

    # --- the file ---

    def finish(self, extra_outputs: Sequence[str]) -> bytes:
        """Return the bytes of the file, which also returns the tensors ``extra_outputs``."""
        program = self.program
        graph = schema.SubGraphT()
        graph.name = program.name
        outputs = [self.io.get(n, n) for n in program.outputs]
        graph.inputs = np.array([self.index[self.io.get(n) or self.float_tensor(n)] for n in program.inputs], np.int32)
        graph.tensors, graph.operators = self.tensors, self._in_order(graph.inputs)
        self._refuse_empty(graph.inputs)
        graph.outputs = np.array([self.index[n] for n in (*outputs, *extra_outputs)], np.int32)
        model = schema.ModelT()
        model.version = 3
        model.description = f"qat {program.recipe} for {program.target}"
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self.buffers, self.codes
        model.signatureDefs = [self._signature(graph)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _refuse_empty(self, inputs: np.ndarray) -> None:
        """Raise for a tensor that operators read and nothing writes: LiteRT loads such a file, and cannot run it."""
        given = {i for op in self.operators for i in op.outputs.tolist()} | set(inputs.tolist())
        for index in sorted({i for op in self.operators for i in op.inputs.tolist() if i >= 0} - given):
            tensor = self.tensors[index]
            if tensor.buffer == 0 and not tensor.isVariable and np.prod(tensor.shape, dtype=np.int64):
                raise ExportError(
                    f"'{tensor.name}' of the .tflite would be read by an operator, and nothing writes it; nothing was written: "
                    "compute what follows from parameters and buffers alone before qat.prepare, and keep the result as a buffer"
                )

    def _signature(self, graph: Table) -> Table:
        """Return the names by which callers pass inputs and read outputs: the model's own, whatever the types of the file."""
        program, signature = self.program, schema.SignatureDefT()
        key = program.origin.signature if program.origin else ""
        signature.signatureKey, signature.subgraphIndex = key or SIGNATURE, 0
        signature.inputs = _tensor_maps(program.input_names or program.inputs, graph.inputs)
        signature.outputs = _tensor_maps(program.output_names or program.outputs, graph.outputs)
        return signature

    def _in_order(self, inputs: np.ndarray) -> list[Table]:
        """Return the operators by dependency: those of the float block stand between the integer ones."""
        written = {i for op in self.operators for i in op.outputs.tolist()}
        absent = -1  # the index of an input that an operator leaves out
        available = (set(range(absent, len(self.tensors))) - written) | set(inputs.tolist())
        return by_dependency(self.operators, lambda op: op.inputs.tolist(), lambda op: op.outputs.tolist(), available)


def _tensor_maps(names: Sequence[str], indices: np.ndarray) -> list[Table]:
    """Return the schema's pairs of a name and a tensor. Tensors that a file returns besides have no names."""
    found = []
    for name, index in zip(names, indices.tolist(), strict=False):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        found.append(entry)
    return found


#: Writes one instruction of a program.
WriteOperator = Callable[[Writer, Instruction], None]
