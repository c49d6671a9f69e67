"""Affine transforms of images as products of what four gathers find: the formats lack the operator."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops import image
from tensorflow import Tensor


@keras.saving.register_keras_serializable("qat")
class AffineTransform(image.AffineTransform):
    """Between the four pixels around each place, with a constant outside. The transform gets a gradient, unlike Keras'."""

    def call(self, images: Tensor, transform: Tensor) -> Tensor:
        """Return the images as the eight numbers of each transform move them."""
        _, height, width, channels = images.shape
        outside = float(self.fill_value)
        framed = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=outside)
        lines = tf.reshape(framed, [-1, channels])
        first = tf.range(tf.shape(images)[0])[:, None] * ((height + 2) * (width + 2))
        total = 0.0
        (row, *rows), (column, *columns) = _places(tf.reshape(transform, [-1, 8]), height, width)
        for at, of_row in rows:
            for beside, of_column in columns:
                found = tf.gather(lines, first + (row + at) * (width + 2) + (column + beside))
                total += found * (of_row * of_column)[..., None]
        return tf.reshape(total, [-1, height, width, channels])


def _places(transform: Tensor, height: int, width: int) -> tuple[Any, Any]:
    """Return, for rows and for columns, the place before each pixel's source in a framed image, and two offsets with weights."""
    y, x = (n.reshape(1, -1).astype(np.float32) for n in np.mgrid[:height, :width])
    a = [transform[:, i : i + 1] for i in range(8)]
    depth = a[6] * x + a[7] * y + 1.0
    at_infinity = tf.equal(depth, 0.0)
    depth = tf.where(at_infinity, tf.ones_like(depth), depth)
    found = []
    for size, (by_x, by_y, shift) in ((height, a[3:6]), (width, a[0:3])):
        place = tf.where(at_infinity, -tf.ones_like(depth), (by_x * x + by_y * y + shift) / depth)
        place = tf.clip_by_value(place, -1.0, float(size))
        before = tf.minimum(tf.floor(place), float(size - 1))
        after = place - before
        found.append((tf.cast(before, tf.int32) + 1, (0, 1.0 - after), (1, after)))
    return found[0], found[1]


def affine_form(layer: keras.Operation, given: Any) -> keras.Operation | None:
    """Return the form of a transform of Keras, whose first tensor is ``given``; None for another layer, or one without a form."""
    if type(layer).__name__ != "AffineTransform" or len(given.shape) != 4 or None in given.shape[1:]:
        return None
    known = (layer.interpolation, layer.fill_mode, layer.data_format, given.dtype)
    if known != ("bilinear", "constant", "channels_last", "float32"):
        return None
    return AffineTransform(fill_value=layer.fill_value)
