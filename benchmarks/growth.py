"""How a training step grows with the batch, the images, the width of the model and accumulation: time and memory, of float's.

    python benchmarks/growth.py [--runs 7] [--json docs/growth.json] [--plot docs/growth.png]
    python benchmarks/growth.py --json docs/growth.json --plot docs/growth.png --render

The model is MobileNetV2 in channels_last, on one thread. Both kinds take turns, and the medians of the CPU's seconds count; peak
memory is that of benchmarks/step_cost.py, in a process of its own. ``--render`` draws the kept figures and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from sections import keep, kept, machine
from step_cost import held_by, peak_of
from step_rows import Step

import qat
from qat.runs.zoo_torch import FULL, MobileNetV2

KINDS = ("float", "qat")
#: The rows of each curve: its value, and the seconds and bytes of each kind.
Curves = dict[str, list[dict[str, Any]]]
WARM_UP = 2


@dataclass(frozen=True)
class Setting:
    """What a step is of.

    Attributes:
        batch: images of a pass.
        resolution: pixels of their sides.
        width: factor of the channels.
        accumulation: passes of a step.
    """

    batch: int = 32
    resolution: int = 64
    width: float = 1.0
    accumulation: int = 1


#: The settings of each curve, by the attribute that changes. Large images and many passes come in small batches.
CURVES: dict[str, tuple[Setting, tuple[float, ...]]] = {
    "batch": (Setting(), (8, 32, 128)),
    "resolution": (Setting(batch=8), (64, 128, 224)),
    "width": (Setting(), (0.5, 1.0, 2.0)),
    "accumulation": (Setting(batch=8), (1, 4)),
}


def step_of(kind: str, setting: Setting) -> Step:
    """Return a step of a kind: forward and backward of each pass, then SGD with momentum."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stages = tuple((expand, 8 * round(setting.width * out / 8), *rest) for expand, out, *rest in FULL)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (setting.batch,))
    model = MobileNetV2(stages, 3, 10, stem=8 * round(4 * setting.width), stem_stride=2, head=1280)  # type: ignore[arg-type]
    model = model.to(memory_format=torch.channels_last)
    model.train()(x[:8])
    if kind == "qat":
        model = qat.calibrate(qat.prepare(model.eval(), x[:2]), [x[:8]]).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(setting.accumulation):
            F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def seconds_of(setting: Setting, runs: int) -> dict[str, float]:
    """Return the median seconds of the CPU of each kind's step."""
    steps = {kind: step_of(kind, setting) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(WARM_UP + runs):
        for kind, step in steps.items():
            started = time.process_time()
            step()
            if turn >= WARM_UP:
                times[kind].append(time.process_time() - started)
    return {kind: statistics.median(taken) for kind, taken in times.items()}


def peak_here(kind: str, setting: Setting) -> int:
    """Return the bytes that this process came to hold during a step."""
    return held_by(step_of(kind, Setting(batch=2)), lambda: step_of(kind, setting))


def peak(kind: str, setting: Setting) -> int:
    """Return :func:`peak_here` from a process of its own."""
    return peak_of(__file__, kind, json.dumps(asdict(setting)))


def measure(runs: int, keep: Callable[[Curves], None]) -> None:
    """Measure each curve's settings, one that several curves have once; ``keep`` gets what is there after each of them."""
    found: Curves = {}
    done: dict[Setting, dict[str, Any]] = {}
    for name, (base, values) in CURVES.items():
        for value in values:
            setting = replace(base, **{name: value})
            if setting not in done:
                done[setting] = {"seconds": seconds_of(setting, runs), "peak": {kind: peak(kind, setting) for kind in KINDS}}
            found.setdefault(name, []).append({"value": value, **done[setting]})
            print(line(name, found[name][-1]), flush=True)
            keep(found)


def line(name: str, row: dict[str, Any]) -> str:
    """Return a row as a line of a table."""
    seconds, memory = row["seconds"], row["peak"]
    figures = (f"{1e3 * seconds['qat']:.0f}", f"{ratio(seconds):.2f}", f"{memory['qat'] / 2**20:.0f}", f"{ratio(memory):.2f}")
    return f"| {name} {row['value']:g} | " + " | ".join(figures) + " |"


def ratio(figures: dict[str, float]) -> float:
    """Return qat's figure as a multiple of float's."""
    return figures["qat"] / figures["float"]


def draw(of_machines: dict[str, Curves], target: Path) -> None:
    """Write the ratios as a picture, one row a machine and one panel a curve."""
    import matplotlib.pyplot as plt

    size = {"figsize": (3 * len(CURVES), 2.9 * len(of_machines)), "squeeze": False}
    figure, grid = plt.subplots(len(of_machines), len(CURVES), sharey=True, layout="constrained", **size)
    for panels, (where, curves) in zip(grid, of_machines.items(), strict=True):
        for panel, (name, rows) in zip(panels, curves.items(), strict=False):
            for figures, label in (("seconds", "time"), ("peak", "peak memory")):
                panel.plot([row["value"] for row in rows], [ratio(row[figures]) for row in rows], marker="o", label=label)
            panel.axhline(1.0, color="grey", linewidth=0.8)
            panel.set(xlabel=name, xticks=[row["value"] for row in rows])
        panels[0].set_title(where, fontsize="medium", loc="left")
        panels[0].set_ylabel("of float's step")
        panels[0].legend()
    grid[0][0].set_ylim(0, 1.05 * grid[0][0].get_ylim()[1])
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here")
    parser.add_argument("--render", action="store_true", help="draw what --json has")
    parser.add_argument("--peak", nargs=2, metavar=("KIND", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.render and not (options.json and options.plot):
        parser.error("--render draws the figures of --json into --plot: give both")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.peak:
        print(peak_here(options.peak[0], Setting(**json.loads(options.peak[1]))))
        return

    of_machines: dict[str, Curves] = kept(options.json)

    def keep_drawn(found: Curves) -> None:
        of_machines[machine()] = found
        keep(of_machines, options.json)
        if options.plot:
            draw(of_machines, options.plot)

    if options.render:
        draw(of_machines, options.plot)
    else:
        measure(options.runs, keep_drawn)


if __name__ == "__main__":
    main()
