"""Losses: by name, of the user's own, and the distance to a teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from qat.errors import ConfigError, DataError
from qat.system.import_object import import_object
from qat.trainers.data_checks import NO_GRADIENT
from qat.trainers.options import TrainingOptions
from qat.trainers.output_losses import LEAST, SHARE, TINY, OutputLoss, OutputLosses

from .detection_loss import detection_loss

Loss = Callable[[Any, Any], Tensor]

_LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": lambda outputs, labels: F.binary_cross_entropy_with_logits(outputs, _like(labels, outputs)),
    "mse": lambda outputs, labels: F.mse_loss(outputs, _like(labels, outputs)),
    "mae": lambda outputs, labels: F.l1_loss(outputs, _like(labels, outputs)),
    "huber": lambda outputs, labels: F.huber_loss(outputs, _like(labels, outputs)),
    "detection": detection_loss,
}


def _like(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return labels in the outputs' type and, where only axes of size one differ, their shape: ``[n]`` for ``[n, 1]``."""
    labels = labels.to(outputs.dtype)
    return labels.reshape(outputs.shape) if labels.numel() == outputs.numel() else labels


def label_loss(options: TrainingOptions) -> Loss:
    """Return the loss against labels, ``(outputs, labels) -> scalar``."""
    loss = options.batch_loss
    if isinstance(loss, str):
        return _LOSSES[loss] if loss in _LOSSES else import_object(loss, "loss")
    return loss


def of_batch(loss: Loss, outputs: Any, labels: Any, weights: Tensor | None) -> Tensor:
    """Return the loss of a batch; with weights the mean of each sample's own loss times its weight.

    Raises:
        DataError: there is no weight for each sample, or the loss is no single number with a gradient.
    """
    if weights is None:
        return _single(loss(outputs, labels))
    tensors = [x for x in pytree.tree_leaves((outputs, labels)) if isinstance(x, Tensor)]
    if {len(x) for x in tensors} != {len(weights)} or weights.dim() != 1:
        raise DataError(
            f"sample weights have shape {tuple(weights.shape)}: give one for each sample, and for maps a loss= of your own"
        )
    alone = lambda nest: pytree.tree_map(lambda x: x[None], nest)  # noqa: E731
    each = torch.vmap(lambda y, t: loss(alone(y), alone(t)))(outputs, labels)
    return _single((each * weights.to(each.dtype)).mean())


def _single(found: object) -> Tensor:
    """Return what a loss returned, if training can lower it."""
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"the loss returned {what}: return a tensor of one number, such as the mean over the batch")
    if torch.is_grad_enabled() and not found.requires_grad:
        raise DataError(NO_GRADIENT)
    return found


def teacher_loss(options: TrainingOptions) -> Loss:
    """Return the loss against a teacher's outputs.

    Cross-entropy becomes the divergence of the softmaxes at the temperature T, times T squared, so that the gradients' size does
    not depend on it (Hinton et al. 2015, section 2). Other losses take the teacher's outputs as labels.
    """
    own = label_loss(options)
    if options.classifies:
        t = options.temperature
        return lambda outputs, taught: t * t * F.kl_div(
            F.log_softmax(outputs / t, -1), F.log_softmax(taught / t, -1), reduction="batchmean", log_target=True
        )  # fmt: skip
    if options.loss == "binary_cross_entropy":
        return lambda outputs, taught: own(outputs / options.temperature, (taught / options.temperature).sigmoid())
    return own


def class_scores(outputs: Any) -> Tensor:
    """Return the outputs that cross-entropy takes, the only ones of a nest. Raises ConfigError where there are several."""
    if (
        isinstance(outputs, Mapping)
        and len(tensors := [x for x in pytree.tree_leaves(dict(outputs)) if isinstance(x, Tensor)]) == 1
    ):
        (outputs,) = tensors
    if not isinstance(outputs, Tensor):
        raise ConfigError("the model has several outputs: give loss=, a function of (outputs, labels)")
    return outputs


def class_axis(outputs: Tensor, labels: Tensor | None) -> int:
    """Return the axis of the classes: the one that labels lack; without labels, that of PyTorch's maps, else the last."""
    axes = (1, outputs.dim() - 1)
    lacking = (a for a in axes if labels is not None and labels.shape == outputs.shape[:a] + outputs.shape[a + 1 :])
    return next(lacking, 1 if outputs.dim() > 3 else outputs.dim() - 1)


def rows_of(outputs: Tensor, axis: int) -> Tensor:
    """Return maps of class scores as rows ``[pixels, classes]``; rows stay as they are."""
    return outputs if outputs.dim() == 2 else outputs.movedim(axis, -1).flatten(0, -2)


def class_labels(labels: Tensor, classes: int) -> Tensor:
    """Return class numbers as cross-entropy takes them: of maps in a row, with 255 (no class) as -100."""
    labels = labels.long()
    if labels.dim() == 1:
        return labels
    labels = labels.flatten()
    return torch.where(labels == 255, -100, labels) if classes <= 255 else labels


def are_probabilities(outputs: Tensor) -> bool:
    """Whether the model ends in a softmax: every row is positive and sums to one."""
    rows = outputs.detach().float()
    return bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < 0.02).all())


def logarithms(probabilities: Tensor) -> Tensor:
    """Return logits of probabilities: their softmax is the probabilities again."""
    return probabilities.clamp_min(1e-7).log()


def output_losses(losses: OutputLosses, temperature: float) -> Loss:
    """Return the sum of the outputs' losses against a teacher; :class:`OutputLoss` has the formulas."""

    def loss(outputs: Any, taught: Any) -> Tensor:
        pairs = zip(losses.each, pytree.tree_leaves(outputs), pytree.tree_leaves(taught), strict=True)
        each = [_BY_OUTPUT[one.name](one, y.float(), t.float(), temperature) / one.divisor for one, y, t in pairs]
        return torch.stack(each).sum()

    return loss


def _kl(one: OutputLoss, y: Tensor, taught: Tensor, t: float) -> Tensor:
    a, b = (F.log_softmax((_logits(v) if one.given else v) / t, one.axis) for v in (taught, y))
    return t * t * (a.exp() * (a - b)).sum(one.axis).mean()


def _logits(shares: Tensor) -> Tensor:
    return torch.where(shares > 0, shares.clamp_min(LEAST), TINY).log()


def _bernoulli_kl(one: OutputLoss, y: Tensor, taught: Tensor, t: float) -> Tensor:
    p, q = ((v if one.given else v.sigmoid()).clamp(SHARE, 1 - SHARE) for v in (taught, y))
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


_BY_OUTPUT: dict[str, Callable[[OutputLoss, Tensor, Tensor, float], Tensor]] = {
    "kl": _kl,
    "bernoulli_kl": _bernoulli_kl,
    "mse": lambda one, y, taught, t: F.mse_loss(y, taught),
    "cosine": lambda one, y, taught, t: (1 - F.cosine_similarity(y, taught, one.axis, TINY)).mean(),
}
