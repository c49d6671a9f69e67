"""The files of a report: summary.json, summary.md, report.html and the plots."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.system.atomic_files import write_atomically

from .cards import samples_dict
from .entry import Entry
from .html.render import write_page
from .report import WORDS, Report
from .webpage import figures_of, page_of, score_interval


def to_dict(report: Report, folder: Path) -> dict[str, Any]:
    """Return a report as JSON-ready values, paths relative to ``folder``."""
    return {
        "framework": report.framework,
        "dataset": report.dataset,
        "n_eval": report.n_eval,
        "decision": report.decision,
        "measured": [m.name for m in report.measured],
        "reference": report.reference,
        "reference_is_float": report.against_float,
        "entries": [_entry_dict(e, report, folder) for e in report.entries],
        "examined": report.examined,
        "samples": samples_dict(report),
        "output_differences": _differences(report),
        **report.story.document,
    }


def _differences(report: Report) -> dict[str, list[float]] | None:
    if report.errors is None:
        return None
    return {"edges": list(report.errors.edges), "counts": list(report.errors.series[0].counts)}


def document_of(reports: Sequence[Report], folder: Path) -> dict[str, Any]:
    """Return the reports of a run as summary.json holds them."""
    return {"results": [to_dict(report, folder) for report in reports]}


def _entry_dict(e: Entry, report: Report, folder: Path) -> dict[str, Any]:
    def finite(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value

    low, high = score_interval(report, e) or (None, None)
    out: dict[str, Any] = {
        "name": e.name,
        "kind": e.kind,
        "tool": e.tool,
        "recipe": e.recipe,
        "path": None if e.path is None else os.path.relpath(e.path, folder),
        "bytes": e.bytes,
        "size_ratio": e.size_ratio,
        "top1": e.top1,
        "top1_low": low,
        "top1_high": high,
        "delta": e.delta,
        "delta_low": e.delta_low,
        "delta_high": e.delta_high,
        "agreement": e.agreement,
        "p_float": e.p_float,
        "p_best_ptq": e.p_best_ptq,
        "confidence_drift": e.drift,
        "output_mse": e.mse,
        "sqnr_db": finite(e.sqnr),
        "latency_ms_p50": e.latency_p50,
        "latency_ms_p95": e.latency_p95,
    }
    if e.metrics:
        out["metrics"] = dict(e.metrics)
    if e.error is not None:
        out["error"] = e.error
    if e.parity is not None:
        out["parity"] = e.parity.to_dict()
    return out


def write_report(reports: Sequence[Report], folder: Path) -> Path:
    """Write summary.json, summary.md, report.html and the plots into ``folder``; returns the path of summary.json.

    Raises:
        ExportError: a file cannot be written.
        MissingDependencyError: a package that draws the page is not installed; the summaries are written all the same.
    """
    document = document_of(reports, folder)
    write_atomically(folder / "summary.md", "\n".join(_markdown(r) for r in reports), overwrite=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    summary = write_atomically(folder / "summary.json", text, overwrite=True)
    write_page(page_of(reports), folder / "report.html", overwrite=True, prefix="")
    return summary


def _markdown(report: Report) -> str:
    titles, entries = report.rows()
    rows = [
        f"## {report.title}\n",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" + "---:|" * (len(titles) - 1),
        *("| " + " | ".join(cells) + " |" for cells in entries),
        *(f"\n{sentence}" for sentence in report.sentences()),
        f"\nThe words of this report, with an example of each: {WORDS}",
        "",
    ]
    images = [f"![{figure.plot.title}]({figure.name}.png)" for figure in figures_of(report)]
    return "\n".join([*rows, *images, ""])
