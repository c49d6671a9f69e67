"""TensorFlow's functions in the call of a layer, on symbolic tensors: recorded as the operations of ``keras.ops`` that they are.

Code of tf.keras is full of them, and Keras 3 refuses its symbolic tensors there. TensorFlow asks its dispatchers what to do with
arguments that it does not take.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from .fourier_forms import Magnitude, ShortTime


def _ints(values: Any) -> tuple[Any, ...]:
    """Return sizes or axes, which may be tensors with numbers, as a tuple; a free one is None."""
    values = np.asarray(values).tolist() if tf.is_tensor(values) else values
    return tuple(v if v is None else int(v) for v in (values if isinstance(values, (tuple, list)) else (values,)))


def _dtype(dtype: Any) -> str:
    return str(tf.as_dtype(dtype).name)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    turned = (ops.swapaxes(x, -1, -2) if turn else x for x, turn in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(*turned)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if np.ndim(num_or_size_splits) == 0:
        return ops.split(value, int(num_or_size_splits), int(axis))
    sizes = list(_ints(num_or_size_splits))
    if -1 in sizes:
        sizes[sizes.index(-1)] = value.shape[int(axis)] - sum(sizes) - 1
    return ops.split(value, np.cumsum(sizes)[:-1].tolist(), int(axis))


def _unstack(value: Any, num: int | None = None, axis: int = 0) -> Any:
    return ops.unstack(value, num, axis)


def _gather(params: Any, indices: Any, axis: Any = None, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise ValueError("keras.ops.take has no batch_dims")
    return ops.take(params, indices, 0 if axis is None else int(axis))


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    pairs = [list(_ints(pair)) for pair in np.asarray(paddings).tolist()]
    return ops.pad(tensor, pairs, mode.lower(), constant_values if mode == "CONSTANT" else None)


def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: bool = False) -> Any:
    if ord != "euclidean" and not (ord == 2 and isinstance(axis, int)):
        raise ValueError("another norm")
    return ops.sqrt(ops.sum(ops.square(tensor), axis, keepdims))


def _unit(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis, keepdims=True), epsilon))


def _depth_to_space(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    _, height, width, channels = _images(input, data_format)
    cut = ops.reshape(input, (-1, height, width, block_size, block_size, channels // block_size**2))
    shape = (-1, height * block_size, width * block_size, channels // block_size**2)
    return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), shape)


def _space_to_depth(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    _, height, width, channels = _images(input, data_format)
    cut = ops.reshape(input, (-1, height // block_size, block_size, width // block_size, block_size, channels))
    shape = (-1, height // block_size, width // block_size, channels * block_size**2)
    return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), shape)


def _images(x: Any, data_format: str) -> tuple[Any, ...]:
    """Return the sizes of images with their channels last."""
    if data_format != "NHWC" or len(x.shape) != 4 or None in x.shape[1:]:
        raise ValueError("images of another layout, or of free sizes")
    return tuple(x.shape)


def _two(sizes: Any) -> tuple[int, ...]:
    """Return the two sizes in the middle of what TensorFlow takes for images: one, two or four numbers."""
    numbers = _ints(sizes)
    return numbers * 2 if len(numbers) == 1 else numbers[1:3] if len(numbers) == 4 else numbers


def _conv(kind: Callable[..., Any], input: Any, kernel: Any, strides: Any, padding: Any, data_format: str, dilations: Any) -> Any:
    _images(input, data_format)
    return kind(input, kernel, _two(strides), padding.lower(), dilation_rate=(1, 1) if dilations is None else _two(dilations))


def _conv2d(input: Any, filters: Any, strides: Any, padding: Any, data_format: str = "NHWC", dilations: Any = None) -> Any:
    return _conv(ops.conv, input, filters, strides, padding, data_format, dilations)


def _depthwise(input: Any, filter: Any, strides: Any, padding: Any, data_format: Any = None, dilations: Any = None) -> Any:
    return _conv(ops.depthwise_conv, input, filter, strides, padding, data_format or "NHWC", dilations)


def _pool(kind: Callable[..., Any]) -> Callable[..., Any]:
    def pool(input: Any, ksize: Any, strides: Any, padding: Any, data_format: str = "NHWC") -> Any:
        _images(input, data_format)
        return kind(input, _two(ksize), _two(strides), padding.lower())

    return pool


def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False) -> Any:
    return ops.image.resize(images, _two(size), method, antialias)


class _Complex(NamedTuple):
    """Complex numbers, of which Keras has no symbolic tensor: the real parts and the imaginary ones."""

    real: Any
    imaginary: Any


def _stft(
    signals: Any, frame_length: Any, frame_step: Any, fft_length: Any = None, window_fn: Any = tf.signal.hann_window
) -> _Complex:
    if signals.shape[-1] is None:
        raise ValueError("signals of a free length")
    size = 2 ** math.ceil(math.log2(frame_length)) if fft_length is None else int(fft_length)
    if frame_length > size:
        raise ValueError("windows that are longer than the transform")
    window = np.ones(int(frame_length)) if window_fn is None else window_fn(int(frame_length), dtype=tf.float32)
    return _Complex(*ShortTime(int(frame_step), size, np.asarray(window, np.float32).tolist())(signals))


def _abs(x: Any) -> Any:
    return Magnitude()((x.real, x.imaginary)) if isinstance(x, _Complex) else ops.abs(x)


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logits, axis=None: function(logits, -1 if axis is None else int(axis))


def _over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_tensor, axis=None, keepdims=False: function(
        input_tensor, _ints(axis) if tf.is_tensor(axis) or isinstance(axis, list) else axis, keepdims=keepdims
    )


def _greatest(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input, axis=None, output_type=tf.int64: ops.cast(
        function(input, 0 if axis is None else axis), _dtype(output_type)
    )


#: The functions whose positional parameters are those of an operation.
_SAME: dict[Callable[..., Any], Callable[..., Any]] = {
    tf.abs: _abs, tf.math.real: lambda x: x.real, tf.math.imag: lambda x: x.imaginary,
    tf.exp: ops.exp, tf.math.log: ops.log, tf.math.log1p: ops.log1p, tf.math.expm1: ops.expm1, tf.sqrt: ops.sqrt,
    tf.math.rsqrt: ops.rsqrt, tf.square: ops.square, tf.sin: ops.sin, tf.cos: ops.cos, tf.tanh: ops.tanh, tf.sigmoid: ops.sigmoid,
    tf.negative: ops.negative, tf.math.reciprocal: ops.reciprocal, tf.sign: ops.sign, tf.floor: ops.floor,
    tf.math.erf: ops.erf, tf.nn.relu: ops.relu, tf.nn.relu6: ops.relu6, tf.nn.selu: ops.selu, tf.nn.elu: ops.elu,
    tf.math.softplus: ops.softplus, tf.nn.leaky_relu: ops.leaky_relu, tf.stop_gradient: ops.stop_gradient,
    tf.zeros_like: ops.zeros_like, tf.ones_like: ops.ones_like, tf.logical_not: ops.logical_not,
    tf.add: ops.add, tf.subtract: ops.subtract, tf.multiply: ops.multiply, tf.divide: ops.divide, tf.truediv: ops.divide,
    tf.math.divide_no_nan: ops.divide_no_nan, tf.maximum: ops.maximum, tf.minimum: ops.minimum, tf.pow: ops.power,
    tf.math.squared_difference: lambda x, y: ops.square(x - y), tf.nn.bias_add: ops.add,
    tf.where: lambda condition, x, y: ops.where(condition, x, y),
    tf.equal: ops.equal, tf.not_equal: ops.not_equal, tf.greater: ops.greater, tf.greater_equal: ops.greater_equal,
    tf.less: ops.less, tf.less_equal: ops.less_equal, tf.logical_and: ops.logical_and, tf.logical_or: ops.logical_or,
    tf.einsum: ops.einsum, tf.squeeze: ops.squeeze, tf.expand_dims: lambda x, axis: ops.expand_dims(x, int(axis)),
    tf.concat: lambda values, axis: ops.concatenate(values, int(axis)), tf.stack: ops.stack, tf.roll: ops.roll,
    tf.identity: lambda x: x, tf.convert_to_tensor: lambda x: x,
    tf.nn.embedding_lookup: lambda params, ids: ops.take(params, ids, 0),
    tf.tile: lambda x, multiples: ops.tile(x, _ints(multiples)), tf.reverse: lambda x, axis: ops.flip(x, _ints(axis)),
    tf.broadcast_to: lambda x, shape: ops.broadcast_to(x, _ints(shape)),
    tf.reshape: lambda x, shape: ops.reshape(x, _ints(shape)),
    tf.cast: lambda x, dtype: ops.cast(x, _dtype(dtype)), tf.clip_by_value: lambda x, low, high: ops.clip(x, low, high),
}  # fmt: skip

#: Those that have another order of parameters, or other defaults; the forms have TensorFlow's names.
_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    tf.shape: lambda input, out_type=None: tuple(ops.shape(input)),
    tf.transpose: lambda a, perm=None: ops.transpose(a, None if perm is None else _ints(perm)),
    tf.repeat: lambda input, repeats, axis=None: ops.repeat(input, repeats, axis),
    tf.one_hot: lambda indices, depth, axis=-1, dtype=tf.float32: ops.one_hot(indices, int(depth), axis, _dtype(dtype)),
    tf.tensordot: lambda a, b, axes: ops.tensordot(a, b, axes),
    tf.cumsum: lambda x, axis=0: ops.cumsum(x, axis),
    tf.nn.silu: lambda features, beta=1.0: features * ops.sigmoid(features if beta == 1.0 else features * beta),
    tf.nn.gelu: lambda features, approximate=False: ops.gelu(features, approximate),
    tf.nn.softmax: _softmax(ops.softmax), tf.nn.log_softmax: _softmax(ops.log_softmax),
    tf.nn.moments: lambda x, axes, shift=None, keepdims=False: ops.moments(x, _ints(axes), keepdims),
    tf.math.top_k: lambda input, k=1, sorted=True: ops.top_k(input, int(k), sorted),
    tf.add_n: lambda inputs: functools.reduce(ops.add, inputs),
    tf.argmax: _greatest(ops.argmax), tf.argmin: _greatest(ops.argmin),
    tf.reduce_sum: _over_axes(ops.sum), tf.reduce_mean: _over_axes(ops.mean), tf.reduce_max: _over_axes(ops.max),
    tf.reduce_min: _over_axes(ops.min), tf.reduce_prod: _over_axes(ops.prod), tf.reduce_any: _over_axes(ops.any),
    tf.reduce_all: _over_axes(ops.all), tf.math.reduce_variance: _over_axes(ops.var), tf.math.reduce_std: _over_axes(ops.std),
    tf.reduce_logsumexp: _over_axes(ops.logsumexp),
    tf.matmul: _matmul, tf.split: _split, tf.unstack: _unstack, tf.gather: _gather,
    tf.pad: _pad, tf.norm: _norm, tf.nn.l2_normalize: _unit, tf.nn.depth_to_space: _depth_to_space,
    tf.nn.space_to_depth: _space_to_depth, tf.nn.conv2d: _conv2d, tf.nn.depthwise_conv2d: _depthwise,
    tf.signal.stft: _stft,
    tf.nn.max_pool2d: _pool(ops.max_pool), tf.nn.avg_pool2d: _pool(ops.average_pool), tf.image.resize: _resize,
}  # fmt: skip


_BY_FUNCTION = {
    inspect.unwrap(function): (form, by_name)
    for table, by_name in ((_SAME, False), (_FORMS, True))
    for function, form in table.items()
}


class _Recorder(tf.__internal__.dispatch.GlobalOpDispatcher):
    """Answers for symbolic tensors of Keras, while it is active."""

    active = False

    def handle(self, op: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the result of the operation of ``keras.ops`` that a function is."""
        symbolic = any(isinstance(value, keras.KerasTensor) for value in keras.tree.flatten((args, kwargs)))
        function = inspect.unwrap(op)
        if not self.active or not symbolic or function not in _BY_FUNCTION:
            return self.NOT_SUPPORTED
        given = inspect.signature(function).bind(*args, **kwargs)
        given.arguments.pop("name", None)
        form, by_name = _BY_FUNCTION[function]
        return form(**given.arguments) if by_name else form(*given.args)


@functools.cache
def _recorder() -> _Recorder:
    made = _Recorder()
    made.register()
    return made


@contextlib.contextmanager
def recorded_calls() -> Iterator[None]:
    """Let calls of TensorFlow's functions with symbolic tensors be recorded."""
    recorder = _recorder()
    recorder.active = True
    try:
        yield
    finally:
        recorder.active = False
