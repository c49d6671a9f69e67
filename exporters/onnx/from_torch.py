"""Operators that keep PyTorch's implementation, in ONNX: ``torch.onnx`` translates them."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch

from qat.adapters.torch.block_inputs import example_inputs
from qat.adapters.torch.capture.decompose import composites_listed_once
from qat.adapters.torch.capture.quick_shapes import quick_shapes
from qat.adapters.torch.onnx_library import library_read_once
from qat.errors import ExportError, reason_of
from qat.program.program import FrameworkBlock, Program
from qat.system.silence import quiet

from .torch_functions import FUNCTIONS


def translate(program: Program, block: FrameworkBlock, opset: int) -> onnx.ModelProto:
    """Return a block as an ONNX model, whose inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator cannot be expressed in ONNX; the message names the operators of the block.
    """
    examples, shapes = example_inputs(program, block)
    try:
        with quiet(), library_read_once(), composites_listed_once(), quick_shapes():
            exported = torch.onnx.export(
                block.module, examples, dynamo=True, dynamic_shapes=shapes, opset_version=opset, verbose=False,
                custom_translation_table=dict(FUNCTIONS),
            )  # fmt: skip
    except Exception as error:
        floats = {i.label for i in program.instructions if i.kind == "float"}
        raise ExportError(
            f"the float operators ({', '.join(sorted(floats))}) cannot be written to ONNX: {reason_of(error)} "
            "A handler brings an operator of yours onto the integer grid: qat.register_handler, docs/custom_layers.md"
        ) from error
    if exported is None:
        raise ExportError("torch.onnx.export returned nothing for the float operators: is the 'onnx' extra installed?")
    _register_constants(exported.model.graph)
    model: onnx.ModelProto = exported.model_proto
    versions = {o.domain: o.version for o in model.opset_import}
    if versions.get("", opset) != opset or model.functions:
        raise ExportError(f"torch wrote the float operators for ONNX opset {versions} instead of {opset}: update torch")
    return model


def _register_constants(graph: ir.Graph) -> None:
    """Store each constant that a node reads: the optimizer of ``torch.onnx`` gives the limits of several clips one name."""
    read = {value for node in graph for value in node.inputs if value is not None and value.producer() is None}
    for value in read - set(graph.initializers.values()):
        if value.const_value is not None:
            graph.register_initializer(value)
