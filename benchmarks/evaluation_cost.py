"""What a batch of evaluation costs against float in channels_last: without gradients, 32 images of 64x64, on one thread.

    python benchmarks/evaluation_cost.py [MODEL ...] [--runs 20] [--json docs/evaluation_cost.json]
    python benchmarks/evaluation_cost.py --json docs/evaluation_cost.json --render docs/benchmarks.md

The model ``keras`` is Keras', by ``predict_on_batch``. Both kinds take turns; the median of the CPU's seconds counts.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from sections import options_of, parsed, render_or_measure, table
from step_rows import MODELS, keras_model, torch_model

import qat

WARM_UP = 5

#: A batch of evaluation by kind.
Calls = Mapping[str, Callable[[], Any]]


def in_torch(name: str) -> Calls:
    """Return the batches of a PyTorch model."""
    import torch

    model, x, _ = torch_model(name)
    ours = qat.calibrate(qat.prepare(model, x), [x]).eval()
    last, images = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return {"float": torch.no_grad()(lambda: last(images)), "qat": torch.no_grad()(lambda: ours(x))}


def in_keras(name: str) -> Calls:
    """Return the batches of a Keras model."""
    model, x, _ = keras_model(name)
    ours = qat.calibrate(qat.prepare(model), [x])
    for net in (model, ours):
        net.compile(jit_compile=False)
    return {"float": lambda: model.predict_on_batch(x), "qat": lambda: ours.predict_on_batch(x)}


def seconds_of(calls: Calls, runs: int) -> dict[str, float]:
    """Return the median seconds of the CPU of each kind's batch."""
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    for turn in range(WARM_UP + runs):
        for kind, call in calls.items():
            started = time.process_time()
            call()
            if turn >= WARM_UP:
                times[kind].append(time.process_time() - started)
    return {kind: statistics.median(taken) for kind, taken in times.items()}


def render(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as a table."""
    rows = []
    for model, seconds in figures.items():
        cells = [f"{1e3 * spent:.0f} ms" for spent in seconds.values()]
        rows.append((MODELS[model][0], *cells, f"{seconds['qat'] / seconds['float']:.2f}"))
    return table(("32 images of 64x64", "float, channels_last", "qat", "ratio"), rows)


def main() -> None:
    parser = options_of(__doc__)
    names = ["mobilenet_v2", "resnet18", "vit", "keras"]
    parser.add_argument("models", nargs="*", metavar="MODEL", default=names, help=f"of {', '.join(MODELS)}")
    parser.add_argument("--runs", type=int, default=20)
    options = parsed(parser, list(MODELS))

    def measure(figures: dict[str, dict[str, float]], keep: Callable[[], None]) -> None:
        for model in options.models:
            figures[model] = seconds_of((in_keras if model == "keras" else in_torch)(MODELS[model][2]), options.runs)
            keep()

    render_or_measure(options, "evaluation", render, measure)


if __name__ == "__main__":
    main()
