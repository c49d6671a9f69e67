"""How often `qat.check_data` finds what is wrong with calibration data, and how often it blames clean ones, on real data.

    python benchmarks/check_power.py [--runs 100] [--seed 10000] [--only CASE ...] [--out docs/check_power.json]

A run draws 500 calibration samples from one half of the data and 1,000 of reference from the other. Gray images are
Fashion-MNIST (Debian's package dataset-fashion-mnist, or the folder that FASHION_MNIST names), colour images 32 x 32 crops of the
photographs of scikit-image and scikit-learn, rows those of scikit-learn's digits. The thresholds follow from statistics alone.
Seeds below 10,000 were looked at while the checks were written; the figures are of seeds from 10,000 on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

import qat
from qat.runs.datasets import idx

CALIBRATING, REFERENCE = 500, 1000
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@cache
def fashion() -> tuple[np.ndarray, np.ndarray]:
    data = idx(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"), "fashion_mnist", 0.0, 1.0)
    x, y = np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
    return x.astype(np.float32) / 255, y


@cache
def photographs() -> list[np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    found = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]
    return [image.astype(np.float32) / 255 for image in found]


def draw_fashion(random: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x, y = fashion()
    order = random.permutation(len(x))
    half = len(x) // 2
    mine, theirs = order[:CALIBRATING], order[half : half + REFERENCE]
    return (x[mine], y[mine]), (x[theirs], y[theirs])


def draw_one_class(random: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x, y = fashion()
    chosen = np.flatnonzero(y == random.integers(10))[:CALIBRATING]
    return (x[chosen], y[chosen]), draw_fashion(random)[1]


def draw_photographs(random: np.random.Generator) -> tuple[tuple[np.ndarray, None], tuple[np.ndarray, None]]:
    def crop() -> np.ndarray:
        image = photographs()[random.integers(len(photographs()))]
        top, left = (random.integers(size - 32) for size in image.shape[:2])
        return image[top : top + 32, left : left + 32]

    return (np.stack([crop() for _ in range(CALIBRATING)]), None), (np.stack([crop() for _ in range(REFERENCE)]), None)


def draw_rows(random: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = random.permutation(len(x))
    mine, theirs = order[:CALIBRATING], order[CALIBRATING:]
    return (x[mine].astype(np.float32), y[mine]), (x[theirs].astype(np.float32), y[theirs])


def flips(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where((random.random(len(x)) < 0.5)[:, None, None, None], x[:, :, ::-1], x)


def crops(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Random crops of images that were padded by four pixels, as is usual in training."""
    size, padded = x.shape[1], np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    places = random.integers(0, 9, (len(x), 2))
    return np.stack([image[a : a + size, b : b + size] for image, (a, b) in zip(padded, places, strict=True)])


def rotations(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rotations by at most ten degrees."""
    angles = random.uniform(-10, 10, len(x))
    return np.stack([ndimage.rotate(i, a, (0, 1), reshape=False, order=1) for i, a in zip(x, angles, strict=True)])


def jitter(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness and contrast by at most a fifth."""
    bright, contrast = random.uniform(0.8, 1.2, (2, len(x), 1, 1, 1)).astype(np.float32)
    brighter = np.clip(bright * x, 0, 1)
    mean = brighter.mean((1, 2, 3), keepdims=True)
    return np.clip((brighter - mean) * contrast + mean, 0, 1)


def shuffled(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each column in an order of its own: the values of every column stay, what ties them together is gone."""
    return np.stack([random.permutation(column) for column in x.T], 1)


@dataclass(frozen=True)
class Case:
    name: str
    draw: Callable[[np.random.Generator], tuple]
    change: Change
    caught_by: tuple[str, ...] = ()  # empty: nothing is to be found


CASES = (
    Case("clean gray images", draw_fashion, lambda x, r: x),
    Case("clean colour images", draw_photographs, lambda x, r: x),
    Case("clean rows", draw_rows, lambda x, r: x),
    Case("ten images", draw_fashion, lambda x, r: x[:10], ("samples",)),
    Case("one class", draw_one_class, lambda x, r: x, ("classes",)),
    Case("noise", draw_fashion, lambda x, r: r.random(x.shape, np.float32), ("noise",)),
    Case("rows, columns shuffled", draw_rows, shuffled, ("noise",)),
    Case("0..255 for 0..1", draw_fashion, lambda x, r: 255 * x, ("preprocessing",)),
    Case("divided by 255 twice", draw_fashion, lambda x, r: x / 255, ("preprocessing",)),
    Case("NCHW for NHWC", draw_fashion, lambda x, r: x.transpose(0, 3, 1, 2), ("preprocessing",)),
    Case("normalized otherwise", draw_fashion, lambda x, r: (x - 0.286) / 0.353, ("preprocessing",)),
    Case("BGR for RGB", draw_photographs, lambda x, r: x[..., ::-1], ("preprocessing",)),
    Case("flips", draw_fashion, flips, ("augmentation",)),
    Case("crops", draw_fashion, crops, ("augmentation",)),
    Case("rotations", draw_fashion, rotations, ("augmentation",)),
    Case("colour jitter", draw_fashion, jitter, ("augmentation",)),
)  # fmt: skip


def measure(case: Case, runs: int, seed: int) -> dict[str, object]:
    """Return how many runs were caught by the checks that should, and which checks warned or failed in how many runs."""
    found: Counter[str] = Counter()
    caught, started = 0, time.perf_counter()
    for run in range(seed, seed + runs):
        random = np.random.default_rng(run)
        (x, y), (r, s) = case.draw(random)
        x = case.change(x, random)
        y = None if y is None else y[: len(x)]
        checks = qat.check_data(x, labels=y, reference=[r if s is None else (r, s)], progress=False)
        names = [check.name for check in checks.not_fine()]
        found.update(names)
        caught += any(name in case.caught_by for name in names) if case.caught_by else bool(names)
    seconds = (time.perf_counter() - started) / runs
    return {"case": case.name, "runs": runs, "caught": caught, "by": dict(found), "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], metavar="CASE", help="cases by their names")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        if options.only is not None and case.name not in options.only:
            continue
        row = measure(case, options.runs, options.seed)
        rows.append(row)
        wanted = ", ".join(case.caught_by) or "nothing"
        print(f"| {case.name} | {wanted} | {row['caught']} of {options.runs} | {row['by']} | {row['seconds']} s", flush=True)
        if options.out is not None:
            document = {"seed": options.seed, "calibrating": CALIBRATING, "reference": REFERENCE, "cases": rows}
            options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
