"""What the toolkit covers: for each architecture, how much of it runs in integers and how equal the artifact is.

    python benchmarks/coverage.py [--only NAME ...] [--framework torch|keras|tf_keras] [--format onnx|tflite] [--again]
        [--output docs/coverage.md]

Every row is a process of its own with a time limit. The results are merged into a JSON file beside the output, from which the
table is written; rows that are there already are kept, unless named with ``--only`` or asked for with ``--again``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, Architecture
from sections import keep

HERE = Path(__file__).parent
TEXT = HERE / "coverage_text.md"  # what stands above the table
COLUMNS = (
    "architecture", "integer MACs", "equal outputs", "LSB mean / max", "top-1", "size", "prepare / export / verify, s",
    "float operators, or the failure",
)  # fmt: skip
SPELLED = {"torch": "PyTorch", "keras": "Keras 3", "tf_keras": "tf_keras"}
PAIRS = tuple(dict.fromkeys((a.framework, a.format) for a in ARCHITECTURES))


def of_one_thread() -> dict[str, str]:
    """Return the environment of a row's process: one thread, and this toolkit to import."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", ""))),
    }


def measure(architecture: Architecture, limit: float) -> dict[str, Any]:
    """Return the row of an architecture, measured in a process of its own; a failure is a row with an ``error``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, str(HERE / "coverage_row.py"), architecture.key, str(out)]
        try:
            done = subprocess.run(command, env=of_one_thread(), timeout=limit, capture_output=True, text=True, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {limit:.0f} s"}
        if not out.exists():
            return {"error": f"the process ended with code {done.returncode}: {' '.join(done.stderr.split()[-30:])[-300:]}"}
        row: dict[str, Any] = json.loads(out.read_text())
        if "error" in row:
            print(done.stderr[-3000:], file=sys.stderr)
        return row


def shown_row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's cells."""
    if "error" in row:
        return (name, *["-"] * 6, "failed: " + " ".join(row["error"].split())[:220].replace("|", "\\|"))
    floats = "; ".join(f"{n}x {short(op)}: {reason}" for op, reason, n in row["float_ops"][:6])
    more = len(row["float_ops"]) - 6
    first = f" First difference: {row['first_difference']}." if row["first_difference"] else ""
    return (
        name,
        percent(row["integer_macs"]),
        percent(row["exact"], 2),
        f"{row['mean_lsb']:.2g} / {row['max_lsb']:.2g}",
        percent(row["top1"]),
        f"{row['size_ratio']:.2f}",
        f"{row['prepare_s']:.0f} / {row['export_s']:.0f} / {row['verify_s']:.0f}",
        (floats + (f"; {more} more kinds" if more > 0 else "") + first).replace("|", "\\|"),
    )


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, never rounded up to 100."""
    if share is None:
        return "-"
    return "100" if share == 1 else f"{min(100 * share, 100 - 10.0**-digits):.{digits}f}"


def short(op: str) -> str:
    """Return an operator's name without its namespace."""
    return op.removeprefix("aten.").removesuffix(".default")


def render(results: dict[str, dict[str, Any]]) -> str:
    """Return the markdown: the text, then a table a framework."""
    parts = [TEXT.read_text().rstrip() if TEXT.exists() else "# Coverage"]
    for framework, fmt in PAIRS:
        rows = [
            shown_row(a.name, results[a.key])
            for a in ARCHITECTURES
            if (a.framework, a.format) == (framework, fmt) and a.key in results
        ]
        if rows:
            lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
            parts.append(f"## {SPELLED[framework]} to .{fmt}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, by name or framework/name")
    parser.add_argument("--framework", choices=("torch", "keras", "tf_keras"))
    parser.add_argument("--format", choices=("onnx", "tflite"))
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--limit", type=float, default=240, help="seconds a row may take")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "coverage.md")
    options = parser.parse_args()
    valid = {n for a in ARCHITECTURES for n in (a.name, a.key)}
    if unknown := set(options.only or ()) - valid:
        parser.error(f"unknown architecture: {', '.join(sorted(unknown))}; valid: {', '.join(a.key for a in ARCHITECTURES)}")
    store = options.output.with_suffix(".json")
    results: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    for architecture in ARCHITECTURES:
        if options.framework not in (None, architecture.framework) or options.format not in (None, architecture.format):
            continue
        named = options.only is None or architecture.name in options.only or architecture.key in options.only
        measured = "error" not in results.get(architecture.key, {"error": ""})
        if not named or (measured and not options.only and not options.again):
            continue
        started = time.perf_counter()
        row = measure(architecture, options.limit)
        results[architecture.key] = row
        keep(results, store)
        cells = shown_row(architecture.name, row)
        print(f"{architecture.key} ({time.perf_counter() - started:.0f} s): " + " | ".join(cells[1:]), flush=True)
    options.output.write_text(render(results))
    print(f"{options.output} ({platform.machine()}, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
