"""Float operators in an ``.onnx``: a translation of the framework's block, spliced between the integer kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable

import onnx
import onnx.version_converter
from onnx import helper

from qat.errors import ExportError, reason_of
from qat.exporters.torch_example import example_inputs
from qat.program.program import FrameworkBlock, Program

#: Of the names of nodes and of tensors that only the block sees.
PREFIX = "float/"
#: The latest opset that the frameworks' translators write.
TRANSLATED = 18


def splice(program: Program, constants: dict[str, onnx.TensorProto], opset: int) -> list[onnx.NodeProto]:
    """Return the nodes of the float block, its tensors named as the program names them; constants are added.

    Raises:
        ExportError: an operator cannot be expressed in ONNX; the message names the ones in the block.
    """
    block = program.block
    if block is None:
        return []
    if block.framework == "keras":
        from .from_keras import translate
    else:
        translate = _from_torch
    # The opset that both translators know; ONNX itself raises the result to a later one.
    model = translate(program, block, min(opset, TRANSLATED))
    if opset > TRANSLATED:
        model = onnx.version_converter.convert_version(model, opset)
    names = dict(zip((i.name for i in model.graph.input), block.inputs, strict=True))
    outputs = list(zip((o.name for o in model.graph.output), block.outputs, strict=True))
    passed_through = []
    for inner, outer in outputs:
        # An output that is an input or another output needs a node of its own.
        if inner in names:
            node = helper.make_node("Identity", [names[inner]], [outer], name=f"{PREFIX}{outer}/Identity")
            passed_through.append(node)
        else:
            names[inner] = outer

    def renamed(name: str) -> str:
        return name and names.setdefault(name, f"{PREFIX}{name}")

    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
        constants[tensor.name] = tensor
    _rename(model.graph, renamed)
    return [*model.graph.node, *passed_through]


def _rename(graph: onnx.GraphProto, renamed: Callable[[str], str]) -> None:
    """Rename what the nodes of a graph read and write, in the branches of an If or Loop too."""
    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        node.name = f"{PREFIX}{node.name}"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                for value in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer):
                    value.name = renamed(value.name)
                _rename(attribute.g, renamed)


def _from_torch(program: Program, block: FrameworkBlock, opset: int) -> onnx.ModelProto:
    import torch

    examples, shapes = example_inputs(program, block)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                block.module, examples, dynamo=True, dynamic_shapes=shapes, opset_version=opset, verbose=False
            )
    except Exception as error:
        floats = {str(s.attrs.get("target", s.name)) for s in program.instructions if s.kind == "float"}
        raise ExportError(
            f"the float operators ({', '.join(sorted(floats))}) cannot be written to ONNX: {reason_of(error)} "
            "A handler brings an operator of yours onto the integer grid: qat.register_handler, docs/custom_layers.md"
        ) from error
    finally:
        quiet.setLevel(level)
    if exported is None:
        raise ExportError("torch.onnx.export returned nothing for the float operators: is the 'onnx' extra installed?")
    model: onnx.ModelProto = exported.model_proto
    versions = {o.domain: o.version for o in model.opset_import}
    if versions.get("", opset) != opset or model.functions:
        raise ExportError(f"torch wrote the float operators for ONNX opset {versions} instead of {opset}: update torch")
    return model
