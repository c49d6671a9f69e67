"""Float operators in an ``.onnx``: PyTorch's own exporter translates them once, the result is spliced between the kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import onnx
from onnx import helper

from qat.errors import ExportError
from qat.program import FloatBlock, Program


def splice(program: Program, constants: dict[str, onnx.TensorProto], opset: int) -> list[onnx.NodeProto]:
    """Return the nodes of the float block, its tensors named as the program names them; constants are added.

    Raises:
        ExportError: an operator cannot be expressed in ONNX; the message names the ones in the block.
    """
    block = program.float_block
    assert block is not None
    model = _translate(program, block, opset)
    names = dict(zip((i.name for i in model.graph.input), block.inputs, strict=True))
    outputs = list(zip((o.name for o in model.graph.output), block.outputs, strict=True))
    passed_through = []
    for inner, outer in outputs:
        # An output that is an input or another output needs a node of its own.
        if inner in names:
            passed_through.append(helper.make_node("Identity", [names[inner]], [outer], name=f"{outer}/Identity"))
        else:
            names[inner] = outer

    def renamed(name: str) -> str:
        return name and names.setdefault(name, f"float/{name}")

    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
        constants[tensor.name] = tensor
    nodes = list(model.graph.node)
    for node in nodes:
        node.input[:] = [renamed(i) for i in node.input]
        node.output[:] = [renamed(o) for o in node.output]
        node.name = f"float/{node.name}"
    return nodes + passed_through


def _translate(program: Program, block: FloatBlock, opset: int) -> onnx.ModelProto:
    import torch

    if block.framework != "torch":
        raise ExportError("float operators of a Keras model cannot be written to .onnx: export it as .tflite")

    def example(name: str) -> Any:
        value = program.values[name]
        shape = [2 if d is None else d for d in value.shape]
        dtype = getattr(torch, value.dtype)
        return torch.zeros(shape, dtype=dtype)

    examples = tuple(example(name) for name in block.inputs)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} if x.ndim else None for x in examples)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                block.module, examples, dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False
            )
    except Exception as error:
        kinds = ", ".join(sorted({str(s.attrs.get("target", s.name)) for s in program.instructions if s.kind == "float"}))
        reason = str(error).strip().splitlines()[0][:200]
        raise ExportError(f"the float operators ({kinds}) cannot be written to ONNX: {reason}") from error
    finally:
        quiet.setLevel(level)
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    return model
