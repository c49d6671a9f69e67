"""The files of a measurement: the figures, the recipes that were tried, and a page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qat.planning.recipe_text import recipe_yaml
from qat.report.html.render import write_page
from qat.system.atomic_files import make_folder, refuse_existing, write_atomically

from .html import web_page
from .result import Sensitivity


def write_results(found: Sensitivity, folder: Path, overwrite: bool = False) -> Mapping[str, Path]:
    """Write ``sensitivity.json``, ``recipe.yaml`` (the chosen recipe, where recipes were tried) and ``report.html``.

    Returns:
        The paths by ``figures``, ``recipe`` and ``report``.

    Raises:
        ExportError: a file exists and ``overwrite`` is False, or cannot be written.
    """
    paths = {"figures": folder / "sensitivity.json", "recipe": folder / "recipe.yaml", "report": folder / "report.html"}
    if not overwrite:
        refuse_existing(*paths.values())
    make_folder(folder)
    write_atomically(paths["figures"], json.dumps(found.to_dict(), indent=2) + "\n", overwrite=True)
    if found.chosen is not None:
        write_atomically(paths["recipe"], recipe_yaml(found.chosen.recipe), overwrite=True)
    else:
        del paths["recipe"]
    write_page(web_page(found), paths["report"], overwrite=True)
    return paths
