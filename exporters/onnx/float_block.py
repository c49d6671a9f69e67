"""Float operators in an ``.onnx``: the framework's block, translated by the framework's own exporter, between integer kernels."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import helper, version_converter

from qat.program.ordering import run_all
from qat.program.program import FrameworkBlock, Program

from .writer import Writer

#: Begins the names of the block's nodes, and of the tensors that nothing outside the block reads.
PREFIX = "float/"
#: The latest opset that the frameworks' exporters write.
TRANSLATED = 18
#: The operators whose float weights and biases ONNX Runtime quantizes by itself.
_ROUNDED_UNASKED = ("Conv", "ConvTranspose", "Gemm")
#: The operators past which ONNX Runtime moves a QuantizeLinear, and a DequantizeLinear
#: (onnxruntime/core/optimizer/qdq_transformer/qdq_propagation.cc).
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "MaxPool")


def splice(writer: Writer, block: FrameworkBlock, opset: int) -> None:
    """Add the nodes and constants of a float block. The block's inputs and outputs become the program's tensors.

    Raises:
        ExportError: an operator cannot be expressed in ONNX; the message names the operators of the block.
        MissingDependencyError: the package that translates the block is not installed.
    """
    translated = translate(writer.program, block, min(opset, TRANSLATED))
    if opset > TRANSLATED:
        translated = version_converter.convert_version(translated, opset)
    graph = ir.from_proto(translated).graph
    names = {value.name: name for value, name in zip(graph.inputs, block.inputs, strict=True)}
    known = _known_before(writer)
    _read_sizes_of([value for value in graph.inputs if names[value.name] in known], graph)
    passed_through = []
    for value, name in zip(graph.outputs, block.outputs, strict=True):
        # An output that is also an input, or another output, needs a node of its own.
        if value.name in names:
            identity = helper.make_node("Identity", [names[value.name]], [name], name=f"{PREFIX}{name}/Identity")
            passed_through.append(identity)
        else:
            names[value.name] = name
    _rename(graph, names)
    for value in graph.initializers.values():
        assert value.name is not None and value.const_value is not None
        writer.constants[value.name] = ir.to_proto(value.const_value)
    writer.nodes += [*(ir.to_proto(node) for node in graph), *passed_through]


def _known_before(writer: Writer) -> set[str]:
    """Return the tensors that need no output of the block: the model's inputs, constants, and what follows from them alone."""
    known = {"", *writer.program.inputs, *writer.constants}
    run_all(writer.nodes, lambda node: node.input, lambda node: node.output, known)
    return known


def _read_sizes_of(given: Sequence[ir.Value], graph: ir.Graph) -> None:
    """Let a block read the sizes that its inputs share, such as the batch, from those that are known before it runs.

    The framework's exporter reads them from any input that has them: from one perhaps that follows from an output of the block.
    """
    axes = {size: (value, axis) for value in given for axis, size in enumerate(value.shape or ()) if _is_free(size)}
    for node in graph:
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is None or source not in graph.inputs or source in given:
            continue
        first, last = (node.attributes.get_int(name, default) for name, default in (("start", 0), ("end", None)))
        sizes = (source.shape or ())[first:last]
        if len(sizes) == 1 and sizes[0] in axes:
            value, axis = axes[sizes[0]]
            node.replace_input_with(0, value)
            node.attributes["start"], node.attributes["end"] = ir.AttrInt64("start", axis), ir.AttrInt64("end", axis + 1)


def _is_free(size: int | ir.SymbolicDim) -> bool:
    return not isinstance(size, int) and size.value is not None


def keep_float(writer: Writer) -> None:
    """Stop ONNX Runtime from quantizing weights and biases that are to stay float.

    Of an operator that stands between a DequantizeLinear and a QuantizeLinear, the runtime rounds a float weight to int8, with
    one scale in all, and a float bias to int32, also where the weight is stored in 8 or 4 bits
    (onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc). A sum of one tensor, which copies it, stands between
    the DequantizeLinear and such an operator: the runtime does not look past that. Nor does it then make a QLinearSoftmax, whose
    scale it takes for another, of a Softmax that is to stay float. Data movement between the three, and a max pooling, hide
    nothing: the runtime moves them away first. The convolution of a Keras model, whose channels are last, has a Transpose on
    both sides.
    """
    writers = {output: node for node in writer.nodes for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in writer.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stored = {instruction.name for instruction in writer.program.instructions if instruction.mode != "static"}
    for node in [n for n in writer.nodes if n.op_type in _ROUNDED_UNASKED]:
        is_float = node.input[1] in writer.constants or node.name in stored
        if is_float and _comes_from_grid(node, writers) and _leads_to_grid(node, readers):
            _copy_input(writer, node)
    for node in [n for n in writer.nodes if n.op_type == "Softmax" and n.name.startswith(PREFIX)]:
        if _reaches_grid(node, readers):
            _copy_input(writer, node)


def _copy_input(writer: Writer, node: onnx.NodeProto) -> None:
    copied = f"{node.output[0]}/input"
    writer.node("Sum", [node.input[0]], copied)
    node.input[0] = copied


def _comes_from_grid(node: onnx.NodeProto, writers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a DequantizeLinear writes an operator's input, perhaps through data movement."""
    source = writers.get(node.input[0])
    return source is not None and (
        source.op_type == "DequantizeLinear" or (source.op_type in _MOVES and _comes_from_grid(source, writers))
    )


def _reaches_grid(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether a QuantizeLinear reads an operator's output, perhaps through data movement."""
    found = [reader for output in node.output for reader in readers.get(output, [])]
    return any(n.op_type == "QuantizeLinear" or (n.op_type in _MOVES and _reaches_grid(n, readers)) for n in found)


def _leads_to_grid(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether a QuantizeLinear alone reads an operator's output, or that of the clipping and the data movement behind it."""
    while len(found := readers.get(node.output[0], [])) == 1:
        node = found[0]
        if node.op_type == "QuantizeLinear":
            return True
        if node.op_type not in ("Relu", "Clip", *_MOVES):
            return False
    return False


def translate(program: Program, block: FrameworkBlock, opset: int) -> onnx.ModelProto:
    """Return a float block as an ONNX model, whose inputs and outputs are in the block's order."""
    if block.framework == "keras":
        from . import from_keras

        return from_keras.translate(program, block, opset)
    from . import from_torch

    return from_torch.translate(program, block, opset)


def _rename(graph: ir.Graph, names: dict[str | None, str]) -> None:
    """Give each value its name among ``names``, and a name with :data:`PREFIX` to all other values and to the nodes.

    The branches of an If or Loop are graphs within the graph.
    """
    values = [
        value
        for part in (graph, *graph.subgraphs())
        for value in (*part.inputs, *part.initializers.values(), *(output for node in part for output in node.outputs))
        if value.name  # an output that is left out has none
    ]
    ir.convenience.rename_values(values, [names.get(value.name) or f"{PREFIX}{value.name}" for value in values])
    for node in graph.all_nodes():
        node.name = f"{PREFIX}{node.name}"
