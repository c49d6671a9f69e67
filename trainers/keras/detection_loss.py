"""The loss of a one-stage detector: which cells answer for which box, how sure they should be, and where the box lies."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import tensorflow as tf

from qat.trainers.detection_grid import BOX_WEIGHT, MOST_LOG, RADIUS, Grid, raw_of

#: TensorFlow has no types.
Tensor: TypeAlias = Any

_TINY = 1e-7


def detection_loss(outputs: Any, labels: Tensor, grid: Grid | None = None) -> Tensor:
    """Return the loss of a batch: quality focal loss of the classes and CIoU of the boxes, divided by the cells with a box.

    Args:
        outputs: offsets ``[n, cells, 4]`` and logits ``[n, cells, classes]`` by name, see :mod:`qat.trainers.detection_grid`.
        labels: ``[n, m, 5]``: left, top, right, bottom in pixels, and the class; -1 for no box.
        grid: of the detector; None takes that of a square image.
    """
    offsets, logits = raw_of(outputs)
    grid = grid or Grid.of(int(offsets.shape[1]))
    labels = tf.cast(labels, logits.dtype)
    answers, chosen = assigned(labels, grid)
    wanted = tf.gather(labels, chosen, batch_dims=1)
    found = decoded(offsets, grid)
    target = tf.where(answers[..., None], wanted[..., :4], tf.stop_gradient(found))
    overlap, lost = ciou(found, target)
    quality = tf.where(answers, tf.stop_gradient(overlap), 0.0)
    kinds = tf.one_hot(tf.cast(wanted[..., 4], tf.int32), logits.shape[-1], dtype=logits.dtype)
    classes = tf.reduce_sum(quality_focal(logits, kinds * quality[..., None]))
    boxes = tf.reduce_sum(tf.where(answers, lost, 0.0))
    return (classes + BOX_WEIGHT * boxes) / tf.maximum(tf.reduce_sum(tf.cast(answers, logits.dtype)), 1.0)


def assigned(labels: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return which cells answer for a box ``[n, cells]``, and for which one: the smallest of those whose middle is near.

    Source: centre sampling and one map for each size of box, Tian et al. 2019, "FCOS", section 3.2.
    """
    middles, stride, sides = (tf.constant(x, labels.dtype) for x in (grid.middles, grid.stride, grid.sides))
    corners, size = labels[..., :4], labels[..., 2:4] - labels[..., :2]
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    near = tf.reduce_all(tf.abs(middles[None, :, None] - middle[:, None]) < RADIUS * stride[None, :, None, None], -1)
    longer = tf.reduce_max(size, -1)[:, None]
    fits = (longer > sides[None, :, :1]) & (longer <= sides[None, :, 1:])
    able = near & fits & (labels[:, None, :, 4] >= 0)
    area = tf.where(able, tf.reduce_prod(size, -1)[:, None], math.inf)
    return tf.reduce_any(able, -1), tf.argmin(area, -1)


def decoded(offsets: Tensor, grid: Grid) -> Tensor:
    """Return the boxes of offsets; :meth:`Grid.boxes` has the formula."""
    middles, stride = (tf.constant(x, offsets.dtype) for x in (grid.middles, grid.stride[:, None]))
    middle = middles + stride * offsets[..., :2]
    half = stride * tf.exp(tf.minimum(offsets[..., 2:], MOST_LOG)) / 2
    return tf.concat([middle - half, middle + half], -1)


def ciou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union of boxes, pair by pair, and the CIoU loss.

    ``1 - IoU + d^2 / c^2 + alpha v``: the distance of the middles against the diagonal around both boxes, and the difference
    of their proportions, ``v = (2 / pi (atan(w_b / h_b) - atan(w_a / h_a)))^2``, ``alpha = v / (1 - IoU + v)``.

    Source: Zheng et al. 2020, "Distance-IoU Loss", equations 10 to 12.
    """
    overlapping = tf.nn.relu(tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]))
    inner = tf.reduce_prod(overlapping, -1)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = inner / (tf.reduce_prod(size_a, -1) + tf.reduce_prod(size_b, -1) - inner + _TINY)
    around = tf.maximum(a[..., 2:], b[..., 2:]) - tf.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    angle_a, angle_b = (tf.atan(size[..., 0] / (size[..., 1] + _TINY)) for size in (size_a, size_b))
    v = tf.square(2 / math.pi * (angle_b - angle_a))
    alpha = tf.stop_gradient(v / (1 - overlap + v + _TINY))
    distance = tf.reduce_sum(tf.square(apart), -1) / (tf.reduce_sum(tf.square(around), -1) + _TINY)
    return overlap, 1 - overlap + distance + alpha * v


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Return ``(quality - p)^2`` times the binary cross-entropy of ``p = sigmoid(logits)`` and a quality from 0 to 1.

    Source: Li et al. 2020, "Generalized Focal Loss", equation 4, with beta = 2; the quality is the box's IoU, so that scores rank
    boxes by how well they lie.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(quality, logits)
    return tf.square(quality - tf.sigmoid(logits)) * entropy
