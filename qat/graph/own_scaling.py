"""The scaling by which a model begins: Keras' ``Rescaling`` and ``Normalization``, ``x / 255`` or ``x - mean`` in ``forward``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .graph import Graph, Op


@dataclass(frozen=True)
class OwnScaling:
    """What a model makes of an input before anything else: ``factor * x + offset``.

    Attributes:
        layer: the first layer that scales, by its path or its operator's name.
        factor: one number, or one for each channel.
        offset: likewise.
    """

    layer: str
    factor: np.ndarray
    offset: np.ndarray

    def width(self, low: float, high: float) -> float:
        """Return how far apart, at most, the scaled values of inputs from ``low`` to ``high`` are."""
        return float(np.abs(self.factor).max() * (high - low))


def own_scaling(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, OwnScaling]:
    """Return the scaling of each input that has one, by the input's name.

    Args:
        graph: as a model was traced, before BatchNorm is folded.
        params: the arrays that its operators name.
    """
    readers, constants = graph.consumers(), _constants(graph, params)
    found = {}
    for name in graph.inputs:
        tensor, layer = name, ""
        factor, offset = np.ones(()), np.zeros(())
        while len(readers.get(tensor, ())) == 1:
            (op,) = readers[tensor]
            step = _step(op, tensor, constants, params)
            if step is None:
                break
            factor, offset = factor * step[0], offset * step[0] + step[1]
            tensor, layer = op.output, layer or op.scope or op.name
        if layer:
            found[name] = OwnScaling(layer, np.ravel(factor), np.ravel(offset))
    return found


def _constants(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of the constants, and of those with the other sign, by tensor."""
    found: dict[str, np.ndarray] = {}
    for op in graph.ops:
        if op.kind == "constant":
            found[op.output] = np.squeeze(params[op.params["value"]])
        elif op.kind == "neg" and op.inputs[0] in found:
            found[op.output] = -found[op.inputs[0]]
    return found


def _step(
    op: Op, tensor: str, constants: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the factor and the offset of an operator that scales; None of any other."""
    if op.kind == "batch_norm":
        gamma, beta, mean, variance = (params[op.params[role]] for role in ("gamma", "beta", "mean", "variance"))
        factor = gamma / np.sqrt(variance + op.attrs["epsilon"])
        return factor, beta - mean * factor
    other = [constants[name] for name in op.inputs if name != tensor and name in constants]
    if op.kind not in ("mul", "add") or len(other) != 1 or other[0].ndim > 1:
        return None
    return (other[0], np.zeros(())) if op.kind == "mul" else (np.ones(()), other[0])
