"""Integer-grid nodes: one ``nn.Module`` per kernel.

A node runs in float until its model is calibrated, then on the grid. Parameters are arguments, not members: they keep the
names that they have in the user's model, and a tied one is quantized where it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat import functions
from qat.adapters.torch import kernels
from qat.adapters.torch.grid import Grid
from qat.adapters.torch.rows import as_image_weight
from qat.errors import CalibrationError
from qat.planner import PlannedOp


class Node(nn.Module):
    """One planned operator. ``grids`` are those of its inputs, then of its output, shared with its neighbours.

    An operator that the plan leaves float has no grids and always computes :meth:`real`.
    """

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__()
        self.planned = planned
        self.attrs: dict[str, Any] = dict(planned.op.attrs)
        # A tuple is no submodule: the model registers every grid once, in a place of its own.
        self.grids = grids
        self.kernels = kernels_name

    @property
    def inputs(self) -> tuple[Grid, ...]:
        """The grids of the inputs."""
        return self.grids[:-1]

    @property
    def output(self) -> Grid:
        """The grid of the output."""
        return self.grids[-1]

    def forward(self, *args: Any) -> Tensor:
        """Compute on the grid once calibrated, else in float."""
        device = args[0].device.type
        if torch.is_autocast_enabled(device):
            # The accumulators need float32; what a float operator left in a narrower type is widened.
            with torch.autocast(device, enabled=False):
                return self.compute(*(a.float() if isinstance(a, Tensor) else a for a in args))
        return self.compute(*args)

    def compute(self, *args: Any) -> Tensor:
        """What :meth:`forward` does, outside autocast."""
        if not self.grids:
            return activate(self.real(*args), self.planned.activation)
        if self.output.on_grid:
            return self.integer(*args)
        if self.training and self.output.estimator is None:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        y = activate(self.real(*args), self.planned.activation)
        self.output.estimate(y)
        return y

    def integer(self, *args: Any) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, *args: Any) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def limits(self) -> tuple[float, float]:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation."""
        grid, activation = self.output, self.planned.activation
        lo, hi = grid.lo, grid.hi
        if activation in ("relu", "relu6"):
            lo = max(lo, 0.0)
        if activation == "relu6":
            hi = min(hi, grid.integer_of(6.0))
        return lo, hi

    def finish(self, v: Tensor) -> Tensor:
        """Observe unrounded grid values if asked to, then round and clamp with a straight-through gradient."""
        self.observe(v)
        return kernels.round_clamp(v, *self.limits())

    def observe(self, v: Tensor) -> None:
        """Let the output's range follow ``v``, where training observes ranges."""
        if self.training and self.output.observing:
            activation = self.planned.activation
            low = 0.0 if activation else -float("inf")
            high = 6.0 / self.output.step if activation == "relu6" else float("inf")
            self.output.observe(v, low, high)

    def observer(self) -> Any:
        """The callback that shows a fused kernel's unrounded values to :meth:`observe`, or None."""
        return self.observe if self.training and self.output.observing else None


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply a fused activation in float."""
    if activation == "relu":
        return F.relu(x)
    return F.relu6(x) if activation == "relu6" else x


class Conv2d(Node):
    """conv2d and depthwise_conv2d, with bias and fused activation."""

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Take the weight of a convolution of rows too."""
        return super().compute(x, as_image_weight(weight), bias)

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        scale = self.weight_scale(weight, bias)
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        else:
            padding = (top, left)
        geometry = (self.attrs["strides"], padding, self.attrs["dilations"], self.attrs["groups"])
        if self.planned.kernels == "builtin" and not self.training:
            w_int, b_int = self.quantized(weight, bias, scale)
            return self.builtin(F.conv2d(x, w_int, b_int, *geometry), scale)
        x_scale, y_scale = self.inputs[0].scale, self.output.scale
        return kernels.conv2d(x, weight, bias, scale, x_scale, y_scale, self.limits(), geometry, self.observer())

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float convolution."""
        (top, bottom), (left, right) = self.attrs["padding"]
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, self.attrs["strides"], 0, self.attrs["dilations"], self.attrs["groups"])

    def builtin(self, acc: Tensor, scale: Tensor) -> Tensor:
        """Leave an accumulator as the kernel of TFLite's own does that runs what the delegate leaves."""
        multiplier = self.inputs[0].scale.double() * scale.double() / self.output.scale.double()
        return kernels.fixed_point(acc, multiplier.view(-1, 1, 1)).clamp_(*self.limits())

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weight's scale for each output channel."""
        spec = self.planned.weight
        assert spec is not None
        return kernels.weight_scale(
            weight, bias, self.inputs[0].scale, self.planned.qmax, spec.granularity == "channel"
        )  # fmt: skip

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers, as the kernel computes them."""
        w_int = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_()
        return w_int, None if bias is None else (bias / (scale * self.inputs[0].scale)).round_()


class Dense(Conv2d):
    """A fully connected layer on the last axis, with bias and fused activation."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        scale = self.weight_scale(weight, bias)
        x_scale, y_scale = self.inputs[0].scale, self.output.scale
        return kernels.dense(x, weight, bias, scale, x_scale, y_scale, self.limits(), self.observer())

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float layer."""
        return F.linear(x, weight, bias)


class Add(Node):
    """Elementwise addition; the tensors broadcast."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        ga, gb = self.inputs
        if not self.training:
            return kernels.add_exact(a, b, (ga, gb, self.output), *self.limits(), self.kernels)
        ra, rb = ga.step / self.output.step, gb.step / self.output.step
        return kernels.add(a, b, ra, rb, self.limits(), self.observer())

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float addition."""
        return a + b


class Mul(Node):
    """Elementwise multiplication; the tensors broadcast."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply and rescale."""
        ga, gb = self.inputs
        v = a * b * (ga.scale * gb.scale / self.output.scale)
        if not self.training and self.kernels == "mlas":
            # The kernel rounds after it has added the zero point; see qat.numerics.mul.
            zero_point = self.output.zero_point
            return ((v + zero_point).round_() - zero_point).clamp_(*self.limits())
        return self.finish(v)

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float multiplication."""
        return a * b


class Constant(Node):
    """A parameter on the grid. Its range is calibrated and observed as an activation's is."""

    def integer(self, value: Tensor) -> Tensor:
        """Quantize; the gradient reaches the parameter in its own unit."""
        return quantize(value, self.output, self.kernels, self.training)

    def real(self, value: Tensor) -> Tensor:
        """The parameter itself."""
        return value


class Function(Node):
    """A function of one tensor: a table of the output's integers, made anew where a scale has moved."""

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__(planned, grids, kernels_name)
        self.made_for: tuple[Any, ...] = ()
        self.tables: tuple[Tensor, ...] = ()

    def integer(self, x: Tensor) -> Tensor:
        """Look up; in training the gradient is the mean slope around each integer."""
        grid = self.inputs[0]
        if self.training and self.output.observing:
            with torch.no_grad():
                self.observe(self.real(x * grid.scale) / self.output.scale)
        values, slopes = self._tables(x.device)
        return kernels.lookup(x, values, slopes, grid.lo, *self.limits())

    def real(self, x: Tensor) -> Tensor:
        """PyTorch's own function."""
        return FUNCTIONS[self.planned.op.kind](x, **self.attrs)

    def _tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the integers and their slopes, float32 of one entry for each integer of the input."""
        key = (self.inputs[0].step, self.inputs[0].lo, self.output.step, self.output.lo, device)
        if key != self.made_for:
            encodings = (self.inputs[0].encoding, self.output.encoding)
            kind = self.planned.op.kind
            arrays = (
                functions.table(kind, self.attrs, *encodings, self.kernels),
                functions.slopes(kind, self.attrs, *encodings),
            )
            self.tables = tuple(torch.from_numpy(a.astype(np.float32)).to(device) for a in arrays)
            self.made_for = key
        return self.tables


class Mean(Node):
    """The mean over the spatial axes: an exact sum, rescaled."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum and rescale by ``s_x / (s_y * count)``."""
        axes = self.attrs["axes"]
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        total = x.sum(axes, keepdim=self.attrs["keepdims"])
        return self.finish(total * (self.inputs[0].scale / (self.output.scale * count)))

    def real(self, x: Tensor) -> Tensor:
        """The float mean."""
        return x.mean(self.attrs["axes"], keepdim=self.attrs["keepdims"])


class Moving(Node):
    """Operators that move integers without changing them: one scale for inputs and output, the same code in float."""

    def integer(self, *tensors: Tensor) -> Tensor:
        """Move the integers."""
        return self.real(*tensors)


class MaxPool2d(Moving):
    """Max pooling; the grid's order is that of the real values."""

    def real(self, x: Tensor) -> Tensor:
        """Pool; padding never wins."""
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right) or 2 * top > self.attrs["kernel"][0] or 2 * left > self.attrs["kernel"][1]:
            x = F.pad(x, (left, right, top, bottom), value=-float("inf"))
            return F.max_pool2d(x, self.attrs["kernel"], self.attrs["strides"])
        return F.max_pool2d(x, self.attrs["kernel"], self.attrs["strides"], (top, left))


class Relu(Moving):
    """A ReLU that no kernel absorbed."""

    def real(self, x: Tensor) -> Tensor:
        """Zero is 0 on the grid too."""
        return F.relu(x)


class Relu6(Node):
    """A ReLU6 that no kernel absorbed."""

    def integer(self, x: Tensor) -> Tensor:
        """Clamp at the integer nearest to 6."""
        return x.clamp(0.0, min(self.output.integer_of(6.0), self.output.hi))

    def real(self, x: Tensor) -> Tensor:
        """The float ReLU6."""
        return F.relu6(x)


class Concat(Moving):
    """Concatenation of tensors that share one scale."""

    def real(self, *tensors: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat(tensors, self.attrs["axis"])


class Reshape(Moving):
    """Any change of shape that keeps the batch first."""

    def real(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.reshape(x.shape[0], *self.attrs["shape"][1:])


class Pad(Moving):
    """Spatial padding with zeros, which are 0 on the grid too."""

    def real(self, x: Tensor) -> Tensor:
        """Pad."""
        (top, bottom), (left, right) = self.attrs["padding"]
        return F.pad(x, (left, right, top, bottom))


class AvgPool2d(Node):
    """Average pooling over the elements inside the image; input and output share one scale."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum exactly, divide, round as the kernel does; see :func:`qat.numerics.avg_pool2d`."""
        total, count = self._sums(x)
        if self.kernels == "mlas":
            grid = self.output
            return self.finish(total * ((grid.scale * (1.0 / count)) / grid.scale))
        if self.training:
            return self.finish(total / count)
        raw = total + count * self.output.zero_point
        mean = torch.trunc((raw + torch.copysign((count / 2).trunc(), raw)) / count)
        return (mean - self.output.zero_point).clamp(*self.limits())

    def real(self, x: Tensor) -> Tensor:
        """The float average."""
        if self.attrs["padding"] == ((0, 0), (0, 0)):  # in the form that TensorFlow has a counterpart of
            return F.avg_pool2d(x, self.attrs["kernel"], self.attrs["strides"])
        total, count = self._sums(x)
        return total / count

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (top, bottom), (left, right) = self.attrs["padding"]
        ones = F.pad(x.new_ones((1, 1, *x.shape[2:])), (left, right, top, bottom))
        x = F.pad(x, (left, right, top, bottom))
        window: dict[str, Any] = {"kernel_size": self.attrs["kernel"], "stride": self.attrs["strides"], "divisor_override": 1}
        return F.avg_pool2d(x, **window), F.avg_pool2d(ones, **window)


class BatchNorm(Node):
    """A BatchNorm that could not be folded: its running statistics, in float."""

    def real(
        self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:  # fmt: skip
        """Normalize with the running statistics."""
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, self.attrs["epsilon"])


class Quantize(nn.Module):
    """The entry of a region: float to the grid."""

    def __init__(self, grid: Grid, kernels_name: str) -> None:
        super().__init__()
        self.grids = (grid,)
        self.kernels = kernels_name

    def forward(self, x: Tensor) -> Tensor:
        """Return integers once calibrated."""
        (grid,) = self.grids
        if not grid.on_grid:
            grid.estimate(x)
            return x
        return quantize(x, grid, self.kernels, self.training)


def quantize(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return ``x`` on a grid; the formula is the runtime's, see :func:`qat.numerics.quantize`."""
    v = x * grid.scale.reciprocal() if kernels_name == "xnnpack" else x / grid.scale
    if training and grid.observing:
        grid.observe(v, -float("inf"), float("inf"))
    return kernels.round_clamp(v, grid.lo, grid.hi)


class Dequantize(nn.Module):
    """The exit of a region: the grid to float."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grids = (grid,)

    def forward(self, x: Tensor) -> Tensor:
        """Return real values once calibrated."""
        (grid,) = self.grids
        return x * grid.scale if grid.on_grid else x


#: PyTorch's functions by kind, for a model that is not calibrated yet and for what stays float.
FUNCTIONS: dict[str, Any] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": lambda x, approximate: F.gelu(x, approximate="tanh" if approximate else "none"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, alpha),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
}
