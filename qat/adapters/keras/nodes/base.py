"""Integer-grid nodes: one class per kernel, on tensors. Parameters and grids belong to the model that calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from qat.adapters.keras.autograd import functions as kernels
from qat.arithmetic.grid import BIAS_LIMIT
from qat.errors import CalibrationError
from qat.graph.padding import same_padding
from qat.planning.plan import PlannedOp

from .activation_grid import Grid

Tensor = Any


class Node:
    """One planned operator. ``grids`` are those of its inputs, then of its output; none for one that stays float."""

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str, qmax: Any) -> None:
        self.planned, self.grids, self.kernels, self.qmax = planned, grids, kernels_name, qmax
        self.attrs: dict[str, Any] = dict(planned.op.attrs)

    @property
    def output(self) -> Grid:
        """The grid of the output."""
        return self.grids[-1]

    def __call__(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool, on_grid: bool) -> Tensor:
        """Compute on the grid once calibrated, else in float."""
        if self.grids and on_grid:
            return self.integer(inputs, params, training)
        if self.grids and training:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        y = activate(self.real(inputs, params), self.planned.activation)
        if self.grids:
            self.output.estimate(y)
        return y

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def limits(self) -> tuple[Tensor | float, Tensor]:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation.

        Every range contains 0, so that an activation's lower limit is the number 0.
        """
        hi = tf.convert_to_tensor(self.output.hi)
        lo = 0.0 if self.planned.activation in ("relu", "relu6") else tf.convert_to_tensor(self.output.lo)
        if self.planned.activation == "relu6":
            hi = tf.minimum(hi, tf.round(6.0 / self.output.scale))
        return lo, hi

    def observe(self, v: Tensor) -> Tensor:
        """Let the output's range follow ``v`` while training observes ranges; returns ``v``."""
        activation = self.planned.activation
        low = tf.constant(0.0 if activation else -np.inf, tf.float32)
        high = 6.0 / self.output.scale if activation == "relu6" else tf.constant(np.inf, tf.float32)
        return self.output.observe(v, low, high)

    def finish(self, v: Tensor, training: bool) -> Tensor:
        """Observe in training, then round and clamp with a straight-through gradient; a learned range has a gradient too."""
        if training and self.output.group.learned:
            from .learned_scales import leave

            return leave(v, self.output, *self.limits())
        return kernels.round_clamp(self.observe(v) if training else v, *self.limits())


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply a fused activation in float."""
    if activation == "relu":
        return tf.nn.relu(x)
    return tf.nn.relu6(x) if activation == "relu6" else x


class Linear(Node):
    """Operators with a weight: conv2d, depthwise_conv2d, dense."""

    def operator(self, x: Tensor) -> kernels.Operator:
        """The linear operator for an input."""
        if self.planned.op.kind == "dense":
            return kernels.MatMul()
        depthwise = self.planned.op.kind == "depthwise_conv2d"
        return kernels.Convolution(self.attrs["strides"], self._padding(x), self.attrs["dilations"], depthwise)

    def _padding(self, x: Tensor) -> Any:
        """Return TensorFlow's word for the padding where it has one: its kernels are faster than with explicit numbers."""
        padding = self.attrs["padding"]
        if padding == ((0, 0), (0, 0)):
            return "VALID"
        kernel = self.kernel_size
        window = [(k - 1) * d + 1 for k, d in zip(kernel, self.attrs["dilations"], strict=True)]
        return "SAME" if padding == same_padding(x.shape[1:3], window, self.attrs["strides"]) else padding

    kernel_size: tuple[int, int] = (1, 1)
    bias_limit: float = BIAS_LIMIT

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """One node from the float weight to the output's integers."""
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        self.kernel_size = tuple(weight.shape[:2])
        scale = self.weight_scale(weight, bias)
        scales = (tf.convert_to_tensor(self.grids[0].scale), tf.convert_to_tensor(self.output.scale))
        observe = self.observe if training else None
        if self.planned.kernels == "builtin" and not training:
            return self.builtin(x, weight, bias, scale)
        return kernels.linear(
            x, weight, bias, scale, self.channels(weight), scales, self.limits(), self.operator(x), observe
        )  # fmt: skip

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The float operator."""
        (x,), weight = inputs, params["weight"]
        self.kernel_size = tuple(weight.shape[:2])
        y = self.operator(x).forward(x, weight)
        return y + params["bias"] if "bias" in params else y

    def builtin(self, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        """The kernel of TFLite's own that runs what the delegate leaves."""
        w_int, b_int = self.quantized(weight, bias, scale)
        acc = self.operator(x).forward(x, w_int)
        acc = acc if b_int is None else acc + b_int
        x_scale, w_scale, y_scale = (tf.cast(s, tf.float64) for s in (self.grids[0].scale, scale, self.output.scale))
        return tf.clip_by_value(kernels.fixed_point(acc, x_scale * w_scale / y_scale), *self.limits())

    def channels(self, weight: Tensor) -> tuple[int, ...]:
        """Return the shape that lays one value per output channel along the weight's axes."""
        axes = self._channel_axes(len(weight.shape))
        return tuple(int(n) if i in axes else 1 for i, n in enumerate(weight.shape))

    def _channel_axes(self, rank: int) -> tuple[int, ...]:
        """Return the axes of the output channels in a weight of a rank."""
        axis = 1 if self.planned.op.kind == "dense" else self.attrs["channel_axis"]  # a matrix, whatever the layer's weight is
        return tuple(a % rank for a in ((axis,) if isinstance(axis, int) else axis))

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weight's scale for each output channel, flat."""
        spec = self.planned.weight
        assert spec is not None
        others = [i for i in range(len(weight.shape)) if i not in self._channel_axes(len(weight.shape))]
        per_channel = spec.granularity == "channel"
        scale = kernels.weight_scale(weight, bias, self.grids[0].scale, self.qmax, per_channel, others, self.bias_limit)
        return scale if per_channel else tf.broadcast_to(scale, [int(np.prod(self.channels(weight)))])

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers, as the kernel computes them."""
        w_int = tf.round(weight / tf.reshape(scale, self.channels(weight)))
        return w_int, None if bias is None else tf.round(bias / (scale * self.grids[0].scale))


class Add(Node):
    """Elementwise addition."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        (a, b), (ga, gb, gy) = inputs, self.grids
        if not training:
            return kernels.add_exact(a, b, (ga, gb, gy), *self.limits(), self.kernels)
        return self.finish(a * (ga.scale / gy.scale) + b * (gb.scale / gy.scale), training)

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Float addition."""
        return inputs[0] + inputs[1]


class Mul(Node):
    """Elementwise multiplication."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Multiply and rescale."""
        (a, b), (ga, gb, gy) = inputs, self.grids
        v = a * b * ((ga.scale * gb.scale) / gy.scale)
        if not training and self.kernels == "mlas":
            # The kernel rounds after it has added the zero point; see qat.arithmetic.mlas.mul.
            return tf.clip_by_value(tf.round(v + gy.zero_point) - gy.zero_point, *self.limits())
        return self.finish(v, training)

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Float multiplication."""
        return inputs[0] * inputs[1]


class Mean(Node):
    """The mean over the spatial axes: an exact sum, rescaled."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Sum and rescale by ``s_x / (s_y * count)``."""
        (x,), axes = inputs, list(self.attrs["axes"])
        count = np.float32(np.prod([x.shape[a] for a in axes]))
        total = tf.reduce_sum(x, axes, keepdims=self.attrs["keepdims"])
        if not training and self.kernels == "xnnpack":
            return self._by_xnnpack(total, count)
        return self.finish(total * (self.grids[0].scale / (self.output.scale * count)), training)

    def _by_xnnpack(self, total: Tensor, count: np.float32) -> Tensor:
        """The zero points come in after the multiplication; see :func:`qat.arithmetic.xnnpack.mean`."""
        gx, gy = self.grids
        scale = (gx.scale / gy.scale) * (np.float32(1) / count)
        offset = gx.zero_point * count
        v = (total + offset) * scale + (gy.zero_point - offset * scale)
        return tf.clip_by_value(tf.round(v) - gy.zero_point, *self.limits())

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The float mean."""
        return tf.reduce_mean(inputs[0], list(self.attrs["axes"]), keepdims=self.attrs["keepdims"])


class Moving(Node):
    """Operators that move integers without changing them: one scale for inputs and output, the same code in float."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Move the integers."""
        return self.real(inputs, params)


class MaxPool2d(Moving):
    """Max pooling."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Pool; padding never wins."""
        return tf.nn.max_pool2d(inputs[0], self.attrs["kernel"], self.attrs["strides"], _explicit(self.attrs["padding"]))


class Relu(Moving):
    """A ReLU that no kernel absorbed."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Zero is 0 on the grid too."""
        return tf.nn.relu(inputs[0])


class Relu6(Node):
    """A ReLU6 that no kernel absorbed."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Clamp at the integer nearest to 6."""
        return tf.clip_by_value(inputs[0], 0.0, tf.minimum(self.output.hi, tf.round(6.0 / self.output.scale)))

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The float ReLU6."""
        return tf.nn.relu6(inputs[0])


class Concat(Moving):
    """Concatenation of tensors that share one scale."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Concatenate."""
        return tf.concat(inputs, self.attrs["axis"])


class Reshape(Moving):
    """Any change of shape that keeps the batch first."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Reshape."""
        return tf.reshape(inputs[0], self.attrs["shape"])


class Pad(Moving):
    """Spatial padding with zeros, which are 0 on the grid too."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Pad."""
        return tf.pad(inputs[0], [(0, 0), *self.attrs["padding"], (0, 0)])


class AvgPool2d(Node):
    """Average pooling over the elements inside the image; input and output share one scale."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Sum exactly, divide, round as the kernel does; see :func:`qat.arithmetic.tflite.avg_pool2d`."""
        total, count = self._sums(inputs[0])
        if self.kernels == "mlas":
            scale = tf.convert_to_tensor(self.output.scale)
            return self.finish(total * ((scale * (1.0 / count)) / scale), training)
        if training:
            return self.finish(total / count, training)
        raw = total + count * self.output.zero_point
        # Half a unit more never changes the quotient's floor, and keeps it right where the graph optimizer multiplies by the
        # reciprocal of the constant count instead of dividing.
        half = tf.floor(count / 2) + 0.5
        mean = tf.where(raw > 0, tf.floor((raw + half) / count), -tf.floor((half - raw) / count))
        return tf.clip_by_value(mean - self.output.zero_point, *self.limits())

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The float average."""
        total, count = self._sums(inputs[0])
        return total / count

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padding = [(0, 0), *self.attrs["padding"], (0, 0)]
        kernel = self.attrs["kernel"]

        def windows(values: Tensor) -> Tensor:
            ones = tf.ones((*kernel, values.shape[-1], 1))
            strides = [1, *self.attrs["strides"], 1]
            return tf.nn.depthwise_conv2d(tf.pad(values, padding), ones, strides, "VALID")

        return windows(x), windows(tf.ones((1, *x.shape[1:3], 1)))


class BatchNorm(Node):
    """A BatchNorm that could not be folded: its running statistics, in float."""

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """Normalize with the running statistics."""
        p = params
        return tf.nn.batch_normalization(
            inputs[0], p["mean"], p["variance"], p.get("beta"), p.get("gamma"), self.attrs["epsilon"]
        )  # fmt: skip


def _explicit(padding: Any) -> Any:
    return "VALID" if padding == ((0, 0), (0, 0)) else [(0, 0), *padding, (0, 0)]


def quantize(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return ``x`` on a grid; the formula is the runtime's, see :func:`qat.arithmetic.kernels.Kernels.quantize`."""
    v = x * (1.0 / grid.scale) if kernels_name == "xnnpack" else x / grid.scale
    if training:
        v = grid.observe(v, tf.constant(-np.inf, tf.float32), tf.constant(np.inf, tf.float32))
    return kernels.round_clamp(v, tf.convert_to_tensor(grid.lo), tf.convert_to_tensor(grid.hi))


NODES: dict[str, type[Node]] = {
    "conv2d": Linear,
    "depthwise_conv2d": Linear,
    "dense": Linear,
    "batch_norm": BatchNorm,
    "add": Add,
    "mul": Mul,
    "mean": Mean,
    "concat": Concat,
    "relu": Relu,
    "relu6": Relu6,
    "max_pool2d": MaxPool2d,
    "avg_pool2d": AvgPool2d,
    "reshape": Reshape,
    "pad": Pad,
}
