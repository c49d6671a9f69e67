"""The nodes of attention: products of two activations, softmax, and the embedding of tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.adapters.torch.autograd.functions import straight_through
from qat.adapters.torch.autograd.runtimes import RUNTIMES
from qat.arithmetic import attention
from qat.arithmetic.grid import EXACT_IN_FLOAT, f32
from qat.arithmetic.kernels import KERNELS
from qat.planning.rounding import Rounding

from .base import Node
from .float_functions import as_runtime
from .linear import Conv2d
from .quantize import fake_quantized, quantize
from .stored_weight import StoredWeight


class MatMul(Node):
    """A product of two activations on their last two axes."""

    keeps_inputs, keeps_bytes, has_clip_mask = False, True, True

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply, sum and rescale."""
        ga, gb = self.inputs
        if self.training:
            scale = ga.scale * gb.scale / self.output.scale
            return self.noted(*kernels.matmul(a, b, self.attrs["transpose_b"], scale, self.asked, self.byte_offsets))
        b = b.mT if self.attrs["transpose_b"] else b
        largest = max(-ga.lo, ga.hi) * max(-gb.lo, gb.hi) * a.shape[-1]
        acc = torch.matmul(a, b) if largest < EXACT_IN_FLOAT else torch.matmul(a.double(), b.double())
        name = attention.product_kernels(self.kernels, gb.group.qmin - int(gb.lo))
        multiplier = KERNELS[name].product_multiplier(ga.scale_value, gb.scale_value, self.output.scale_value)
        return RUNTIMES[name].requantize(acc, multiplier, self.limits())

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """The float product."""
        return torch.matmul(a, b.mT if self.attrs["transpose_b"] else b)


class Softmax(Node):
    """Softmax over the last axis; exponentials come from a table of 256 entries."""

    keeps_inputs = False

    def integer(self, x: Tensor) -> Tensor:
        """In training compute in float, with the gradient of a softmax; else look up, sum and divide as the runtime does."""
        grid = self.inputs[0]
        if self.training:
            factor, units = grid.scale * self.attrs["beta"], 1 / self.output.scale
            return self.noted(*kernels.softmax(x, factor, units, self.asked))
        scale = float(f32(grid.scale_value) * f32(self.attrs["beta"]))
        table = torch.from_numpy(KERNELS[self.kernels].exponentials(scale, x.shape[-1])).to(x.device)
        e = table[(x - x.amax(-1, keepdim=True) + 255).long()]
        total = e[..., :1].clone()
        for i in range(1, e.shape[-1]):  # one by one: the kernels add in float32 in this order
            total += e[..., i : i + 1]
        return self.runtime.probabilities(e, total, self.output.encoding)

    def real(self, x: Tensor) -> Tensor:
        """The float softmax."""
        return torch.softmax(self._factored(x), -1)

    def evaluated(self, x: Tensor) -> Tensor:
        """The float softmax in the runtime's arithmetic, where that is known."""
        found = as_runtime("softmax", self._factored(x), self.kernels)
        return self.real(x) if found is None else found

    def _factored(self, x: Tensor) -> Tensor:
        return x if self.attrs["beta"] == 1 else x * self.attrs["beta"]


class Embedding(Node):
    """Lines of a weight, by index. The output's range is that of the whole weight: calibration need not see every word.

    Attributes:
        head: the node of the dense layer that it is tied to, in a tuple: the lines are those of that layer's weight as it is
            stored. Empty where it is tied to none.
    """

    head: tuple[Conv2d | StoredWeight, ...] = ()

    def compute(self, indices: Tensor, weight: Tensor) -> Tensor:
        """Show the whole weight to the range estimator."""
        if self.grids and not self.output.on_grid:
            self.output.estimate(weight, self.planned.op.output)
        return super().compute(indices, weight)

    def integer(self, indices: Tensor, weight: Tensor) -> Tensor:
        """Take lines and quantize them: fewer values than the whole weight has."""
        if self.tracks_output:
            self.observe(weight / self.output.scale)
        return quantize(self.stored(indices, weight), self.output, self.kernels)

    def real(self, indices: Tensor, weight: Tensor) -> Tensor:
        """The float lines, or as they are stored where the weight alone is."""
        return self.stored(indices, weight) if self.planned.stored else self.lines(indices, weight)

    def simulated(self, rounding: Rounding, *args: Any) -> Tensor:
        """Take lines in float, with the weight as it is stored or not."""
        lines = (self.stored if rounding.weight else self.lines)(*args)
        return fake_quantized(lines, self.output, self.kernels) if rounding.activation and self.grids else lines

    def lines(self, indices: Tensor, weight: Tensor) -> Tensor:
        """Return lines of a weight, or of what belongs to its lines."""
        if self.attrs.get("wraps"):
            indices = torch.where(indices < 0, indices + len(weight), indices)
        return F.embedding(indices, weight)

    def stored(self, indices: Tensor, weight: Tensor) -> Tensor:
        """Return the real values of lines as the artifact holds them, with straight-through gradients."""
        lines = self.lines(indices, weight)
        if not self.head:
            return lines
        spec = self.planned.weight
        if spec is None:
            return straight_through(lines, lines.detach().half().float())
        if spec.granularity == "channel" and not spec.learned:  # a line alone tells its scale
            scale = self.head[0].weight_scale(lines.flatten(0, -2), None).view(*lines.shape[:-1], 1)
        else:
            scale = self.lines(indices, self.scale(weight)[:, None])
        v = lines / scale
        return straight_through(v, self.rounded(v)) * scale

    def scale(self, weight: Tensor) -> Tensor:
        """Return the scale of each line, that of the dense layer's output."""
        (head,) = self.head
        sources = head.sources(weight, None) if isinstance(head, Conv2d) else (weight,)
        return self.kept("scale", lambda: head.weight_scale(weight, None), *sources)

    def rounded(self, v: Tensor) -> Tensor:
        """Return integers of unrounded ones."""
        return v.detach().round().clamp_(-self.planned.qmax, self.planned.qmax)

    def held(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whole weight as the artifact holds it, in float32, and the scale of each line."""
        if self.planned.weight is None:
            return weight.half().float(), weight.new_ones(weight.shape[0])
        scale = self.scale(weight)
        return self.rounded(weight / scale[:, None]), scale
