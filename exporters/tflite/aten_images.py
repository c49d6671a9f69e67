"""Core ATen operators of images, in TensorFlow. Images are ``NCHW``, as PyTorch's operators take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from .aten_shapes import Tensor

#: One number for both axes of an image, or a number for each.
Pair = int | Sequence[int]


def _in_nhwc(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a function of images in ``NHWC``, which all kernels of TFLite take, to images in ``NCHW``."""
    return lambda x: tf.transpose(function(tf.transpose(x, [0, 2, 3, 1])), [0, 3, 1, 2])


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve images or sequences. A grouped one is an operator for each group, a depthwise one a single operator."""
    if len(x.shape) > 4:
        raise NotImplementedError("a float convolution of volumes")
    if len(x.shape) == 3:
        image, kernel = x[:, :, None], weight[:, :, None]
        padding, output_padding = [0, *padding], [0, *output_padding]
        y = convolution(image, kernel, bias, [1, *stride], padding, [1, *dilation], transposed, output_padding, groups)
        return y[:, :, 0]
    if transposed:
        return _conv_transpose(x, weight, bias, stride, padding, dilation, output_padding, groups)
    pads = [(0, 0), *((p, p) for p in padding), (0, 0)]
    options = {"strides": [1, *stride, 1], "padding": "VALID", "dilations": list(dilation)}

    def apply(x: Tensor) -> Tensor:
        x = tf.pad(x, pads)
        if groups > 1 and weight.shape[1] == 1:
            out, multiplier = weight.shape[0], weight.shape[0] // groups
            kernel = tf.reshape(tf.transpose(weight, [2, 3, 0, 1]), [*weight.shape[2:], out // multiplier, multiplier])
            return tf.nn.depthwise_conv2d(x, kernel, **options)
        parts = zip(tf.split(x, groups, -1), tf.split(weight, groups, 0), strict=True)
        return tf.concat([tf.nn.conv2d(a, tf.transpose(w, [2, 3, 1, 0]), **options) for a, w in parts], -1)

    y = _in_nhwc(apply)(x)
    return y if bias is None else y + tf.reshape(bias, [1, -1, 1, 1])


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Return a transposed convolution of images: the full result without ``padding``, and zeros where ``output_padding`` asks."""
    if list(dilation) != [1, 1]:
        raise NotImplementedError("a float transposed convolution with dilation")
    full = [s * (size - 1) + k for s, size, k in zip(stride, x.shape[2:], weight.shape[2:], strict=True)]

    def apply(x: Tensor) -> Tensor:
        shape = [tf.shape(x)[0], *full, weight.shape[1]]
        parts = zip(tf.split(x, groups, -1), tf.split(weight, groups, 0), strict=True)
        y = tf.concat(
            [tf.nn.conv2d_transpose(a, tf.transpose(w, [2, 3, 1, 0]), shape, list(stride), "VALID") for a, w in parts], -1
        )
        ends = [size + e - p for size, e, p in zip(full, output_padding, padding, strict=True)]
        y = tf.pad(y, [(0, 0), *((0, max(end - size, 0)) for size, end in zip(full, ends, strict=True)), (0, 0)])
        return y[:, padding[0] : ends[0], padding[1] : ends[1]]

    y = _in_nhwc(apply)(x)
    return y if bias is None else y + tf.reshape(bias, [1, -1, 1, 1])


def _pair(n: Pair) -> list[int]:
    values = [n] if isinstance(n, int) else list(n)
    return values * 2 if len(values) == 1 else values


def max_pool(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, dilation: Pair = 1, ceil: bool = False
) -> list[Tensor]:
    """Return the maxima of windows. The padding is the lowest number."""
    if ceil or _pair(dilation) != [1, 1]:
        raise NotImplementedError("a float max pooling with ceil_mode or dilation")
    pads = [(0, 0), *((p, p) for p in _pair(padding)), (0, 0)]

    def pool(images: Tensor) -> Tensor:
        padded = tf.pad(images, pads, constant_values=x.dtype.min)
        return tf.nn.max_pool2d(padded, _pair(kernel), _pair(stride or kernel), "VALID")

    return [_in_nhwc(pool)(x)]


def avg_pool(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, ceil: bool = False, padded: bool = True,
    divisor: int | None = None,
) -> Tensor:  # fmt: skip
    """Return the averages of windows, with padding counted, or over the elements inside the image."""
    if ceil or divisor is not None:
        raise NotImplementedError("a float average pooling with ceil_mode or divisor_override")
    pads = [(0, 0), *((p, p) for p in _pair(padding)), (0, 0)]

    def average(images: Tensor) -> Tensor:
        return tf.nn.avg_pool2d(tf.pad(images, pads), _pair(kernel), _pair(stride or kernel), "VALID")

    y = _in_nhwc(average)(x)
    return y if padded else y / _in_nhwc(average)(tf.ones([1, 1, *x.shape[2:]]))


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return the averages of windows that divide the image evenly."""
    if any(n % m for n, m in zip(x.shape[2:], size, strict=True)):
        raise NotImplementedError("an adaptive pooling whose windows are not of one size")
    kernel = [n // m for n, m in zip(x.shape[2:], size, strict=True)]
    return avg_pool(x, kernel)


def resize_nearest(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None = None) -> Tensor:
    """Scale images by the nearest element."""
    sizes = size or _scaled(x, scales)
    raw = tf.raw_ops.ResizeNearestNeighbor
    return _in_nhwc(lambda images: raw(images=images, size=sizes, align_corners=False, half_pixel_centers=False))(x)


def resize_bilinear(x: Tensor, size: Sequence[int] | None, aligned: bool, scales: Sequence[float] | None = None) -> Tensor:
    """Scale images, linearly between the centres of elements, or between the corners where they are ``aligned``."""
    sizes = size or _scaled(x, scales)
    raw = tf.raw_ops.ResizeBilinear
    return _in_nhwc(lambda images: raw(images=images, size=sizes, align_corners=aligned, half_pixel_centers=not aligned))(x)


def _scaled(x: Tensor, scales: Sequence[float] | None) -> list[int]:
    return [int(n * s) for n, s in zip(x.shape[2:], scales or [], strict=True)]
