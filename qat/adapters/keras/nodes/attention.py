"""Nodes of attention: products of two activations, softmax, embeddings; :mod:`qat.arithmetic.attention` has the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd.functions import straight_through
from qat.arithmetic import attention, tflite
from qat.arithmetic.grid import EXACT_IN_FLOAT
from qat.arithmetic.kernels import KERNELS
from qat.graph.kinds import KINDS
from qat.planning.rounding import Rounding

from .base import Node, Params
from .float_functions import as_runtime
from .linear import Linear
from .quantize import fake_quantized, quantize


class MatMul(Node):
    """A product of two activations on their last two axes."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Multiply, sum and rescale."""
        (a, b), (ga, gb, gy) = inputs, self.grids
        multiplier = (ga.scale * gb.scale) / gy.scale
        if training:
            return self.finish(self._product(a, b) * multiplier, training)
        depth, span = a.shape[-1], gb.group.qmax - gb.group.qmin
        exact = depth is not None and depth * span**2 < EXACT_IN_FLOAT
        acc = self._product(a, b) if exact else self._product(tf.cast(a, tf.float64), tf.cast(b, tf.float64))
        if attention.product_kernels(self.kernels, self._zero_point()) == "reference":
            return self._requantize(acc)
        return self.finish(tf.cast(acc, tf.float32) * multiplier, training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float product."""
        return self._product(*inputs)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        return tf.matmul(a, b, transpose_b=self.attrs["transpose_b"])

    def _zero_point(self) -> int:
        """Return the second operand's zero point where the plan knows it, else one that is not 0."""
        group = self.inputs[1].group
        return 0 if group.symmetric else group.fixed.zero_point if group.fixed is not None else 1

    def _requantize(self, acc: Tensor) -> Tensor:
        """Requantize an accumulator as TFLite's own kernel does, in NumPy: the scales are read when the graph runs."""

        def requantize(values: np.ndarray) -> np.ndarray:
            a, b, y = (grid.encoding for grid in self.grids)
            value = tflite.product_multiplier(float(a.scale), float(b.scale), float(y.scale))
            return tflite.requantize(np.rint(values).astype(np.int64), np.asarray(value), y.lo, y.hi)

        out = tf.numpy_function(requantize, (acc,), tf.float32)
        out.set_shape(acc.shape)
        return out


class Softmax(Node):
    """Softmax over the last axis."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """In training compute in float, with the gradient of a softmax; else as the runtime does, in NumPy."""
        (x,), gx = inputs, self.inputs[0]
        if training:
            return _rounded(self.observe(self.real([x * gx.scale], params) / self.output.scale), self.limits()[1])

        def table(values: np.ndarray) -> np.ndarray:
            return KERNELS[self.kernels].softmax(values, gx.encoding, self.output.encoding, self.attrs["beta"])

        out = tf.numpy_function(table, (x,), tf.float32)
        out.set_shape(x.shape)
        return out

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float softmax."""
        return tf.nn.softmax(self._factored(inputs), -1)

    def evaluated(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float softmax in the runtime's arithmetic, where that is known."""
        found = as_runtime("softmax", self._factored(inputs), self.kernels)
        return self.real(inputs, params) if found is None else found

    def _factored(self, inputs: list[Tensor]) -> Tensor:
        (x,) = inputs
        return x if self.attrs["beta"] == 1 else x * self.attrs["beta"]


@tf.custom_gradient
def _rounded(v: Tensor, high: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, None]]]:
    """Return ``min(round(v), high)``. Nothing is clipped at 0, and the range follows: the gradient passes everywhere."""
    return tf.minimum(tf.math.rint(v), high), lambda grad: (grad, None)


class Embedding(Node):
    """The vectors of a weight at integer indices. The range is that of the whole weight: calibration need not see every index.

    Attributes:
        head: the node of the dense layer that it is tied to: the vectors are those of that layer's weight as it is stored. None
            where it is tied to none.
    """

    head: Linear | None = None

    def __call__(self, inputs: list[Tensor], params: Params, training: bool, on_grid: bool) -> Tensor:
        """Show the whole weight to the range estimator, then compute."""
        if self.grids and not on_grid:
            self.output.estimate(params["weight"], self.planned.op.output)
        return super().__call__(inputs, params, training, on_grid)

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Take the vectors, then quantize them, which is less than quantizing all."""
        vectors = self.stored(inputs, params)
        if training:
            seen = self.observe(tf.stop_gradient(params["weight"]) / self.output.scale)
            with tf.control_dependencies([seen]):
                vectors = tf.identity(vectors)
        return quantize(vectors, self.output, self.kernels, False)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float vectors, or as they are stored where the weight alone is."""
        return self.stored(inputs, params) if self.planned.stored else self.vectors(inputs[0], params["weight"])

    def simulated(self, rounding: Rounding, inputs: list[Tensor], params: Params) -> Tensor:
        """Take the vectors in float, with the weight as it is stored or not."""
        vectors = self.stored(inputs, params) if rounding.weight else self.vectors(inputs[0], params["weight"])
        return fake_quantized(vectors, self.output, self.kernels) if rounding.activation and self.grids else vectors

    def vectors(self, indices: Tensor, weight: Tensor) -> Tensor:
        """Return vectors of a weight, or of what belongs to its vectors."""
        places = tf.cast(indices, tf.int32)
        return tf.gather(weight, tf.where(places < 0, places + weight.shape[0], places) if self.attrs.get("wraps") else places)

    def stored(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Return the real values of vectors as the artifact holds them, with straight-through gradients."""
        (indices,), weight = inputs, params["weight"]
        vectors = self.vectors(indices, weight)
        if self.head is None:
            return vectors
        spec = self.planned.weight
        if spec is None:
            return straight_through(vectors, _as_float16(vectors))
        if spec.granularity == "channel" and not spec.learned:  # a vector alone tells its scale
            alone = self.scale(tf.reshape(vectors, [-1, weight.shape[1]]))
            scale = tf.reshape(alone, [*tf.unstack(tf.shape(vectors))[:-1], 1])
        else:
            scale = self.vectors(indices, self.scale(weight)[:, None])
        v = vectors / scale
        return straight_through(v, self.rounded(v)) * scale

    def scale(self, weight: Tensor) -> Tensor:
        """Return the scale of each vector, that of the dense layer's output."""
        assert self.head is not None
        return self.head.weight_scale(tf.transpose(weight), None)

    def rounded(self, v: Tensor) -> Tensor:
        """Return integers of unrounded ones."""
        return tf.clip_by_value(tf.round(v), -self.planned.qmax, self.planned.qmax)

    def held(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whole weight as the artifact holds it, in float32, and the scale of each vector."""
        if self.planned.weight is None:
            return _as_float16(weight), tf.ones(weight.shape[:1])
        scale = self.scale(weight)
        return self.rounded(weight / scale[:, None]), scale


def _as_float16(x: Tensor) -> Tensor:
    return tf.cast(tf.cast(x, tf.float16), tf.float32)


def as_matrix(kind: str, role: str, value: Tensor, channel_axis: int | Sequence[int]) -> Tensor:
    """Return a dense layer's parameter as a matrix [in, out], or its bias as a vector; any other as it is."""
    if kind == "dense" and role == "weight" and channel_axis == 0:  # the weight of an embedding
        return tf.transpose(value)
    if KINDS[kind].spatial or not KINDS[kind].linear or len(value.shape) <= (2 if role == "weight" else 1):
        return value
    if role != "weight":
        return tf.reshape(value, [-1])
    rank = len(value.shape)
    made = [a % rank for a in ((channel_axis,) if isinstance(channel_axis, int) else channel_axis)]
    order = [*(a for a in range(rank) if a not in made), *made]
    laid = value if order == [*range(rank)] else tf.transpose(value, order)
    return tf.reshape(laid, [-1, int(np.prod([value.shape[a] for a in made]))])
