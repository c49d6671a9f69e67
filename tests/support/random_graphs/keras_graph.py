"""A drawn graph as a Functional Keras model, channels last."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from .specs import LAYERS, VOCABULARY, Shape, Spec, Step


def shape_of(shape: Shape) -> Shape:
    """Return a value's shape in Keras' layout."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _act(x: Any, name: str | None) -> Any:
    return x if name is None else layers.ReLU(6.0)(x) if name == "relu6" else layers.Activation(name)(x)


class Nested(layers.Layer):
    """A layer of one's own, made of others."""

    def __init__(self, inner: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape: Any) -> None:
        for layer in self.inner:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        for layer in self.inner:
            x = layer(x, training=training) if isinstance(layer, layers.BatchNormalization) else layer(x)
        return x


def _made(step: Step) -> list[Any]:
    """Return the layers of a convolution or a fully connected step, as they follow each other."""
    o = step.options
    if step.op == "dense":
        first = layers.Dense(o["units"], use_bias=o["bias"])
    else:
        window = {"strides": o["stride"], "padding": "same" if o["same"] else "valid", "use_bias": o["bias"]}
        if step.op == "conv":
            first = layers.Conv2D(o["filters"], o["kernel"], dilation_rate=o["dilation"], groups=o["groups"], **window)
        else:
            first = layers.DepthwiseConv2D(o["kernel"], **window)
    if o.get("computed") == "spectral_norm":
        first = layers.SpectralNormalization(first)
    norm = [layers.BatchNormalization()] if o.get("norm") else []
    act = [] if o["act"] is None else [layers.ReLU(6.0) if o["act"] == "relu6" else layers.Activation(o["act"])]
    made = [first, *norm, *act]
    return [Nested(made)] if o.get("nested") else made


def _attention(x: Any, step: Step) -> Any:
    """Return self-attention; of what is hidden the others see nothing."""
    tokens, mask = x.shape[1], step.options["mask"]
    if mask in (None, "causal"):
        return layers.MultiHeadAttention(1, step.options["key"])(x, x, use_causal_mask=mask == "causal")
    seen = np.broadcast_to(np.arange(tokens) < max(1, tokens - 2), (1, tokens, tokens))
    return layers.MultiHeadAttention(1, step.options["key"])(x, x, attention_mask=seen)


def _constant(x: Any, step: Step) -> Any:
    """Return a value with one that is computed from constants alone."""
    rng = np.random.default_rng(x.shape[-1])
    values = rng.normal(0, 1, x.shape[1:] if step.options["whole"] else x.shape[-1:]).astype(np.float32)
    other = keras.ops.tanh(keras.ops.convert_to_tensor(values)) + 0.5
    return x + other if step.options["how"] == "add" else x * other


def _squeeze_excite(x: Any, squeezed: int) -> Any:
    y = layers.Conv2D(squeezed, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)])


def _layer(step: Step, x: Any, y: Any = None) -> Any:
    op, o = step.op, step.options
    if op in ("max_pool", "avg_pool"):
        pool = layers.MaxPooling2D if op == "max_pool" else layers.AveragePooling2D
        return pool(o["kernel"], o["stride"], "same" if o["same"] else "valid")(x)
    table = {
        "conv_transpose": lambda: layers.Conv2DTranspose(o["filters"], o["kernel"], 2)(x),
        "embedding": lambda: layers.Embedding(VOCABULARY, o["width"])(x),
        "constant": lambda: _constant(x, step),
        "activation": lambda: _act(x, o["act"]),
        "squeeze_excite": lambda: _squeeze_excite(x, o["squeezed"]),
        "attention": lambda: _attention(x, step),
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
    values = [keras.Input(shape_of(shape)) for shape in spec.shapes[: spec.inputs - spec.ids]]
    if spec.ids:
        values.append(keras.Input(spec.shapes[spec.inputs - 1], dtype="int32"))
    inputs = list(values)
    made: dict[int, list[Any]] = {}
    for index, step in enumerate(spec.steps):
        if step.op in LAYERS:
            made[index] = _made(step)
        chain = made.get(step.options.get("of", index))
        if chain is None:
            values.append(_layer(step, *(values[i] for i in step.sources)))
        else:
            value = values[step.sources[0]]
            for layer in chain:
                value = layer(value)
            values.append(value)
    model = keras.Model(inputs, [values[i] for i in spec.outputs])
    rng = np.random.default_rng(spec.seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.2, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model
