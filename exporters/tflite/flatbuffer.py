"""The flatbuffer of a ``.tflite``: tensors and operators as they are added, a float block spliced in, the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.numerics import f32
from qat.errors import ExportError
from qat.program.program import FrameworkBlock, Program

_TYPES = {
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int4": schema.TensorType.INT4,
}

_Op = schema.BuiltinOperator

#: The versions of operators that read or write int16.
WIDE_VERSIONS = {
    _Op.CONV_2D: 4, _Op.DEPTHWISE_CONV_2D: 5, _Op.FULLY_CONNECTED: 7, _Op.ADD: 3, _Op.MUL: 4, _Op.MEAN: 3, _Op.CONCATENATION: 3,
    _Op.MAX_POOL_2D: 3, _Op.AVERAGE_POOL_2D: 3, _Op.RELU: 3, _Op.RELU6: 3, _Op.PAD: 3, _Op.PADV2: 3, _Op.TRANSPOSE: 5,
    _Op.QUANTIZE: 2, _Op.DEQUANTIZE: 3,
}  # fmt: skip


class Writer:
    """Collects tensors, buffers and operators; ``index`` maps a tensor's name to its place."""

    def __init__(self, program: Program, io_dtype: str) -> None:
        self.program, self.io_dtype = program, io_dtype
        self.index: dict[str, int] = {}
        self.tensors: list[Any] = []
        empty = schema.BufferT()
        self.buffers: list[Any] = [empty]
        self.codes: list[Any] = []
        self.code_of: dict[tuple[int, int], int] = {}
        self.operators: list[Any] = []
        #: The tensor that stands for a float input or output of the program.
        self.io: dict[str, str] = {}
        floats = [step for step in program.instructions if step.kind in ("float", "transpose") or step.mode != "static"]
        self.read_as_float = {name for step in floats for name in step.inputs if program.values[name].encoding is None}
        for name in program.inputs:
            if io_dtype == "float32" or name in self.read_as_float:
                self.io[name] = self.real(name)

    # --- tensors ---

    def add_tensor(
        self, name: str, shape: Sequence[int | None], dtype: str, scale: Any = None, zero_point: int = 0, axis: int = 0,
        data: np.ndarray | None = None,
    ) -> str:  # fmt: skip
        """Add a tensor, unless there is one of its name, and return the name. ``axis`` is that of several scales."""
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
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.index[name] = len(self.tensors)
        self.tensors.append(tensor)
        return name

    def encoding(self, name: str) -> Encoding:
        """Return the encoding of a quantized value."""
        encoding = self.program.values[name].encoding
        assert encoding is not None
        return encoding

    def grid(self, name: str) -> str:
        """Return the int8 or int16 tensor of a quantized value."""
        e = self.encoding(name)
        return self.add_tensor(name, self.program.values[name].shape, e.dtype, e.scale, e.zero_point)

    def real(self, name: str) -> str:
        """Return the float32 tensor of a float value."""
        return self.add_tensor(name, self.program.values[name].shape, self.program.values[name].dtype)

    def unsigned(self, name: str, grid: str) -> str:
        """Return a uint8 tensor on the same grid as an int8 one."""
        e = self.encoding(grid)
        if e.bits != 8:
            raise ExportError(f"'{name}' has {e.bits} bits: export with io_dtype 'float32' or 'int8' (the kernels' own integers)")
        return self.add_tensor(name, self.program.values[grid].shape, "uint8", e.scale, e.zero_point + 128)

    def tensor(self, name: str) -> str:
        """Return the tensor of a value, quantized or float."""
        return self.real(name) if self.program.values[name].encoding is None else self.grid(name)

    def constant(self, name: str, data: np.ndarray) -> str:
        """Return an int32 tensor that holds numbers: axes, amounts, a shape."""
        return self.add_tensor(name, data.shape, "int32", data=data.astype(np.int32))

    # --- operators ---

    def operator(
        self, code: int, inputs: Sequence[str], outputs: Sequence[str], version: int = 1, options: Any = None, kind: str = ""
    ) -> None:
        """Add an operator. ``options`` is the schema's table of the name ``kind``; ``version`` that of its 8-bit kernel."""
        if any(self.tensors[self.index[name]].type == schema.TensorType.INT16 for name in (*inputs, *outputs)):
            version = WIDE_VERSIONS.get(code, version)
        key = (code, version)
        if key not in self.code_of:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, 127)
            self.code_of[key] = len(self.codes)
            self.codes.append(entry)
        op = schema.OperatorT()
        op.opcodeIndex = self.code_of[key]
        op.inputs = np.array([self.index[n] for n in inputs], np.int32)
        op.outputs = np.array([self.index[n] for n in outputs], np.int32)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self.operators.append(op)

    def splice(self, model: Any, block: FrameworkBlock) -> None:
        """Add the converted float block; its inputs and outputs become the program's tensors."""
        graph = model.subgraphs[0]
        place: dict[int, int] = {}
        for tensor, name in zip(graph.inputs, block.inputs, strict=True):
            place[tensor] = self.index[self.tensor(name)]
        for tensor, name in zip(graph.outputs, block.outputs, strict=True):
            if tensor in place:  # an output that is an input, or another output: one tensor under two names
                self.rename(name, place[tensor])
            else:
                place[tensor] = self.index[self.tensor(name)]
        for number, tensor in enumerate(graph.tensors):
            if number in place:
                continue
            data = model.buffers[tensor.buffer].data
            tensor.name = f"float/{tensor.name.decode()}"
            tensor.buffer = 0
            if data is not None and len(data):
                buffer = schema.BufferT()
                buffer.data = data
                tensor.buffer = len(self.buffers)
                self.buffers.append(buffer)
            place[number] = self.index[tensor.name] = len(self.tensors)
            self.tensors.append(tensor)
        first = len(self.codes)
        self.codes += model.operatorCodes
        for op in graph.operators:
            op.opcodeIndex += first
            op.inputs = np.array([i if i < 0 else place[i] for i in op.inputs], np.int32)
            op.outputs = np.array([place[i] for i in op.outputs], np.int32)
            self._pass_on_grid(op)
            self.operators.append(op)

    def _pass_on_grid(self, op: Any) -> None:
        """Make what a move writes within the block integers, on the grid that it reads."""
        read = [self.tensors[i] for i in op.inputs if i >= 0 and self.tensors[i].type in (_TYPES["int8"], _TYPES["int16"])]
        for tensor in (self.tensors[i] for i in op.outputs):
            if read and tensor.type == schema.TensorType.FLOAT32:
                tensor.type, tensor.quantization = read[0].type, read[0].quantization

    def rename(self, name: str, index: int) -> None:
        """Let a name stand for another tensor, in the operators written so far, too."""
        before, self.index[name] = self.index.get(name), index
        for op in self.operators:
            op.inputs = np.where(op.inputs == before, index, op.inputs) if before is not None else op.inputs

    def in_order(self, inputs: Sequence[int]) -> list[Any]:
        """Return the operators by dependency: those of the float block stand between the integer ones."""
        written = {int(i) for op in self.operators for i in op.outputs}
        ready = (set(range(-1, len(self.tensors))) - written) | set(inputs)
        out: list[Any] = []
        waiting = self.operators
        while waiting:
            blocked = []
            for op in waiting:
                if all(int(i) in ready for i in op.inputs):
                    ready.update(int(i) for i in op.outputs)
                    out.append(op)
                else:
                    blocked.append(op)
            if len(blocked) == len(waiting):
                raise ExportError("the operators of the program form a circle: report this with the output of `qat plan`")
            waiting = blocked
        return out

    def finish(self, extra_outputs: Sequence[str]) -> bytes:
        """Return the file."""
        program = self.program
        graph = schema.SubGraphT()
        graph.name = program.name
        outputs = [self.io.get(n, n) for n in program.outputs]
        graph.inputs = np.array([self.index[self.io.get(n) or self.real(n)] for n in program.inputs], np.int32)
        graph.tensors, graph.operators = self.tensors, self.in_order([int(i) for i in graph.inputs])
        graph.outputs = np.array([self.index[n] for n in (*outputs, *extra_outputs)], np.int32)
        model = schema.ModelT()
        model.version = 3
        model.description = f"qat {program.recipe} for {program.target}"
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self.buffers, self.codes
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
