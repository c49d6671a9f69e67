"""The grid of a one-stage detector: the cells of its feature maps, and boxes from what it returns for them. In NumPy.

A detector returns raw numbers, so that its integer graph ends in them: for each cell an offset and a logit for each class. What
follows, decoding and non-maximum suppression, is the same for a float model, a prepared one and an artifact in its runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qat.errors import ConfigError

#: The names of a raw detector's outputs, in their order, which is the alphabet's too: converters sort.
OFFSETS, LOGITS = "box_offsets", "class_logits"

#: Pixels from cell to cell, of the maps of :func:`qat.runs.zoo_torch.ssdlite`.
STRIDES = (8, 16)

#: How many of its cells the longer side of a map's boxes may be.
MOST_CELLS = 2.5

#: In training a cell answers for a box whose middle is less than so many cells from its own, in x and in y.
RADIUS = 1.0

#: The weight of the boxes' loss beside that of the classes.
BOX_WEIGHT = 2.0

#: The largest logarithm of a box's side in cells: a model that diverges gives large boxes, not infinite ones.
MOST_LOG = 6.0

#: The boxes, class numbers and scores of an image.
Detections = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """The cells of feature maps over an image: those of the first map row by row, then those of the next.

    Attributes:
        height: of the image, in pixels.
        width: likewise.
        strides: pixels from cell to cell, for each map.

    Examples:
        >>> Grid(64, 64).cells
        80
        >>> Grid.of(80)
        Grid(height=64, width=64, strides=(8, 16))
    """

    height: int
    width: int
    strides: tuple[int, ...] = STRIDES

    @classmethod
    def of(cls, cells: int) -> Grid:
        """Return the grid of a square image by its number of cells, at :data:`STRIDES`.

        Raises:
            ConfigError: there is no such image.
        """
        coarsest = STRIDES[-1]
        rows = round((cells / sum((coarsest / stride) ** 2 for stride in STRIDES)) ** 0.5)
        found = cls(coarsest * rows, coarsest * rows)
        if not cells or found.cells != cells:
            raise ConfigError(
                f"outputs of {cells} cells are no detector's of a square image of a multiple of {coarsest} pixels, at strides of "
                f"{' and '.join(map(str, STRIDES))}: give a loss and a decode function of your own"
            )
        return found

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The rows and columns of each map."""
        return tuple((-(-self.height // stride), -(-self.width // stride)) for stride in self.strides)

    @property
    def cells(self) -> int:
        """The number of cells of all maps."""
        return sum(rows * columns for rows, columns in self.shapes)

    @cached_property
    def stride(self) -> np.ndarray:
        """The stride of each cell, in pixels: float32 ``[cells]``."""
        sizes = [rows * columns for rows, columns in self.shapes]
        return np.repeat(np.asarray(self.strides, np.float32), sizes)

    @cached_property
    def middles(self) -> np.ndarray:
        """The middle (x, y) of each cell, in pixels: float32 ``[cells, 2]``."""
        parts = []
        for stride, (rows, columns) in zip(self.strides, self.shapes, strict=True):
            y, x = np.mgrid[:rows, :columns]
            parts.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        return np.concatenate(parts).astype(np.float32)

    @cached_property
    def sides(self) -> np.ndarray:
        """The shortest and the longest box that a cell is responsible for, by its longer side in pixels: ``[cells, 2]``.

        A map takes boxes of up to :data:`MOST_CELLS` of its cells; the coarsest takes all that are longer too.
        """
        most = [MOST_CELLS * stride for stride in self.strides[:-1]]
        limits = np.asarray(list(zip([0.0, *most], [*most, np.inf], strict=True)), np.float32)
        return np.repeat(limits, [rows * columns for rows, columns in self.shapes], axis=0)

    def boxes(self, offsets: np.ndarray) -> np.ndarray:
        """Return the boxes ``[..., cells, 4]``, two corners in pixels, of offsets (x, y, log width, log height) in cells.

        Source: Ge et al. 2021, "YOLOX", section 2.1: ``x = (column + 1/2 + dx) stride``, ``width = stride exp(dw)``.
        """
        stride = self.stride[:, None]
        middle = self.middles + stride * offsets[..., :2]
        half = stride * np.exp(np.minimum(offsets[..., 2:], MOST_LOG)) / 2
        return np.concatenate([middle - half, middle + half], -1)


def raw_of(outputs: Any) -> tuple[Any, Any]:
    """Return offsets ``[n, cells, 4]`` and logits ``[n, cells, classes]`` of a detector: by their names, else by their shapes.

    Outputs without names that are both four wide come in this order.

    Raises:
        ConfigError: the outputs have other shapes.
    """
    names = outputs.keys() if isinstance(outputs, Mapping) else getattr(outputs, "names", ())
    if OFFSETS in names and LOGITS in names:
        found = outputs[OFFSETS], outputs[LOGITS]
    else:
        found = tuple(outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (tuple, list)) else ())
        if len(found) == 2 and found[0].shape[-1] != 4 and found[1].shape[-1] == 4:
            found = found[::-1]
    shapes = [tuple(x.shape) for x in found]
    fit = len(found) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[0][-1] == 4 and shapes[0][1] == shapes[1][1]
    if not fit:
        raise ConfigError(
            f"a detector returns {OFFSETS} [n, cells, 4] and {LOGITS} [n, cells, classes], not {shapes or type(outputs).__name__}"
        )
    return found[0], found[1]


def decode(
    outputs: Any, grid: Grid | None = None, threshold: float = 0.05, overlap: float = 0.6, most: int = 100
) -> list[Detections]:
    """Return the detections of each image: boxes ``[k, 4]`` in pixels, class numbers ``[k]`` and scores ``[k]``, surest first.

    Args:
        outputs: the raw outputs of a batch, see :func:`raw_of`.
        grid: of the detector; None takes that of a square image, see :meth:`Grid.of`.
        threshold: the least score.
        overlap: the greatest intersection over union of two boxes of one class.
        most: detections of an image.

    Raises:
        ConfigError: the outputs are no detector's, or of another grid.
    """
    offsets, logits = (np.asarray(x, np.float32) for x in raw_of(outputs))
    grid = grid or Grid.of(offsets.shape[1])
    if offsets.shape[1] != grid.cells:
        raise ConfigError(f"the outputs have {offsets.shape[1]} cells, and {grid} has {grid.cells}")
    corner = np.asarray([grid.width, grid.height] * 2, np.float32)
    found = np.clip(grid.boxes(offsets), 0, corner)
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return [_detections(boxes, image, threshold, overlap, most) for boxes, image in zip(found, scores, strict=True)]


def _detections(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: float, most: int) -> Detections:
    cells, classes = np.nonzero(scores >= threshold)
    surest = np.argsort(-scores[cells, classes], kind="stable")[: 10 * most]
    cells, classes = cells[surest], classes[surest]
    kept = suppressed(boxes[cells], classes, overlap)[:most]
    return boxes[cells[kept]], classes[kept], scores[cells[kept], classes[kept]]


def suppressed(boxes: np.ndarray, classes: np.ndarray, overlap: float) -> np.ndarray:
    """Return the numbers of boxes, given surest first, that no surer one of their class overlaps too far.

    Source: greedy non-maximum suppression, Felzenszwalb et al. 2010, section 6.2.
    """
    rivals = (intersection_over_union(boxes, boxes) > overlap) & (classes[:, None] == classes)
    kept = np.ones(len(boxes), bool)
    for place in range(len(boxes)):
        if kept[place]:
            kept[place + 1 :] &= ~rivals[place, place + 1 :]
    return np.flatnonzero(kept)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each box of ``a [k, 4]`` with each of ``b [m, 4]``: ``[k, m]``."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.maximum(high - low, 0).prod(-1)
    area = [np.maximum(x[:, 2:] - x[:, :2], 0).prod(-1) for x in (a, b)]
    return inner / np.maximum(area[0][:, None] + area[1] - inner, 1e-9)
