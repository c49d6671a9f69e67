"""The node of transposed convolutions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd import linear as kernels
from qat.graph.padding import same_padding

from .linear import Linear


class Transposed(kernels.Operator):
    """conv_transpose2d: its forward pass is the input gradient of a convolution, its input gradient a convolution.

    ``w`` is [h, w, out, in].

    The full result has ``stride * (size - 1) + kernel`` elements along an axis, of which ``cut`` are left out at each end.
    """

    def __init__(self, strides: tuple[int, int], cut: tuple[tuple[int, int], tuple[int, int]]) -> None:
        self.strides, self.cut = strides, cut

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Apply it."""
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=self._sizes(x, w), filter=w, out_backprop=x, **self._options(x, w))

    def input_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the input."""
        return tf.raw_ops.Conv2D(input=grad, filter=w, **self._options(x, w))

    def weight_gradient(self, x: Tensor, w: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weight."""
        options = self._options(x, w)
        return tf.raw_ops.Conv2DBackpropFilter(input=grad, filter_sizes=tf.shape(w), out_backprop=x, **options)

    def _result(self, size: tuple[Any, Any], w: Tensor) -> list[Any]:
        """Return height and width of the result."""
        axes = zip(size, w.shape[:2], self.strides, self.cut, strict=True)
        return [s * (n - 1) + k - sum(cut) for n, k, s, cut in axes]

    def _sizes(self, x: Tensor, w: Tensor) -> Tensor:
        shape = tf.shape(x)
        return tf.stack([shape[0], *self._result((shape[1], shape[2]), w), w.shape[2]])

    def _options(self, x: Tensor, w: Tensor) -> dict[str, Any]:
        """Return the convolution's options, with TensorFlow's word for the padding where it has one: those kernels are faster."""
        size = tuple(x.shape[1:3])
        result = self._result(size, w) if None not in size else [None, None]
        name = "VALID" if self.cut == ((0, 0), (0, 0)) else "EXPLICIT"
        covers = [None if n is None else -(-n // s) for n, s in zip(result, self.strides, strict=True)] == list(size)
        if covers and self.cut == same_padding(result, w.shape[:2], self.strides):
            name = "SAME"
        # The convolution itself leaves out the elements beyond the last window.
        (top, bottom), (left, right) = self.cut
        explicit = [0, 0, top, max(bottom, 0), left, max(right, 0), 0, 0] if name == "EXPLICIT" else []
        return {"strides": [1, *self.strides, 1], "padding": name, "explicit_paddings": explicit}


class ConvTranspose2d(Linear):
    """conv_transpose2d, with bias and fused activation: one scale for the filters of each output channel."""

    def operator(self, x: Tensor, weight: Tensor) -> kernels.Operator:
        """The transposed convolution."""
        return Transposed(self.attrs["strides"], self.attrs["padding"])
