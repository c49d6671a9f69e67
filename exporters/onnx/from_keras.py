"""What keeps Keras' implementation, in ONNX: tf2onnx translates it, in the layout and types that Keras computes in."""

from __future__ import annotations

import logging

import onnx
import onnx.version_converter

from qat.errors import ExportError, MissingDependencyError, reason_of
from qat.program.program import FrameworkBlock, Program
from qat.system.silence import quiet

#: The newest opset that tf2onnx writes.
_NEWEST = 18


def translate(program: Program, block: FrameworkBlock, opset: int) -> onnx.ModelProto:
    """Return the block as an ONNX model; its inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator cannot be expressed in ONNX.
        MissingDependencyError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
        import tf2onnx.convert
    except ImportError as error:
        raise MissingDependencyError(
            "float operators of a Keras model are written to .onnx by tf2onnx: pip install 'qat-toolkit[keras-onnx]'; "
            "a .tflite (target 'litert') needs nothing more"
        ) from error
    import tensorflow as tf

    values = [program.values[name] for name in block.inputs]
    specs = [
        tf.TensorSpec(v.shape, v.dtype if v.encoding is None else v.encoding.dtype, name=f"input_{i}")
        for i, v in enumerate(values)
    ]
    # Named one by one: tf2onnx would drop an output that is an input, and merge two that are equal.
    function = tf.function(lambda *tensors: tuple(tf.identity(y) for y in block.module(*tensors)))
    level = logging.getLogger("tf2onnx").level
    try:
        with quiet():
            logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
            model: onnx.ModelProto = tf2onnx.convert.from_function(function, specs, opset=min(opset, _NEWEST))[0]
    except Exception as error:  # tf2onnx raises bare ones
        kinds = sorted({str(s.attrs.get("target", s.name)) for s in program.instructions if s.kind in ("float", "move")})
        raise ExportError(
            f"the operators that stay float ({', '.join(kinds)}) cannot be written to ONNX: {reason_of(error)}; a .tflite "
            "can hold what TensorFlow Lite has: prepare for target 'litert'"
        ) from error
    finally:
        logging.getLogger("tf2onnx").setLevel(level)
    # An input that nothing reads is left out; the block's place for it stays.
    found = {i.name: i for i in model.graph.input}
    inputs = [found.get(s.name) or onnx.helper.make_tensor_value_info(s.name, onnx.TensorProto.FLOAT, None) for s in specs]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return onnx.version_converter.convert_version(model, opset) if opset > _NEWEST else model
