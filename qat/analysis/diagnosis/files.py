"""The files of a diagnosis: the figures, a page to look at, and the SQNR of each tensor for Google's Model Explorer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qat.report.html.render import write_page
from qat.report.model_explorer import write_node_data
from qat.system.atomic_files import make_folder, refuse_existing, write_atomically

from .html import web_page
from .result import Diagnosis

#: The names of the files by what they hold.
NAMES = {"figures": "diagnosis.json", "nodes": "model_explorer.json", "report": "report.html"}


def write_results(found: Diagnosis, folder: Path, overwrite: bool = False) -> Mapping[str, Path]:
    """Write the files of :data:`NAMES`, and return their paths.

    Raises:
        ExportError: a file exists and ``overwrite`` is False, or cannot be written.
    """
    paths = {what: folder / name for what, name in NAMES.items()}
    if not overwrite:
        refuse_existing(*paths.values())
    make_folder(folder)
    write_atomically(paths["figures"], json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n", overwrite=True)
    quality = {step.quantized_name: step.sqnr for step in found.facts.steps}
    write_node_data(paths["nodes"], "SQNR against float, dB", quality, less_is_worse=True, overwrite=True)
    write_page(web_page(found), paths["report"], overwrite=True)
    return paths
