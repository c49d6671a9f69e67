"""The arithmetic of TFLite's optimized kernels, in NumPy: the reference kernels' multiplier, halves up.

They run the operators that LiteRT's delegate does not take, such as convolutions with 4-bit weights. Seen equal in every bit.
"""

from __future__ import annotations

import numpy as np

from .grid import f32
from .tflite import add as add
from .tflite import avg_pool2d as avg_pool2d
from .tflite import exponentials as exponentials
from .tflite import fixed_point
from .tflite import mean as mean
from .tflite import mul as mul
from .tflite import product_multiplier as product_multiplier
from .tflite import quantize as quantize
from .tflite import softmax as softmax


def multiplier(input_scale: float, scale: np.ndarray, output_scale: float) -> np.ndarray:
    """Return ``(s_x * s_w) / s_y`` in float64."""
    return np.asarray(float(input_scale) * np.asarray(scale, np.float64) / float(output_scale))


def requantize(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Return ``clamp(acc * multiplier, lo, hi)`` by a multiplier of 31 bits, halves up."""
    return np.clip(fixed_point(np.asarray(acc, np.int64), multiplier, halves_up=True).astype(f32), lo, hi).astype(f32)
