"""A program as an ``.onnx``: QDQ, in the form that ONNX Runtime's optimizer turns into integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import onnx
from onnx import TensorProto, checker, helper

from qat.errors import ExportError, reason_of
from qat.graph.graph import axis_name
from qat.program.file_origin import FileTensor
from qat.program.ordering import by_dependency
from qat.program.program import Program, Value

from .depth_to_space import phases_first
from .float_block import keep_float, splice
from .groups import merge_groups
from .image_patches import turn_patches
from .kept_integers import keep_products
from .stored_weight import write_stored_weight
from .table import REWRITES, WRITERS
from .token_images import turn_images
from .token_rows import merge_rows
from .writer import MICROSOFT, Writer

#: The lowest opset that torch's exporter writes without a conversion. ONNX Runtime fuses MaxPool at the opsets 12 to 21 only
#: (qdq_selector_action_transformer.cc, DropQDQNodesRules).
OPSET, IR_VERSION = 18, 9
#: DequantizeLinear reads 4-bit weights since this opset, which needs this version of the file format.
OPSET_INT4, IR_VERSION_INT4 = 21, 10
_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


def legalize(program: Program) -> Program:
    """Return a program without the operators that ONNX Runtime has no integer kernel for. The program is in NCHW."""
    program = program if program.strict_qdq else keep_products(merge_groups(turn_patches(turn_images(program))))
    values, instructions = dict(program.values), []
    for instruction in program.instructions:
        rewrite = REWRITES.get(instruction.kind)
        instructions += [instruction] if rewrite is None else rewrite(instruction, values)
    program = replace(program, values=values, instructions=tuple(instructions))
    return program if program.strict_qdq else merge_rows(phases_first(program))


def write(program: Program, io_dtype: str, extra_outputs: Sequence[str] = ()) -> bytes:
    """Return the bytes of :func:`build`'s model. ``io_dtype`` is for a ``.tflite``: an ``.onnx`` takes and returns float32."""
    return build(program, extra_outputs).SerializeToString()


def build(program: Program, extra_outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a program as an ONNX model with float32 inputs and outputs and a dynamic batch.

    Tensors keep the program's names.

    Args:
        program: in NCHW, in the operators that :func:`legalize` returns.
        extra_outputs: the names of quantized values that the model returns too, as integers.

    Raises:
        ExportError: the program cannot be expressed in ONNX.
    """
    if program.layout != "NCHW":
        raise ExportError(
            f"the program is in {program.layout} layout, and an .onnx is written in NCHW (PyTorch's): "
            "call qat.export, which transposes images, or write a .tflite"
        )
    returned = (*program.outputs, *extra_outputs)
    for name in returned:
        if name in program.inputs or returned.count(name) > 1:
            raise ExportError(f"the model returns '{name}' as it is or twice, and ONNX cannot: return it once")
    writer = Writer(program)
    for instruction in program.instructions:
        if instruction.mode != "static":
            write_stored_weight(writer, instruction)
        elif instruction.kind in WRITERS:
            WRITERS[instruction.kind](writer, instruction)
        elif not instruction.keeps_framework:
            raise ExportError(f"{instruction.layer}: there is no ONNX operator for '{instruction.kind}'")
    packed = any(instruction.packed for instruction in program.instructions)
    opset, ir_version = (OPSET_INT4, IR_VERSION_INT4) if packed else _version(program)
    if program.block is not None:
        splice(writer, program.block, opset)
    if not program.strict_qdq:
        keep_float(writer)
    return _checked(writer, returned, opset, ir_version)


def _version(program: Program) -> tuple[int, int]:
    """Return the opset and the version of the file format: those of the file that the model was read from, where they can be.

    Opset 21 is the last that ONNX Runtime fuses at (see :data:`OPSET`); its versions of our operators compute as those of 18.
    """
    opset = OPSET if program.origin is None or program.origin.opset is None else program.origin.opset
    return (OPSET, IR_VERSION) if opset <= OPSET else (min(opset, OPSET_INT4), IR_VERSION_INT4)


def _checked(writer: Writer, returned: Sequence[str], opset: int, ir_version: int) -> onnx.ModelProto:
    """Return the model of the nodes that were written, once ONNX's checker has seen it."""
    program = writer.program
    inputs = program.origin.inputs if program.origin else (None,) * len(program.inputs)
    outputs = program.origin.outputs if program.origin else ()
    absent = ""  # the name of an input that a node leaves out
    moved = any(program.sample_axes)
    graph = helper.make_graph(
        by_dependency(
            writer.nodes, lambda node: node.input, lambda node: node.output, {*program.inputs, *writer.constants, absent}
        ),
        program.name or "model",
        [_value_info(program.values[name], origin, moved) for name, origin in zip(program.inputs, inputs, strict=True)],
        [_value_info(program.values[name], origin, moved) for name, origin in zip_longest(returned, outputs)],
        list(writer.constants.values()),
    )
    opsets = [helper.make_opsetid("", opset)]
    if any(node.domain == MICROSOFT for node in writer.nodes):
        opsets.append(helper.make_opsetid(MICROSOFT, 1))
    model = helper.make_model(graph, producer_name="qat", opset_imports=opsets)
    model.ir_version = ir_version
    texts = program.origin.metadata if program.origin else {}
    helper.set_model_props(model, {**texts, "qat.recipe": program.recipe, "qat.target": program.target})
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise ExportError(f"the program is not a valid ONNX graph: {reason_of(error)}") from error
    return model


def _value_info(value: Value, origin: FileTensor | None, moved: bool) -> onnx.ValueInfoProto:
    dtype = value.encoding.dtype if value.encoding is not None else value.dtype
    if dtype not in _TYPES:
        raise ExportError(f"'{value.name}' is a {dtype} tensor; an .onnx takes and returns {', '.join(_TYPES)}")
    axes = value.axes or range(len(value.shape))
    sizes = [_axis_name(value, axis, moved) if size is None else size for axis, size in zip(axes, value.shape, strict=True)]
    if origin is not None and value.axes is None and len(origin.shape) == len(sizes):
        # A size that the file fixes stays fixed, though the program could take any; a free one keeps its name.
        free = [size is None for size in value.shape]
        sizes = [given or own if any_size else own for any_size, own, given in zip(free, sizes, origin.shape, strict=True)]
    return helper.make_tensor_value_info(value.name, _TYPES[dtype], sizes)


def _axis_name(value: Value, axis: int, moved: bool) -> str:
    """Return the name of a size that is not fixed, by the axis of the model's own tensor.

    That of the samples has one name in all tensors: the only free one where an input counts its samples along another axis than
    the first (``moved``).
    """
    samples = axis == 0 or (moved and value.shape.count(None) == 1)
    return "batch" if samples else f"{value.name}_{axis_name(len(value.shape), axis)}"
