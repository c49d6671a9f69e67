"""Two processes on two cores against one: images a second of a training step, qat's and float's in channels_last.

    python benchmarks/two_processes.py [MODEL ...] [--runs 15] [--json docs/two_processes.json]
    python benchmarks/two_processes.py --json docs/two_processes.json --render docs/benchmarks.md

A process trains on 32 images of 64x64; two exchange gradients by PyTorch's DistributedDataParallel, over Gloo, one thread each.
Beside them one process on one thread, and one on two threads with 64 images. Seconds are those of the clock, since processes wait
for each other: it needs a quiet machine of two cores. The median of the slower process counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from sections import options_of, parsed, render_or_measure, table

MODELS = ("mobilenet_v2", "resnet18")
KINDS = ("float", "qat")
BATCH, WARM_UP = 32, 3


@dataclass(frozen=True)
class Setting:
    """How a step is computed: in how many processes, each on how many threads, each of how many images."""

    title: str
    processes: int
    threads: int
    images: int


SETTINGS = (
    Setting("one process, one thread", 1, 1, BATCH),
    Setting("one process, two threads", 1, 2, 2 * BATCH),
    Setting("two processes, one thread each", 2, 1, BATCH),
)


def seconds_here(name: str, kind: str, setting: Setting, rank: int, meeting: str, runs: int) -> float:
    """Return the median seconds of a step in this process."""
    import torch
    from step_rows import torch_model, torch_step
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    import qat

    model, x, labels = torch_model(name)
    torch.set_num_threads(setting.threads)
    parts = setting.images // len(x)
    x, labels = x.repeat(parts, 1, 1, 1).contiguous(memory_format=torch.channels_last), labels.repeat(parts)
    model = model.to(memory_format=torch.channels_last)
    model = qat.calibrate(qat.prepare(model, x[:2]), [x], progress=False) if kind == "qat" else model
    model.train()
    if setting.processes > 1:
        distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=setting.processes)
        model = DistributedDataParallel(model)
    step = torch_step(model, x, labels)
    times = []
    for turn in range(WARM_UP + runs):
        started = time.perf_counter()
        step()
        if turn >= WARM_UP:
            times.append(time.perf_counter() - started)
    if setting.processes > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return statistics.median(times)


def rate_of(name: str, kind: str, setting: Setting, runs: int) -> float:
    """Return the images a second of all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        index = SETTINGS.index(setting)
        rows = [json.dumps([name, kind, index, rank, str(Path(folder) / "meeting"), runs]) for rank in range(setting.processes)]
        environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads)}
        started = [
            subprocess.Popen([sys.executable, __file__, "--here", row], stdout=subprocess.PIPE, text=True, env=environment)
            for row in rows
        ]
        said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"a process of {name}, {kind}, {setting.title} failed")
    return setting.processes * setting.images / max(float(out.split()[-1]) for out in said)


def render(figures: dict[str, Any]) -> str:
    """Return images a second, and the second process's share, as a table."""
    rows = []
    for name, kinds in figures.items():
        for kind, rates in kinds.items():
            alone = rates[SETTINGS[0].title]
            cells = (f"{rates[s.title]:.0f}" + ("" if s is SETTINGS[0] else f" ({rates[s.title] / alone:.2f})") for s in SETTINGS)
            rows.append((f"{name}, {kind}", *cells))
    titles = ("images a second (of the first column)", *(s.title for s in SETTINGS))
    return table(titles, rows)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parsed(parser, MODELS)
    if options.here:
        name, kind, index, *rest = json.loads(options.here)
        print(seconds_here(name, kind, SETTINGS[index], *rest))
        return

    def measure(figures: dict[str, Any], keep: Callable[[], None]) -> None:
        for name in options.models:
            figures[name] = {kind: {s.title: rate_of(name, kind, s, options.runs) for s in SETTINGS} for kind in KINDS}
            keep()

    render_or_measure(options, "two processes", render, measure)


if __name__ == "__main__":
    main()
