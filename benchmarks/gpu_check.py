"""What a GPU makes of this toolkit, in at most 8 minutes, as JSON: `make gpu-check`.

    python benchmarks/gpu_check.py [MODEL ...] [--batch 128] [--size 96] [--minutes 8]

``parity`` trains on the GPU, exports, and holds the artifact against the trained model in ONNX Runtime on the CPU. The rows are
steps of training in channels_last, eager and compiled: milliseconds, peak memory, how often a step waits for the device, and
``ratio`` to the fastest float step. ``forms`` counts the shapes by how their accumulators are computed (qat's tensor_cores.py).
A row that the minutes do not suffice for says ``left_out``.

Where PyTorch sees no GPU, the output says so, and nothing is claimed. It never ran on a GPU here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters.torch.autograd import tensor_cores
from qat.runs import zoo_torch

MODELS = ("mobilenet_v2", "resnet18")
WARM_UP, RUNS = 5, 20
#: What a compilation may take: none is begun with less time left.
MINUTES_TO_COMPILE = 2.5

Step = Callable[[], Any]
#: (whether the row is qat's, of TF32, of bfloat16 autocast) by name.
KINDS = {
    "qat": (True, True, False),
    "float32": (False, False, False),
    "tf32": (False, True, False),
    "bf16": (False, True, True),
}


def batch_of(size: int, images: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images and labels."""
    x, labels = torch.randn(images, 3, size, size), torch.randint(0, 10, (images,))
    return x.to(device, memory_format=torch.channels_last), labels.to(device)


def model_of(name: str, x: torch.Tensor) -> nn.Module:
    """Return a float model whose BatchNorm has seen the images."""
    model: nn.Module = getattr(zoo_torch, name)(classes=10).to(x.device, memory_format=torch.channels_last)
    model.train()(x)
    return model.eval()


def prepared(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return the model on the integer grid, with frozen ranges."""
    return qat.calibrate(qat.prepare(model, x[:2]), [x])


def step_of(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, bf16: bool) -> Step:
    """Return forward, backward and SGD with momentum."""
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return step


def parity(name: str, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Train for some steps, export, and return how far the artifact is from the trained model."""
    model = prepared(model_of(name, x), x)
    step = step_of(model, x, labels, False)
    for _ in range(RUNS):
        step()
    with tempfile.TemporaryDirectory() as folder:
        artifact = qat.export(model.eval(), Path(folder, "m.onnx"), verify=[x])
    assert artifact.parity is not None
    return artifact.parity.to_dict()


def measure(step: Step, device: torch.device) -> dict[str, Any]:
    """Return a step's milliseconds, and on a GPU how often it waits for the device, and the MiB that it held at most."""
    for _ in range(WARM_UP):
        step()
    if device.type != "cuda":
        return {"ms": 1e3 * statistics.median(_seconds(step) for _ in range(RUNS))}
    waits = waits_of(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {"ms": statistics.median(times), "MiB": torch.cuda.max_memory_allocated() / 2**20, "synchronisations": waits}


def _seconds(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def waits_of(step: Step) -> int:
    """Return how often the host waits for the device in a step, by PyTorch's own warnings."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and products, or forbid it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def rows(name: str, x: torch.Tensor, labels: torch.Tensor, compiled: bool, left: Callable[[], float]) -> dict[str, Any]:
    """Return a row for each kind, those without time left out; a failure is a row too."""
    found: dict[str, Any] = {}
    for kind, settings in KINDS.items():
        title = f"{kind}, compiled" if compiled else kind
        if left() < (60 * MINUTES_TO_COMPILE if compiled else 0):
            found[title] = {"left_out": "no time left"}
            continue
        try:
            found[title] = row(name, x, labels, compiled, *settings)
        except Exception as error:  # a compiler may fail in any way: the other rows still count
            found[title] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return found


def row(
    name: str, x: torch.Tensor, labels: torch.Tensor, compiled: bool, ours: bool, in_tf32: bool, bf16: bool
) -> dict[str, Any]:
    """Return the figures of one kind of step."""
    with tf32(in_tf32):
        model = model_of(name, x)
        model = prepared(model, x) if ours else model
        return measure(step_of(torch.compile(model) if compiled else model, x, labels, bf16), x.device)  # type: ignore[arg-type]


def add_ratios(found: dict[str, Any]) -> None:
    """Add each row's multiple of the fastest float step, eager or compiled."""
    fastest = min((row["ms"] for title, row in found.items() if "ms" in row and not title.startswith("qat")), default=None)
    for row in found.values():
        if fastest and "ms" in row:
            row["ratio"] = row["ms"] / fastest


def check(names: list[str], batch: int, size: int, minutes: float, device: torch.device) -> dict[str, Any]:
    """Return all figures of a device."""
    deadline = time.monotonic() + 60 * minutes
    torch.manual_seed(0)
    data = batch_of(size, batch, device)
    found: dict[str, Any] = {"parity": {name: parity(name, *data) for name in names}}
    steps: dict[str, dict[str, Any]] = {name: {} for name in names}
    for compiled in (False, True):  # what takes minutes comes last
        for name in names:
            steps[name] |= rows(name, *data, compiled, lambda: deadline - time.monotonic())
    for of_model in steps.values():
        add_ratios(of_model)
    found |= {"steps": steps, "forms": dict(Counter(form.name for form in tensor_cores.chosen.values()))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=96, help="pixels of a side")
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}; valid: {', '.join(MODELS)}")
    if not torch.cuda.is_available():
        print(json.dumps({"device": None, "note": "this PyTorch sees no GPU: nothing was measured"}))
        return
    warnings.filterwarnings("ignore")
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    started = time.monotonic()
    found = check(options.models or list(MODELS), options.batch, options.size, options.minutes, torch.device("cuda"))
    print(json.dumps(about | found | {"seconds": time.monotonic() - started}, indent=1))


if __name__ == "__main__":
    main()
