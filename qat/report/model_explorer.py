"""Node data for Google's Model Explorer: a number a node, which it draws on the graph of a model as a colour.

The form is that of ``GraphNodeData`` in its package ``ai-edge-model-explorer`` (``node_data_builder.py``): values by the names of
the nodes' output tensors, and a gradient from the least to the greatest value. In Model Explorer it is "Add per-node data", or
``model-explorer net_int8.onnx --node_data_paths=error.json`` on its command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from qat.system.atomic_files import write_atomically

#: From the least value to the greatest; and the other way round where less is worse.
_GOOD, _MIDDLE, _BAD = "#f3f7fb", "#f6c667", "#c22f2f"


def node_data(name: str, values: Mapping[str, float], less_is_worse: bool = False) -> dict[str, object]:
    """Return the node data of a graph, JSON-ready.

    Args:
        name: of the values, in Model Explorer's list.
        values: by the name of an output tensor of the node; those that are not finite are left out.
        less_is_worse: as for SQNR; else more is, as for an error.

    Examples:
        >>> node_data("error", {"conv1": 0.5, "conv2": float("nan")})["results"]
        {'conv1': {'value': 0.5}}
    """
    colours = (_BAD, _MIDDLE, _GOOD) if less_is_worse else (_GOOD, _MIDDLE, _BAD)
    gradient = [
        {"stop": stop, "bgColor": colour, "textColor": "#ffffff" if colour == _BAD else "#1b1f24"}
        for stop, colour in zip((0, 0.5, 1), colours, strict=True)
    ]
    results = {tensor: {"value": float(value)} for tensor, value in values.items() if math.isfinite(value)}
    return {"name": name, "results": results, "gradient": gradient}


def write_node_data(
    path: Path, name: str, values: Mapping[str, float], *, less_is_worse: bool = False, overwrite: bool = False
) -> Path:
    """Write node data; returns the path.

    Raises:
        ExportError: the file exists and ``overwrite`` is False, or it cannot be written.
    """
    document = node_data(name, values, less_is_worse)
    return write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n", overwrite)


def by_tensor(scopes: Mapping[str, str], values: Mapping[str, float]) -> dict[str, float]:
    """Return values of layers by the tensors of an artifact.

    Args:
        scopes: of tensors and weights, by name, as ``qat.exporters.inspection`` reads them from an artifact.
        values: by scope.

    Examples:
        >>> by_tensor({"conv_out": "features.0", "fc_out": "head"}, {"features.0": 0.25})
        {'conv_out': 0.25}
    """
    return {tensor: values[scope] for tensor, scope in scopes.items() if scope in values}
