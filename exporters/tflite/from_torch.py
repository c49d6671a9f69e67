"""Operators that keep PyTorch's implementation, in TensorFlow, for its converter: core ATen operators by :mod:`aten_table`.

``litert-torch``, the alternative, needs JAX, torchao and transformers; a block holds only a few operators between integer
kernels. Images lie in PyTorch's layout.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

from qat.errors import ExportError, MissingDependencyError, reason_of
from qat.program.program import FrameworkBlock, Program

if TYPE_CHECKING:
    import numpy as np
    from torch.export import ExportedProgram
    from torch.fx import Node

    from .aten_shapes import Tensor


def in_tensorflow(program: Program, block: FrameworkBlock) -> Callable[..., tuple[Tensor, ...]]:
    """Return a block as a function of TensorFlow tensors, whose inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator has no counterpart; the message names the operator and an alternative.
        MissingDependencyError: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf

        from .aten_table import ATEN
    except ImportError as error:
        raise MissingDependencyError(
            f"the operators of a PyTorch model that stay float are written to .tflite by TensorFlow's converter, which needs "
            f"{error.name}: pip install 'qat-toolkit[keras]'; an .onnx (target 'onnxruntime') needs nothing more"
        ) from error
    import torch

    exported = _core_aten(program, block)
    graph = exported.graph
    graph.eliminate_dead_code()
    _check_supported(graph.nodes, ATEN)
    constants = _constants(exported)

    @tf.autograph.experimental.do_not_convert
    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        made: dict[Node, Tensor] = {}
        given = iter(tensors)

        def value(x: object) -> object:
            if isinstance(x, torch.fx.Node):
                return made[x]
            if isinstance(x, (list, tuple)):
                return [value(v) for v in x]
            return str(x).removeprefix("torch.") if isinstance(x, torch.dtype) else x

        for node in graph.nodes:
            if node.op == "placeholder":
                made[node] = tf.constant(constants[node.name]) if node.name in constants else next(given)
            elif node.op == "call_function":
                function = ATEN.get(node.target) or getattr(operator, node.target.__name__)
                made[node] = function(*(value(a) for a in node.args), **{k: value(v) for k, v in node.kwargs.items()})
            elif node.op == "output":
                return tuple(tf.identity(value(a)) for a in node.args[0])
        raise ExportError("the block of operators that stay float has no output: report this with the output of `qat plan`")

    return run


def _check_supported(nodes: Iterable[Node], table: Container[object]) -> None:
    """Refuse operators that the table has no function for. Python's own operators, on sizes, need none."""
    missing = sorted({str(node.target) for node in nodes if node.op == "call_function" and node.target not in table})
    missing = [name for name in missing if not name.startswith("<built-in")]
    if missing:
        raise ExportError(
            f"{', '.join(missing)} of a PyTorch model cannot be written to .tflite: prepare the model for target 'onnxruntime', "
            "or replace the operator"
        )


def _core_aten(program: Program, block: FrameworkBlock) -> ExportedProgram:
    """Return a block as a ``torch.export`` program of core ATen operators, for any batch."""
    import torch

    from qat.adapters.torch.block_inputs import example_inputs

    examples, shapes = example_inputs(program, block)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(block.module, examples, dynamic_shapes=shapes).run_decompositions()
    except Exception as error:  # the errors of torch.export share no base class but this
        raise ExportError(
            f"the operators that stay float cannot be captured for a .tflite: {reason_of(error)}; "
            "prepare for target 'onnxruntime'"
        ) from error


def _constants(exported: ExportedProgram) -> dict[str, np.ndarray]:
    """Return the arrays of a program's parameters, buffers and constants, by the names of their placeholders."""
    found = {}
    for spec in exported.graph_signature.input_specs:
        if spec.target is not None:
            tensors = exported.state_dict if spec.target in exported.state_dict else exported.constants
            found[spec.arg.name] = tensors[spec.target].detach().cpu().numpy()
    return found
