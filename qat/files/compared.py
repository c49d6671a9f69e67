"""Files side by side, without a configuration: on data for the inputs of the float one, as ``qat quantize`` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat import api
from qat.errors import ConfigError
from qat.report.compare import Comparable
from qat.report.records import distinct_names, record_of
from qat.report.report import Report
from qat.runtimes import FORMATS

from .inputs import BATCH, batches
from .opened import open_data
from .request import Request

_TIMED = 20


def compare_files(given: Sequence[str], data: Any, request: Request) -> Report:
    """Compare artifacts on samples without labels: a float one is the reference, else the first.

    Args:
        given: their paths, ``.onnx`` or ``.tflite``.
        data: see :func:`qat.files.data.samples_for`.
        request: how the data are read.

    Raises:
        ConfigError: one is no artifact.
        DataError: the data do not fit, or a file is damaged.
    """
    paths = [Path(text) for text in given]
    if other := next((text for text, path in zip(given, paths, strict=True) if path.suffix not in FORMATS), None):
        raise ConfigError(
            f"'{other}' is no artifact ({', '.join(FORMATS)}): with --data artifacts are compared; models and weights are with a "
            "configuration, qat compare CONFIG ..."
        )
    records: list[Comparable] = [record_of(path) for path in paths]
    names = distinct_names([path.stem for path in paths], paths)
    opened = open_data(paths[0], data, request, BATCH)
    found = [batch if len(batch) > 1 else batch[0] for batch in batches(opened.samples.arrays, opened.batch, opened.samples.axes)]
    entries = dict(zip(names, records, strict=True))
    return api.compare(entries, found, dataset=opened.samples.said, framework="", latency_runs=_TIMED)
