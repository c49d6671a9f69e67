"""Float ``.onnx`` files out of wheels: read, calibrated, put back as int8, and held against the originals.

    python benchmarks/files_onnx.py [NAME...] [--estimator mse] [--json FILE]

The wheels are fetched by pip into ``build/wheels``, without what they depend on. Inputs are crops of scikit-learn's photographs
and files of Python's library. Calibration does not see the samples that are compared.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from wheels import files_of

import qat
from qat.errors import QatError
from qat.runtimes import open_session

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / "build" / "wheels"


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        file: by its short name.
        difference: of the float module from the original in ONNX Runtime, on random inputs, as a share of an output's spread.
        floats: the operators that stay float, of how many.
        bytes: of the original and of the artifact.
        exact: the share of output values that ONNX Runtime computes as the prepared model.
        metric: what ``score`` is.
        score: of the artifact.
        reason: why there is no artifact.
    """

    file: str
    difference: float = float("nan")
    floats: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    exact: float = float("nan")
    metric: str = ""
    score: float = float("nan")
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """A file of a wheel.

    Attributes:
        wheel: the distribution with its version.
        path: of the file in the wheel.
        samples: makes inputs: the number of them and a seed.
        metric: its name, and the artifact's score: of its first output beside the original's for the same inputs.
    """

    wheel: str
    path: str
    samples: Callable[[int, int], np.ndarray]
    metric: tuple[str, Callable[[np.ndarray, np.ndarray], float]]


# --- inputs ---


def photographs(size: int, scale: float) -> Callable[[int, int], np.ndarray]:
    """Return what makes crops of scikit-learn's two photographs."""

    def crops(count: int, seed: int) -> np.ndarray:
        from sklearn.datasets import load_sample_images

        rng, made = random.Random(seed), []
        for i in range(count):
            image = Image.fromarray(load_sample_images().images[i % 2])
            side = rng.randint(160, 420)
            left, top = rng.randint(0, image.size[0] - side), rng.randint(0, image.size[1] - side)
            made.append(np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size))))
        return np.stack(made).transpose(0, 3, 1, 2).astype(np.float32) * np.float32(scale)

    return crops


def sources(count: int, seed: int) -> np.ndarray:
    """Return the first and last bytes of files of Python's library, as Magika takes them."""
    folder = Path(inspect.getfile(json)).parents[1]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 2048 and "site-packages" not in p.parts)
    chosen = random.Random(seed).sample(files, count)
    return np.stack([np.frombuffer(d[:1024] + d[-1024:], np.uint8).astype(np.int32) for d in (p.read_bytes() for p in chosen)])


# --- metrics ---


def same_class(mine: np.ndarray, its: np.ndarray) -> float:
    """Return how often the largest score is at the same place."""
    return float(np.mean(mine.argmax(-1) == its.argmax(-1)))


def relative_error(mine: np.ndarray, its: np.ndarray) -> float:
    """Return the root of the mean squared error over that of the original's values."""
    return float(np.sqrt(np.mean((mine - its) ** 2) / np.mean(its**2)))


_DDDD = "ddddocr==1.6.1"
_AGREEMENT = ("agreement", same_class)
CASES = {
    "NudeNet 320n (YOLOv8)": Case(
        "nudenet==3.4.2", "nudenet/320n.onnx", photographs(320, 1 / 255), ("relative error", relative_error)
    ),
    "ddddocr detection (YOLOX)": Case(
        _DDDD, "ddddocr/common_det.onnx", photographs(416, 1.0), ("relative error", relative_error)
    ),
    "Magika 3.3": Case("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", sources, _AGREEMENT),
    "ddddocr, quantized by its maker": Case(_DDDD, "ddddocr/common_old.onnx", sources, _AGREEMENT),
    "Silero VAD": Case("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", sources, _AGREEMENT),
}  # fmt: skip


# --- the run ---


def measured(name: str, case: Case, estimator: str, count: int) -> Row:
    """Return the row of a file."""
    (path,) = files_of(case.wheel, [case.path], WHEELS)
    try:
        model = qat.load(path)
        seen, held_out = case.samples(128, 2), case.samples(count, 1)
        prepared = qat.prepare(model, seen[:2], target="onnxruntime_vnni")
        qat.calibrate(prepared, [seen[i : i + 8] for i in range(0, 128, 8)], estimator=estimator)
        out = ROOT / "build" / "int8" / f"{path.stem}.onnx"
        out.parent.mkdir(parents=True, exist_ok=True)
        artifact = qat.export(prepared, out, verify=[held_out[:16]], overwrite=True)
    except QatError as error:
        return Row(name, reason=str(error).replace(str(WHEELS), ""))
    results = []
    for file in (path, out):
        session = open_session(file)
        parts = [session.invoke(held_out[i : i + 8]) for i in range(0, count, 8)]
        results.append(np.concatenate([outputs[0] for outputs in parts]))
    metric, score = case.metric
    plan = prepared.plan
    return Row(
        name,
        model.meta["qat_agreement"].worst,
        (len(plan.floats()), len(plan.ops)),
        (path.stat().st_size, artifact.bytes),
        artifact.parity.exact if artifact.parity else float("nan"),
        metric,
        score(results[1], results[0]),
    )


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    shown = Table("file", "difference", "float", "KB", "int8 KB", "exact", "metric", "int8")
    for row in rows:
        if row.reason:
            shown.add_row(row.file, "", "", "", "", "", row.reason, "")
            continue
        sizes = [f"{size / 1000:,.0f}" for size in row.bytes]
        kept = f"{row.floats[0]} of {row.floats[1]}"
        shown.add_row(row.file, f"{row.difference:.0e}", kept, *sizes, f"{row.exact:.4f}", row.metric, f"{row.score:.3f}")
    return shown


def main() -> None:
    """Measure the files whose names begin with the arguments; all of them without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--estimator", default="mse")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = {n: c for n, c in CASES.items() if not options.names or any(n.startswith(begin) for begin in options.names)}
    rows = []
    for name, case in chosen.items():
        rows.append(measured(name, case, options.estimator, options.samples))
        Console(width=160).print(table(rows[-1:]))
    Console(width=160).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
