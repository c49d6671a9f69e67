"""The files of a result: its figures, and a page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qat.report.html.render import write_page
from qat.system.atomic_files import write_atomically

from .html import web_page
from .result import MixedPrecision


def write_results(found: MixedPrecision, folder: Path) -> Mapping[str, Path]:
    """Write ``mixed_precision.json`` and ``report.html`` beside the points, whose own files the user did not mind replacing.

    Returns:
        The paths by ``figures`` and ``report``.

    Raises:
        ExportError: a file cannot be written.
    """
    text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n"
    return {
        "figures": write_atomically(folder / "mixed_precision.json", text, overwrite=True),
        "report": write_page(web_page(found), folder / "report.html", overwrite=True),
    }
