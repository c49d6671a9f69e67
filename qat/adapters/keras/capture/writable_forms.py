"""Operations and layers in forms that both file formats have, to the same values.

Keras computes these with operators of TensorFlow that one of the converters lacks. Each form has the class name of the original,
by which plans and messages call it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops import image, numpy
from keras.src.utils import numerical_utils
from tensorflow import Tensor

from qat.errors import CaptureError
from qat.graph.decompose.transposes import transposed

from .affine_form import affine_form
from .counted_batch import is_array
from .fourier_forms import fourier_form

_register = keras.saving.register_keras_serializable("qat")


@_register
class Argmax(numpy.Argmax):
    """Keras tells zeros of two signs apart by their bits."""

    def call(self, x: Tensor) -> Tensor:
        """Return the places of the greatest values."""
        return _place(tf.argmax, x, self.axis, self.keepdims)


@_register
class Argmin(numpy.Argmin):
    """As :class:`Argmax`."""

    def call(self, x: Tensor) -> Tensor:
        """Return the places of the least values."""
        return _place(tf.argmin, x, self.axis, self.keepdims)


def _place(find: Any, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    flat = tf.reshape(x, [-1]) if axis is None else x
    found = find(flat, axis=axis or 0, output_type=tf.int32)
    if not keepdims:
        return found
    return tf.reshape(found, [1] * len(x.shape)) if axis is None else tf.expand_dims(found, axis)


@_register
class Transpose(numpy.Transpose):
    """Of more than six axes in tensors of fewer: a kernel of TFLite takes no more."""

    def call(self, x: Tensor) -> Tensor:
        """Transpose."""
        return transposed(x, self.axes or tuple(reversed(range(len(x.shape)))), 6, tf.reshape, tf.transpose)


@_register
class Roll(numpy.Roll):
    """Two parts in the other order, axis by axis."""

    def call(self, x: Tensor) -> Tensor:
        """Return the tensor with its parts swapped; over all axes at once, or axes of a free size, as Keras does."""
        axes, shifts = ([given] if isinstance(given, int) else given for given in (self.axis, self.shift))
        if axes is None or any(x.shape[axis] is None for axis in axes):
            return super().call(x)
        shifts = shifts if len(shifts) == len(axes) else [*shifts] * len(axes)
        for axis, shift in zip(axes, shifts, strict=True):
            size = x.shape[axis]
            if first := -shift % size:
                x = tf.concat(tf.split(x, [first, size - first], axis)[::-1], axis)
        return x


@_register
class Sinh(numpy.Sinh):
    """By its definition."""

    def call(self, x: Tensor) -> Tensor:
        """Return the hyperbolic sine."""
        return (tf.exp(x) - tf.exp(-x)) * 0.5


@_register
class Cosh(numpy.Cosh):
    """By its definition."""

    def call(self, x: Tensor) -> Tensor:
        """Return the hyperbolic cosine."""
        return (tf.exp(x) + tf.exp(-x)) * 0.5


@_register
class MaxPooling3D(keras.layers.MaxPooling3D):
    """A pooling of images, then one of the depth."""

    def call(self, inputs: Tensor) -> Tensor:
        """Pool."""
        return _pooled(self, inputs, tf.nn.max_pool2d) if _pools_in_parts(self, inputs) else super().call(inputs)


@_register
class AveragePooling3D(keras.layers.AveragePooling3D):
    """As :class:`MaxPooling3D`: a window at an edge has as many elements as its parts say."""

    def call(self, inputs: Tensor) -> Tensor:
        """Pool."""
        return _pooled(self, inputs, tf.nn.avg_pool2d) if _pools_in_parts(self, inputs) else super().call(inputs)


def _pools_in_parts(layer: Any, x: Tensor) -> bool:
    return layer.data_format == "channels_last" and None not in x.shape[1:]


def _pooled(layer: Any, x: Tensor, pool: Any) -> Tensor:
    _, depth, *size, channels = x.shape
    padding = layer.padding.upper()
    images = pool(tf.reshape(x, [-1, *size, channels]), layer.pool_size[1:], layer.strides[1:], padding)
    _, height, width, _ = images.shape
    stacks = tf.reshape(images, [-1, depth, height * width, channels])
    stacks = pool(stacks, (layer.pool_size[0], 1), (layer.strides[0], 1), padding)
    return tf.reshape(stacks, [-1, stacks.shape[1], height, width, channels])


@_register
class CategoryEncoding(keras.layers.CategoryEncoding):
    """Sums or maxima of single codes."""

    def call(self, inputs: Tensor, count_weights: Tensor | None = None) -> Tensor:
        """Encode."""
        if self.output_mode == "one_hot" or len(inputs.shape) < 2 or count_weights is not None or self.sparse:
            return super().call(inputs, count_weights)
        return _counted(inputs, self.output_mode, self.num_tokens, self.dtype)


@_register
class Discretization(keras.layers.Discretization):
    """The number of boundaries that a value reaches."""

    def call(self, inputs: Tensor) -> Tensor:
        """Return the buckets in the layer's mode."""
        if self.bin_boundaries is None or self.sparse:
            return super().call(inputs)
        reached = tf.cast(inputs, tf.float32)[..., None] >= tf.constant(self.bin_boundaries, tf.float32)
        indices = tf.reduce_sum(tf.cast(reached, tf.int32), -1)
        depth = len(self.bin_boundaries) + 1
        if self.output_mode in ("multi_hot", "count") and len(inputs.shape) > 1:
            return _counted(indices, self.output_mode, depth, self.output_dtype)
        return numerical_utils.encode_categorical_inputs(indices, self.output_mode, depth, self.output_dtype)


#: Interpolations of which a format lacks the operator, or has another one by that name.
_BY_MATRICES = ("bicubic", "lanczos3", "lanczos5", "area")


@_register
class Resizing(keras.layers.Resizing):
    """The product with a matrix for the height, and one for the width."""

    def transform_images(self, images: Tensor, transformation: Any = None, training: bool = True) -> Tensor:
        """Resize."""
        if _resizes_by_matrices(self, images):
            return _resized(self, images, (self.height, self.width))
        return super().transform_images(images, transformation, training)


@_register
class Resize(image.Resize):
    """As :class:`Resizing`."""

    def call(self, images: Tensor) -> Tensor:
        """Resize."""
        return _resized(self, images, self.size) if _resizes_by_matrices(self, images) else super().call(images)


@_register
class UpSampling2D(keras.layers.UpSampling2D):
    """As :class:`Resizing`."""

    def call(self, inputs: Tensor) -> Tensor:
        """Resize to a multiple."""
        if _resizes_by_matrices(self, inputs):
            return _resized(self, inputs, [n * factor for n, factor in zip(inputs.shape[1:3], self.size, strict=True)])
        return super().call(inputs)


def _resizes_by_matrices(layer: Any, x: Tensor) -> bool:
    fixed = layer.data_format == "channels_last" and len(x.shape) == 4 and None not in x.shape[1:] and x.dtype == tf.float32
    whole = not any(getattr(layer, name, False) for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"))
    return (
        fixed and whole and (layer.interpolation in _BY_MATRICES or (_antialiases(layer) and layer.interpolation == "bilinear"))
    )


def _antialiases(layer: Any) -> bool:
    return getattr(layer, "antialias", False)  # an up-sampling has no such option


def _resized(layer: Any, x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize each axis by a matrix, which is what Keras makes of the unit vectors: these resizes are linear, and separable."""

    def matrix(before: int, after: int) -> Tensor:
        with tf.init_scope():
            units = tf.eye(before)[:, :, None, None]
            options = {"interpolation": layer.interpolation, "antialias": _antialiases(layer)}
            made = keras.ops.image.resize(units, (after, 1), **options)
            return tf.constant(np.asarray(made)[:, :, 0, 0].T)

    _, height, width, channels = x.shape
    x = tf.reshape(x, [-1, height, width * channels])
    x = tf.reshape(tf.matmul(matrix(height, size[0])[None], x), [-1, size[0], width, channels])
    return tf.matmul(matrix(width, size[1])[None, None], x)


def _counted(indices: Tensor, mode: str, depth: int, dtype: str) -> Tensor:
    codes = tf.one_hot(tf.cast(indices, tf.int32), depth, dtype=dtype)
    return tf.reduce_max(codes, -2) if mode == "multi_hot" else tf.reduce_sum(codes, -2)


_FORMS: dict[str, type[keras.Operation]] = {
    form.__name__: form
    for form in (
        Argmax, Argmin, Transpose, Roll, Sinh, Cosh, MaxPooling3D, AveragePooling3D, CategoryEncoding, Discretization, Resizing,
        Resize, UpSampling2D,
    )
}  # fmt: skip


def writable_form(layer: keras.Operation, given: Any, path: str) -> keras.Operation:
    """Return a layer or operation of Keras' own in a form that both formats have.

    Args:
        layer: as the user's model calls it.
        given: the first symbolic tensor that it reads.
        path: of the layer.

    Raises:
        CaptureError: a ``RandomCrop`` to a smaller size, which has no form of evaluation.
    """
    kind = type(layer).__name__
    if not type(layer).__module__.startswith("keras."):
        return layer
    if kind == "RandomCrop":
        raise CaptureError(
            f"'{path}' (RandomCrop) makes {layer.height}x{layer.width} of images of {tuple(given.shape[1:])} in training, and "
            "Keras leaves them whole in evaluation: crop where the data is read, and take the layer out"
        )
    layer = _configured(layer)
    found = fourier_form(layer, given) or affine_form(layer, given)
    return found or (_FORMS[kind].from_config(layer.get_config()) if kind in _FORMS else layer)


def _configured(layer: keras.Operation) -> keras.Operation:
    """Return an operation with Python's numbers among its arguments: Keras makes no configuration of tensors and NumPy's."""
    if isinstance(layer, keras.layers.Layer) or layer._auto_config is not None:
        return layer
    given = {name: getattr(layer, name, None) for name in inspect.signature(type(layer).__init__).parameters if name != "self"}
    made: keras.Operation = type(layer)(**keras.tree.map_structure(_plain, given))
    return made if made._auto_config is not None else layer


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist() if is_array(value) or isinstance(value, np.generic) else value
