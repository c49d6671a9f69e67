"""What a batch of evaluation costs against float in channels_last: without gradients, 32 images of 64x64, on one thread.

    python benchmarks/evaluation_cost.py [MODEL ...] [--runs 20] [--write docs/benchmarks.md]

Both kinds take turns; the median of the CPU's seconds counts.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from sections import machine, table, write_section
from step_rows import MODELS, torch_model

import qat

NAMES = tuple(name for name in MODELS if name != "keras")
WARM_UP = 5


@torch.no_grad()
def seconds_of(name: str, runs: int) -> dict[str, float]:
    """Return the median seconds of the CPU of each kind's batch."""
    model, x, _ = torch_model(name)
    ours = qat.calibrate(qat.prepare(model, x), [x]).eval()
    last, images = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    calls = {"float": lambda: last(images), "qat": lambda: ours(x)}
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    for turn in range(WARM_UP + runs):
        for kind, call in calls.items():
            started = time.process_time()
            call()
            if turn >= WARM_UP:
                times[kind].append(time.process_time() - started)
    return {kind: statistics.median(taken) for kind, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["mobilenet_v2", "resnet18"], help=f"of {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="write the table into a document, too")
    options = parser.parse_args()
    if unknown := set(options.models) - set(NAMES):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}; valid: {', '.join(NAMES)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for model in options.models:
        seconds = seconds_of(model, options.runs)
        figures = [f"{1e3 * spent:.0f} ms" for spent in seconds.values()]
        rows.append((MODELS[model][0], *figures, f"{seconds['qat'] / seconds['float']:.2f}"))
        print(*rows[-1], sep=", ", flush=True)
    if options.write:
        titles = ("32 images of 64x64", "float, channels_last", "qat", "ratio")
        write_section(options.write, "evaluation", f"{table(titles, rows)}\n\nMeasured on one thread of {machine()}.")


if __name__ == "__main__":
    main()
