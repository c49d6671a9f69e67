"""Weights of samples: batches ``(inputs, labels, weights)``, as Keras has them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Weighted(NamedTuple):
    """Labels, and the weight of each sample's loss: the loss of a batch is the mean of the samples' losses times these."""

    labels: Any
    weights: Any


def unweighted(labels: Any) -> tuple[Any, Any]:
    """Return labels, and the weights beside them; None where there are none."""
    return tuple(labels) if isinstance(labels, Weighted) else (labels, None)
