"""The ``.tflite`` writer: an integer program straight into a flatbuffer, without a converter that would choose scales itself.

Follows the LiteRT 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec) and the
schema that LiteRT ships. Operator versions are the lowest that the kernels ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.numerics import f32
from qat.errors import ExportError
from qat.program.program import Instruction, Program

from .attention import OPERATORS as ATTENTION
from .flatbuffer import Writer
from .float_block import translate
from .lookup import OPERATORS as FUNCTIONS
from .stored_weight import ACTIVATIONS, version, write_weight
from .windows import OPERATORS as WINDOWS

_Op = schema.BuiltinOperator
_BIASES = (schema.TensorType.INT32, schema.TensorType.INT64)
_LIMITS = {
    schema.TensorType.UINT8: (0, 255),
    schema.TensorType.INT16: (-32768, 32767),
    schema.TensorType.INT4: (-8, 7),
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
    writer = Writer(program, io_dtype)
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


def _quantize(w: Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    if source not in w.program.inputs or source in w.io:
        w.operator(_Op.QUANTIZE, [w.real(source)], [w.grid(output)], 1, schema.QuantizeOptionsT(), "QuantizeOptions")
    elif w.io_dtype == "int8":
        w.io[source] = w.grid(output)
    else:
        w.io[source] = w.unsigned(source, output)
        w.operator(_Op.QUANTIZE, [source], [w.grid(output)], 2, schema.QuantizeOptionsT(), "QuantizeOptions")


def _dequantize(w: Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    if output not in w.program.outputs or w.io_dtype == "float32" or output in w.read_as_float:
        w.operator(_Op.DEQUANTIZE, [w.grid(source)], [w.real(output)], 2, schema.DequantizeOptionsT(), "DequantizeOptions")
    elif w.io_dtype == "int8":
        w.io[output] = w.grid(source)
    else:
        w.io[output] = w.unsigned(output, source)
        w.operator(_Op.QUANTIZE, [w.grid(source)], [output], 2, schema.QuantizeOptionsT(), "QuantizeOptions")


def _dense(w: Writer, step: Instruction) -> None:
    assert step.weight is not None
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = ACTIVATIONS[step.activation]
    options.keepNumDims = len(w.program.values[step.inputs[0]].shape) != 2
    inputs = [w.tensor(step.inputs[0]), *write_weight(w, step, step.weight, 0)]
    code_version = version(_Op.FULLY_CONNECTED, step, options.keepNumDims)
    w.operator(_Op.FULLY_CONNECTED, inputs, [w.tensor(step.outputs[0])], code_version, options, "FullyConnectedOptions")


def _elementwise(code: int, kind: str) -> Callable[[Writer, Instruction], None]:
    def write(w: Writer, step: Instruction) -> None:
        options = getattr(schema, f"{kind}T")()
        options.fusedActivationFunction = ACTIVATIONS[step.activation]
        if code == _Op.ADD:
            options.potScaleInt16 = False  # of 16 bits: any scale, not powers of two only
        w.operator(code, [w.grid(n) for n in step.inputs], [w.grid(step.outputs[0])], 2, options, kind)

    return write


def _concat(w: Writer, step: Instruction) -> None:
    options = schema.ConcatenationOptionsT()
    options.axis = step.attrs["axis"]
    w.operator(_Op.CONCATENATION, [w.grid(n) for n in step.inputs], [w.grid(step.outputs[0])], 2, options, "ConcatenationOptions")


def _unary(code: int) -> Callable[[Writer, Instruction], None]:
    def write(w: Writer, step: Instruction) -> None:
        w.operator(code, [w.grid(step.inputs[0])], [w.grid(step.outputs[0])], 2)

    return write


def _mean(w: Writer, step: Instruction) -> None:
    options = schema.ReducerOptionsT()
    options.keepDims = step.attrs["keepdims"]
    axes = w.constant(f"{step.name}.axes", np.array(step.attrs["axes"]))
    w.operator(_Op.MEAN, [w.grid(step.inputs[0]), axes], [w.grid(step.outputs[0])], 2, options, "ReducerOptions")


def _reshape(w: Writer, step: Instruction) -> None:
    output = step.outputs[0]
    shape = np.array([-1 if d is None else d for d in w.program.values[output].shape])
    w.operator(
        _Op.RESHAPE, [w.grid(step.inputs[0]), w.constant(f"{output}.shape", shape)], [w.grid(output)], 1,
        schema.ReshapeOptionsT(), "ReshapeOptions",
    )  # fmt: skip


def _transpose(w: Writer, step: Instruction) -> None:
    (source,), (output,) = step.inputs, step.outputs
    axes = w.constant(f"{output}.axes", np.array(step.attrs["axes"]))
    # Version 2 is the int8 one.
    w.operator(_Op.TRANSPOSE, [w.tensor(source), axes], [w.tensor(output)], 2, schema.TransposeOptionsT(), "TransposeOptions")


def _constant(w: Writer, step: Instruction) -> None:
    (output,) = step.outputs
    e = w.encoding(output)
    w.add_tensor(output, w.program.values[output].shape, e.dtype, e.scale, e.zero_point, data=step.weight)


_OPERATORS: dict[str, Callable[[Writer, Instruction], None]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    **WINDOWS,
    "dense": _dense,
    "add": _elementwise(_Op.ADD, "AddOptions"),
    "mul": _elementwise(_Op.MUL, "MulOptions"),
    "concat": _concat,
    "constant": _constant,
    **FUNCTIONS,
    **ATTENTION,
    "relu": _unary(_Op.RELU),
    "relu6": _unary(_Op.RELU6),
    "mean": _mean,
    "reshape": _reshape,
    "transpose": _transpose,
}
