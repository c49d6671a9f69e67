"""The memory of a run on a folder of many images, and the share of its training that waits for data.

    python benchmarks/data_memory.py [--images 50000] [--framework torch|keras] [--steps N] [--workers N] [--folder F]

Writes so many JPEGs of 224 x 224 into ten class folders (``--folder`` keeps them; else they are deleted), and runs ``qat run`` on
them in a process of its own: a float model trained for a few steps, calibration, an epoch of QAT (``--steps``: so many steps of
one), verification and comparison. Memory is the proportional set size (PSS: shared pages are counted once) of the process and
its children, read from /proc twice a second. The wait is the time in which the training loop asks for its next batch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZE, CLASSES, DIFFERENT, BATCH = 224, 10, 1000, 32
#: Of MobileNetV2, small enough that a step takes about as long as decoding its images on one core.
STAGES = ((1, 16, 1, 2), (4, 24, 2, 2), (4, 32, 3, 2))


def make() -> Any:
    """Return a small MobileNetV2 of the framework that the environment names."""
    if os.environ["DATA_MEMORY_FRAMEWORK"] == "torch":
        from qat.runs import zoo_torch

        return zoo_torch.MobileNetV2(STAGES, 3, CLASSES, stem=16, stem_stride=2, head=256)
    from qat.runs import zoo_keras

    return zoo_keras.mobilenet(STAGES, (SIZE, SIZE, 3), CLASSES, stem=16, stem_stride=2, head=256)


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs of coarse and fine noise, of 20 to 25 kB each, as photographs of that size have."""
    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for _ in range(min(count, DIFFERENT)):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = np.asarray(coarse, np.int16) + rng.integers(-16, 17, (SIZE, SIZE, 3), np.int16)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
        files.append(buffer.getvalue())
    for split, number in (("train", count), ("test", max(CLASSES, count // 50))):
        for label in range(CLASSES):
            (folder / split / f"class{label}").mkdir(parents=True, exist_ok=True)
        for i in range(number):
            (folder / split / f"class{i % CLASSES}" / f"{i:06}.jpg").write_bytes(files[i % len(files)])


class Timed:
    """Batches, and how long the training loop waited for them."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.set_epoch, self.waited, self.taken = batches, batches.set_epoch, 0.0, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        batch = next(batches)  # which starts the workers
        while batch is not None:
            asked = time.perf_counter()
            yield batch
            done = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - done
            self.taken += time.perf_counter() - asked


def run_here(config: Path) -> None:
    """Execute the configuration, and print the seconds of its QAT and those in which it waited, as JSON."""
    from rich.console import Console

    from qat.runs import run
    from qat.runs.config import load_run
    from qat.runs.data import RunData
    from qat.runs.job import Job

    timed: list[Timed] = []
    training = RunData.training

    def timed_training(data: RunData, seed: int) -> Timed:
        timed.append(Timed(training(data, seed)))
        return timed[-1]

    RunData.training = timed_training  # type: ignore[method-assign, assignment]
    run.execute(Job.of(load_run(config), config.parent, None, Console(stderr=True)))
    print(json.dumps({"taken": timed[-1].taken, "waited": timed[-1].waited}))


def memory_of(pid: int) -> int:
    """Return the proportional set size of a process and of its descendants, in bytes."""
    total = 0
    with contextlib.suppress(OSError):  # a process that has just ended
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += 1024 * int(rollup.split("\nPss:")[1].split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_of(int(child)) for child in (task / "children").read_text().split())
    return total


def configuration(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the run's configuration, as YAML's JSON."""
    data = {"source": "folder", "path": str(folder), "size": SIZE, "batch_size": BATCH, "flip": True, "workers": options.workers}
    short: dict[str, Any] = {"epochs": 1, "max_steps": 20}
    return {
        "name": "data_memory", "framework": options.framework, "model": {"factory": "data_memory:make"}, "data": data,
        "float_training": short, "training": {"epochs": 1, "max_steps": options.steps}, "control": False, "ptq": options.ptq,
        "latency_runs": 0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--framework", choices=("torch", "keras"), default="torch")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ptq", action="store_true", help="make the PTQ baselines, too")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        run_here(options.here)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "images"
        if not folder.is_dir():
            write_images(folder, options.images)
        config = Path(scratch) / "run.yaml"
        config.write_text(json.dumps(configuration(folder.absolute(), options)))
        environment = os.environ | {"DATA_MEMORY_FRAMEWORK": options.framework, "XDG_CACHE_HOME": scratch}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, __file__, "--here", str(config)]
        began, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.5)
        assert process.stdout is not None
        if process.returncode:
            sys.exit(process.returncode)
        times = json.loads(process.stdout.read().splitlines()[-1])
    took, share = time.perf_counter() - began, 100 * times["waited"] / times["taken"]
    print(f"{options.framework}: {options.images} JPEGs of {SIZE} x {SIZE}, batches of {BATCH}, {took:.0f} s:")
    print(f"peak memory {peak / 1e9:.2f} GB; {share:.1f} % of {times['taken']:.0f} s of training waited for data")


if __name__ == "__main__":
    main()
