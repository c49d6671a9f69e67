"""The loss of a one-stage detector: which cells answer for which box, how sure they should be, and where the box lies."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.trainers.detection_grid import BOX_WEIGHT, MOST_LOG, RADIUS, Grid, raw_of

_TINY = 1e-7


def detection_loss(outputs: Any, labels: Tensor, grid: Grid | None = None) -> Tensor:
    """Return the loss of a batch: quality focal loss of the classes and CIoU of the boxes, divided by the cells with a box.

    Args:
        outputs: offsets ``[n, cells, 4]`` and logits ``[n, cells, classes]`` by name, see :mod:`qat.trainers.detection_grid`.
        labels: ``[n, m, 5]``: left, top, right, bottom in pixels, and the class; -1 for no box.
        grid: of the detector; None takes that of a square image.
    """
    offsets, logits = raw_of(outputs)
    grid = grid or Grid.of(offsets.shape[1])
    labels = labels.to(logits.dtype)
    answers, chosen = assigned(labels, grid)
    wanted = torch.take_along_dim(labels, chosen[..., None], 1)
    found = decoded(offsets, grid)
    target = torch.where(answers[..., None], wanted[..., :4], found.detach())
    overlap, lost = ciou(found, target)
    quality = torch.where(answers, overlap.detach(), 0.0)
    kinds = F.one_hot(wanted[..., 4].long().clamp(0, logits.shape[-1] - 1), logits.shape[-1])
    classes = quality_focal(logits, kinds * quality[..., None]).sum()
    boxes = torch.where(answers, lost, 0.0).sum()
    return (classes + BOX_WEIGHT * boxes) / answers.sum().clamp_min(1)


def assigned(labels: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return which cells answer for a box ``[n, cells]``, and for which one: the smallest of those whose middle is near.

    Source: centre sampling and one map for each size of box, Tian et al. 2019, "FCOS", section 3.2.
    """
    middles, stride, sides = (torch.from_numpy(x).to(labels) for x in (grid.middles, grid.stride, grid.sides))
    corners, size = labels[..., :4], labels[..., 2:4] - labels[..., :2]
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    near = ((middles[None, :, None] - middle[:, None]).abs() < RADIUS * stride[None, :, None, None]).all(-1)
    longer = size.amax(-1)[:, None]
    fits = (longer > sides[None, :, :1]) & (longer <= sides[None, :, 1:])
    able = near & fits & (labels[:, None, :, 4] >= 0)
    area = torch.where(able, size.prod(-1)[:, None], math.inf)
    return able.any(-1), area.argmin(-1)


def decoded(offsets: Tensor, grid: Grid) -> Tensor:
    """Return the boxes of offsets; :meth:`Grid.boxes` has the formula."""
    middles, stride = (torch.from_numpy(x).to(offsets) for x in (grid.middles, grid.stride[:, None]))
    middle = middles + stride * offsets[..., :2]
    half = stride * offsets[..., 2:].clamp_max(MOST_LOG).exp() / 2
    return torch.cat([middle - half, middle + half], -1)


def ciou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union of boxes, pair by pair, and the CIoU loss.

    ``1 - IoU + d^2 / c^2 + alpha v``: the distance of the middles against the diagonal around both boxes, and the difference
    of their proportions, ``v = (2 / pi (atan(w_b / h_b) - atan(w_a / h_a)))^2``, ``alpha = v / (1 - IoU + v)``.

    Source: Zheng et al. 2020, "Distance-IoU Loss", equations 10 to 12.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = inner / (size_a.prod(-1) + size_b.prod(-1) - inner + _TINY)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    angle_a, angle_b = (torch.atan(size[..., 0] / (size[..., 1] + _TINY)) for size in (size_a, size_b))
    v = (2 / math.pi * (angle_b - angle_a)).square()
    alpha = (v / (1 - overlap + v + _TINY)).detach()
    return overlap, 1 - overlap + apart.square().sum(-1) / (around.square().sum(-1) + _TINY) + alpha * v


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Return ``(quality - p)^2`` times the binary cross-entropy of ``p = sigmoid(logits)`` and a quality from 0 to 1.

    Source: Li et al. 2020, "Generalized Focal Loss", equation 4, with beta = 2; the quality is the box's IoU, so that scores rank
    boxes by how well they lie.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).square() * entropy
