"""Operators that keep PyTorch's implementation, in TensorFlow, for its converter: core ATen operators by :mod:`aten_table`.

``litert-torch``, the alternative, needs JAX, torchao and transformers; a block holds only a few operators between integer
kernels. Images lie in PyTorch's layout.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from qat.errors import ExportError, MissingDependencyError, reason_of
from qat.planning.held_in_tflite import ASSERTIONS, beyond
from qat.program.program import FrameworkBlock, Program

if TYPE_CHECKING:
    import numpy as np
    from torch.export import ExportedProgram
    from torch.fx import Graph, Node

    from .aten_shapes import Tensor


#: The types that TFLite does not compute in, and by which values of these types are computed.
_FLOAT32 = dict.fromkeys(("float64", "float16", "bfloat16"), "float32")


def in_tensorflow(program: Program, block: FrameworkBlock) -> Callable[..., tuple[Tensor, ...]]:
    """Return a block as a function of TensorFlow tensors, whose inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator has no counterpart; the message names the operator and an alternative.
        MissingDependencyError: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf

        from .aten_shapes import OF_SIZES
        from .aten_table import ATEN
    except ImportError as error:
        raise MissingDependencyError(
            f"the operators of a PyTorch model that stay float are written to .tflite by TensorFlow's converter, which needs "
            f"{error.name}: pip install 'qat-toolkit[keras]'; an .onnx (target 'onnxruntime') needs nothing more"
        ) from error
    import torch

    exported = _core_aten(program, block)
    graph = exported.graph
    _read_sizes_of_first(graph)
    graph.eliminate_dead_code()
    _check_held(graph)
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
            return _FLOAT32.get(name := str(x).removeprefix("torch."), name) if isinstance(x, torch.dtype) else x

        for node in graph.nodes:
            if node.op == "placeholder":
                x = tf.constant(constants[node.name]) if node.name in constants else next(given)
                made[node] = tf.cast(x, _FLOAT32.get(x.dtype.name, x.dtype.name))
            elif node.op == "call_function" and str(node.target) not in ASSERTIONS:
                name = node.target.__name__
                function = ATEN.get(node.target) or OF_SIZES.get(name) or getattr(operator, name)
                made[node] = function(*(value(a) for a in node.args), **{k: value(v) for k, v in node.kwargs.items()})
            elif node.op == "output":
                outputs = zip(block.outputs, node.args[0], strict=True)
                return tuple(tf.identity(tf.cast(value(a), program.values[name].dtype)) for name, a in outputs)
        raise ExportError("the block of operators that stay float has no output: report this with the output of `qat plan`")

    return run


def _read_sizes_of_first(graph: Graph) -> None:
    """Let sizes that tensors share, such as the batch, be read from the first input that has them.

    ``torch.export`` reads a size from any tensor: from one perhaps that follows from an output of the block.
    """
    import torch

    axes: dict[str, tuple[Node, int]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int):
                    axes.setdefault(str(size), (node, axis))
        elif node.target is torch.ops.aten.sym_size.int:
            node.args = axes.get(str(node.meta["val"]), node.args)


def _check_held(graph: Graph) -> None:
    """Refuse operators that a ``.tflite`` does not hold. :func:`qat.prepare` has refused them before, but for the rarest."""
    from qat.adapters.torch.capture.core_operators import calls

    missing = sorted({said for call in calls(graph) if (said := beyond(call))})
    if missing:
        raise ExportError(
            f"{', '.join(missing)} of a PyTorch model cannot be written to .tflite: prepare the model for target 'onnxruntime', "
            "or replace the operator"
        )


def _core_aten(program: Program, block: FrameworkBlock) -> ExportedProgram:
    """Return a block as a ``torch.export`` program of core ATen operators, for any batch."""
    import torch

    from qat.adapters.torch.block_inputs import example_inputs
    from qat.adapters.torch.capture.decompose import in_core_operators
    from qat.adapters.torch.capture.quick_shapes import quick_shapes

    examples, shapes = example_inputs(program, block)
    try:
        with warnings.catch_warnings(), quick_shapes():
            warnings.simplefilter("ignore")
            return in_core_operators(torch.export.export(block.module, examples, dynamic_shapes=shapes))
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
