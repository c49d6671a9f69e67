"""Losses against a teacher, one for each output, chosen by what the teacher's outputs are.

| loss | of outputs that are | formula, for a row or a number |
|---|---|---|
| ``kl`` | logits, or probabilities whose rows sum to one | ``KL(teacher || model)`` of the distributions (Hinton et al. 2015) |
| ``bernoulli_kl`` | numbers from 0 to 1, as a sigmoid gives them | ``KL`` of ``(p, 1 - p)`` |
| ``mse`` | maps, coordinates, anything else | the squared difference |
| ``cosine`` | embeddings of length one | one less the cosine |

Each is divided by the loss of the best constant answer: 0 is the teacher, 1 an answer that ignores the input. For ``mse`` that
divisor is the variance over the samples. Losses of several outputs are therefore comparable, and are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from qat.arithmetic.spread import LEAST as LEAST_VARIANCE
from qat.errors import OptionError, nearest
from qat.system.sample_axes import rows_alike

LossName: TypeAlias = Literal["kl", "bernoulli_kl", "mse", "cosine"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)

#: How far a row's sum or length may be from one.
_NEAR_ONE = 0.02
#: What a probability of zero is taken for: an 8-bit grid, and a softmax that underflows, have zeros.
TINY = 1e-7
#: Others are as small as float32 has them: a right class that is all but ruled out has the steepest slope of all.
LEAST = 1e-30
#: Those of a sigmoid, which an 8-bit grid cannot tell from zero or one, are within these limits.
SHARE = 1e-4
#: A divisor is at least this (of ``mse``: :data:`qat.arithmetic.spread.LEAST`): samples that are all alike have no variance.
_LEAST = 1e-3
#: Numbers are scores of classes where less than this share of their variance lies between the mean scores of the classes. The
#: coordinates of landmarks, which stay near their places, have more.
_FIXED_PLACES = 0.5


@dataclass(frozen=True)
class OutputLoss:
    """The loss of one output.

    Attributes:
        output: its name.
        name: of the loss.
        axis: of the classes, or of the embedding's numbers.
        given: whether the output holds probabilities; else it holds logits.
        divisor: the loss of the best constant answer.
    """

    output: str
    name: LossName
    axis: int = -1
    given: bool = False
    divisor: float = 1.0

    def values(self, outputs: np.ndarray, taught: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return the loss of each sample, ``[n]``. The reference for the losses of both frameworks."""
        y, t = outputs.astype(np.float64), taught.astype(np.float64)
        if self.name == "mse":
            each = np.square(y - t)
        elif self.name == "cosine":
            a, b = (v / np.maximum(np.linalg.norm(v, axis=self.axis, keepdims=True), TINY) for v in (y, t))
            each = 1 - (a * b).sum(self.axis)
        elif self.name == "kl":
            a, b = (_log_softmax(self._logits(v) / temperature, self.axis) for v in (t, y))
            each = temperature**2 * (np.exp(a) * (a - b)).sum(self.axis)
        else:
            p, q = (np.clip(v if self.given else 1 / (1 + np.exp(-v)), SHARE, 1 - SHARE) for v in (t, y))
            each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        return each.reshape(len(each), -1).mean(1) / self.divisor

    def _logits(self, values: np.ndarray) -> np.ndarray:
        return np.log(np.where(values > 0, np.maximum(values, LEAST), TINY)) if self.given else values


@dataclass(frozen=True)
class OutputLosses:
    """The losses of all outputs, in their order."""

    each: tuple[OutputLoss, ...]

    def values(self, outputs: Sequence[np.ndarray], taught: Sequence[np.ndarray], temperature: float = 1.0) -> np.ndarray:
        """Return the sum of the outputs' losses for each row of the first one, ``[n]``.

        An output of other rows, such as a recurrent state ``[layers, samples, ...]``, adds its mean to each.
        """
        rows = [loss.values(y, t, temperature) for loss, y, t in zip(self.each, outputs, taught, strict=True)]
        return np.sum(rows_alike(rows), axis=0)

    def names(self) -> dict[str, str]:
        """Return the name of each output's loss, by output."""
        return {loss.output: loss.name for loss in self.each}

    def __str__(self) -> str:
        return ", ".join(f"{loss.name} of '{loss.output}'" for loss in self.each)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the losses, JSON-ready."""
        return [asdict(loss) for loss in self.each]

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> OutputLosses:
        """Return the losses that :meth:`to_list` wrote."""
        return cls(tuple(OutputLoss(**value) for value in values))


def choose(taught: Mapping[str, np.ndarray], wanted: Mapping[str, str] | str | None, channels_second: bool) -> OutputLosses:
    """Return the losses for a teacher's outputs.

    Args:
        taught: the teacher's outputs for some samples, by name.
        wanted: names of losses by output, or one for all; None, and outputs that are not named, follow their values.
        channels_second: whether classes of maps are the second axis, as in PyTorch; else the last.

    Raises:
        OptionError: there is no such output or loss.
    """
    named = dict.fromkeys(taught, wanted) if isinstance(wanted, str) else dict(wanted or {})
    for output, name in named.items():
        if output not in taught:
            raise OptionError(
                "loss", f"loss names an output '{output}'{nearest(output, taught)}; the model has {', '.join(taught)}"
            )
        check_name(str(name))
    return OutputLosses(tuple(_loss_of(output, y, named.get(output), channels_second) for output, y in taught.items()))


def check_name(name: str) -> None:
    """Raise OptionError unless there is such a loss."""
    if name not in LOSS_NAMES:
        raise OptionError(
            "loss", f"unknown loss '{name}' of an output{nearest(name, LOSS_NAMES)}; valid: {', '.join(LOSS_NAMES)}"
        )


def _loss_of(output: str, y: np.ndarray, wanted: str | None, channels_second: bool) -> OutputLoss:
    y = np.asarray(y, np.float64)
    classes = 1 if channels_second and y.ndim > 3 else y.ndim - 1
    axes = (y.ndim - 1, 1) if y.ndim > 2 else (y.ndim - 1,)
    summing = next((a for a in axes if y.shape[a] > 1 and _are_one(y.sum(a))), None)
    shares = bool((y >= -TINY).all() and (y <= 1 + TINY).all())
    length = next((a for a in axes if y.shape[a] > 2 and _are_one(np.linalg.norm(y, axis=a))), None)
    found: OutputLoss
    if (shares and summing is not None and wanted is None) or (wanted == "kl" and shares and summing is not None):
        found = OutputLoss(output, "kl", summing, given=True)
    elif wanted == "bernoulli_kl" or (wanted is None and shares):
        found = OutputLoss(output, "bernoulli_kl", given=shares)
    elif wanted == "cosine" or (wanted is None and length is not None):
        found = OutputLoss(output, "cosine", classes if length is None else length)
    elif wanted == "kl" or (wanted is None and _are_scores(y, classes)):
        found = OutputLoss(output, "kl", classes)
    else:
        found = OutputLoss(output, "mse")
    return OutputLoss(output, found.name, found.axis, found.given, _divisor(found, y))


def _are_one(values: np.ndarray) -> bool:
    return bool((np.abs(values - 1) < _NEAR_ONE).all())


def _are_scores(y: np.ndarray, axis: int) -> bool:
    """Whether numbers look like logits of classes: three or more, in which the winner changes from sample to sample."""
    if y.ndim < 2 or y.shape[axis] < 3:
        return False
    rows = np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])
    total = float(rows.var())
    between = float(rows.mean(0).var())
    return total > 0 and between < _FIXED_PLACES * total and len(np.unique(rows.argmax(1))) > 1


def _divisor(loss: OutputLoss, y: np.ndarray) -> float:
    """Return the loss of the best constant answer; never zero."""
    if loss.name == "mse":
        found = float(y.var(0).mean())
    elif loss.name == "cosine":
        rows = np.moveaxis(y, loss.axis, -1).reshape(-1, y.shape[loss.axis])
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
        found = 1 - float(np.linalg.norm(rows.mean(0)))
    elif loss.name == "kl":
        logs = _log_softmax(loss._logits(y), loss.axis)
        rows = np.exp(np.moveaxis(logs, loss.axis, -1).reshape(-1, y.shape[loss.axis]))
        found = _entropy(rows.mean(0)) - float(np.mean([_entropy(row) for row in rows]))
    else:
        p = np.clip(y if loss.given else 1 / (1 + np.exp(-y)), SHARE, 1 - SHARE)
        found = float(_binary_entropy(p.mean(0)).mean() - _binary_entropy(p).mean())
    least = LEAST_VARIANCE * float(np.square(y).mean()) if loss.name == "mse" else _LEAST
    return max(found, least) or 1.0


def _log_softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    shifted = logits - logits.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def _entropy(p: np.ndarray) -> float:
    p = np.maximum(p, TINY)
    return float(-(p * np.log(p)).sum())


def _binary_entropy(p: np.ndarray) -> np.ndarray:
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log(1 - p)))
