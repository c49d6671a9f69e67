"""Losses: by name, of the user's own, and the distance to a teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from qat.system.import_object import import_object
from qat.trainers.options import TrainingOptions
from qat.trainers.output_losses import LEAST, SHARE, TINY, OutputLoss, OutputLosses

from .detection_loss import detection_loss

#: TensorFlow has no types.
Tensor: TypeAlias = Any
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

#: How far an error is squared before it counts in proportion (PyTorch's and Keras' default).
_HUBER_DELTA = 1.0


def _like(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return labels in the outputs' type; those ``[n]`` of outputs ``[n, 1]`` in the outputs' shape."""
    labels = tf.cast(labels, outputs.dtype)
    lacks = labels.shape.rank == outputs.shape.rank - 1 and outputs.shape[-1] == 1
    return labels[..., None] if lacks else labels


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy; pixels of a map that are labelled 255 or -100 do not count."""
    labels = tf.cast(labels, tf.int32)
    if labels.shape.rank == 1:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs))
    counted = labels != -100
    if outputs.shape[-1] <= 255:
        counted &= labels != 255
    lost = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counted, labels, 0), outputs)
    weights = tf.cast(counted, outputs.dtype)
    return tf.reduce_sum(lost * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def _huber(outputs: Tensor, labels: Tensor) -> Tensor:
    error = tf.abs(outputs - _like(labels, outputs))
    small = tf.minimum(error, _HUBER_DELTA)
    return tf.reduce_mean(small * (error - 0.5 * small))


_LOSSES: dict[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": lambda outputs, labels: tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(_like(labels, outputs), outputs)
    ),
    "mse": lambda outputs, labels: tf.reduce_mean(tf.square(outputs - _like(labels, outputs))),
    "mae": lambda outputs, labels: tf.reduce_mean(tf.abs(outputs - _like(labels, outputs))),
    "huber": _huber,
    "detection": detection_loss,
}


def of_batch(loss: Loss, outputs: Any, labels: Any, weights: Tensor | None) -> Tensor:
    """Return the loss of a batch; with weights the mean of each sample's own loss times its weight."""
    if weights is None:
        return loss(outputs, labels)
    alone = lambda nest: tf.nest.map_structure(lambda x: x[None], nest)  # noqa: E731
    each = tf.vectorized_map(lambda pair: loss(*alone(pair)), (outputs, labels))
    return tf.reduce_mean(each * tf.cast(weights, each.dtype))


def label_loss(options: TrainingOptions) -> Loss:
    """Return the loss against labels, ``(outputs, labels) -> scalar``. Keras' own losses take them the other way round."""
    loss = options.batch_loss
    if isinstance(loss, str):
        if loss in _LOSSES:
            return _LOSSES[loss]
        loss = import_object(loss, "loss")
    if type(loss).__module__.partition(".")[0] in ("keras", "tf_keras"):
        return lambda outputs, labels: loss(labels, outputs)
    return lambda outputs, labels: tf.reduce_mean(loss(outputs, labels))


def teacher_loss(options: TrainingOptions) -> Loss:
    """Return the loss against a teacher's outputs.

    Cross-entropy becomes the divergence of the softmaxes at the temperature T, times T squared, so that the gradients' size does
    not depend on it (Hinton et al. 2015, section 2). Other losses take the teacher's outputs as labels.
    """
    own = label_loss(options)
    if options.classifies:
        t = options.temperature
        return lambda outputs, taught: t * t * _divergence(outputs / t, taught / t)
    if options.loss == "binary_cross_entropy":
        return lambda outputs, taught: own(outputs / options.temperature, tf.sigmoid(taught / options.temperature))
    return own


def _divergence(outputs: Tensor, taught: Tensor) -> Tensor:
    """Return the mean over the batch of KL(softmax(taught) || softmax(outputs))."""
    a, b = tf.nn.log_softmax(taught), tf.nn.log_softmax(outputs)
    return tf.reduce_sum(tf.exp(a) * (a - b)) / tf.cast(tf.shape(outputs)[0], outputs.dtype)


def logarithms(probabilities: Tensor) -> Tensor:
    """Return logits of probabilities: their softmax is the probabilities again."""
    return tf.math.log(tf.maximum(probabilities, 1e-7))


def output_losses(losses: OutputLosses, temperature: float) -> Loss:
    """Return the sum of the outputs' losses against a teacher; :class:`OutputLoss` has the formulas."""

    def loss(outputs: Any, taught: Any) -> Tensor:
        pairs = zip(losses.each, tf.nest.flatten(outputs), tf.nest.flatten(taught), strict=True)
        each = [(one, tf.cast(y, tf.float32), tf.cast(t, tf.float32)) for one, y, t in pairs]
        return tf.add_n([_BY_OUTPUT[one.name](one, y, t, temperature) / one.divisor for one, y, t in each])

    return loss


def _kl(one: OutputLoss, y: Tensor, taught: Tensor, t: float) -> Tensor:
    a, b = (tf.nn.log_softmax((_logits(v) if one.given else v) / t, one.axis) for v in (taught, y))
    return t * t * tf.reduce_mean(tf.reduce_sum(tf.exp(a) * (a - b), one.axis))


def _logits(shares: Tensor) -> Tensor:
    return tf.math.log(tf.where(shares > 0, tf.maximum(shares, LEAST), TINY))


def _bernoulli_kl(one: OutputLoss, y: Tensor, taught: Tensor, t: float) -> Tensor:
    p, q = (tf.clip_by_value(v if one.given else tf.sigmoid(v), SHARE, 1 - SHARE) for v in (taught, y))
    return tf.reduce_mean(p * tf.math.log(p / q) + (1 - p) * tf.math.log((1 - p) / (1 - q)))


def _cosine(one: OutputLoss, y: Tensor, taught: Tensor, t: float) -> Tensor:
    a, b = (v / tf.maximum(tf.norm(v, axis=one.axis, keepdims=True), TINY) for v in (y, taught))
    return tf.reduce_mean(1 - tf.reduce_sum(a * b, one.axis))


_BY_OUTPUT: dict[str, Callable[[OutputLoss, Tensor, Tensor, float], Tensor]] = {
    "kl": _kl,
    "bernoulli_kl": _bernoulli_kl,
    "mse": lambda one, y, taught, t: tf.reduce_mean(tf.square(y - taught)),
    "cosine": _cosine,
}
