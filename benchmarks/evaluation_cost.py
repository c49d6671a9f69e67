"""What a batch of evaluation costs against float in channels_last: without gradients, 32 images of 64x64, on one thread.

    python benchmarks/evaluation_cost.py [MODEL ...] [--runs 20]

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
from step_rows import torch_model

import qat

MODELS = ("mobilenet_v2", "resnet18", "vit")
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
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", default=["mobilenet_v2", "resnet18"], help=f"of {', '.join(MODELS)}"
    )
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}; valid: {', '.join(MODELS)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for model in options.models:
        seconds = seconds_of(model, options.runs)
        figures = ", ".join(f"{kind} {1e3 * spent:.1f} ms" for kind, spent in seconds.items())
        print(f"{model}: {figures}, ratio {seconds['qat'] / seconds['float']:.2f}", flush=True)


if __name__ == "__main__":
    main()
