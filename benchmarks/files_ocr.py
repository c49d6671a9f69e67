"""PP-OCRv4's three networks (text detection, direction, recognition) as files, quantized by qat.quantize and by ONNX Runtime.

Usage: python benchmarks/files_ocr.py {recognition,detection,direction} [--train 10m] [--estimator mse] [--max-error 12]
       [--same-answers 100] [--cache FOLDER]

The networks are in the wheel rapidocr-onnxruntime 1.4.4, which pip downloads into the cache folder; nothing of it is committed.
The data are lines of text rendered with matplotlib's fonts: 1024 that calibrate and train, 200 others for all figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from wheels import files_of

import qat
from qat.runtimes import open_session

WHEEL = "rapidocr-onnxruntime==1.4.4"
FILES = {
    "recognition": "ch_PP-OCRv4_rec_infer.onnx",
    "detection": "ch_PP-OCRv4_det_infer.onnx",
    "direction": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
}
TRAINING, HELD_OUT = 1024, 200
_BATCH, _TIMED = 8, 15
#: A text that is free and long; any folder of licences has it.
WORDS = Path("/usr/share/common-licenses/GPL-3")


# --- the data ---


def fonts() -> list[Path]:
    """Return matplotlib's text fonts."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [
        p
        for p in sorted(folder.glob("*.ttf"))
        if p.name.startswith(("DejaVuSans", "DejaVuSerif", "STIXGeneral")) and "Display" not in p.name
    ]


def line_of_text(rng: random.Random, words: Sequence[str], faces: Sequence[Path]) -> tuple[Image.Image, str]:
    """Return the picture of a line, and its text: another font, size, contrast, angle, blur and noise each time."""
    text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 4)))[:28]
    font = ImageFont.truetype(str(rng.choice(faces)), rng.randint(24, 40))
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    paper, ink = rng.randint(120, 255), rng.randint(0, 90)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    image = Image.new("RGB", (right - left + 16, bottom - top + 12), (paper,) * 3)
    ImageDraw.Draw(image).text((8 - left, 6 - top), text, fill=(ink,) * 3, font=font)
    image = image.rotate(rng.uniform(-2, 2), fillcolor=(paper,) * 3, resample=Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    noise = np.random.default_rng(rng.randint(0, 10**9)).normal(0, rng.uniform(0, 12), (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)), text


def in_width(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Return a line at a height, its right side padded with zeros: BGR, channels first, -1 to 1, as PP-OCR reads it."""
    scaled = min(width, max(8, round(image.size[0] * height / image.size[1])))
    pixels = np.asarray(image.resize((scaled, height), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    out = np.zeros((height, width, 3), np.float32)
    out[:, :scaled] = pixels[:, :, ::-1]
    return out.transpose(2, 0, 1)


def page_of_text(rng: random.Random, words: Sequence[str], faces: Sequence[Path], size: int) -> np.ndarray:
    """Return a page with lines of text at random places, normalized as PP-OCR's detector reads it."""
    page = Image.new("RGB", (size, size), tuple(rng.randint(150, 255) for _ in range(3)))
    for row in range(rng.randint(3, 6)):
        line, _ = line_of_text(rng, words, faces)
        page.paste(line, (rng.randint(0, size // 3), row * size // 6 + rng.randint(0, 12)))
    pixels = np.asarray(page, np.float32)[:, :, ::-1] / 255
    return ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32).transpose(2, 0, 1)


def samples(network: str, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return inputs of a network, and the texts in them (of a direction: none)."""
    rng, words, faces = random.Random(seed), WORDS.read_text().split(), fonts()
    if network == "detection":
        return np.stack([page_of_text(rng, words, faces, 320) for _ in range(count)]), []
    lines = [line_of_text(rng, words, faces) for _ in range(count)]
    if network == "recognition":
        return np.stack([in_width(image, 48, 320) for image, _ in lines]), [text for _, text in lines]
    turned = [image.rotate(180) if rng.random() < 0.5 else image for image, _ in lines]
    return np.stack([in_width(image, 48, 192) for image in turned]), []


# --- the figures ---


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """Return a file's output for inputs."""
    session = open_session(path)
    return np.concatenate([session.run(x[i : i + _BATCH])[0] for i in range(0, len(x), _BATCH)])


def alphabet(path: Path) -> list[str]:
    """Return the characters of a recognizer, which its metadata hold; the first is the blank."""
    import onnx

    (text,) = (p.value for p in onnx.load(str(path)).metadata_props if p.key == "character")
    return ["", *text.split("\n"), " "]


def read(scores: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Return the texts of CTC scores, greedily."""
    rows = scores.argmax(-1)
    return ["".join(characters[a] for i, a in enumerate(row) if a and (i == 0 or a != row[i - 1])) for row in rows]


def figure(network: str, got: np.ndarray, real: np.ndarray, texts: Sequence[str], characters: Sequence[str]) -> float:
    """Return the share of lines read right, the IoU of text masks with float's, or the share of directions as float's."""
    if network == "recognition":
        answers = zip(read(got, characters), texts, strict=True)
        return 100 * float(np.mean([a.replace(" ", "") == b.replace(" ", "") for a, b in answers]))
    if network == "detection":
        a, b = got > 0.3, real > 0.3
        return float((a & b).sum() / max((a | b).sum(), 1))
    return 100 * float((got.argmax(-1) == real.argmax(-1)).mean())


def milliseconds(path: Path, x: np.ndarray) -> float:
    """Return the median time of one input on one thread."""
    session = open_session(path)
    inputs = session.in_file_types(x[:1])
    times = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        session.invoke(*inputs)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def network_file(network: str, cache: Path) -> Path:
    """Return the file of a network, downloaded at its first use."""
    return files_of(WHEEL, [f"rapidocr_onnxruntime/models/{FILES[network]}"], cache)[0]


def rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of every file: float, other tools', calibrated, trained."""
    network, out = arguments.network, arguments.cache / arguments.network
    path = network_file(network, arguments.cache)
    training, _ = samples(network, arguments.training, 7)
    held, texts = samples(network, HELD_OUT, 1)
    characters = alphabet(path) if network == "recognition" else []
    real = outputs(path, held)
    found: list[dict[str, Any]] = []

    def add(name: str, file: Path | None, error: str | None = None, **more: Any) -> None:
        row: dict[str, Any] = {"name": name, "error": error} | more
        if file is not None:
            row |= {"figure": figure(network, outputs(file, held), real, texts, characters), "bytes": file.stat().st_size}
            row["ms"] = milliseconds(file, held)
        found.append(row)
        print(json.dumps(row), flush=True)

    batches = [training[i : i + _BATCH] for i in range(0, 64, _BATCH)]
    for made in qat.ptq_baselines(path, batches, out, overwrite=True):
        add(made.name, made.path, made.error)
    common = {
        "target": arguments.target,
        "estimator": arguments.estimator,
        "max_error": arguments.max_error,
        "same_answers": arguments.same_answers,
        "overwrite": True,
        "samples": len(training),
        "progress": False,
    }
    calibrated = qat.quantize(path, training, out=out / "calibrated", **common)
    add("qat calibrated", calibrated.path, exact=calibrated.exact)
    if arguments.train != "none":
        trained = qat.quantize(path, training, out=out / "trained", train=arguments.train, **common)
        add(f"qat trained {arguments.train}", trained.path, exact=trained.exact, steps=trained.steps, losses=dict(trained.losses))
    return found


def main() -> None:
    """Print a line of JSON for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=FILES)
    parser.add_argument("--train", default="10m", help="a time, a number of steps, or none")
    parser.add_argument("--estimator", default=None)
    parser.add_argument("--max-error", type=float, default=None)
    parser.add_argument("--same-answers", type=float, default=None)
    parser.add_argument("--target", default="onnxruntime_vnni", help="of the .onnx")
    parser.add_argument("--training", type=int, default=TRAINING, help="lines that calibrate and train")
    parser.add_argument(
        "--cache", type=Path, default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qat-files"
    )
    rows(parser.parse_args())


if __name__ == "__main__":
    main()
