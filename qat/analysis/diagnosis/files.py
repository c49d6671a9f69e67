"""The files of a diagnosis: the figures, and a page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qat.report.html.render import write_page
from qat.system.atomic_files import make_folder, refuse_existing, write_atomically

from .html import web_page
from .result import Diagnosis

#: The names of the files by what they hold.
NAMES = {"figures": "diagnosis.json", "report": "report.html"}


def write_results(found: Diagnosis, folder: Path, overwrite: bool = False) -> Mapping[str, Path]:
    """Write ``diagnosis.json`` and ``report.html``; returns their paths by ``figures`` and ``report``.

    Raises:
        ExportError: a file exists and ``overwrite`` is False, or cannot be written.
    """
    paths = {what: folder / name for what, name in NAMES.items()}
    if not overwrite:
        refuse_existing(*paths.values())
    make_folder(folder)
    write_atomically(paths["figures"], json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n", overwrite=True)
    write_page(web_page(found), paths["report"], overwrite=True)
    return paths
