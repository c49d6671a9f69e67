"""The weights of signals, laid out as those of images."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor


def as_image_weight(kind: str, value: Tensor) -> Tensor:
    """Return the weight (length, ...) of a convolution of signals as (1, length, ...), and any other as it is."""
    return tf.expand_dims(value, 0) if "conv" in kind and len(value.shape) == 3 else value
