"""TensorFlow functions that a ``tf_keras`` model applies to its tensors, as the operators of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from keras import ops


def _binary(operator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: operator(x, y)


def _unary(operator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x=None, features=None, logits=None: operator(next(v for v in (x, features, logits) if v is not None))


def _reduction(operator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_tensor, axis=None, keepdims=False: operator(input_tensor, axis=axis, keepdims=keepdims)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    return ops.matmul(ops.swapaxes(a, -1, -2) if transpose_a else a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _slices(spec: Any) -> Any:
    """Return an index, whose slices ``tf_keras`` keeps as dictionaries."""
    if isinstance(spec, Mapping):
        return slice(spec["start"], spec["stop"], spec["step"])
    return tuple(map(_slices, spec)) if isinstance(spec, (tuple, list)) else spec


#: By the name that ``tf_keras`` gives a function, what computes the same, with the parameters of TensorFlow's.
OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "__operators__.add": _binary(ops.add),
    "math.add": _binary(ops.add),
    "math.subtract": _binary(ops.subtract),
    "math.multiply": _binary(ops.multiply),
    "math.divide": _binary(ops.divide),
    "math.truediv": _binary(ops.divide),
    "math.maximum": _binary(ops.maximum),
    "math.minimum": _binary(ops.minimum),
    "math.pow": _binary(ops.power),
    "math.negative": _unary(ops.negative),
    "math.abs": _unary(ops.abs),
    "math.square": _unary(ops.square),
    "math.sqrt": _unary(ops.sqrt),
    "math.rsqrt": _unary(ops.rsqrt),
    "math.exp": _unary(ops.exp),
    "math.log": _unary(ops.log),
    "math.erf": _unary(ops.erf),
    "math.tanh": _unary(ops.tanh),
    "nn.tanh": _unary(ops.tanh),
    "math.sigmoid": _unary(ops.sigmoid),
    "nn.sigmoid": _unary(ops.sigmoid),
    "math.softplus": _unary(ops.softplus),
    "nn.softplus": _unary(ops.softplus),
    "nn.relu": _unary(ops.relu),
    "nn.relu6": _unary(ops.relu6),
    "nn.elu": _unary(ops.elu),
    "nn.selu": _unary(ops.selu),
    "nn.silu": lambda features, beta=1.0: ops.silu(features) if beta == 1 else features * ops.sigmoid(features * beta),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=-1 if axis is None else axis),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "math.reduce_mean": _reduction(ops.mean),
    "math.reduce_sum": _reduction(ops.sum),
    "math.reduce_max": _reduction(ops.max),
    "math.reduce_min": _reduction(ops.min),
    "linalg.matmul": _matmul,
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "compat.v1.transpose": lambda a, perm=None: ops.transpose(a, perm),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "identity": lambda input: input,
    "__operators__.getitem": lambda tensor, slice_spec: tensor[_slices(slice_spec)],
})  # fmt: skip
