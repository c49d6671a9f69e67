"""The renderer of benchmarks/accuracy.py: rows with McNemar's test against the float control, as JSON and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

DOCS = Path(__file__).resolve().parent.parent / "docs"
#: What is printed in place of the table between these lines of docs/benchmarks.md.
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"


def write_tables(folder: Path) -> None:
    """Read the results of a folder; write docs/accuracy.json and the table in docs/benchmarks.md."""
    entries = [json.loads(path.read_text()) | {"stem": path.stem} for path in sorted((folder / "predictions").glob("*.json"))]
    right = {e["stem"]: np.load(folder / "predictions" / f"{e['stem']}.npy") for e in entries}
    for e in entries:
        control = right.get(f"float_control_{e['seed']}")
        e["p_control"] = None if control is None else mcnemar(right[e["stem"]], control)
        best = _best_peer(e, entries)
        e["p_best_peer"] = None if best is None else mcnemar(right[e["stem"]], right[best["stem"]])
    shown = [{k: v for k, v in e.items() if k != "stem"} for e in entries]
    (DOCS / "accuracy.json").write_text(json.dumps(shown, indent=1) + "\n")
    page = DOCS / "benchmarks.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(shown)}\n{END}{rest.split(END)[1]}")


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Return the exact two-sided p-value that both are right equally often; ``a`` and ``b`` say which images were."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return 1.0 if only_a + only_b == 0 else float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _best_peer(entry: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the best QAT of another tool with the same bits and seed, for one of ours."""
    if not entry["tool"].startswith("qat"):
        return None
    same = [e for e in entries if (e["row"], e["seed"]) == (entry["row"], entry["seed"])]
    peers = [e for e in same if e["tool"].endswith("QAT") and not e["tool"].startswith("qat")]
    return max(peers, key=lambda e: e["top1"], default=None)


def table(entries: list[dict[str, Any]]) -> str:
    """Return a Markdown table, one line for a tool at certain bits, means over its seeds."""
    lines = ["| bits | method | evaluated in | seeds | top-1 % | against the control, p | against the best peer, p | CPU s |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for e in entries:
        groups.setdefault((e["row"], e["tool"]), []).append(e)
    order = ["float", "control", "W8A8", "W8A8 per tensor", "W4A8", "W4A4", "W3A3"]
    for (row, tool), found in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1].lower())):
        top1 = [e["top1"] for e in found]
        seconds = [e["seconds"] for e in found if e["seconds"]]
        cells = [
            row,
            tool,
            found[0]["runs_in"],
            str(len(found)),
            f"{np.mean(top1):.2f}" + (f" ({min(top1):.2f} to {max(top1):.2f})" if len(top1) > 1 else ""),
            _shown([e["p_control"] for e in found]),
            _shown([e["p_best_peer"] for e in found]),
            f"{np.mean(seconds):.0f}" if seconds else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(values: list[float | None]) -> str:
    return ", ".join("p < 1e-9" if p < 1e-9 else f"{p:.2g}" for p in values if p is not None)
