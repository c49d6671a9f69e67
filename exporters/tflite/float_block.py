"""Float operators in a ``.tflite``: the framework's block, converted by TensorFlow, between integer kernels."""

from __future__ import annotations

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError, reason_of
from qat.program.program import FrameworkBlock, Program
from qat.system.silence import quiet

from .writer import INTEGER_TYPES, Table, Writer

#: Begins the names of the tensors that nothing outside the block reads.
PREFIX = "float/"


def splice(writer: Writer, block: FrameworkBlock) -> None:
    """Add the tensors and operators of a float block. The block's inputs and outputs become the program's tensors.

    Raises:
        ExportError: an operator has no TFLite builtin; the message names the operators of the block.
    """
    model = translate(writer.program, block)
    graph = model.subgraphs[0]
    indices: dict[int, int] = {}  # of the block's tensors in the file
    for tensor, name in zip(graph.inputs, block.inputs, strict=True):
        indices[tensor] = writer.index[writer.tensor(name)]
    for tensor, name in zip(graph.outputs, block.outputs, strict=True):
        if tensor in indices:  # an output that is also an input, or another output: one tensor of two names
            _rename(writer, name, indices[tensor])
        else:
            indices[tensor] = writer.index[writer.tensor(name)]
            writer.tensors[indices[tensor]].buffer = _data_of(writer, model, graph.tensors[tensor])
    for number, tensor in enumerate(graph.tensors):
        if number in indices:
            continue
        tensor.name = f"{PREFIX}{tensor.name.decode()}"
        tensor.buffer = _data_of(writer, model, tensor)
        indices[number] = writer.index[tensor.name] = len(writer.tensors)
        writer.tensors.append(tensor)
    first = len(writer.codes)
    writer.codes += model.operatorCodes
    for op in graph.operators:
        op.opcodeIndex += first
        op.inputs = np.array([i if i < 0 else indices[i] for i in op.inputs], np.int32)
        op.outputs = np.array([indices[i] for i in op.outputs], np.int32)
        _pass_on_encoding(writer, op)
        writer.operators.append(op)


def _data_of(writer: Writer, model: Table, tensor: Table) -> int:
    """Return a tensor's buffer in the file: the converter computes what follows from constants, an output of the block too."""
    data = model.buffers[tensor.buffer].data
    return writer.add_buffer(data) if data is not None and len(data) else 0


def _rename(writer: Writer, name: str, index: int) -> None:
    """Let a name stand for another tensor, also in the operators that were written before."""
    before, writer.index[name] = writer.index.get(name), index
    if before is not None:
        for op in writer.operators:
            op.inputs = np.where(op.inputs == before, index, op.inputs)


def _pass_on_encoding(writer: Writer, op: Table) -> None:
    """Make the output of a data movement within the block an integer tensor, with the encoding of the operator's input.

    The converter wrote it in float32. An operator of the block that reads integers is a data movement: it keeps their scale.
    """
    integers = [writer.tensors[i] for i in op.inputs if i >= 0 and writer.tensors[i].type in INTEGER_TYPES]
    if not integers:
        return
    for tensor in (writer.tensors[i] for i in op.outputs):
        if tensor.type == schema.TensorType.FLOAT32:
            tensor.type, tensor.quantization = integers[0].type, integers[0].quantization
    op.inputs = np.array([i if i < 0 else _on_grid(writer, i, integers[0]) for i in op.inputs], np.int32)


def _on_grid(writer: Writer, index: int, like: Table) -> int:
    """Return the tensor that stands for a number beside integers, the value of a padding: that number on their grid."""
    tensor = writer.tensors[index]
    data = writer.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or len(data) == 0:
        return index
    name = f"{tensor.name}/{like.name.decode() if isinstance(like.name, bytes) else like.name}"
    if name not in writer.index:
        dtype = np.int16 if like.type == schema.TensorType.INT16 else np.int8
        limits, scale = np.iinfo(dtype), float(like.quantization.scale[0])
        steps = np.rint(np.frombuffer(bytes(data), np.float32).astype(np.float64) / scale) + like.quantization.zeroPoint[0]
        made = copy.copy(tensor)
        made.name, made.type, made.quantization = name, like.type, like.quantization
        made.buffer = writer.add_buffer(np.clip(steps, limits.min, limits.max).astype(dtype))
        writer.index[name] = len(writer.tensors)
        writer.tensors.append(made)
    return writer.index[name]


def translate(program: Program, block: FrameworkBlock) -> Table:
    """Return a float block as a ``schema.ModelT`` of one subgraph, whose inputs and outputs are in the block's order."""
    if block.framework == "keras":
        module = block.module
    else:
        from .from_torch import in_tensorflow

        module = in_tensorflow(program, block)
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Data movements are converted in float32, too, which the converter knows for every operator.
    values = [program.values[name] for name in block.inputs]
    specs = [tf.TensorSpec(value.shape, getattr(tf, value.dtype), name=f"input_{i}") for i, value in enumerate(values)]
    try:
        # Traced once: some layers make their state at their first call, and would make it twice.
        concrete = tf.function(lambda *tensors: module(*tensors)).get_concrete_function(*specs)
        with quiet():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
            model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(converter.convert()))
    except Exception as error:  # the converter's errors share no base class but this
        raise ExportError(f"{_names(program)} cannot be written to .tflite: {reason_of(error)}") from error
    if len(model.subgraphs) != 1:
        raise ExportError(f"{_names(program)} cannot be written to .tflite: they hold loops or branches")
    graph = model.subgraphs[0]
    by_name = {graph.tensors[i].name.decode().split(":")[0].removeprefix("serving_default_"): i for i in graph.inputs}
    graph.inputs = [by_name[spec.name] for spec in specs]
    return model


def _kinds(program: Program) -> list[str]:
    return sorted({i.label for i in program.instructions if i.keeps_framework})


def _names(program: Program) -> str:
    return f"the operators that keep their framework ({', '.join(_kinds(program))})"
