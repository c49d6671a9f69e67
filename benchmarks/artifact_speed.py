"""How much faster the integer artifact is than the float one, in its runtime: one thread, batch 1, interleaved, medians.

    python benchmarks/artifact_speed.py [ResNet-18 keras/MobileNetV2 ...] [--size 224] [--runs 30] [--keep FOLDER]

Without names: every row of docs/coverage.md from PyTorch to .onnx and from Keras to .tflite, images as large as there. Float and
int8 take turns, so that other work on the machine slows both. Each row runs in a process of its own, and a row that fails says
why. The share of outputs equal to the prepared model's is that of the same file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from architectures import ARCHITECTURES, Architecture
from coverage_row import TARGETS, batches, example, samples, settle

import qat
from qat.baselines import float_baseline
from qat.runtimes import Session, open_session

#: Each framework's own format.
FORMATS = {"torch": "onnx", "keras": "tflite"}
ROWS = {f"{a.framework}/{a.name}": a for a in ARCHITECTURES if FORMATS.get(a.framework) == a.format}
#: Turns before the clock starts.
WARM = 3


@dataclass(frozen=True)
class Speed:
    """The median seconds of the float and of the int8 artifact, and the share of outputs equal to the prepared model's."""

    real: float
    int8: float
    exact: float

    def __str__(self) -> str:
        return f"{1e3 * self.real:.1f} | {1e3 * self.int8:.1f} | {self.real / self.int8:.2f}x | {self.exact:.2%}"


def enlarged(architecture: Architecture, size: int | None) -> Architecture:
    """Return an architecture for images of another size."""
    if size is None:
        return architecture
    inputs = tuple(replace(given, size=size) if given.kind == "image" else given for given in architecture.inputs)
    own = {name: size for name in ("size", "image_size") if isinstance(architecture.arguments.get(name), int)}
    return replace(architecture, inputs=inputs, arguments=architecture.arguments | own)


def measure(architecture: Architecture, runs: int, folder: str) -> Speed:
    """Export an architecture as float and as int8, and time both."""
    model = architecture.build()
    arrays, labels = samples(architecture, 4, 1)
    settle(architecture, model, arrays)
    data = batches(architecture, arrays, labels)
    first = example(architecture, data[0][0])
    prepared = qat.calibrate(qat.prepare(model, first, target=TARGETS[architecture.format]), data)
    artifact = qat.export(prepared, Path(folder) / f"int8.{architecture.format}", overwrite=True, verify=data)
    baseline = float_baseline(model, first, folder)
    if baseline.path is None:
        raise RuntimeError(f"no float artifact: {baseline.error}")
    one = [a[:1] for a in arrays.values()]
    times = timed([open_session(baseline.path), open_session(artifact.path)], one, runs)
    return Speed(*(statistics.median(taken) for taken in times), artifact.parity.exact)


def timed(sessions: list[Session], one: list, runs: int) -> list[list[float]]:
    """Return the seconds of each run of each session; the sessions take turns."""
    feeds = [session.in_file_types(*one) for session in sessions]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(runs + WARM):
        for session, feed, taken in zip(sessions, feeds, times, strict=True):
            started = time.perf_counter()
            session.invoke(*feed)
            if turn >= WARM:
                taken.append(time.perf_counter() - started)
    return times


def row(name: str, size: int | None, runs: int, keep: str | None) -> str:
    """Return the cells of a row, or why it failed. The process that runs it ends behind it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(keep) / name.replace("/", "_")) if keep else temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            return str(measure(enlarged(ROWS[name], size), runs, folder))
        except Exception as error:  # whatever fails is the row
            return f"- | - | - | failed: {type(error).__name__}: " + " ".join(str(error).split())[:200].replace("|", "\\|")


def rows(names: list[str], size: int | None, runs: int, keep: str | None) -> Iterator[str]:
    """Yield each row, measured in a process of its own: a crash, or memory that is not given back, concerns one row."""
    for name in names:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                yield f"| {name} | {pool.submit(row, name, size, runs, keep).result()} |"
            except BrokenProcessPool:
                yield f"| {name} | - | - | - | failed: the process died |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures, by name or framework/name")
    parser.add_argument("--size", type=int, help="of images; None: as in docs/coverage.md")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--keep", metavar="FOLDER", help="where the artifacts stay")
    options = parser.parse_args()
    if unknown := set(options.names) - {*ROWS, *(a.name for a in ROWS.values())}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    chosen = [key for key, a in ROWS.items() if not options.names or {key, a.name} & set(options.names)]
    print("| batch 1 | float ms | int8 ms | faster | outputs equal |\n|---|---|---|---|---|")
    for line in rows(chosen, options.size, options.runs, options.keep):
        print(line, flush=True)


if __name__ == "__main__":
    main()
