"""What ``qat diagnose`` says of artifacts that were broken on purpose, and of healthy ones by several tools.

    python benchmarks/diagnosis.py > diagnosis.md

The networks, data, seeds and severities are not those by which the thresholds were chosen (tests/analysis/diagnosis): trained on
Fashion-MNIST, one in Keras for ``.tflite`` and one in PyTorch for ``.onnx``, with faults that are about half as large.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from broken_artifacts import BROKEN, ONLY, Files, Kit, plain
from broken_nets import convolutions_of

import qat
from qat.analysis.diagnosis.diagnose import diagnosed
from qat.runs.datasets import idx

#: Faults whose networks are written in PyTorch alone.
TORCH = ("attention over many tokens", "residual stream with outliers")


@dataclass(frozen=True)
class Row:
    """A file, what is wrong with it, and what was found."""

    name: str
    format: str
    cause: str
    found: str
    share: float
    sqnr: float
    same: int
    samples: int
    seconds: float

    @property
    def is_right(self) -> bool:
        return self.cause == self.found


def kits() -> dict[str, Kit]:
    whole = idx(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    x = whole.train_x[:800].reshape(-1, 28, 28, 1).astype(np.float32)
    data = {"data": x / x.max(), "labels": np.asarray(whole.train_y[:800])}
    return {
        ".tflite": Kit("keras", "litert", seed=11, severity=0.5, width=20, epochs=4, **data),
        ".onnx": Kit("torch", "onnxruntime", seed=12, severity=0.5, width=24, epochs=4, **data),
    }


def row(name: str, suffix: str, cause: str, files: Files) -> Row:
    started = time.perf_counter()
    found = diagnosed(files.float, files.quantized, (files.x,))
    share = found.findings[0].share if found.findings else 0.0
    f = found.facts
    return Row(name, suffix, cause, found.cause, share, f.sqnr, f.same or 0, f.samples, time.perf_counter() - started)


def broken(only: str) -> Iterator[Row]:
    for suffix, kit in kits().items():
        for name, (cause, make) in BROKEN.items():
            if ONLY.get(name, kit.target) != kit.target or only not in name:
                continue
            chosen = replace(kit, framework="torch") if name in TORCH else kit
            with tempfile.TemporaryDirectory() as folder:
                yield row(name, suffix, cause, make(chosen, Path(folder)))


def healthy() -> Iterator[Row]:
    """Yield a row for each tool's file of a network without a fault."""
    for suffix, kit in kits().items():
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            ours = plain(kit, folder)
            yield row("qat", suffix, "", ours)
            for made in qat.ptq_baselines(convolutions_of(kit), kit.calibrating(), folder / "tools", target=kit.target):
                if made.path is not None and made.kind == "ptq":
                    yield row(f"{made.tool}, {made.recipe}", suffix, "", replace(ours, quantized=made.path))
            if suffix == ".onnx":
                other = _q_operator(ours.float, kit, folder)
                yield row("ONNX Runtime, QOperator form", suffix, "", replace(ours, quantized=other))


def _q_operator(path: Path, kit: Kit, folder: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"input": x} for x in kit.calibrating()])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    made = folder / "q_operator.onnx"
    quantize_static(path, made, Reader(), quant_format=QuantFormat.QOperator, per_channel=True)
    return made


def table(rows: list[Row]) -> str:
    lines = ["| file | format | SQNR | same answers | named | share | right | s |", "|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r.name} | `{r.format}` | {r.sqnr:.1f} dB | {r.same} of {r.samples} | {r.found or 'nothing'} | {r.share:.0%} | "
        f"{'yes' if r.is_right else 'no: ' + (r.cause or 'nothing')} | {r.seconds:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name of broken files")
    only = parser.parse_args().only
    logging.disable(logging.WARNING)
    for title, rows in (("Healthy", [] if only else list(healthy())), ("Broken on purpose", list(broken(only)))):
        if rows:
            print(f"{title}: {sum(r.is_right for r in rows)} of {len(rows)} are named right.\n\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
