"""Pinned layers in the forms that other tools take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qat.analysis.diagnosis.read_tflite import subgraph_index
from qat.sources.tflite.flatbuffer import read_model, read_subgraph

from .places import Place

#: AI Edge Quantizer's recipe ``static_wi8_ai8``, as ``ai_edge_quantizer.recipe.static_wi8_ai8()`` returns it.
STATIC_WI8_AI8: tuple[dict[str, Any], ...] = (
    {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "activation_tensor_config": {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"},
            "weight_tensor_config": {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"},
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
            "skip_checks": False,
            "min_weight_elements": 0,
        },
    },
)


def nodes_to_exclude(places: Iterable[Place]) -> list[str]:
    """Return ``nodes_to_exclude`` of ``onnxruntime.quantization.quantize_static``: names of nodes of the ``.onnx``."""
    return _names(places)


def layer_precisions(places: Iterable[Place], precision: str = "fp16") -> str:
    """Return the argument of ``trtexec --layerPrecisions``, for which ``--precisionConstraints=obey`` is needed, too.

    TensorRT calls a layer as the node of the ``.onnx``. ``examples/tensorrt_build.py --pin`` takes the names alone, those of
    :func:`nodes_to_exclude`.
    """
    return ",".join(f"{name}:{precision}" for name in _names(places))


def ai_edge_recipe(places: Iterable[Place], path: Path, base: Sequence[dict[str, Any]] = STATIC_WI8_AI8) -> list[dict[str, Any]]:
    """Return a recipe of AI Edge Quantizer for the ``.tflite``, JSON-ready: the base for all operators but the pinned ones.

    The tool calls an operator by the tensors that it writes, ``a;b;`` (``tfl_flatbuffer_utils.get_op_scope``).
    """
    names = _names_in(path)
    scopes = dict.fromkeys("".join(f"{names[t]};" for t in op.outputs) for place in places for op in place.operators)
    return [
        *base,
        *({"regex": f"^{re.escape(scope)}$", "operation": "*", "algorithm_key": "no_quantize"} for scope in scopes),
    ]


def _names_in(path: Path) -> dict[str, str]:
    """Return the names that the tensors of a ``.tflite`` have in it, by those that this toolkit gives them."""
    model, _ = read_model(path)
    tables = model.subgraphs[subgraph_index(model)].tensors
    return {read.name: table.name.decode() for read, table in zip(read_subgraph(path).tensors, tables, strict=True)}


def _names(places: Iterable[Place]) -> list[str]:
    return list(dict.fromkeys(op.name for place in places for op in place.operators))
