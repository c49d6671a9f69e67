"""The renderer of benchmarks/accuracy.py: rows with McNemar's test over all seeds, as JSON and as Markdown tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qat.report.decision import shown_p
from qat.report.statistics import mcnemar_of_hits

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"  # has each table between <!-- NAME: begin --> and <!-- NAME: end -->
ORDER = ["float", "control", "W8A8", "W8A8 per tensor", "W4A8", "W4A4", "W3A3"]
PEERS = ("torchao", "NNCF", "torch.ao", "Brevitas")


@dataclass
class Method:
    """One tool at certain bits, over its seeds.

    Attributes:
        right: by seed, which test images were classified rightly.
        seconds: by seed, of training.
    """

    row: str
    tool: str
    runs_in: str
    right: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def top1(self) -> list[float]:
        """Return the accuracy of each seed, in their order, in percent."""
        return [100 * float(self.right[seed].mean()) for seed in sorted(self.right)]

    @property
    def mean_seconds(self) -> float | None:
        """Return the mean time of training, or None for what is not trained."""
        known = [s for s in self.seconds.values() if s]
        return float(np.mean(known)) if known else None


def write_tables(folder: Path) -> None:
    """Read the results of a folder; write docs/accuracy.json and the two tables in docs/benchmarks.md.

    A row that the folder has nothing of keeps the figures that docs/accuracy.json has.
    """
    methods, figures = read(folder), ROOT / "docs" / "accuracy.json"
    kept = [r for r in json.loads(figures.read_text()) if (r["row"], r["tool"]) not in methods]
    records = sorted([record(m, methods) for m in methods.values()] + kept, key=lambda r: _place(r["row"], r["tool"]))
    figures.write_text(json.dumps(records, indent=1) + "\n")
    for name, table in (("accuracy", long_table(records)), ("peers", short_table(records))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = PAGE.read_text().split(begin)
        PAGE.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def read(folder: Path) -> dict[tuple[str, str], Method]:
    """Return the methods of a folder by row and tool."""
    found: dict[tuple[str, str], Method] = {}
    for path in sorted((folder / "predictions").glob("*.json")):
        entry = json.loads(path.read_text())
        key = (entry["row"], entry["tool"])
        method = found.setdefault(key, Method(*key, entry["runs_in"]))
        method.right[entry["seed"]] = np.load(path.with_suffix(".npy"))
        method.seconds[entry["seed"]] = entry["seconds"]
    return found


def _place(row: str, tool: str) -> tuple[int, str]:
    """Return where a row stands in the tables."""
    return ORDER.index(row), tool.lower()


def record(method: Method, methods: dict[tuple[str, str], Method]) -> dict[str, Any]:
    """Return what is known of a method, JSON-ready."""
    made: dict[str, Any] = {
        "row": method.row,
        "tool": method.tool,
        "runs_in": method.runs_in,
        "seeds": sorted(method.right),
        "top1": [round(value, 2) for value in method.top1],
        "seconds": None if method.mean_seconds is None else round(method.mean_seconds, 1),
    }
    control = methods.get(("control", "float"))
    if control is not None and method is not control:
        made["against_control"] = against(method, control)
    best = best_peer(method, methods)
    if best is not None:
        made["best_peer"], made["against_best_peer"] = best.tool, against(method, best)
    return made


def best_peer(method: Method, methods: dict[tuple[str, str], Method]) -> Method | None:
    """Return the peer whose QAT of the same bits is right most often, for one of ours."""
    if not method.tool.startswith("qat"):
        return None
    peers = [methods[key] for key in methods if key[0] == method.row and key[1] in {f"{peer} QAT" for peer in PEERS}]
    return max(peers, key=lambda peer: float(np.mean(peer.top1)), default=None)


def against(method: Method, other: Method) -> dict[str, float] | None:
    """Return the difference in points and McNemar's p over the seeds that both have; the seeds' images are pooled."""
    seeds = sorted(set(method.right) & set(other.right))
    if not seeds:
        return None
    a, b = (np.concatenate([m.right[seed] for seed in seeds]) for m in (method, other))
    return {"points": round(100 * float(a.mean() - b.mean()), 2), "p": mcnemar_of_hits(a, b)}


def long_table(records: list[dict[str, Any]]) -> str:
    """Return the table of docs/benchmarks.md, one line for a method."""
    lines = ["| bits | method | evaluated in | seeds | top-1 % | against the control | against the best peer | CPU s |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for r in records:
        top1, best = r["top1"], r.get("against_best_peer")
        cells = [
            r["row"],
            r["tool"],
            r["runs_in"],
            str(len(top1)),
            f"{np.mean(top1):.2f}" + (f" ({min(top1):.2f} to {max(top1):.2f})" if len(top1) > 1 else ""),
            _difference(r.get("against_control")),
            "" if best is None else f"{r['best_peer'].removesuffix(' QAT')}: {_difference(best)}",
            "" if r["seconds"] is None else f"{r['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short_table(records: list[dict[str, Any]]) -> str:
    """Return the peers' table, one line for each choice of bits: accuracy over the seeds that all have, and CPU seconds."""
    by = {(r["row"], r["tool"]): r for r in records}
    control = by.get(("control", "float"))
    lines = [f"| bits | float | PTQ | **qat** | {' | '.join(PEERS)} |", "|" + "---|" * (4 + len(PEERS))]
    for row in [row for row in ORDER if (row, "qat QAT") in by]:
        shown = [control, *(by.get((row, tool)) for tool in ("qat PTQ", "qat QAT", *(f"{peer} QAT" for peer in PEERS)))]
        seeds = set.intersection(*(set(r["seeds"]) for r in shown if r is not None))
        cells = [_cell(r, seeds) for r in shown]
        cells[2] = f"**{cells[2]}**"
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: dict[str, Any] | None, seeds: set[int]) -> str:
    if record is None:
        return "–"
    top1 = [value for seed, value in zip(record["seeds"], record["top1"], strict=True) if seed in seeds]
    seconds = "" if record["seconds"] is None else f" ({record['seconds']:.0f} s)"
    return f"{np.mean(top1):.2f}{seconds}"


def _difference(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['points']:+.2f}, {shown_p(found['p'])}"
