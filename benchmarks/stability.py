"""Whether training by default diverges: the loss of each of the coverage table's nets over steps of fine-tuning.

    python benchmarks/stability.py [--only NAME ...] [--framework torch|keras|tf_keras] [--again] [--steps 40] [--limit 300]

Each net is prepared and calibrated as in benchmarks/coverage_row.py, then trained by the default options on the same four batches
of eight, again and again. Its weights are random, so that it starts near a model that says nothing. A row is a process of its
own. Figures are merged into docs/stability.json and written as a table into docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, Architecture

ROOT = Path(__file__).parents[1]
STORE, PAGE = ROOT / "docs" / "stability.json", ROOT / "docs" / "training.md"
MARKS = ("<!-- stability: begin -->", "<!-- stability: end -->")
BATCH, SAMPLES = 8, 32
TITLES = {"torch": "PyTorch", "keras": "Keras 3", "tf_keras": "tf_keras"}

Row = dict[str, Any]


def train_here(architecture: Architecture, steps: int) -> Row:
    """Return the mean loss of the first and the last pass over the batches, or the error that ended the run."""
    import coverage_row

    import qat
    from qat.errors import QatError

    coverage_row.BATCH = BATCH
    framework = architecture.framework
    if framework == "torch":
        import torch

        torch.manual_seed(0)
    model = architecture.build()
    arrays, labels = coverage_row.samples(architecture, SAMPLES, 1)
    coverage_row.settle(model, framework, arrays)
    data = coverage_row.batches(arrays, labels)
    try:
        prepared = qat.prepare(model, tuple(torch.from_numpy(a[:BATCH]) for a in arrays) if framework == "torch" else None)
        qat.calibrate(prepared, data)
        loss = None if architecture.scores else coverage_row.squares(framework)
        history = qat.finetune(prepared, data, loss=loss, epochs=steps // len(data), progress=False)
    except QatError as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"steps": history.steps, "first": history.epochs[0].loss, "last": history.epochs[-1].loss}


def train(architecture: Architecture, steps: int, limit: float) -> Row:
    """Return :func:`train_here` from a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    environment = {**os.environ, **threads, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--row", architecture.key, "--steps", str(steps)]
    try:
        done = subprocess.run(command, env=environment, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {limit:.0f} s"}
    if done.returncode:
        return {"error": f"the process ended with code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def render(results: dict[str, Row]) -> str:
    """Return a table for each framework, and a sentence of what they come to."""
    trained = [row for row in results.values() if "error" not in row]
    fell = sum(row["last"] < row["first"] for row in trained)
    lines = [f"{len(trained)} networks were trained with the default options; none diverged, and the loss of {fell} fell:", ""]
    lines += ["| framework | loss of the first pass over the same four batches → of the last, 40 steps in all |", "|---|---|"]
    for framework, title in TITLES.items():
        rows = [(a.name, results[a.key]) for a in ARCHITECTURES if a.framework == framework and a.key in results]
        shown = [f"{name} {row['first']:.3g} → {row['last']:.3g}" for name, row in rows if "error" not in row]
        lines += [f"| {title} | {', '.join(shown)} |"] if shown else []
    left = [f"{key} ({row['error']})" for key, row in results.items() if "error" in row]
    return "\n".join([*lines, "", f"Not trained here: {', '.join(left)}."] if left else lines)


def write(results: dict[str, Row]) -> None:
    """Keep the figures, and the table; a run that diverged is no figure to be kept in silence."""
    diverged = {key: row["error"] for key, row in results.items() if row.get("error", "").startswith("TrainingDiverged")}
    if diverged:
        raise SystemExit(f"diverged by default: {json.dumps(diverged, indent=1)}")
    head, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{head}{MARKS[0]}\n{render(results)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, by name or framework/name")
    parser.add_argument("--framework", choices=tuple(TITLES))
    parser.add_argument("--again", action="store_true", help="train those that are there already")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--limit", type=float, default=300, help="seconds a net may take")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(train_here(next(a for a in ARCHITECTURES if a.key == options.row), options.steps)))
        return
    results: dict[str, Row] = json.loads(STORE.read_text()) if STORE.exists() else {}
    for architecture in ARCHITECTURES:
        key, names = architecture.key, options.only or (architecture.name,)
        if architecture.name not in names and key not in names:
            continue
        if options.framework not in (None, architecture.framework) or (key in results and not options.again):
            continue
        results[key] = train(architecture, options.steps, options.limit)
        STORE.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{key}: {results[key]}", flush=True)
    write(results)


if __name__ == "__main__":
    main()
