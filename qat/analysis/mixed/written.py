"""The files of a result: ``mixed_precision.json``, and the front as a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qat.system.atomic_files import write_atomically

from .result import MixedPrecision, Point

#: The name of the files, without a suffix.
NAME = "mixed_precision"


def write_result(result: MixedPrecision, folder: Path) -> Path:
    """Write the result and its plot into a folder; return the path of the JSON."""
    write_atomically(folder / f"{NAME}.png", plot(result), overwrite=True)
    text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
    return write_atomically(folder / f"{NAME}.json", text, overwrite=True)


def plot(result: MixedPrecision) -> bytes:
    """Return the front as a PNG: the drop against the size or latency, predicted and measured, and the uniform point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    by_size = result.minimized == "size"

    def line(points: list[Point], x: Callable[[Point], float], y: Callable[[Point], float], **style: Any) -> None:
        axes.plot([x(p) for p in points], [y(p) for p in points], **style)

    points = list(result.points)
    # Both against the predicted cost, so that a point's two drops stand one above the other.
    cost = _weights if by_size else _kernels
    line(points, cost, lambda p: p.predicted_drop, color="#bab0ac", marker="o", linestyle="--", label="predicted")
    line(points, cost, lambda p: p.drop, color="#54a24b", marker="o", label="measured in the runtime")
    if result.uniform is not None:
        line([result.uniform], cost, lambda p: p.drop, color="#4c78a8", marker="s", linestyle="", label="uniform")
    if result.max_drop is not None:
        axes.axhline(result.max_drop, color="#e45756", linewidth=1, linestyle=":", label="budget")
    axes.set_xlabel("weights, KiB" if by_size else "kernels and conversions, ms")
    axes.set_ylabel("drop against float")
    axes.set_title(f"mixed precision for {result.target}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _weights(point: Point) -> float:
    return point.predicted.bytes / 1024


def _kernels(point: Point) -> float:
    return point.predicted.ms
