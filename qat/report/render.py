"""The files of a report: summary.json, summary.md and the plots."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.system.atomic_files import write_atomically

from .entry import Entry
from .report import WORDS, Report


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
        "entries": [_entry_dict(e, folder) for e in report.entries],
    }


def document_of(reports: Sequence[Report], folder: Path) -> dict[str, Any]:
    """Return the reports of a run as summary.json holds them."""
    return {"results": [to_dict(report, folder) for report in reports]}


def _entry_dict(e: Entry, folder: Path) -> dict[str, Any]:
    def finite(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value

    out: dict[str, Any] = {
        "name": e.name,
        "kind": e.kind,
        "tool": e.tool,
        "recipe": e.recipe,
        "path": None if e.path is None else os.path.relpath(e.path, folder),
        "bytes": e.bytes,
        "size_ratio": e.size_ratio,
        "top1": e.top1,
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
    """Write summary.json, summary.md and the plots into ``folder``; returns the path of summary.json."""
    document = document_of(reports, folder)
    write_atomically(folder / "summary.md", "\n".join(_markdown(r) for r in reports), overwrite=True)
    for report in reports:
        for name, image in _plots(report).items():
            write_atomically(folder / f"{report.framework}_{name}.png", image, overwrite=True)
    return write_atomically(folder / "summary.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n", overwrite=True)


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
    images = [f"![{name}]({report.framework}_{name}.png)" for name in _plotted(report)]
    return "\n".join([*rows, *images, ""])


_COLOURS = {"float": "#4c78a8", "control": "#72a0c8", "ptq": "#bab0ac", "qat": "#54a24b"}


def _plots(report: Report) -> dict[str, bytes]:
    """Return the plots as PNG: the metric (accuracy with 95 % Wilson intervals), size, confidence drift."""
    from .statistics import wilson

    done = [e for e in report.entries if e.bytes]
    title, plotted, metric = report.title, _plotted(report), report.metric
    plots = {"size": _bars(done, [e.bytes / 1024 for e in done], "size, KiB", title, ".0f")}
    if "drift" in plotted:
        plots["drift"] = _bars(done, [e.drift or 0.0 for e in done], "mean change of the largest probability", title, ".4f")
    if "accuracy" in plotted and metric is not None:
        values, errors, label = [e.score(metric) or 0.0 for e in done], None, metric.heading
        if metric.name == "top1":
            intervals = [wilson(value, report.n_eval) for value in values]
            pairs = list(zip(values, intervals, strict=True))
            errors = [[value - low for value, (low, _) in pairs], [high - value for value, (_, high) in pairs]]
            label = "top-1 accuracy, % (95 % Wilson interval)"
        plots["accuracy"] = _bars(done, values, label, title, ".2f" if metric.unit else ".4g", errors)
    return plots


def _plotted(report: Report) -> list[str]:
    """Return the names of the plots of a report."""
    drift = any(e.drift is not None for e in report.entries)
    return [*(["accuracy"] if report.metric is not None else []), "size", *(["drift"] if drift else [])]


def _bars(entries: list[Entry], values: list[float], label: str, title: str, form: str, errors: Any = None) -> bytes:
    """Return bars from zero; values with ``errors`` (below, above) are points, since their axis starts elsewhere."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.42 * len(entries) + 1.4), layout="constrained")
    axes = figure.subplots()
    names, colours = [e.name for e in entries], [_COLOURS.get(e.kind, "#bab0ac") for e in entries]
    if errors is None:
        floor, ends = 0.0, values
        axes.barh(names, values, color=colours)
    else:
        floor = max(0.0, min(v - below for v, below in zip(values, errors[0], strict=True)) - 1.0)
        ends = [v + above for v, above in zip(values, errors[1], strict=True)]
        axes.errorbar(values, names, xerr=errors, fmt="none", ecolor="#555555", capsize=2, linewidth=1)
        axes.scatter(values, names, color=colours, s=60, zorder=3)
    reach = max(ends) - floor
    for place, (value, end) in enumerate(zip(values, ends, strict=True)):
        axes.text(end + 0.012 * reach, place, format(value, form), va="center", fontsize=9)
    reference = next((v for e, v in zip(entries, values, strict=True) if e.kind == "float"), None)
    if reference is not None and errors is not None:
        axes.axvline(reference, color=_COLOURS["float"], linewidth=1, linestyle="--")
    axes.set_xlim(floor, floor + 1.12 * reach if reach > 0 else floor + 1)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()
