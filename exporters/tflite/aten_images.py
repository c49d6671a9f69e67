"""Core ATen operators of images, in TensorFlow. Images are ``NCHW``, as PyTorch's operators take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import torch

from .aten_resampling import adaptive_avg_pool as uneven_avg_pool
from .aten_resampling import interpolated, nearest
from .aten_shapes import Tensor

#: One number for both axes of an image, or a number for each.
Pair = int | Sequence[int]


def _in_nhwc(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a function of images in ``NHWC``, which all kernels of TFLite take, to images in ``NCHW``."""
    return lambda x: tf.transpose(function(tf.transpose(x, [0, 2, 3, 1])), [0, 3, 1, 2])


def _in_groups(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Apply a convolution to each group of channels, which are last, with its part of the weight, which is first."""
    parts = zip(tf.split(x, groups, -1), tf.split(weight, groups, 0), strict=True)
    return tf.concat([function(a, w) for a, w in parts], -1)


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
    if len(x.shape) == 5:
        if transposed:
            raise NotImplementedError("a float transposed convolution of volumes")
        return _conv3d(x, weight, bias, stride, padding, dilation, groups)
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
        return _in_groups(lambda a, w: tf.nn.conv2d(a, tf.transpose(w, [2, 3, 1, 0]), **options), x, weight, groups)

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
    weight = _dilated(weight, dilation)
    full = [s * (size - 1) + k for s, size, k in zip(stride, x.shape[2:], weight.shape[2:], strict=True)]

    def apply(x: Tensor) -> Tensor:
        shape = [tf.shape(x)[0], *full, weight.shape[1]]

        def apart(x: Tensor, weight: Tensor) -> Tensor:
            return tf.nn.conv2d_transpose(x, tf.transpose(weight, [2, 3, 1, 0]), shape, list(stride), "VALID")

        y = _in_groups(apart, x, weight, groups)
        ends = [size + e - p for size, e, p in zip(full, output_padding, padding, strict=True)]
        y = tf.pad(y, [(0, 0), *((0, max(end - size, 0)) for size, end in zip(full, ends, strict=True)), (0, 0)])
        return y[:, padding[0] : ends[0], padding[1] : ends[1]]

    y = _in_nhwc(apply)(x)
    return y if bias is None else y + tf.reshape(bias, [1, -1, 1, 1])


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return a kernel of images with its elements ``dilation`` apart, zeros between them."""
    for axis, step in zip((2, 3), dilation, strict=True):
        if step > 1:
            shape = weight.shape.as_list()
            spread = tf.pad(tf.expand_dims(weight, axis + 1), [(0, 0)] * (axis + 1) + [(0, step - 1)] + [(0, 0)] * (3 - axis))
            shape[axis] *= step
            weight = tf.reshape(spread, shape)[(slice(None),) * axis + (slice(0, shape[axis] - step + 1),)]
    return weight


def _conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve volumes."""
    padded = tf.pad(tf.transpose(x, [0, 2, 3, 4, 1]), [(0, 0), *((p, p) for p in padding), (0, 0)])
    options = {"strides": [1, *stride, 1], "padding": "VALID", "dilations": [1, *dilation, 1]}
    y = _in_groups(lambda a, w: tf.nn.conv3d(a, tf.transpose(w, [2, 3, 4, 1, 0]), **options), padded, weight, groups)
    return tf.transpose(y if bias is None else y + bias, [0, 4, 1, 2, 3])


def _several(n: Pair, axes: int = 2) -> list[int]:
    values = [n] if isinstance(n, int) else list(n)
    return values * axes if len(values) == 1 else values


def _window_count(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return the number of windows along an axis; with ``ceil`` the last may reach beyond the padding, but begins before it."""
    reach = dilation * (kernel - 1) + 1
    free = size + 2 * padding - reach
    if not ceil:
        return free // stride + 1
    count = -(-free // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def _beyond(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return how far the last window reaches beyond the padding."""
    count = _window_count(size, kernel, stride, padding, dilation, ceil)
    return max((count - 1) * stride + dilation * (kernel - 1) + 1 - size - 2 * padding, 0)


def max_pool(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, dilation: Pair = 1, ceil: bool = False
) -> list[Tensor]:
    """Return the maxima of windows. The padding is the lowest number."""
    sizes, pads, apart = _several(kernel), _several(padding), _several(dilation)
    steps = _several(stride or kernel)
    ends = [_beyond(*given, ceil) for given in zip(x.shape[2:], sizes, steps, pads, apart, strict=True)]
    around = [(0, 0), *((p, p + end) for p, end in zip(pads, ends, strict=True)), (0, 0)]

    def pool(images: Tensor) -> Tensor:
        padded = tf.pad(images, around, constant_values=x.dtype.min) if any(map(any, around)) else images
        if apart == [1, 1]:
            return tf.nn.max_pool2d(padded, sizes, steps, "VALID")
        for axis, size, step, gap in zip((1, 2), sizes, steps, apart, strict=True):
            last = padded.shape[axis] - gap * (size - 1)
            shifted = [(slice(None),) * axis + (slice(i * gap, i * gap + last, step),) for i in range(size)]
            padded = tf.reduce_max(tf.stack([padded[cut] for cut in shifted]), 0)
        return padded

    return [_in_nhwc(pool)(x)]


def avg_pool(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, ceil: bool = False, padded: bool = True,
    divisor: int | None = None,
) -> Tensor:  # fmt: skip
    """Return the averages of windows, with padding counted, or over the elements inside the image."""
    sizes, pads, steps = _several(kernel), _several(padding), _several(stride or kernel)
    ends = [_beyond(*given, 1, ceil) for given in zip(x.shape[2:], sizes, steps, pads, strict=True)]
    around = [(0, 0), *((p, p + end) for p, end in zip(pads, ends, strict=True)), (0, 0)]

    def average(images: Tensor) -> Tensor:
        return tf.nn.avg_pool2d(tf.pad(images, around), sizes, steps, "VALID")

    y = _in_nhwc(average)(x)
    if divisor is not None:
        return y * (sizes[0] * sizes[1] / divisor)
    if padded and not any(ends):
        return y
    # The share of a window that counts. Beyond the padding nothing does.
    counted = tf.ones([1, 1, *x.shape[2:]])
    if padded:
        counted = tf.pad(counted, [(0, 0), (0, 0), *((p, p) for p in pads)], constant_values=1.0)
        around = [(0, 0), *((0, end) for end in ends), (0, 0)]
    return y / _in_nhwc(average)(counted)


def max_pool3d(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, dilation: Pair = 1, ceil: bool = False
) -> list[Tensor]:
    """Return the maxima of windows of volumes: of rows and columns first, then of layers."""
    sizes, steps, pads, apart = (_several(n, 3) for n in (kernel, stride or kernel, padding, dilation))
    planes = max_pool(_layers_as_channels(x), sizes[1:], steps[1:], pads[1:], apart[1:], ceil)[0]
    columns = max_pool(_planes_as_columns(x, planes), [sizes[0], 1], [steps[0], 1], [pads[0], 0], [apart[0], 1], ceil)[0]
    return [_as_volumes(columns, planes)]


def avg_pool3d(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = 0, ceil: bool = False, padded: bool = True,
    divisor: int | None = None,
) -> Tensor:  # fmt: skip
    """Return the averages of windows of volumes: of rows and columns first, then of layers."""
    sizes, steps, pads = (_several(n, 3) for n in (kernel, stride or kernel, padding))
    planes = avg_pool(_layers_as_channels(x), sizes[1:], steps[1:], pads[1:], ceil, padded, None if divisor is None else 1)
    columns = avg_pool(_planes_as_columns(x, planes), [sizes[0], 1], [steps[0], 1], [pads[0], 0], ceil, padded, divisor)
    return _as_volumes(columns, planes)


def _layers_as_channels(x: Tensor) -> Tensor:
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2], *x.shape[3:]])


def _planes_as_columns(x: Tensor, planes: Tensor) -> Tensor:
    return tf.reshape(planes, [-1, x.shape[1], x.shape[2], planes.shape[2] * planes.shape[3]])


def _as_volumes(columns: Tensor, planes: Tensor) -> Tensor:
    return tf.reshape(columns, [-1, *columns.shape[1:3], *planes.shape[2:]])


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return the averages of windows that divide the image, evenly or not."""
    if any(n % m for n, m in zip(x.shape[2:], size, strict=True)):
        return uneven_avg_pool(x, size)
    return avg_pool(x, [n // m for n, m in zip(x.shape[2:], size, strict=True)])


def resize_nearest(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None = None) -> Tensor:
    """Scale images by the nearest element."""
    if _is_off(x, size, scales):
        return nearest(torch.ops.aten.upsample_nearest2d.vec)(x, size, scales)
    sizes = size or _scaled(x, scales)
    raw = tf.raw_ops.ResizeNearestNeighbor
    return _in_nhwc(lambda images: raw(images=images, size=sizes, align_corners=False, half_pixel_centers=False))(x)


def resize_bilinear(x: Tensor, size: Sequence[int] | None, aligned: bool, scales: Sequence[float] | None = None) -> Tensor:
    """Scale images, linearly between the centres of elements, or between the corners where they are ``aligned``."""
    if _is_off(x, size, scales) and not aligned:
        return interpolated(torch.ops.aten.upsample_bilinear2d.vec)(x, size, aligned, scales)
    sizes = size or _scaled(x, scales)
    raw = tf.raw_ops.ResizeBilinear
    return _in_nhwc(lambda images: raw(images=images, size=sizes, align_corners=aligned, half_pixel_centers=not aligned))(x)


def _is_off(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> bool:
    """Whether PyTorch steps by another factor than that of the sizes, which is all that TFLite knows."""
    return not size and any(n * s != int(n * s) for n, s in zip(x.shape[2:], scales or [], strict=True))


def _scaled(x: Tensor, scales: Sequence[float] | None) -> list[int]:
    return [int(n * s) for n, s in zip(x.shape[2:], scales or [], strict=True)]
