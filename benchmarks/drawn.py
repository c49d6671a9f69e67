"""Draws public models by a seed and runs each: how many end in a running artifact, and how many of those are exact.

    python benchmarks/drawn.py --framework torch|keras [--count 100] [--seed 1] [--without drawn-1.json ...] [--output drawn.json]

A draw takes turns between the catalogues (benchmarks/catalogues), so that a package of a thousand names hides no smaller one.
Names of docs/coverage.md are left out, and so are those of the files given by ``--without``: a model that was drawn before is not
new. A name whose float model is too large, or does not build or run, is not counted. Every model is a process of its own with
a time limit; the results are written after each, and a draw that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, FORMATS
from catalogues import CUT, TURNS, catalogue
from coverage import of_one_thread
from sections import keep

HERE = Path(__file__).parent


def order(framework: str, seed: int, known: set[str]) -> Iterator[tuple[str, str]]:
    """Yield ``(catalogue, name)`` in the order of the draw: each catalogue's names shuffled, the catalogues in turns."""
    queues = {}
    for package in dict.fromkeys(TURNS[framework]):
        names = [name for name in catalogue(package).names() if f"{package}/{name}" not in known]
        random.Random(f"{seed}/{package}").shuffle(names)
        queues[package] = iter(names)
    while queues:
        for package in TURNS[framework]:
            if package in queues:
                name = next(queues[package], None)
                if name is None:
                    del queues[package]
                else:
                    yield package, name


def measured(framework: str, package: str, name: str, limit: float) -> dict[str, Any]:
    """Return the rows of a model, one a format, or why it is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / "drawn_row.py"), package, name, str(out)]
        late = False
        with (Path(folder) / "log").open("w") as log:
            try:
                subprocess.run(command, env=of_one_thread(), timeout=limit, stdout=log, stderr=log, check=False)
            except subprocess.TimeoutExpired:
                late = True
        said = " ".join((Path(folder) / "log").read_text(errors="replace").split()[-60:])[-600:]
        rows: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    end = f"took more than {limit:.0f} s" if late else f"ended the process: {said}"
    if not rows:
        return {"unsuitable": f"the float model {end}"}
    for row in rows.values():
        if isinstance(row, dict) and row.get("error") == CUT:
            row["error"] = end
    return rows


def ended(row: dict[str, Any] | None) -> bool:
    """Return whether a row is of a running artifact."""
    return row is not None and "error" not in row


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Return the two counts of each format."""
    counted = [rows for rows in results.values() if "unsuitable" not in rows]
    lines = [f"{len(counted)} models counted, {len(results) - len(counted)} drawn names not"]
    for fmt in FORMATS:
        rows = [rows[fmt] for rows in counted if fmt in rows]
        exact = sum(ended(row) and row["exact"] == 1.0 for row in rows)
        lines.append(f".{fmt}: {sum(map(ended, rows))} of {len(rows)} end in a running artifact, {exact} exact")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=sorted(TURNS), required=True)
    parser.add_argument("--count", type=int, default=100, help="models to count (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", type=Path, nargs="*", default=[], metavar="FILE", help="results of draws that came before")
    parser.add_argument("--limit", type=float, default=900, help="seconds a model may take, both formats (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("drawn.json"))
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = json.loads(options.output.read_text()) if options.output.exists() else {}
    listed = {a.arguments["name"] for a in ARCHITECTURES if "name" in a.arguments}
    known = {f"{package}/{name}" for package in TURNS[options.framework] for name in listed}
    for file in options.without:
        known |= set(json.loads(file.read_text()))
    for package, name in order(options.framework, options.seed, known):
        if sum("unsuitable" not in rows for rows in results.values()) >= options.count:
            break
        key = f"{package}/{name}"
        if key in results:
            continue
        started = time.perf_counter()
        rows = results[key] = measured(options.framework, package, name, options.limit)
        keep(results, options.output)
        shown = (
            f"not counted: {rows['unsuitable'][:150]}"
            if "unsuitable" in rows
            else "; ".join(f"{f} {rows[f].get('error', rows[f].get('exact'))}" for f in rows)
        )
        print(f"{key} ({time.perf_counter() - started:.0f} s): {shown}", flush=True)
    print(summary(results))


if __name__ == "__main__":
    main()
