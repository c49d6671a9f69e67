"""One draw of a catalogue: the float model first, then a row of the coverage table for each format.

    python benchmarks/drawn_row.py timm resnet18 rows.json

Runs in a process of its own, which the draw starts. A file with ``unsuitable`` says why the draw does not count the model.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from architectures import FORMATS, Architecture
from catalogues import CUT, catalogue
from coverage_row import BATCH, MEMORY, call, example, fed, measure, samples

from qat.errors import QatError


def runs(architecture: Architecture) -> None:
    """Build the float model and run it on a batch. Raises whatever fails."""
    arrays, _ = samples(architecture, BATCH, 1)
    model = architecture.build()
    if architecture.framework == "torch":
        import torch

        model.eval()
        with torch.no_grad():
            call(architecture, model, {name: torch.from_numpy(a) for name, a in arrays.items()})
    else:
        model(example(architecture, fed(architecture, arrays)))


def main() -> None:
    package, name, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    result: dict[str, Any] = {}
    try:
        architecture = catalogue(package).architecture(name, FORMATS[0])
        runs(architecture)
    except Exception as error:  # whatever a public package raises before the toolkit sees the model
        out.write_text(json.dumps({"unsuitable": f"{type(error).__name__}: {str(error).strip()[:300]}"}))
        return
    for fmt in FORMATS:
        result[fmt] = {"error": CUT}  # what stays if a runtime aborts
        out.write_text(json.dumps(result))
        with tempfile.TemporaryDirectory() as folder:
            try:
                result[fmt] = measure(replace(architecture, format=fmt), Path(folder))
            except Exception as error:  # whatever fails is the row
                if not isinstance(error, QatError):
                    traceback.print_exc()
                result[fmt] = {"error": f"{type(error).__name__}: {str(error).strip()[:600]}"}
        out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
