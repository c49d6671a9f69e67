"""Freezing of oscillating weights of few bits; :mod:`qat.arithmetic.oscillation` has the rule and its source."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from qat.adapters.torch.nodes.linear import Conv2d
from qat.arithmetic.oscillation import FREE, MOMENTUM

from .dampening import few_bits
from .prepared_model import PreparedModel

log = logging.getLogger("qat")


class Freezing(nn.Module):
    """The state of oscillation of each weight of fewer than 8 bits in a calibrated model.

    Call :meth:`update` after each step of the optimizer. The state is in buffers, one set a weight, in the program's layout.
    """

    def __init__(self, model: PreparedModel, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        found = list(few_bits(model))
        self.states = [_Weight(node, weight, bias) for node, weight, bias in found if isinstance(weight, nn.Parameter)]
        self.weights = nn.ModuleList(self.states)
        if len(self.states) < len(found):
            log.warning(
                "freezing leaves %d weights as they are: the model computes them from parameters", len(found) - len(self.states)
            )
        elif not self.states:
            log.warning("no weight has fewer than 8 bits: freezing does nothing")

    @torch.no_grad()
    def update(self) -> None:
        """Count the flips of the last step, freeze the weights that oscillate, and restore those that are frozen."""
        for weight in self.states:
            weight.update(self.threshold)

    def share(self) -> float:
        """Return the share of these weights that is frozen."""
        frozen = [weight.frozen != FREE for weight in self.states]
        return float(sum(int(f.sum()) for f in frozen)) / max(sum(f.numel() for f in frozen), 1)


class _Weight(nn.Module):
    """The state of one weight."""

    last: Tensor
    direction: Tensor
    frequency: Tensor
    mean: Tensor
    frozen: Tensor
    scale: Tensor

    def __init__(self, node: Conv2d, weight: nn.Parameter, bias: Tensor | None) -> None:
        super().__init__()
        # A tuple is no submodule: node and parameters belong to the model.
        self.of = (node, weight, bias)
        with torch.no_grad():
            laid = node.program_layout(weight)
            scale = node.weight_scale(laid, bias)
            q = node.quantized(laid, None, scale)[0]
        self.register_buffer("last", q.to(torch.int8))
        self.register_buffer("direction", torch.zeros_like(q, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros_like(q))
        self.register_buffer("mean", q.clone())
        self.register_buffer("frozen", torch.full_like(q, FREE, dtype=torch.int8))
        self.register_buffer("scale", scale.clone())

    def update(self, threshold: float) -> None:
        """Apply the rule to the weight after a step."""
        node, weight, bias = self.of
        planned = node.planned
        assert planned.weight is not None
        laid, turned_back = torch.func.vjp(node.program_layout, weight.detach())  # type: ignore[misc]  # of a permutation: its inverse
        along = (-1, *[1] * (laid.ndim - 1))
        kept = self.frozen != FREE
        limit = float("inf") if planned.weight.learned else planned.qmax
        at_limit = torch.where(self.frozen.abs() >= limit, self.frozen * self.scale.view(along), torch.zeros_like(laid))
        self.scale.copy_(node.weight_scale(torch.where(kept, at_limit, laid), bias))
        scale = self.scale.view(along)
        laid = torch.where(kept, self.frozen * scale, laid)
        q = node.quantized(laid, None, self.scale)[0]
        change = q - self.last
        flipped = (change != 0) & (change.sign() == -self.direction)
        self.frequency += MOMENTUM * (flipped.float() - self.frequency)
        self.mean += MOMENTUM * (q - self.mean)
        self.direction.copy_(torch.where(change != 0, change.sign(), self.direction))
        freeze = ~kept & (self.frequency > threshold) & (q.abs() < limit)
        self.frozen.copy_(torch.where(freeze, self.mean.round(), self.frozen))
        laid = torch.where(freeze, self.frozen * scale, laid)
        self.last.copy_(torch.where(freeze, self.frozen, q))
        weight.copy_(turned_back(laid)[0])
