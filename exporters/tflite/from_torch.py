"""What keeps PyTorch's implementation, in TensorFlow, for its converter: core ATen operators by the table of :mod:`aten_table`.

``litert-torch``, the other way there, brings JAX, torchao and transformers along for what is a handful of operators between
integer kernels. A block holds images in PyTorch's layout.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

from qat.errors import ExportError, MissingDependencyError, reason_of
from qat.exporters.torch_example import example_inputs
from qat.program.program import FrameworkBlock, Program


def in_tensorflow(program: Program, block: FrameworkBlock) -> Callable[..., tuple[Any, ...]]:
    """Return the block as a function of TensorFlow tensors, in the block's order.

    Raises:
        ExportError: an operator has no counterpart; the message names it and what else there is.
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

    exported = _core(program, block)
    graph = exported.graph
    graph.eliminate_dead_code()
    missing = sorted({str(n.target) for n in graph.nodes if n.op == "call_function" and n.target not in ATEN})
    missing = [name for name in missing if not name.startswith("<built-in")]
    if missing:
        raise ExportError(
            f"{', '.join(missing)} of a PyTorch model cannot be written to .tflite: prepare the model for target 'onnxruntime', "
            "or replace the operator"
        )
    constants = _constants(exported)

    @tf.autograph.experimental.do_not_convert
    def run(*tensors: Any) -> tuple[Any, ...]:
        made: dict[Any, Any] = {}
        given = iter(tensors)

        def value(x: Any) -> Any:
            if isinstance(x, torch.fx.Node):
                return made[x]
            if isinstance(x, (list, tuple)):
                return [value(v) for v in x]
            return _DTYPES.get(str(x), x) if isinstance(x, torch.dtype) else x

        for node in graph.nodes:
            if node.op == "placeholder":
                made[node] = tf.constant(constants[node.name]) if node.name in constants else next(given)
            elif node.op == "call_function":
                function = ATEN.get(node.target) or getattr(operator, node.target.__name__)
                kwargs = {k: value(v) for k, v in node.kwargs.items()}
                made[node] = function(*(value(a) for a in node.args), **kwargs)
            elif node.op == "output":
                return tuple(tf.identity(value(a)) for a in node.args[0])
        raise ExportError("the block of operators that stay float has no output: report this with the output of `qat plan`")

    return run


_DTYPES = {
    "torch.float32": "float32", "torch.float64": "float64", "torch.float16": "float16", "torch.int64": "int64",
    "torch.int32": "int32", "torch.int8": "int8", "torch.uint8": "uint8", "torch.bool": "bool",
}  # fmt: skip


def _core(program: Program, block: FrameworkBlock) -> Any:
    """Return the block as a ``torch.export`` program of core ATen operators, any batch."""
    import torch

    examples, shapes = example_inputs(program, block)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(block.module, examples, dynamic_shapes=shapes).run_decompositions()
    except Exception as error:  # torch.export's own share no base class but this
        raise ExportError(
            f"the operators that stay float cannot be captured for a .tflite: {reason_of(error)}; "
            "prepare for target 'onnxruntime'"
        ) from error


def _constants(exported: Any) -> dict[str, Any]:
    """Return the arrays of a program's parameters, buffers and constants by the name of their placeholder."""
    found = {}
    for spec in exported.graph_signature.input_specs:
        if spec.target is not None:
            held = exported.state_dict if spec.target in exported.state_dict else exported.constants
            found[spec.arg.name] = held[spec.target].detach().cpu().numpy()
    return found
