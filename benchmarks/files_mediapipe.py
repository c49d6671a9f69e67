"""Every ``.tflite`` of the wheel ``mediapipe==0.10.14``: read, calibrated on crops of a picture, put back as int8.

    python benchmarks/files_mediapipe.py [NAME...] [--train STEPS] [--pictures N] [--json FILE]

Two tables: the files, each int8 artifact against its original on crops that calibration has not seen; and MediaPipe's own
solutions, which run the artifacts in the place of the originals, beside what the originals make of pictures that hardly
differ: on the astronaut, and on average over it and copies of it, turned, scaled, mirrored. One picture is noise: moving each of
its values by a unit of 256 moves points by as much as rounding does. The package needs an environment of its own (its protobuf is
below 5), which is made in ``build/mediapipe`` on the first run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import qat
from qat.errors import QatError
from qat.runtimes.litert import LiteRTSession

FOLDER = Path(__file__).parents[1] / "build" / "mediapipe"
PACKAGES = ("mediapipe==0.10.14", "scikit-image==0.25.2")
#: The files whose pixels are -1 to 1; all others take 0 to 1.
SIGNED = ("face_detection_short_range", "face_detection_full_range_sparse", "pose_detection")
#: Of the files that see a part of scikit-image's astronaut: its centre and side in pixels. All others see all of it.
PARTS = {"face_landmark": (225, 118, 190), "iris_landmark": (245, 105, 45), "pose_landmark_full": (250, 440, 950)}
#: The numbers of a landmark, of the files whose largest output is a row of landmarks.
LANDMARKS = {"face_landmark": 3, "iris_landmark": 3, "hand_landmark_full": 3, "hand_landmark_lite": 3}
#: The delegate of MediaPipe 0.10.14 refuses fully connected layers with a scale for each channel.
RULES = ("op=dense,granularity=tensor",)
#: The solutions that return a mask; all others return points.
MASKS = ("SelfieSegmentation", "SelfieSegmentation (landscape)")


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        file: its name.
        difference: of the float module from the original in LiteRT, on random inputs, as a share of each output's spread.
        operators: on the grid and in all.
        bytes: of the original and of the artifact.
        exact: the share of output values that LiteRT computes as the prepared model.
        error: the size of the artifact's error over that of the original's output (roots of mean squares), of the output with the
            most values.
        points: how far apart landmarks are on average, in pixels of the file's input; of a file that returns none NaN.
        reason: why there is no artifact.
    """

    file: str
    difference: float = float("nan")
    operators: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    exact: float = float("nan")
    error: float = float("nan")
    points: float = float("nan")
    reason: str = ""


def environment() -> Path:
    """Return the folder of MediaPipe's package, installed where it is missing."""
    python = FOLDER / "venv" / "bin" / "python"
    if not (FOLDER / "installed").exists():
        venv.create(FOLDER / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (FOLDER / "installed").touch()
    return next((FOLDER / "venv" / "lib").glob("python*")) / "site-packages" / "mediapipe"


def solutions(out: Path, packages: Path | None = None, pictures: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Run MediaPipe's solutions, and return the pictures and what each of them found in each."""
    script = Path(__file__).with_name("mediapipe_solutions.py")
    command = [str(FOLDER / "venv" / "bin" / "python"), str(script), str(out)]
    if pictures is not None:
        np.save(FOLDER / "pictures.npy", pictures)
        command.append(str(FOLDER / "pictures.npy"))
    found = subprocess.run(
        command, env=os.environ | ({"PYTHONPATH": str(packages)} if packages else {}), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise SystemExit(f"MediaPipe fails: {found.stderr[-2000:]}")
    with np.load(out) as archive:
        return dict(archive)


def crops(image: np.ndarray, count: int, size: tuple[int, int], part: tuple[int, int, int] | None, seed: int) -> torch.Tensor:
    """Return crops of a picture, ``[count, height, width, 3]`` from 0 to 1: turned, scaled, mirrored, of other brightness."""
    rng = np.random.default_rng(seed)
    x, y, side = part or (image.shape[1] / 2, image.shape[0] / 2, 0.9 * min(image.shape[:2]))
    source, taken = torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255, []
    for _ in range(count):
        half, angle = side * rng.uniform(0.8, 1.2) / 2, np.deg2rad(rng.uniform(-15, 15))
        at = np.array([x, y]) + rng.normal(0, side / 24, 2)
        turn = half * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        unit = np.array([image.shape[1], image.shape[0]]) / 2
        theta = np.column_stack([turn / unit[:, None], at / unit - 1])
        grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, 3, *size], align_corners=False)
        crop = F.grid_sample(source, grid, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
        taken.append((crop.flip(1) if rng.random() < 0.5 else crop) * rng.uniform(0.7, 1.3))
    return torch.stack(taken).clamp(0, 1)


def quantized(path: Path, image: np.ndarray, steps: int) -> Row:
    """Read, calibrate, train without labels and export one file."""
    name = path.stem
    try:
        module, original = qat.load(path), LiteRTSession(path)
    except QatError as error:
        return Row(name, reason=str(error).removeprefix(f"{path}: "))
    size, signed = original.inputs[0].shape[1:3], name in SIGNED
    seen, held_out = (
        (crops(image, count, size, PARTS.get(name), seed) * (2 if signed else 1) - (1 if signed else 0)).numpy()
        for count, seed in ((512 if steps else 128, 1), (32, 2))
    )
    made = qat.quantize(path, seen, rules=RULES, train=steps, out=FOLDER, overwrite=True, progress=False)
    assert made.path is not None and made.quantized is not None and made.exact is not None
    out = made.path.replace(FOLDER / path.name)
    both = zip(LiteRTSession(out).run(held_out), original.run(held_out), strict=True)
    artifact, wanted = max(both, key=lambda pair: pair[0].size)
    error = float(np.linalg.norm(artifact - wanted) / np.linalg.norm(wanted))
    points = float("nan")
    if name in LANDMARKS:
        a, b = (x.reshape(len(x), -1, LANDMARKS[name])[..., :2] for x in (artifact, wanted))
        points = float(np.linalg.norm(a - b, axis=-1).mean())
    difference = module.meta["qat_agreement"].worst
    return Row(name, difference, made.quantized, (path.stat().st_size, made.bytes), made.exact, error, points)


def in_place(package: Path, artifacts: Mapping[str, Path]) -> Path:
    """Return a folder with a package of MediaPipe, in links, whose files are replaced by artifacts of the same names."""
    tree = FOLDER / "int8"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(package, tree / "mediapipe", copy_function=os.symlink)
    (tree / "mediapipe.libs").symlink_to(package.with_name("mediapipe.libs"))
    for path in (tree / "mediapipe").rglob("*.tflite"):
        if path.stem in artifacts:
            path.unlink()
            shutil.copy(artifacts[path.stem], path)
    return tree


@dataclass(frozen=True)
class Apart:
    """How far two results of a solution are apart in one picture.

    Attributes:
        points: the mean distance of points in pixels; of those that are seen, where a solution says which are; None where none
            was found.
        hidden: that of the points that are not seen.
        overlap: of masks, their IoU.
        found: by which of the two: "both", "the original", "the other" or "neither".
    """

    points: float | None = None
    hidden: float | None = None
    overlap: float | None = None
    found: str = "both"


def apart(name: str, original: np.ndarray, other: np.ndarray) -> Apart:
    """Return how far two results of a solution are apart."""
    if other.ndim == 0:
        return Apart(found=f"refused: {other}")
    if name in MASKS:
        a, b = original > 0.5, other > 0.5
        return Apart(overlap=float((a & b).sum() / max((a | b).sum(), 1)))
    if not (len(original) and len(other)):
        return Apart(found="the original" if len(original) else "the other" if len(other) else "neither")
    pixels = np.linalg.norm(original[:, :2] - other[:, :2], axis=1)
    seen = original[:, 2] > 0.5 if original.shape[1] > 2 else np.ones(len(original), bool)
    return Apart(_mean(pixels[seen]), _mean(pixels[~seen]))


def _mean(pixels: np.ndarray) -> float | None:
    return float(pixels.mean()) if len(pixels) else None


#: Of :class:`Apart`: an attribute, what stands before its figures, and their unit.
_MEASURES = (("points", "", " px"), ("hidden", "hidden points ", " px"), ("overlap", "IoU ", ""))


def said(found: Sequence[Apart]) -> str:
    """Return how far results are apart: in the first picture, and on average over all, with the standard error."""
    parts = []
    for kind, label, unit in _MEASURES:
        values = [value for each in found if (value := getattr(each, kind)) is not None]
        if values:
            first = getattr(found[0], kind)
            beginning = "" if first is None else f"{first:.3g}{unit} in the first, "
            parts.append(f"{label}{beginning}{np.mean(values):.3g} ± {np.std(values) / len(values) ** 0.5:.2g}{unit} on average")
    counts = Counter(each.found for each in found if each.found != "both")
    return "; ".join([*parts, *(f"found by {by} in {count} of {len(found)}" for by, count in counts.items())])


def shaken(pictures: np.ndarray) -> np.ndarray:
    """Return pictures whose values are a unit of 256 higher, lower or the same, at random: what nobody sees."""
    noise = np.random.default_rng(0).integers(-1, 2, pictures.shape)
    return (pictures.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)


def copies(image: np.ndarray, count: int) -> np.ndarray:
    """Return a picture and copies of it, turned, scaled, mirrored: so many in all."""
    others = (crops(image, count - 1, image.shape[:2], None, 3).numpy() * 255).round().astype(np.uint8) if count > 1 else []
    return np.stack([image, *others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files, without .tflite; all of the package without names")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="of 8 crops, without labels; 0 calibrates only")
    parser.add_argument("--pictures", type=int, default=24, metavar="N", help="of the solutions: the astronaut and copies of it")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    logging.getLogger("qat").setLevel(logging.ERROR)
    package, artifacts, rows = environment(), {}, []
    image = solutions(FOLDER / "float.npz")["pictures"][0]
    for path in sorted(package.glob("modules/**/*.tflite")):
        if arguments.names and path.stem not in arguments.names:
            continue
        rows.append(quantized(path, image, arguments.train))
        print(rows[-1], file=sys.stderr, flush=True)
        if not rows[-1].reason:
            artifacts[path.stem] = FOLDER / path.name
    pictures = copies(image, arguments.pictures)
    original = solutions(FOLDER / "float.npz", pictures=pictures)
    replaced = solutions(FOLDER / "int8.npz", in_place(package, artifacts), pictures)
    noisy = solutions(FOLDER / "shaken.npz", pictures=shaken(pictures))
    names = dict.fromkeys(name.rpartition(" ")[0] for name in original if name != "pictures")
    of_int8, of_noise = (
        {name: said([apart(name, original[f"{name} {i}"], other[f"{name} {i}"]) for i in range(len(pictures))]) for name in names}
        for other in (replaced, noisy)
    )
    console = Console(width=140)
    console.print(_table(rows))
    table = Table("solution", "int8 against the original", "original, each value of a picture moved by at most a unit")
    for name, text in of_int8.items():
        table.add_row(name, text, of_noise[name])
    console.print(table)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"files": [asdict(row) for row in rows], "solutions": of_int8, "noise": of_noise}, indent=1) + "\n"
        )


def _table(rows: list[Row]) -> Table:
    table = Table("file", "read", "integer", "bytes", "smaller", "exact", "error", "landmarks")
    for row in rows:
        if row.reason:
            table.add_row(row.file, row.reason[:90])
            continue
        (before, after), (integer, every) = row.bytes, row.operators
        table.add_row(
            row.file, f"{row.difference:.0e}", f"{integer} of {every}", f"{after:,}", f"{before / after:.2f}x",
            f"{row.exact:.2%}", f"{row.error:.2%}",
            "" if np.isnan(row.points) else f"{row.points:.2f} px",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
