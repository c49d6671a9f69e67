"""Operators that keep Keras' implementation, in ONNX: tf2onnx translates them, in the layout and types of Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from qat.errors import ExportError, MissingDependencyError, reason_of
from qat.program.program import FrameworkBlock, Program
from qat.system.silence import quiet

#: TensorFlow's calls of functions, of which tf2onnx has no form.
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def translate(program: Program, block: FrameworkBlock, opset: int) -> onnx.ModelProto:
    """Return a block as an ONNX model, whose inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator cannot be expressed in ONNX; the message names the operators of the block.
        MissingDependencyError: tf2onnx is not installed.
    """
    import tensorflow as tf

    values = [program.values[name] for name in block.inputs]
    specs = [
        tf.TensorSpec(v.shape, v.dtype if v.encoding is None else v.encoding.dtype, name=f"input_{i}")
        for i, v in enumerate(values)
    ]
    try:
        return of_function(block.module, specs, opset)
    except MissingDependencyError:
        raise
    except Exception as error:  # tf2onnx raises plain exceptions
        raise _refusal(program, reason_of(error)) from error


def of_function(compute: Callable[..., Sequence[Any]], specs: Sequence[Any], opset: int) -> onnx.ModelProto:
    """Return a function of TensorFlow's tensors as an ONNX model.

    Args:
        compute: takes a tensor for each of ``specs``, returns a sequence of tensors.
        specs: a ``tf.TensorSpec`` with a name for each input, which the model has in the same order.
        opset: the version of ONNX' operators.

    Raises:
        ExportError: tf2onnx does not know an operator.
        MissingDependencyError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
        import tf2onnx.convert
    except ImportError as error:
        raise MissingDependencyError(
            "tf2onnx writes what is float of a Keras model to .onnx: pip install 'qat-toolkit[keras-onnx]'; "
            "a .tflite (target 'litert') needs nothing more"
        ) from error
    import tensorflow as tf

    for written_out in (False, True):
        # An identity for each output: tf2onnx drops an output that is also an input, and merges two equal ones.
        function = tf.function(lambda *tensors: tuple(tf.identity(y) for y in compute(*tensors)))
        with quiet():
            if written_out:
                _trace_inner_functions(function, specs)
            model: onnx.ModelProto = tf2onnx.convert.from_function(
                function, specs, opset=opset, custom_op_handlers={kind: (write, []) for kind, write in _FORMS.items()}
            )[0]
        unknown = {node.op_type for node in model.graph.node if not defs.has(node.op_type, node.domain)}
        if unknown.isdisjoint(_CALLS):
            break
    if unknown:  # tf2onnx leaves an operator that it does not know as TensorFlow names it
        raise ExportError(f"tf2onnx has no form of {', '.join(sorted(unknown))}")
    # tf2onnx leaves out an input that no operator reads, and makes an input of a constant that a layer's code has computed.
    found = {i.name: i for i in model.graph.input}
    for value, stand_in in function.get_concrete_function(*specs).graph.captures:
        if stand_in.name in found:
            model.graph.initializer.append(numpy_helper.from_array(value.numpy(), stand_in.name))
    inputs = [found.get(s.name) or helper.make_tensor_value_info(s.name, TensorProto.FLOAT, None) for s in specs]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _trace_inner_functions(function: Any, specs: Sequence[Any]) -> None:
    """Trace a function with what the functions of TensorFlow's inside compute, instead of calls of them.

    TensorFlow keeps the call of a function that is compiled by XLA, of which Keras makes a grouped convolution.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        function.get_concrete_function(*specs)
    finally:
        tf.config.run_functions_eagerly(before)


def _erfc(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """Write ``Erfc``, of which TensorFlow makes an exact GELU, as ``1 - Erf``, for tf2onnx."""
    source, one, outputs = _taken_out(graph, node, name)
    found = graph.make_node("Erf", [source], name=f"{name}/erf").output[0]
    graph.make_node("Sub", [one, found], outputs=outputs, name=name)


def _expm1(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """Write ``Expm1``, which a CELU consists of, as ``Exp - 1``, for tf2onnx."""
    source, one, outputs = _taken_out(graph, node, name)
    found = graph.make_node("Exp", [source], name=f"{name}/exp").output[0]
    graph.make_node("Sub", [found, one], outputs=outputs, name=name)


def _log1p(graph: Any, node: Any, name: str, args: Sequence[Any]) -> None:
    """Write ``Log1p``, of which TensorFlow makes a ``logaddexp``, as ``Log(1 + x)``, for tf2onnx."""
    source, one, outputs = _taken_out(graph, node, name)
    more = graph.make_node("Add", [source, one], name=f"{name}/more").output[0]
    graph.make_node("Log", [more], outputs=outputs, name=name)


def _taken_out(graph: Any, node: Any, name: str) -> tuple[str, str, list[str]]:
    """Take a node out of its graph, and return the names of its input, of a constant 1, and of its outputs."""
    source, outputs = node.input[0], list(node.output)
    graph.remove_node(node.name)
    return source, graph.make_const(f"{name}/one", np.ones((), np.float32)).output[0], outputs


#: Writers of TensorFlow's operators that tf2onnx has no form of.
_FORMS = {"Erfc": _erfc, "Expm1": _expm1, "Log1p": _log1p}


def _refusal(program: Program, reason: str) -> ExportError:
    kinds = sorted({i.label for i in program.instructions if i.keeps_framework})
    return ExportError(
        f"the operators that stay float ({', '.join(kinds)}) cannot be written to ONNX: {reason}; a .tflite "
        "can hold what TensorFlow Lite has: prepare for target 'litert'"
    )
