"""The ``.tflite`` writer: an integer program straight into a flatbuffer, without a converter that would choose scales itself.

Follows the LiteRT 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec) and the
schema that LiteRT ships. Operator versions are the lowest that the kernels ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.encoding import Encoding
from qat.errors import ExportError
from qat.exporters.tflite_float import translate
from qat.exporters.tflite_functions import OPERATORS as FUNCTIONS
from qat.exporters.tflite_weights import WIDE_VERSIONS, version, write_weight
from qat.geometry import same_padding
from qat.numerics import f32
from qat.program import FrameworkBlock, Instruction, Program

_Op = schema.BuiltinOperator
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
_BIASES = (schema.TensorType.INT32, schema.TensorType.INT64)
_LIMITS = {
    schema.TensorType.UINT8: (0, 255),
    schema.TensorType.INT16: (-32768, 32767),
    schema.TensorType.INT4: (-8, 7),
}
_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


def build(program: Program, io_dtype: str = "int8", extra_outputs: Sequence[str] = ()) -> bytes:
    """Return the program as a ``.tflite`` file's bytes; tensors keep the program's names.

    Args:
        program: in NHWC.
        io_dtype: of the model's inputs and outputs: ``int8``, ``uint8`` or ``float32``. One that an operator reads or writes
            in float is float32 in any case.
        extra_outputs: quantized values to be returned too.

    Raises:
        ExportError: the program cannot be expressed.
    """
    if program.layout != "NHWC":
        raise ExportError("a .tflite is written from a Keras model (NHWC); export a PyTorch model as .onnx")
    writer = _Writer(program, io_dtype)
    for step in program.instructions:
        if step.kind not in ("float", "move"):
            _OPERATORS[step.kind](writer, step)
    if program.block is not None:
        writer.splice(translate(program, program.block), program.block)
    return writer.finish(extra_outputs)


def read_encodings(raw: bytes) -> dict[str, Encoding]:
    """Return the encodings in a file by tensor name; weights as ``<instruction>.weight``."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw))
    found = {}
    for tensor in model.subgraphs[0].tensors:
        q = tensor.quantization
        if q is None or q.scale is None or len(q.scale) == 0 or tensor.type in _BIASES:
            continue
        scale = np.asarray(q.scale, f32)
        zero_point = int(q.zeroPoint[0])
        low, high = _LIMITS.get(tensor.type, (-128, 127))
        axis = int(q.quantizedDimension) if len(scale) > 1 else None
        name = tensor.name.decode()
        found[name] = Encoding(scale if axis is not None else scale[0], zero_point, low, high, axis)
    return found


class _Writer:
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
        return self.add_tensor(name, data.shape, "int32", data=data.astype(np.int32))

    # --- operators ---

    def operator(
        self, code: int, inputs: Sequence[str], outputs: Sequence[str], version: int = 1, options: Any = None, kind: str = ""
    ) -> None:
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


def _padded(w: _Writer, step: Instruction, window: Sequence[int]) -> tuple[str, int]:
    """Return the input, padded by an operator of its own where neither SAME nor VALID gives the padding, and the mode."""
    name = step.inputs[0]
    padding = step.attrs["padding"]
    if padding == ((0, 0), (0, 0)):
        return w.tensor(name), schema.Padding.VALID
    size = w.program.values[name].shape[1:3]
    if padding == same_padding(size, window, step.attrs["strides"]):
        return w.tensor(name), schema.Padding.SAME
    out = _padded_tensor(w, step)
    _write_pad(w, w.tensor(name), out, padding)
    return out, schema.Padding.VALID


def _padded_tensor(w: _Writer, step: Instruction) -> str:
    """Return a tensor that holds the input with its padding."""
    name = step.inputs[0]
    _, height, width, channels = w.program.values[name].shape
    (top, bottom), (left, right) = step.attrs["padding"]
    if height is None or width is None:
        raise ExportError(f"{step.scope or step.name}: padding needs images of a fixed size: give the model's input one")
    shape = (None, height + top + bottom, width + left + right, channels)
    if w.program.values[name].encoding is None:
        return w.add_tensor(f"{step.name}.padded", shape, "float32")
    e = w.encoding(name)
    return w.add_tensor(f"{step.name}.padded", shape, e.dtype, e.scale, e.zero_point)


def _write_pad(w: _Writer, source: str, output: str, padding: Any) -> None:
    amounts = w.constant(f"{output}.paddings", np.array([(0, 0), *padding, (0, 0)]))
    # Version 2 is the int8 one; it pads with the zero point.
    w.operator(_Op.PAD, [source, amounts], [output], 2, schema.PadOptionsT(), "PadOptions")


def _pad_with_lowest(w: _Writer, step: Instruction) -> str:
    """Pad the input of a max pooling with what never wins."""
    out = _padded_tensor(w, step)
    amounts = w.constant(f"{out}.paddings", np.array([(0, 0), *step.attrs["padding"], (0, 0)]))
    e = w.encoding(step.inputs[0])
    lowest = w.add_tensor(f"{out}.lowest", (1,), e.dtype, e.scale, e.zero_point, data=np.array([e.qmin], e.dtype))
    w.operator(_Op.PADV2, [w.grid(step.inputs[0]), amounts, lowest], [out], 2, schema.PadV2OptionsT(), "PadV2Options")
    return out


def _quantize(w: _Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    if source not in w.program.inputs or source in w.io:
        w.operator(_Op.QUANTIZE, [w.real(source)], [w.grid(output)], 1, schema.QuantizeOptionsT(), "QuantizeOptions")
    elif w.io_dtype == "int8":
        w.io[source] = w.grid(output)
    else:
        w.io[source] = w.unsigned(source, output)
        w.operator(_Op.QUANTIZE, [source], [w.grid(output)], 2, schema.QuantizeOptionsT(), "QuantizeOptions")


def _dequantize(w: _Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    if output not in w.program.outputs or w.io_dtype == "float32" or output in w.read_as_float:
        w.operator(_Op.DEQUANTIZE, [w.grid(source)], [w.real(output)], 2, schema.DequantizeOptionsT(), "DequantizeOptions")
    elif w.io_dtype == "int8":
        w.io[output] = w.grid(source)
    else:
        w.io[output] = w.unsigned(output, source)
        w.operator(_Op.QUANTIZE, [w.grid(source)], [output], 2, schema.QuantizeOptionsT(), "QuantizeOptions")


def _conv(w: _Writer, step: Instruction) -> None:
    assert step.weight is not None
    dilations, groups = step.attrs["dilations"], step.attrs["groups"]
    out_channels, per_group, kh, kw = step.weight.shape
    window = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilations, strict=True)]
    source, mode = _padded(w, step, window)
    if per_group == 1 and groups > 1:
        options, kind, code = schema.DepthwiseConv2DOptionsT(), "DepthwiseConv2DOptions", _Op.DEPTHWISE_CONV_2D
        options.depthMultiplier = out_channels // groups
        data, axis = step.weight.transpose(1, 2, 3, 0), 3
    else:
        options, kind, code = schema.Conv2DOptionsT(), "Conv2DOptions", _Op.CONV_2D
        data, axis = step.weight.transpose(0, 2, 3, 1), 0
    options.padding = mode
    options.strideH, options.strideW = step.attrs["strides"]
    options.dilationHFactor, options.dilationWFactor = dilations
    options.fusedActivationFunction = _ACTIVATIONS[step.activation]
    inputs = [source, *write_weight(w, step, data, axis)]
    w.operator(code, inputs, [w.tensor(step.outputs[0])], version(code, step), options, kind)


def _dense(w: _Writer, step: Instruction) -> None:
    assert step.weight is not None
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _ACTIVATIONS[step.activation]
    options.keepNumDims = len(w.program.values[step.inputs[0]].shape) != 2
    inputs = [w.tensor(step.inputs[0]), *write_weight(w, step, step.weight, 0)]
    code_version = version(_Op.FULLY_CONNECTED, step, options.keepNumDims)
    w.operator(_Op.FULLY_CONNECTED, inputs, [w.tensor(step.outputs[0])], code_version, options, "FullyConnectedOptions")


def _elementwise(code: int, kind: str) -> Callable[[_Writer, Instruction], None]:
    def write(w: _Writer, step: Instruction) -> None:
        options = getattr(schema, f"{kind}T")()
        options.fusedActivationFunction = _ACTIVATIONS[step.activation]
        if code == _Op.ADD:
            options.potScaleInt16 = False  # of 16 bits: any scale, not powers of two only
        w.operator(code, [w.grid(n) for n in step.inputs], [w.grid(step.outputs[0])], 2, options, kind)

    return write


def _concat(w: _Writer, step: Instruction) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = step.attrs["axis"]
    w.operator(_Op.CONCATENATION, [w.grid(n) for n in step.inputs], [w.grid(step.outputs[0])], 2, options, "ConcatenationOptions")


def _unary(code: int) -> Callable[[_Writer, Instruction], None]:
    def write(w: _Writer, step: Instruction) -> None:
        w.operator(code, [w.grid(step.inputs[0])], [w.grid(step.outputs[0])], 2)

    return write


def _pool(code: int) -> Callable[[_Writer, Instruction], None]:
    def write(w: _Writer, step: Instruction) -> None:
        size = w.program.values[step.inputs[0]].shape[1:3]
        padding, kernel, source = step.attrs["padding"], step.attrs["kernel"], w.grid(step.inputs[0])
        same = padding == same_padding(size, kernel, step.attrs["strides"])
        if not same and padding != ((0, 0), (0, 0)):
            if code != _Op.MAX_POOL_2D:
                raise ExportError(
                    f"{step.scope or step.name}: TFLite averages over SAME or VALID windows only, not with padding {padding}: "
                    "pad with zeros before it, leave it float by a rule of the recipe, or prepare for target 'onnxruntime'"
                )
            source = _pad_with_lowest(w, step)
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.filterHeight, options.filterWidth = kernel
        options.strideH, options.strideW = step.attrs["strides"]
        options.fusedActivationFunction = _ACTIVATIONS[None]
        w.operator(code, [source], [w.grid(step.outputs[0])], 2, options, "Pool2DOptions")

    return write


def _mean(w: _Writer, step: Instruction) -> None:
    options = schema.ReducerOptionsT()
    options.keepDims = step.attrs["keepdims"]
    axes = w.constant(f"{step.name}.axes", np.array(step.attrs["axes"]))
    w.operator(_Op.MEAN, [w.grid(step.inputs[0]), axes], [w.grid(step.outputs[0])], 2, options, "ReducerOptions")


def _reshape(w: _Writer, step: Instruction) -> None:
    output = step.outputs[0]
    shape = np.array([-1 if d is None else d for d in w.program.values[output].shape])
    w.operator(
        _Op.RESHAPE, [w.grid(step.inputs[0]), w.constant(f"{output}.shape", shape)], [w.grid(output)], 1,
        schema.ReshapeOptionsT(), "ReshapeOptions",
    )  # fmt: skip


def _pad(w: _Writer, step: Instruction) -> None:
    _write_pad(w, w.grid(step.inputs[0]), w.grid(step.outputs[0]), step.attrs["padding"])


def _transpose(w: _Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    axes = w.constant(f"{output}.axes", np.array(step.attrs["axes"]))
    # Version 2 is the int8 one.
    w.operator(_Op.TRANSPOSE, [w.tensor(source), axes], [w.tensor(output)], 2, schema.TransposeOptionsT(), "TransposeOptions")


def _constant(w: _Writer, step: Instruction) -> None:
    (output,) = step.outputs
    e = w.encoding(output)
    w.add_tensor(output, w.program.values[output].shape, e.dtype, e.scale, e.zero_point, data=step.weight)


_OPERATORS: dict[str, Callable[[_Writer, Instruction], None]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "dense": _dense,
    "add": _elementwise(_Op.ADD, "AddOptions"),
    "mul": _elementwise(_Op.MUL, "MulOptions"),
    "concat": _concat,
    "constant": _constant,
    **FUNCTIONS,
    "relu": _unary(_Op.RELU),
    "relu6": _unary(_Op.RELU6),
    "max_pool2d": _pool(_Op.MAX_POOL_2D),
    "avg_pool2d": _pool(_Op.AVERAGE_POOL_2D),
    "mean": _mean,
    "reshape": _reshape,
    "pad": _pad,
    "transpose": _transpose,
}
