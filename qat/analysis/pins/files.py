"""Files of pinned layers, beside the float file whose operators they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qat.runtimes import TFLITE, format_of
from qat.system.atomic_files import write_atomically

from .forms import ai_edge_recipe, layer_precisions, nodes_to_exclude
from .places import Place

#: The files by their names, of an ``.onnx`` and of a ``.tflite``; each is written of the places in a float file.
_OF_ONNX: Mapping[str, Callable[[Sequence[Place], Path], str]] = {
    "onnxruntime_nodes_to_exclude.json": lambda places, _: json.dumps(nodes_to_exclude(places), indent=2) + "\n",
    "tensorrt_layer_precisions.txt": lambda places, _: layer_precisions(places) + "\n",
}
_OF_TFLITE: Mapping[str, Callable[[Sequence[Place], Path], str]] = {
    "ai_edge_recipe.json": lambda places, path: json.dumps(ai_edge_recipe(places, path), indent=2) + "\n",
}


def write_pins(places: Sequence[Place], path: Path, folder: Path) -> dict[str, Path]:
    """Write the pins as the tools for a float file take them; what is there is replaced.

    Args:
        places: of the pins in the float file, see :func:`qat.analysis.pins.places.places_of`.
        path: of the float file.
        folder: of the new files.

    Returns:
        The paths by the files' names without suffixes.

    Raises:
        ExportError: a file cannot be written.
    """
    forms = _OF_TFLITE if format_of(path) is TFLITE else _OF_ONNX
    return {Path(name).stem: write_atomically(folder / name, text(places, path), overwrite=True) for name, text in forms.items()}
