"""The files of a measurement: the figures, the recipes that were tried, and a page to look at."""

from __future__ import annotations

import json
from pathlib import Path

from qat.planning.recipe_text import recipe_yaml
from qat.report.html.render import write_page
from qat.report.model_explorer import by_tensor, write_node_data
from qat.system.atomic_files import make_folder, refuse_existing, write_atomically

from .html import web_page
from .result import Sensitivity

_NAMES = {"figures": "sensitivity.json", "recipe": "recipe.yaml", "nodes": "model_explorer.json", "report": "report.html"}


def refuse_results(folder: Path) -> None:
    """Raise ExportError where a folder has results of a measurement."""
    refuse_existing(*(folder / name for name in _NAMES.values()))


def write_results(found: Sensitivity, folder: Path, overwrite: bool = False) -> dict[str, Path]:
    """Write ``sensitivity.json`` and ``report.html``; where recipes were tried, the chosen one and the losses for Model Explorer.

    Returns:
        The paths by ``figures``, ``recipe`` (``recipe.yaml``), ``nodes`` (``model_explorer.json``) and ``report``.

    Raises:
        ExportError: a file exists and ``overwrite`` is False, or cannot be written.
    """
    paths = {key: folder / name for key, name in _NAMES.items()}
    if not overwrite:
        refuse_results(folder)
    make_folder(folder)
    write_atomically(paths["figures"], json.dumps(found.to_dict(), indent=2) + "\n", overwrite=True)
    if found.chosen is not None:
        write_atomically(paths["recipe"], recipe_yaml(found.chosen.recipe), overwrite=True)
    else:
        del paths["recipe"]
    tensors = found.trials[0].tensors if found.trials else {}
    losses = by_tensor(tensors, {layer.layer: layer.loss for layer in found.layers})
    if losses:
        write_node_data(paths["nodes"], "loss with this layer alone quantized", losses, overwrite=True)
    else:
        del paths["nodes"]
    write_page(web_page(found), paths["report"], overwrite=True)
    return paths
