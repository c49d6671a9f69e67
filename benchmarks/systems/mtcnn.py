"""MTCNN (Zhang et al. 2016) as a system of three models: the nets of facenet-pytorch's wheel, and what joins them.

The configuration is mtcnn.yaml; ``python benchmarks/files_mtcnn.py`` downloads the wheel and runs it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Net = Callable[[np.ndarray], tuple[np.ndarray, ...]]
#: Of the published detector: the smallest face in pixels, the step of the pyramid, the scores that pass each net.
SMALLEST, FACTOR, PASSES = 24, 0.709, (0.6, 0.7, 0.7)
CELL, STRIDE = 12, 2


class Faces(TypedDict):
    """What the detector returns: ``boxes`` [n, 4] (left, top, right, bottom in pixels), ``scores`` [n], ``points`` [n, 5, 2]."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


# --- the nets ---


class Stage(nn.Module):
    """Convolutions with PReLU and pooling between them, then heads: a softmax of two scores, and numbers."""

    def __init__(self, channels: list[int], kernels: list[int], pools: list[int], dense: int, heads: dict[str, int]) -> None:
        super().__init__()
        self.pools, self.heads = pools, list(heads)
        for index, kernel in enumerate(kernels, 1):
            setattr(self, f"conv{index}", nn.Conv2d(channels[index - 1], channels[index], kernel))
            setattr(self, f"prelu{index}", nn.PReLU(channels[index]))
        self.count = len(kernels)
        if dense:
            inputs = {128: 576, 256: 1152}[dense]
            setattr(self, f"dense{self.count + 1}", nn.Linear(inputs, dense))
            setattr(self, f"prelu{self.count + 1}", nn.PReLU(dense))
        for name, size in heads.items():
            setattr(self, name, nn.Linear(dense, size) if dense else nn.Conv2d(channels[-1], size, 1))
        self.dense = dense

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the score of each place, and the heads' numbers."""
        for index in range(1, self.count + 1):
            x = getattr(self, f"prelu{index}")(getattr(self, f"conv{index}")(x))
            if index <= len(self.pools):
                x = nn.functional.max_pool2d(x, self.pools[index - 1], 2, ceil_mode=True)
        if self.dense:
            x = x.permute(0, 3, 2, 1).flatten(1)
            x = getattr(self, f"prelu{self.count + 1}")(getattr(self, f"dense{self.count + 1}")(x))
        score, *numbers = (getattr(self, name)(x) for name in self.heads)
        return torch.softmax(score, 1)[:, 1], *numbers


STAGES = {
    "pnet": Stage([3, 10, 16, 32], [3, 3, 3], [2], 0, {"conv4_1": 2, "conv4_2": 4}),
    "rnet": Stage([3, 28, 48, 64], [3, 3, 2], [3, 3], 128, {"dense5_1": 2, "dense5_2": 4}),
    "onet": Stage([3, 32, 64, 64, 128], [3, 3, 3, 2], [3, 3, 2], 256, {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10}),
}


def net(name: str) -> nn.Module:
    """Return one of the three nets with its weights, from the folder that ``MTCNN_WEIGHTS`` names."""
    stage = STAGES[name]
    stage.load_state_dict(torch.load(Path(os.environ["MTCNN_WEIGHTS"]) / f"{name}.pt", weights_only=True))
    return stage.eval()


# --- the pictures ---


def pictures(count: int = 96, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield pictures ``[height, width, 3]``: parts of scikit-image's at several sizes, most with the astronaut's face."""
    import skimage.data

    random = np.random.default_rng(seed)
    sources = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in ("astronaut", "camera", "cat", "coffee")]
    for _ in range(count):
        picture = sources[0 if random.random() < 0.7 else random.integers(1, len(sources))]
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        width, height = picture.size
        left, top = random.uniform(0, 0.25, 2) * (width, height)
        right, bottom = random.uniform(0.75, 1, 2) * (width, height)
        longest = int(random.integers(160, 321))
        part = picture.crop((int(left), int(top), int(right), int(bottom))).rotate(float(random.uniform(-12, 12)))
        part.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        pixels = np.asarray(part, np.float32)
        yield np.clip(pixels * random.uniform(0.7, 1.2), 0, 255).round()


# --- what joins the nets ---


def propose(image: np.ndarray, pnet: Net) -> np.ndarray:
    """Return the boxes ``[n, 4]`` that the first net finds on a pyramid of the picture."""
    scale, found = CELL / SMALLEST, []
    while min(image.shape[:2]) * scale >= CELL:
        scores, numbers = pnet(_small(image, math.ceil(image.shape[0] * scale), math.ceil(image.shape[1] * scale)))
        y, x = np.nonzero(scores[0] >= PASSES[0])
        corner = np.stack([x, y], 1) * STRIDE
        boxes = np.concatenate([corner, corner + CELL], 1) / scale
        keep = _distinct(boxes, scores[0, y, x], 0.5)
        found.append(np.c_[_moved(boxes, numbers[0, :, y, x].reshape(-1, 4)), scores[0, y, x]][keep])
        scale *= FACTOR
    candidates = np.concatenate(found) if found else np.zeros((0, 5))
    return _square(candidates[_distinct(candidates[:, :4], candidates[:, 4], 0.7), :4])


def refine(image: np.ndarray, boxes: np.ndarray, rnet: Net) -> np.ndarray:
    """Return those of the boxes that the second net keeps, moved by its numbers."""
    if not len(boxes):
        return boxes
    scores, numbers = rnet(_crops(image, boxes, 24))
    keep = np.flatnonzero(scores >= PASSES[1])
    keep = keep[_distinct(boxes[keep], scores[keep], 0.7)]
    return _square(_moved(boxes[keep], numbers[keep]))


def finish(image: np.ndarray, boxes: np.ndarray, onet: Net) -> Faces:
    """Return the faces that the third net finds in the boxes."""
    if not len(boxes):
        return {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "points": np.zeros((0, 5, 2))}
    scores, numbers, places = onet(_crops(image, boxes, 48))
    sizes = (boxes[:, 2:] - boxes[:, :2])[:, None, :]
    points = boxes[:, None, :2] + sizes * np.stack([places[:, :5], places[:, 5:]], 2)
    keep = np.flatnonzero(scores >= PASSES[2])
    moved = _moved(boxes, numbers)
    keep = keep[_distinct(moved[keep], scores[keep], 0.7, of_smaller=True)]
    return {"boxes": moved[keep], "scores": scores[keep], "points": points[keep]}


def _small(image: np.ndarray, height: int, width: int) -> np.ndarray:
    picture = Image.fromarray(image.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
    return ((np.asarray(picture, np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]


def _crops(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Return the picture's parts at a net's size; black beyond its edges."""
    picture = Image.fromarray(image.astype(np.uint8))
    whole = [tuple(round(float(v)) for v in box) for box in boxes]
    parts = [picture.crop((x, y, max(r, x + 1), max(b, y + 1))) for x, y, r, b in whole]
    pixels = [np.asarray(part.resize((size, size), Image.Resampling.BILINEAR), np.float32) for part in parts]
    return ((np.stack(pixels) - 127.5) / 128).transpose(0, 3, 1, 2)


def _moved(boxes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return boxes whose edges are moved by shares of their size."""
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return boxes + numbers * sizes


def _square(boxes: np.ndarray) -> np.ndarray:
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = size.max(1, keepdims=True, initial=0) / 2
    return np.concatenate([centre - half, centre + half], 1)


def overlap(box: np.ndarray, boxes: np.ndarray, of_smaller: bool = False) -> np.ndarray:
    """Return the intersection of a box with others over their union, or over the smaller of both."""
    corner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(corner, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    area = float((box[2:] - box[:2]).prod())
    return shared / np.maximum(np.minimum(area, areas) if of_smaller else area + areas - shared, 1e-9)


def _distinct(boxes: np.ndarray, scores: np.ndarray, limit: float, of_smaller: bool = False) -> np.ndarray:
    """Return the indices of the boxes that overlap no better one by more than ``limit``."""
    waiting, kept = list(np.argsort(-scores, kind="stable")), []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        rest = np.array(waiting, int)
        waiting = list(rest[overlap(boxes[best], boxes[rest], of_smaller) <= limit])
    return np.array(kept, int)


# --- how the int8 detector is judged ---


def judged(expected: Mapping[str, Faces], got: Mapping[str, Faces]) -> dict[str, float]:
    """Return, of one picture, the share of the float detector's faces that are found again, and how far they moved."""
    true, found = expected["faces"], got["faces"]
    values = {"faces more": float(len(found["boxes"]) - len(true["boxes"]))}
    pairs = []
    for index, box in enumerate(true["boxes"]):
        ious = overlap(box, found["boxes"])
        best = int(ious.argmax()) if len(ious) else -1
        if best >= 0 and ious[best] >= 0.5:
            pairs.append((index, best, float(ious[best])))
    if len(true["boxes"]):
        values["faces found"] = len(pairs) / len(true["boxes"])
    if pairs:
        distances = [np.linalg.norm(true["points"][i] - found["points"][j], axis=1).mean() for i, j, _ in pairs]
        values |= {"IoU": float(np.mean([iou for *_, iou in pairs])), "landmarks, px": float(np.mean(distances))}
    return values
