"""What a detector finds, matched with the boxes of its labels by pycocotools: each image once.

:mod:`qat.trainers.average_precision` makes mAP of the matches. torchmetrics' form of it needs PyTorch and torchvision; this one
serves a Keras user too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from qat.errors import ConfigError, MissingDependencyError, nearest
from qat.system.import_object import import_object

from .detection_grid import decode as decode_grid

log = logging.getLogger("qat")

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]

#: The matches of one image: of each class, what pycocotools' ``COCOeval.evaluateImg`` returns.
_Matches = dict[int, Any]

#: Boxes, class numbers and scores of an image; of a label without scores.
_Image = tuple[np.ndarray, ...]

#: Makes detections of a batch of raw outputs: for each image boxes ``[k, 4]``, class numbers ``[k]`` and scores ``[k]``.
Decoder: TypeAlias = Callable[[Any], Sequence[_Image]]

_DECODERS: dict[str, Decoder] = {"grid": decode_grid}

#: By the letters of a format: the boxes as COCO has them, (left, top, width, height).
TO_COCO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xyxy": lambda b: np.concatenate([b[..., :2], b[..., 2:] - b[..., :2]], -1),
    "xywh": lambda b: b,
    "cxcywh": lambda b: np.concatenate([b[..., :2] - b[..., 2:] / 2, b[..., 2:]], -1),
}


def matches(outputs: Any, labels: Any, *, boxes: BoxFormat = "xyxy", decode: str | Decoder | None = None) -> np.ndarray:
    """Return for each image what its detections match, as an array of objects ``[n]``.

    Args:
        outputs: boxes ``[n, k, 4]`` and scores, ``[n, k]`` of one class or ``[n, k, classes]``, with class numbers ``[n, k]``
            behind them at will. By name: ``boxes``, ``scores``, ``classes``.
        labels: boxes and class numbers, by the names ``boxes`` and ``labels``, in that order, or ``[n, m, 5]`` with the class
            last; the number of an empty place is -1. Or a list of them, one an image.
        boxes: how outputs and labels write a box: two corners ``xyxy``, a corner and a size ``xywh``, or the middle and a size.
        decode: makes detections of raw outputs: ``grid`` (:func:`qat.trainers.detection_grid.decode`),
            ``package.module:function`` or a function; None where the outputs are detections.

    Raises:
        ConfigError: there is no such decoder.
        ValueError: they are not of these shapes.
    """
    if boxes not in TO_COCO:
        raise ValueError(f"boxes are written {', '.join(TO_COCO)}, not '{boxes}'")
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingDependencyError("mAP needs pycocotools: pip install 'qat-toolkit[detection]'") from error
    to_coco = TO_COCO[boxes]
    found = detections(outputs, decode)
    _check_order(found, to_coco)
    wanted = truth(labels, len(found))
    _check_sizes(wanted, to_coco)
    classes = sorted({int(c) for _, numbers, *_ in (*wanted, *found) for c in numbers})
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        for side, images in zip(sides, (wanted, found), strict=True):
            side.dataset = {
                "images": [{"id": i} for i in range(len(images))], "categories": [{"id": c} for c in classes],
                "annotations": _annotations(images, to_coco),
            }  # fmt: skip
            side.createIndex()
        tool = COCOeval(*sides, iouType="bbox")
        tool.params.areaRng, tool.params.areaRngLbl, tool.params.maxDets = [[0, 1e10]], ["all"], [100]
        tool.evaluate()
    rows = np.empty(len(found), object)
    for image in range(len(found)):
        rows[image] = {c: tool.evalImgs[k * len(found) + image] for k, c in enumerate(classes)}
    return rows


def _annotations(images: list[_Image], to_coco: Callable[[np.ndarray], np.ndarray]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, (boxes, numbers, *scores) in enumerate(images):
        for place, (box, number) in enumerate(zip(to_coco(boxes.astype(np.float64)), numbers, strict=True)):
            row = {"id": len(rows) + 1, "image_id": image, "category_id": int(number), "bbox": box.tolist(), "iscrowd": 0}
            row |= {"area": float(box[2] * box[3])} | ({"score": float(scores[0][place])} if scores else {})
            rows.append(row)
    return rows


def _check_order(images: list[_Image], to_coco: Callable[[np.ndarray], np.ndarray]) -> None:
    """Warn where most of what was found cannot be boxes: raw outputs of a detector, boxes of another format, or chance."""
    sizes = np.concatenate([to_coco(boxes.reshape(-1, 4).astype(np.float64))[:, 2:] for boxes, *_ in images] or [np.ones((1, 2))])
    if len(sizes) and np.mean((sizes < 0).any(-1)) > 0.5:
        _warn_of_order()


@functools.cache
def _warn_of_order() -> None:
    """Warn, once in a process: every batch of every evaluation would say the same."""
    log.warning(
        "mAP: most of the boxes found have a negative size: unless the detector is untrained, name the function that makes boxes "
        "of its raw outputs (decode: grid, for the zoo's detector), or how boxes are written (boxes: xyxy, xywh or cxcywh)"
    )


def _check_sizes(images: list[_Image], to_coco: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raise ValueError where a box of a label is not finite or has no size."""
    for image, (boxes, _) in enumerate(images):
        sizes = to_coco(boxes.astype(np.float64))[:, 2:]
        for box, size in zip(boxes, sizes, strict=True):
            if not np.isfinite(box).all() or not (size > 0).all():
                raise ValueError(f"box {box.tolist()} of image {image} has no size: leave it out of the labels")


def decoder(decode: str | Decoder) -> Decoder:
    """Return the function that makes detections, by its name or its module's.

    Raises:
        ConfigError: there is no such function.
    """
    if not isinstance(decode, str):
        return decode
    if decode in _DECODERS:
        return _DECODERS[decode]
    if ":" not in decode:
        valid = f"{', '.join(_DECODERS)}, or package.module:function"
        raise ConfigError(f"unknown decode '{decode}'{nearest(decode, _DECODERS)}; valid: {valid}")
    return import_object(decode, "decode")


def detections(outputs: Any, decode: str | Decoder | None = None) -> list[_Image]:
    """Return boxes, class numbers and scores of each image. Raises ValueError, and ConfigError of a decoder."""
    if decode is not None:
        return [tuple(np.asarray(part) for part in image) for image in decoder(decode)(outputs)]
    parts = [_part(outputs, name, place) for place, name in enumerate(("boxes", "scores", "classes"))]
    if parts[0] is None or parts[1] is None:
        raise ValueError("mAP takes outputs of boxes and scores: several outputs, in this order or by these names")
    boxes, scores = parts[0], parts[1]
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or scores.shape[:2] != boxes.shape[:2]:
        raise ValueError(f"boxes {boxes.shape} and scores {scores.shape} are not [n, k, 4] and [n, k] or [n, k, classes]")
    classes = np.zeros(scores.shape, int) if scores.ndim == 2 else scores.argmax(-1)
    if parts[2] is not None:
        classes = parts[2].reshape(boxes.shape[:2]).round().astype(int)
    best = scores if scores.ndim == 2 else scores.max(-1)
    return list(zip(boxes, classes, best, strict=True))


def truth(labels: Any, samples: int) -> list[_Image]:
    """Return boxes and class numbers of each image, those of empty places left out. Raises ValueError."""
    if isinstance(labels, (list, tuple)) and len(labels) == samples and all(isinstance(x, Mapping) for x in labels):
        pairs = [(np.asarray(x["boxes"]), np.asarray(x["labels"])) for x in labels]
    elif isinstance(labels, np.ndarray) and labels.ndim == 3 and labels.shape[-1] == 5:
        pairs = [(image[:, :4], image[:, 4]) for image in labels]
    else:
        boxes, numbers = (_part(labels, name, place) for place, name in enumerate(("boxes", "labels")))
        if boxes is None or numbers is None or boxes.ndim != 3 or boxes.shape[:2] != numbers.shape:
            raise ValueError("labels are boxes [n, m, 4] and class numbers [n, m], by the names boxes and labels, or [n, m, 5]")
        pairs = list(zip(boxes, numbers, strict=True))
    if any(not np.array_equal(numbers, np.round(numbers)) for _, numbers in pairs):
        raise ValueError("the second of the labels are no class numbers")
    return [(boxes.reshape(-1, 4)[numbers >= 0], numbers[numbers >= 0]) for boxes, numbers in pairs]


def _part(several: Any, name: str, place: int) -> np.ndarray | None:
    """Return one of several arrays by its name, where they have names, else by its place."""
    names = several.keys() if isinstance(several, Mapping) else getattr(several, "names", ())
    if name in names:
        return np.asarray(several[name])
    if isinstance(several, Mapping) or not isinstance(several, (tuple, list)) or place >= len(several):
        return None
    return np.asarray(several[place])
