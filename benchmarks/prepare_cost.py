"""What comes before and after training: prepare, export and verify, against torchao's prepare and convert (PT2E).

    make peers && python benchmarks/prepare_cost.py [MODEL ...] [--runs 3] [--json docs/prepare_cost.json]
    python benchmarks/prepare_cost.py --json docs/prepare_cost.json --render docs/benchmarks.md

One image of 64x64 is the example; two are verified. Both sides begin with the float module and capture it themselves; torchao's
pass over a batch between prepare and convert counts as little as our calibration. Each run is a process of its own on one thread,
by turns; the median of the CPU's seconds counts. A process that takes more than ``--limit`` of them is stopped, and its model's
row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from sections import options_of, parsed, render_or_measure, table

MODELS = ("resnet18", "resnet50", "resnet152")
PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"


def model_of(name: str) -> Any:
    """Return a float model in eval mode, with numbers that a BatchNorm has seen."""
    import torch
    from architectures.torch_residual import resnet50

    from qat.runs.zoo_torch import resnet18

    torch.manual_seed(0)
    depth = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
    model = resnet18(classes=10) if name == "resnet18" else resnet50(repeats=depth[name])
    model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


def ours(model: Any, x: Any) -> dict[str, float]:
    """Return the seconds of our steps."""
    import qat

    seconds: dict[str, float] = {}
    clock = Clock(seconds)
    prepared = clock("prepare", lambda: qat.prepare(model, x[:1]))
    qat.calibrate(prepared, [x])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        clock("export and verify", lambda: qat.export(prepared, path, verify=[x]))
    return seconds


def torchao(model: Any, x: Any) -> dict[str, float]:
    """Return the seconds of torchao's steps."""
    import torch
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def prepare() -> Any:
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
        return prepare_qat_pt2e(torch.export.export(model.train(), (x,)).module(), quantizer)

    seconds: dict[str, float] = {}
    clock = Clock(seconds)
    prepared = clock("prepare", prepare)
    move_exported_model_to_train(prepared)(x)
    clock("convert", lambda: convert_pt2e(prepared))
    return seconds


KINDS: dict[str, Callable[[Any, Any], dict[str, float]]] = {"qat": ours, "torchao": torchao}


class Clock:
    """Notes the CPU's seconds of calls by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        started = time.process_time()
        found = call()
        self.seconds[name] = time.process_time() - started
        return found


def here(name: str, kind: str) -> dict[str, float]:
    """Return the seconds of a kind's steps in this process, after a small model: what is loaded once does not count."""
    import torch

    torch.set_num_threads(1)
    x = torch.randn(2, 3, 64, 64)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    KINDS[kind](small, x)
    return KINDS[kind](model_of(name), x)


#: The median seconds of a kind's steps; the limit alone, as ``more than``, where a run took longer.
Seconds = dict[str, float]


def run(python: Path, name: str, kind: str, limit: int) -> Seconds | None:
    """Return :func:`here` from a process of its own; None where that takes more than ``limit`` seconds of the CPU."""
    command = [str(python), __file__, "--here", name, kind]
    within = lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=within)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return None
    done.check_returncode()
    found: Seconds = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(name: str, runs: int, peers: Path, limit: int) -> dict[str, Seconds]:
    """Return the median seconds of the steps of each kind."""
    pythons = {"qat": Path(sys.executable), "torchao": peers}
    found: dict[str, list[Seconds]] = {kind: [] for kind in pythons}
    stopped: dict[str, Seconds] = {}
    for _ in range(runs):
        for kind, python in pythons.items():
            if kind in stopped:
                continue
            if (seconds := run(python, name, kind, limit)) is None:
                stopped[kind] = {"more than": limit}
            else:
                found[kind].append(seconds)
    medians = {kind: {step: statistics.median(r[step] for r in each) for step in each[0]} for kind, each in found.items() if each}
    return medians | stopped


def render(figures: dict[str, dict[str, Seconds]]) -> str:
    """Return the figures as a table."""
    rows = []
    for name, kinds in figures.items():
        sums = {kind: sum(steps.values()) for kind, steps in kinds.items()}
        cells = [", ".join(f"{step} {seconds:.1f}" for step, seconds in kinds[kind].items()) for kind in ("qat", "torchao")]
        below = "below " if "more than" in kinds["torchao"] else ""
        rows.append((name, *cells, f"**{below}{sums['qat'] / sums['torchao']:.2f}**"))
    return table(("CPU seconds", "qat", "torchao PT2E", "qat / torchao"), rows)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=240, help="seconds of the CPU of one process, its imports included")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python that has torchao")
    parser.add_argument("--here", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    options = parsed(parser, MODELS)
    if options.here:
        print(json.dumps(here(*options.here)))
        return

    def measure(figures: dict[str, Any], keep: Callable[[], None]) -> None:
        for name in options.models:
            figures[name] = measured(name, options.runs, options.peers, options.limit)
            keep()

    render_or_measure(options, "prepare cost", render, measure)


if __name__ == "__main__":
    main()
