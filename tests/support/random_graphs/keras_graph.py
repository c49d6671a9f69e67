"""A drawn graph as a Functional Keras model, channels last."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from .specs import Shape, Spec, Step


def shape_of(shape: Shape) -> Shape:
    """Return a value's shape in Keras' layout."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _act(x: Any, name: str | None) -> Any:
    return x if name is None else layers.ReLU(6.0)(x) if name == "relu6" else layers.Activation(name)(x)


def _conv(x: Any, step: Step) -> Any:
    o = step.options
    window = {"strides": o["stride"], "padding": "same" if o["same"] else "valid", "use_bias": o["bias"]}
    if step.op == "conv":
        y = layers.Conv2D(o["filters"], o["kernel"], dilation_rate=o["dilation"], groups=o["groups"], **window)(x)
    else:
        y = layers.DepthwiseConv2D(o["kernel"], **window)(x)
    return _act(layers.BatchNormalization()(y) if o["norm"] else y, o["act"])


def _squeeze_excite(x: Any, squeezed: int) -> Any:
    y = layers.Conv2D(squeezed, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)])


def _layer(step: Step, x: Any, y: Any = None) -> Any:
    op, o = step.op, step.options
    if op in ("conv", "depthwise"):
        return _conv(x, step)
    if op in ("max_pool", "avg_pool"):
        pool = layers.MaxPooling2D if op == "max_pool" else layers.AveragePooling2D
        return pool(o["kernel"], o["stride"], "same" if o["same"] else "valid")(x)
    table = {
        "conv_transpose": lambda: layers.Conv2DTranspose(o["filters"], o["kernel"], 2)(x),
        "dense": lambda: _act(layers.Dense(o["units"], use_bias=o["bias"])(x), o["act"]),
        "activation": lambda: _act(x, o["act"]),
        "squeeze_excite": lambda: _squeeze_excite(x, o["squeezed"]),
        "attention": lambda: layers.MultiHeadAttention(1, o["key"])(x, x),
        "norm": lambda: layers.LayerNormalization()(x),
        "pad": lambda: layers.ZeroPadding2D(o["padding"])(x),
        "crop": lambda: x[:, o["top"] :, :, o["channel"] :],
        "upsample": lambda: layers.UpSampling2D(2)(x),
        "mean": lambda: (layers.GlobalAveragePooling2D() if len(x.shape) == 4 else layers.GlobalAveragePooling1D())(x),
        "flatten": lambda: layers.Flatten()(x),
        "tokens": lambda: layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x),
        "transpose": lambda: layers.Permute((2, 1, 3))(x),
        "add": lambda: layers.Add()([x, y]),
        "mul": lambda: layers.Multiply()([x, y]),
        "concat": lambda: layers.Concatenate()([x, y]),
    }
    return table[op]()


def keras_model(spec: Spec) -> Any:
    """Return the model. BatchNorm has statistics of its own, as after training."""
    keras.utils.set_random_seed(spec.seed)
    values = [keras.Input(shape_of(shape)) for shape in spec.shapes[: spec.inputs]]
    inputs = list(values)
    for step in spec.steps:
        values.append(_layer(step, *(values[i] for i in step.sources)))
    model = keras.Model(inputs, [values[i] for i in spec.outputs])
    rng = np.random.default_rng(spec.seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.2, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model
