"""What comes before and after training: prepare, export and verify, against torchao's prepare and convert (PT2E).

    make peers && python benchmarks/prepare_cost.py [MODEL ...] [--runs 3] [--json docs/prepare_cost.json]
    python benchmarks/prepare_cost.py --json docs/prepare_cost.json --render docs/benchmarks.md

One image of 64x64 is the example; two are verified. Both sides begin with the float module and capture it themselves; torchao's
pass over a batch between prepare and convert counts as little as our calibration. Each run is a process of its own on one thread,
by turns; the median of the CPU's seconds counts.
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
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from sections import keep, kept, options_of, parsed, table, with_model, write_section

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


def measure(name: str, runs: int, peers: Path) -> dict[str, dict[str, float]]:
    """Return the median seconds of the steps of each kind."""
    pythons = {"qat": Path(sys.executable), "torchao": peers}
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in pythons}
    for _ in range(runs):
        for kind, python in pythons.items():
            command = [str(python), __file__, "--here", name, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return {kind: {step: statistics.median(run[step] for run in each) for step in each[0]} for kind, each in found.items()}


def render(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    rows = []
    for name, kinds in figures["models"].items():
        sums = {kind: sum(steps.values()) for kind, steps in kinds.items()}
        cells = [", ".join(f"{step} {seconds:.1f}" for step, seconds in kinds[kind].items()) for kind in ("qat", "torchao")]
        rows.append((name, *cells, f"**{sums['qat'] / sums['torchao']:.2f}**"))
    titles = ("CPU seconds", "qat", "torchao PT2E", "qat / torchao")
    return f"{table(titles, rows)}\n\nMeasured on {figures['machine']}."


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python that has torchao")
    parser.add_argument("--here", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    options = parsed(parser, MODELS)
    if options.here:
        print(json.dumps(here(*options.here)))
        return
    figures = kept(options.json)
    if not options.render:
        for name in options.models:
            figures = with_model(figures, name, measure(name, options.runs, options.peers))
            keep(figures, options.json)
        print(render(figures))
    else:
        write_section(options.render, "prepare cost", render(figures))


if __name__ == "__main__":
    main()
