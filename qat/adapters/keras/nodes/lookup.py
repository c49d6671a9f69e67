"""Nodes of functions of one tensor, as tables of the output's integers, and of constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import lookup
from qat.arithmetic.expressions import ARITHMETIC, evaluate

from .base import Node, Params
from .float_functions import as_runtime
from .quantize import quantize_parameter

#: Operators of several operands in composed functions.
_OF_SEVERAL: dict[str, Any] = {
    "minimum": tf.minimum,
    "maximum": tf.maximum,
    "greater": tf.greater,
    "greater_equal": tf.greater_equal,
    "less": tf.less,
    "less_equal": tf.less_equal,
    "where": tf.where,
}

#: TensorFlow's functions by kind, for a model that is not calibrated yet, for training and for an operator that stays float.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
    "silu": tf.nn.silu,
    "gelu": lambda x, approximate: tf.nn.gelu(x, approximate),
    "hard_sigmoid": lambda x: tf.nn.relu6(x + 3.0) / 6.0,
    "hard_swish": lambda x: x * (tf.nn.relu6(x + 3.0) / 6.0),
    "leaky_relu": lambda x, alpha: tf.nn.leaky_relu(x, alpha),
    "elu": lambda x, alpha: tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0.0))),
    "selu": tf.nn.selu,
    "softplus": tf.nn.softplus,
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "exp": tf.exp,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "abs": tf.abs,
    "neg": tf.negative,
    "square": tf.square,
    "clamp": lambda x, low, high: tf.clip_by_value(x, -np.inf if low is None else low, np.inf if high is None else high),
    "erf": tf.math.erf,
    "log": tf.math.log,
    "log1p": tf.math.log1p,
    "expm1": tf.math.expm1,
    "reciprocal": tf.math.reciprocal,
    "power": lambda x, exponent: tf.pow(x, exponent),
    "composed": lambda x, steps: evaluate(steps, x, {**FUNCTIONS, **ARITHMETIC, **_OF_SEVERAL}),
}


class Function(Node):
    """A function of one tensor: a table of the output's integers, see :func:`qat.arithmetic.lookup.table`."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Look up; in training compute, round and clamp with a straight-through gradient."""
        (x,), (gx, gy) = inputs, self.grids
        if training:
            return self.finish(self.real([x * gx.scale], params) / gy.scale, training)

        def table() -> np.ndarray:
            values = lookup.table(self.planned.op.kind, self.attrs, gx.encoding, gy.encoding, self.kernels)
            return values.astype(np.float32)

        # The encodings are read when the graph runs, not when it is traced.
        values = tf.numpy_function(table, (), tf.float32)
        values.set_shape((gx.group.qmax - gx.group.qmin + 1,))
        return tf.gather(values, tf.cast(x - gx.lo, tf.int32))

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """TensorFlow's own function."""
        return FUNCTIONS[self.planned.op.kind](inputs[0], **self.attrs)

    def evaluated(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The same in the runtime's arithmetic, where that is known."""
        found = as_runtime(self.planned.op.kind, inputs[0], self.kernels)
        return self.real(inputs, params) if found is None else found


class Constant(Node):
    """A parameter on the grid. Its range is calibrated and tracked as the range of an activation is."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Quantize; the gradient reaches the parameter in its own unit."""
        return quantize_parameter(self.real(inputs, params), self.output, self.kernels, training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The parameter itself."""
        value = params["value"]
        return tf.reshape(value, self.attrs["shape"]) if "shape" in self.attrs else value
