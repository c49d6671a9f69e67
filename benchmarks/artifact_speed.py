"""How much faster the integer artifact is than the float one, in its runtime: one thread, batch 1, interleaved.

    python benchmarks/artifact_speed.py [ResNet-18 keras/MobileNetV2/tflite ...] [--framework torch|keras] [--format onnx|tflite]
        [--size 224] [--again] [--output docs/artifact_speed.md]

Without names: every row of docs/coverage.md but those of tf_keras, images as large as there. Float and int8 take turns, of a few
runs each, the first of which does not count: it finds the other's data in the caches. Seconds are the processor's, which other
work on the machine takes none of, and the median of the runs counts. Each row runs in a process
of its own, and is written into the JSON file beside the output once it is measured, from which the tables are written anew. Rows
that are there already are kept, unless named or asked for with ``--again``. A row that fails says why. The share of outputs
equal to the prepared model's is that of the same file. Where int8 is slower, what ``prefer: speed`` of a recipe makes of it is
measured too, for a processor with VNNI where this one has it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeAlias

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from architectures import ARCHITECTURES, Architecture
from coverage_row import TARGETS, batches, example, samples, settle
from sections import keep, kept, machine

import qat
from qat.baselines import float_baseline
from qat.errors import ConfigError
from qat.planning.recipe import Recipe, load_recipe
from qat.report.running import turned
from qat.runtimes import Session, open_session

HERE = Path(__file__).parent
TEXT = HERE / "artifact_speed_text.md"  # what stands above the tables
ROWS = {a.key: a for a in ARCHITECTURES if a.framework in ("torch", "keras")}
SPELLED = {"torch": "PyTorch", "keras": "Keras"}
#: Turns before the clock starts, and the runs of a turn that count.
WARM, RUNS = 1, 5


@dataclass(frozen=True)
class Speed:
    """The processor's seconds of the float and the int8 artifact, and the share of outputs equal to the prepared model's.

    Attributes:
        quick: how many times as fast as the float artifact that of ``prefer: speed`` is, in turns of their own; ``"float"`` where
            it leaves the whole network float, None where int8 is not slower.
    """

    real: float
    int8: float
    exact: float
    quick: float | Literal["float"] | None = None

    @property
    def slower(self) -> bool:
        """Whether the int8 artifact takes longer than the float one."""
        return self.int8 > self.real

    def __str__(self) -> str:
        quick = f"{self.quick:.2f}x" if isinstance(self.quick, float) else self.quick or ""
        return f"{1e3 * self.real:.2f} | {1e3 * self.int8:.2f} | {self.real / self.int8:.2f}x | {quick} | {self.exact:.2%}"


@dataclass(frozen=True)
class Failed:
    """Why there are no times."""

    error: str

    def __str__(self) -> str:
        return "- | - | - | | failed: " + " ".join(self.error.split())[:220].replace("|", "\\|")


Row: TypeAlias = Speed | Failed
#: Rows by machine, by the size of images, ``""`` for that of docs/coverage.md, and by the architecture's key.
Results: TypeAlias = dict[str, dict[str, dict[str, Row]]]


def enlarged(architecture: Architecture, size: int | None) -> Architecture:
    """Return an architecture for images of another size."""
    if size is None:
        return architecture
    inputs = tuple(replace(given, size=size) if given.kind == "image" else given for given in architecture.inputs)
    own = {name: size for name in ("size", "image_size") if isinstance(architecture.arguments.get(name), int)}
    return replace(architecture, inputs=inputs, arguments=architecture.arguments | own)


def measure(architecture: Architecture, runs: int, folder: str) -> Speed:
    """Export an architecture as float and as int8, and time both; where int8 is slower, once more with ``prefer: speed``."""
    model = architecture.build()
    arrays, labels = samples(architecture, 4, 1)
    settle(architecture, model, arrays)
    data, target = batches(architecture, arrays, labels), TARGETS[architecture.format]
    first = example(architecture, data[0][0])

    def exported(recipe: Recipe, target: str) -> qat.Artifact:
        prepared = qat.calibrate(qat.prepare(model, first, target=target, recipe=recipe), data)
        return qat.export(prepared, Path(folder) / f"{recipe.prefer}.{architecture.format}", overwrite=True, verify=data)

    recipe = load_recipe("static_wi8_ai8")
    artifact = exported(recipe, target)
    baseline = float_baseline(model, first, folder, target=target)
    if baseline.path is None:
        raise RuntimeError(f"no float artifact: {baseline.error}")
    one, against = [a[:1] for a in arrays.values()], open_session(baseline.path)
    real, int8 = timed([against, open_session(artifact.path)], one, runs)
    speed = Speed(real, int8, artifact.parity.exact)
    if not speed.slower:
        return speed
    able = f"{target}_vnni" if architecture.format == "onnx" and "VNNI" in machine() else target
    try:
        quick = exported(recipe.model_copy(update={"prefer": "speed"}), able)
    except ConfigError:  # all of it is quicker in float
        return replace(speed, quick="float")
    real, int8 = timed([against, open_session(quick.path)], one, runs)
    return replace(speed, quick=real / int8)


def timed(sessions: list[Session], one: list, runs: int) -> list[float]:
    """Return the median of the processor seconds of a run of each session, in whose layouts the images are."""
    feeds = [
        session.in_file_types(*(turned(a, (len(a), *i.shape[1:])) for a, i in zip(one, session.inputs, strict=True)))
        for session in sessions
    ]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(WARM + -(-runs // RUNS)):
        for session, feed, taken in zip(sessions, feeds, times, strict=True):
            session.invoke(*feed)
            for _ in range(RUNS if turn >= WARM else 0):
                started = time.process_time()
                session.invoke(*feed)
                taken.append(time.process_time() - started)
    return [statistics.median(taken) for taken in times]


def row(key: str, size: int | None, runs: int, keep: str | None) -> Row:
    """Return a row, or why it failed. The process that runs it ends behind it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(keep) / key.replace("/", "_")) if keep else temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            return measure(enlarged(ROWS[key], size), runs, folder)
        except Exception as error:  # whatever fails is the row
            return Failed(f"{type(error).__name__}: {error}")


def measured_apart(key: str, size: int | None, runs: int, keep: str | None) -> Row:
    """Measure a row in a process of its own: a crash, or memory that is not given back, concerns one row."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(row, key, size, runs, keep).result()
        except BrokenProcessPool:
            return Failed("the process died")


def read(store: Path) -> Results:
    """Return the rows that a file holds."""
    return {
        where: {size: {key: (Failed if "error" in r else Speed)(**r) for key, r in rows.items()} for size, rows in sizes.items()}
        for where, sizes in kept(store).items()
    }


def render(results: Results) -> str:
    """Return the markdown: the text, then a table for each framework, format, size of images and machine."""
    parts = [TEXT.read_text().rstrip()]
    for framework, fmt in dict.fromkeys((a.framework, a.format) for a in ROWS.values()):
        sizes = {size for rows in results.values() for size in rows}
        for size, (where, rows) in product(sorted(sizes, key=lambda size: int(size or 0)), results.items()):
            there = rows.get(size, {})
            chosen = [a for a in ROWS.values() if (a.framework, a.format) == (framework, fmt) and a.key in there]
            if chosen:
                title = f"## {SPELLED[framework]} to .{fmt}" + (f", images of {size}x{size}" if size else "")
                lines = [
                    "| batch 1 | float ms | int8 ms | faster | with `prefer: speed` | outputs equal |",
                    "|---|---|---|---|---|---|",
                ]
                cells = (f"| {a.name} | {there[a.key]} |" for a in chosen)
                parts.append("\n".join([f"{title}, on {where}", "", *lines, *cells]))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures, by name or framework/name/format")
    parser.add_argument("--framework", choices=tuple(SPELLED))
    parser.add_argument("--format", choices=tuple(TARGETS))
    parser.add_argument("--size", type=int, help="of images; None: as in docs/coverage.md")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--keep", metavar="FOLDER", help="where the artifacts stay")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "artifact_speed.md")
    options = parser.parse_args()
    if unknown := set(options.names) - {*ROWS, *(a.name for a in ROWS.values())}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    store = options.output.with_suffix(".json")
    results = read(store)
    done = results.setdefault(machine(), {}).setdefault(str(options.size or ""), {})
    for key, architecture in ROWS.items():
        if options.framework not in (None, architecture.framework) or options.format not in (None, architecture.format):
            continue
        if options.names and not {key, architecture.name} & set(options.names):
            continue
        there = done.get(key)
        if not options.names and not options.again and isinstance(there, Speed) and (there.quick or not there.slower):
            continue
        done[key] = measured_apart(key, options.size, options.runs, options.keep)
        print(f"| {key} | {done[key]} |", flush=True)
        keep({w: {s: {k: asdict(r) for k, r in rows.items()} for s, rows in of.items()} for w, of in results.items()}, store)
        options.output.write_text(render(results))


if __name__ == "__main__":
    main()
