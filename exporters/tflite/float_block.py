"""What keeps its framework in a ``.tflite``: TensorFlow's own converter translates it once; the result is spliced in."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError, reason_of
from qat.program.program import FrameworkBlock, Program
from qat.system.silence import quiet

from .from_torch import in_tensorflow

_RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"}


def translate(program: Program, block: FrameworkBlock) -> Any:
    """Return the float block as a ``schema.ModelT`` of one subgraph; its inputs and outputs are in the block's order.

    Raises:
        ExportError: an operator has no TFLite builtin; the message names the ones in the block.
    """
    module = block.module if block.framework == "keras" else in_tensorflow(program, block)
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def spec(index: int, name: str) -> Any:
        # Moves are converted in float32 too, which the converter knows of every operator; the writer makes them integers.
        value = program.values[name]
        return tf.TensorSpec(value.shape, getattr(tf, value.dtype), name=f"input_{index}")

    specs = [spec(i, name) for i, name in enumerate(block.inputs)]
    try:
        # Some layers keep state on first call; tracing twice would make it twice.
        concrete = tf.function(lambda *tensors: module(*tensors)).get_concrete_function(*specs)
        with quiet():
            converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
            model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(converter.convert()))
    except Exception as error:  # the converter's errors share no base class but this
        raise ExportError(f"{_names(program)} cannot be written to .tflite: {reason_of(error)}{_remedy(program)}") from error
    if len(model.subgraphs) != 1:
        raise ExportError(f"{_names(program)} cannot be written to .tflite: they hold loops or branches{_remedy(program)}")
    graph = model.subgraphs[0]
    by_name = {graph.tensors[i].name.decode().split(":")[0].removeprefix("serving_default_"): i for i in graph.inputs}
    graph.inputs = [by_name[s.name] for s in specs]
    return model


def _kinds(program: Program) -> list[str]:
    return sorted({str(s.attrs.get("target", s.name)) for s in program.instructions if s.kind in ("float", "move")})


def _names(program: Program) -> str:
    return f"the operators that keep their framework ({', '.join(_kinds(program))})"


def _remedy(program: Program) -> str:
    """Return what helps recurrent layers, which are loops: TFLite has no form of one over a free batch."""
    return ": build recurrent layers with unroll=True" if _RECURRENT.intersection(_kinds(program)) else ""
