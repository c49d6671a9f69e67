"""What a QAT step costs against the float step that it replaces, beside its peers: time and peak memory.

    python benchmarks/step_cost.py [MODEL ...] [--kinds KIND ...] [--runs 20] [--json docs/step_cost.json]
    python benchmarks/step_cost.py --keras
    make peers && .venv-peers/bin/python benchmarks/step_cost.py

A step is forward, backward and optimizer (SGD with momentum) on 32 images of 64x64, on one thread. The kinds take turns, so that
other work on the machine meets all of them; what counts is the median of the CPU's seconds, which waiting for a turn does not
add to. Peak memory is measured in a process of its own: the most that it held during a step beyond what it held before the model,
once a first model of the kind had been built, trained for a step (in Keras of two images) and freed. The column "fastest float"
has the time as a multiple of the fastest float step of the same run: all layouts of memory, with and without autocast.
``--json`` keeps the figures by machine, merged with those that are there; ``--render docs/benchmarks.md README.md`` writes them
as tables between the marks of these documents and measures nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import logging
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")  # it compiles its kernels at first use, which may take minutes
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from sections import keep, kept, machine, table, write_section
from step_rows import MODELS, Kind, Step

WARM_UP = 3
#: The rows of this toolkit whose best one counts, and the one with gradients in bfloat16 where that is faster.
OURS, OURS_AUTO = ("qat", "qat_last"), "qat_auto"
#: What the headline says of each machine.
FIGURES = ("QAT / float step", "`gradients: auto`", "peak memory")

Row = dict[str, Any]
#: Rows by model and kind.
Results = dict[str, dict[str, Row]]


def build(model: str, kind: str, images: int | None = None) -> Step:
    """Return a step, of fewer images where their number is given."""
    _, make, name, kinds = MODELS[model]
    net, x, labels = make(name)
    return kinds[kind].build(net, x[:images], labels[:images])


def measure(model: str, kinds: list[str], runs: int) -> dict[str, Row]:
    """Return a row for each kind: ``seconds``, the median of a step, and its ``ratio`` to the base's; or an ``error``."""
    steps: dict[str, Step] = {}
    rows: dict[str, Row] = {}
    for kind in kinds:
        started = time.perf_counter()
        try:
            step = build(model, kind)
            step()
        except Exception as error:  # a peer may fail in any way: that is its row
            rows[kind] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            print(f"{model} {kind}: {rows[kind]['error']}", file=sys.stderr, flush=True)
        else:
            steps[kind], rows[kind] = step, {"version": version(MODELS[model][3][kind])}
            print(f"{model} {kind}: built in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(WARM_UP + runs):
        for kind, step in steps.items():
            started = time.process_time()
            step()
            if turn >= WARM_UP:
                times[kind].append(time.process_time() - started)
    for kind, seconds in times.items():
        rows[kind]["seconds"] = statistics.median(seconds)
    add_ratios(model, rows, "seconds", "ratio")
    rivals = [row["seconds"] for kind, row in rows.items() if MODELS[model][3][kind].rival and "seconds" in row]
    for row in rows.values():
        if rivals and "seconds" in row:
            row["of_fastest"] = row["seconds"] / min(rivals)
    return rows


def add_ratios(model: str, rows: dict[str, Row], figure: str, name: str) -> None:
    """Add a figure as a multiple of the base's of the same run: rows that are merged from another day keep theirs."""
    for kind, row in rows.items():
        base = rows.get(MODELS[model][3][kind].base, {}).get(figure)
        row[name] = row[figure] / base if base and row.get(figure) else None


def version(kind: Kind) -> str | None:
    """Return the version of a kind's package."""
    return None if kind.package is None else importlib.metadata.version(kind.package).partition("+")[0]


def peak_here(model: str, kind: str) -> int:
    """Return :func:`held_by` of a row's step."""
    # What a framework loads and keeps once is none of the model's. TensorFlow keeps what tensors took, so there of few images.
    return held_by(build(model, kind, images=2 if model == "keras" else None), lambda: build(model, kind))


def held_by(first: Step, make: Callable[[], Step]) -> int:
    """Return the bytes that this process came to hold during a step, beyond what it held before its model. Linux only.

    Args:
        first: a step of another model, which is taken before: what is loaded and kept once does not count.
        make: builds the model.
    """
    first()
    del first
    give_back()
    before = held("VmRSS")
    step = make()
    step()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    step()
    return held("VmHWM") - before


def give_back() -> None:
    """Free what nothing refers to any more: graphs that were captured refer to themselves."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def held(field: str) -> int:
    """Return a figure of this process in bytes."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


def peak(model: str, kind: str) -> int | None:
    """Return :func:`peak_here` from a process of its own; None where it cannot be had.

    TensorFlow's allocator keeps pages by chance, a tenth of the figure: of Keras the median of five processes counts.
    """
    try:
        return int(statistics.median(peak_of(__file__, model, kind) for _ in range(5 if model == "keras" else 1)))
    except subprocess.CalledProcessError as error:
        print(f"{model} {kind}: no peak memory: {error.stderr[-300:]}", file=sys.stderr)
        return None


def peak_of(script: str, *row: str) -> int:
    """Return what a script prints for ``--peak`` and a row, from a process of its own.

    Raises:
        CalledProcessError: the process failed.
    """
    # mallopt(3): each tensor has pages of its own, which go back when it is freed. Else the figure is the heap's luck.
    pages = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, script, "--peak", *row]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | pages)
    return int(done.stdout.split()[-1])


def render(of_machines: dict[str, Results]) -> str:
    """Return a table for each model and machine."""
    parts = []
    for model, (title, _, _, kinds) in MODELS.items():
        for where, results in of_machines.items():
            rows = results.get(model)
            if not rows:
                continue
            lines = [(shown(kind, rows[name]), *cells(rows[name])) for name, kind in kinds.items() if name in rows]
            titles = ("step", "time", "fastest float", "ms", "peak memory", "MiB")
            parts.append(f"**{title}, 32 images of 64x64, on {where}**\n\n{table(titles, lines)}")
    return "\n\n".join(parts)


def shown(kind: Kind, row: Row) -> str:
    """Return a row's name, with the version of what it measures."""
    return f"{kind.title} {row['version']}" if row.get("version") else kind.title


def cells(row: Row) -> tuple[str, ...]:
    """Return time and memory as multiples of the base's, and themselves."""
    if "error" in row:
        return (f"none: {row['error']}".replace("|", "\\|"), "", "", "", "")
    peak = (row.get("peak") or 0) / 2**20
    figures = (row["ratio"], row.get("of_fastest"), 1e3 * row["seconds"], row.get("peak_ratio"), peak)
    return tuple(f"{v:.{digits}f}" if v else "-" for v, digits in zip(figures, (2, 2, 0, 2, 0), strict=True))


def headline(of_machines: dict[str, Results]) -> str:
    """Return this toolkit's step against the fastest float step of the same run."""
    words = {where: where.partition(", ")[2] for where in of_machines}  # its instructions
    if len(set(words.values())) < len(words):
        words = {where: where for where in of_machines}
    titles = [f"{short}: {title}" for short, title in product(words.values(), FIGURES)]
    lines = []
    for model, (title, _, _, kinds) in MODELS.items():
        found = [best(results.get(model, {}), kinds) for results in of_machines.values()]
        if any(found):
            lines.append((title, *(cell for three in found for cell in three or ("-",) * len(FIGURES))))
    text = table(("32 images of 64x64, one thread", *titles), lines)
    return f"{text}\n\nMeasured on {'; on '.join(of_machines)}."


def best(rows: dict[str, Row], kinds: dict[str, Kind]) -> tuple[str, str, str] | None:
    """Return this toolkit's best step, that with gradients in bfloat16, and its memory, each of the fastest float step."""
    rows = {name: row for name, row in rows.items() if "seconds" in row}
    rivals, ours = [n for n in rows if kinds[n].rival], [n for n in rows if n in OURS]
    if not (rivals and ours):
        return None
    seconds = {name: row["seconds"] for name, row in rows.items()}
    rival, mine = min(rivals, key=seconds.__getitem__), min(ours, key=seconds.__getitem__)
    auto = f"{seconds[OURS_AUTO] / seconds[rival]:.2f}" if OURS_AUTO in rows else "-"
    peaks = rows[mine].get("peak"), rows[rival].get("peak")
    memory = f"{peaks[0] / peaks[1]:.2f}" if all(peaks) else "-"
    name = f"{1e3 * seconds[rival]:.0f} ms, {kinds[rival].title}"
    return f"**{seconds[mine] / seconds[rival]:.2f}** of {name}", auto, memory


#: What is written between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
SECTIONS = {"step cost": render, "headline": headline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; PyTorch's where none is named")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="rows by their names in step_rows.py, all by default")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keras", action="store_true", help="the Keras rows instead of PyTorch's")
    parser.add_argument("--no-memory", action="store_true", help="time alone")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument(
        "--render",
        type=Path,
        nargs="+",
        metavar="DOCUMENT",
        help="write the tables of --json into documents, and measure nothing",
    )
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.peak:
        print(peak_here(*options.peak))
        return
    of_machines: dict[str, Results] = kept(options.json)
    if options.render:
        for document, (name, written) in product(options.render, SECTIONS.items()):
            write_section(document, name, written(of_machines))
        return
    models = options.models or (["keras"] if options.keras else [m for m in MODELS if m != "keras"])
    if unknown := set(models) - set(MODELS):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}; valid: {', '.join(MODELS)}")
    results = of_machines.setdefault(machine(), {})
    for model in models:
        kinds = [kind for kind in MODELS[model][3] if options.kinds is None or kind in options.kinds]
        rows = measure(model, kinds, options.runs)
        results.setdefault(model, {}).update(rows)
        keep(of_machines, options.json)  # before what takes minutes
        if not options.no_memory:
            for kind, row in rows.items():
                if "seconds" in row:
                    row["peak"] = peak(model, kind)
            add_ratios(model, rows, "peak", "peak_ratio")
            keep(of_machines, options.json)
        print(render({machine(): {model: results[model]}}), flush=True)


if __name__ == "__main__":
    main()
