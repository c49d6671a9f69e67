"""What `compare` and verification of many images cost, as multiples of the runtime's own time, on all cores.

    python benchmarks/judging_cost.py [--images 10000] [--json docs/judging_cost.json]
    python benchmarks/judging_cost.py --json docs/judging_cost.json --render docs/benchmarks.md

The model is MobileNetV2 on images of 64x64 in batches of 32. The runtime's own time is that of a session on all threads which
runs the same batches and keeps nothing; for verification the prepared model's, which the file is held against, comes on top.
Seconds are the CPU's, so that other work does not count.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from sections import options_of, parsed, render_or_measure, table

import qat

FORMATS, BATCH, RUNS = ("onnx", "tflite"), 32, 3


def seconds(call: Callable[[], Any]) -> float:
    """Return the CPU's seconds of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


class Images:
    """Batches of images and their labels, made anew each time, so that 10,000 of them need no memory."""

    def __init__(self, images: int, labels: bool = True) -> None:
        self.images, self.labels = images, labels
        rng = np.random.default_rng(0)
        self.batch = rng.normal(size=(BATCH, 3, 64, 64)).astype(np.float32)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self.images, BATCH):
            x = np.roll(self.batch, start // BATCH, axis=3)[: self.images - start]
            yield (x, np.arange(len(x)) % 10) if self.labels else x


def measure(images: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each format's calls, and of what they must run."""
    import torch
    from step_rows import torch_model

    from qat.runtimes import open_session
    from qat.system.machine import usable_threads

    model, x, _ = torch_model("mobilenet_v2")
    torch.set_num_threads(usable_threads())
    found: dict[str, dict[str, float]] = {}
    for form in FORMATS:
        target = {"onnx": "onnxruntime", "tflite": "litert"}[form]
        prepared = qat.calibrate(qat.prepare(model, x, target=target), [x], progress=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"int8.{form}"
            qat.export(prepared, path)

            def run_file(path: Path = path, last: bool = form == "tflite") -> None:
                session = open_session(path, threads=usable_threads())
                for batch in Images(images, labels=False):
                    session.run(batch.transpose(0, 2, 3, 1) if last else batch)  # as LiteRT takes images

            def run_model(prepared: Any = prepared) -> None:
                with torch.no_grad():
                    for batch in Images(images, labels=False):
                        prepared.eval()(torch.from_numpy(batch))

            def compare(path: Path = path) -> None:
                qat.compare([path], Images(images), latency_runs=0, progress=False)

            def verify(path: Path = path, prepared: Any = prepared) -> None:
                qat.export(prepared, path, verify=Images(images, labels=False), overwrite=True, progress=False)

            calls = {"file": run_file, "prepared model": run_model, "compare": compare, "verify": verify}
            taken: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(RUNS):
                for name, call in calls.items():
                    taken[name].append(seconds(call))
            found[form] = {name: statistics.median(each) for name, each in taken.items()}
    return found


def render(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    rows = []
    for form, s in figures["formats"].items():
        own, both = s["file"], s["file"] + s["prepared model"]
        ratios = (f"{s['compare']:.1f} s, **{s['compare'] / own:.2f}**", f"{s['verify']:.1f} s, **{s['verify'] / both:.2f}**")
        rows.append((f"`.{form}`", f"{own:.1f} s", f"{s['prepared model']:.1f} s", *ratios))
    titles = (f"{figures['images']} images", "file", "prepared model", "`compare`, of the file", "verification, of both")
    return table(titles, rows)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    options = parsed(parser)

    def keep_measured(figures: dict[str, Any], keep: Callable[[], None]) -> None:
        figures.update(images=options.images, formats=measure(options.images))

    render_or_measure(options, "judging cost", render, keep_measured)


if __name__ == "__main__":
    main()
