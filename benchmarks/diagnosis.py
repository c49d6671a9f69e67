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
#: The SQNR of files without a fault (38 dB, and 39) less 6 dB, and the causes that no SQNR shows on this machine.
HARMLESS, UNSEEN = 32.0, ("saturating_pairs", "too_little_data")


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
    def is_harmless(self) -> bool:
        """Whether the fault costs less than 6 dB."""
        return bool(self.cause) and self.cause not in UNSEEN and self.sqnr > HARMLESS

    @property
    def verdict(self) -> str:
        """Whether the right cause was named, in words."""
        if self.is_harmless and not self.found:
            return "costs less than 6 dB"
        return "yes" if self.found == self.cause else f"no: {self.cause or 'nothing'}"


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
        f"{r.verdict} | {r.seconds:.1f} |"
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
            counted = [r for r in rows if r.verdict != "costs less than 6 dB"]
            right = sum(r.verdict == "yes" for r in rows)
            print(f"{title}: {right} of {len(counted)} are named right.\n\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
