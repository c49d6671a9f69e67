"""Keras 3: backbones of keras_hub with random weights, and models that are more than a chain of standard layers.

pip install --no-deps -r benchmarks/coverage.txt
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

_TEXT = {
    "vocabulary_size": 500,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 96,
    "intermediate_dim": 192,
    "max_sequence_length": 32,
}
_IMAGE = {"image_shape": (64, 64, 3)}
#: Backbones of keras_hub, and what each is built with.
HUB: dict[str, dict[str, Any]] = {
    "BertBackbone": _TEXT,
    "RobertaBackbone": _TEXT,
    "DistilBertBackbone": _TEXT,
    "GPT2Backbone": _TEXT,
    "AlbertBackbone": {**_TEXT, "embedding_dim": 32},
    "ViTBackbone": {
        **_IMAGE, "patch_size": 16, "num_layers": 2, "num_heads": 3, "hidden_dim": 96, "mlp_dim": 192, "dropout_rate": 0.0,
    },
    "ResNetBackbone": {
        **_IMAGE, "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 128],
        "stackwise_num_blocks": [2, 2], "stackwise_num_strides": [1, 2], "block_type": "basic_block",
    },
    "VGGBackbone": {**_IMAGE, "stackwise_num_repeats": [1, 1, 2], "stackwise_num_filters": [16, 32, 64]},
    "DenseNetBackbone": {**_IMAGE, "stackwise_num_repeats": [2, 2, 2], "compression_ratio": 0.5, "growth_rate": 16},
}  # fmt: skip


def hub(name: str) -> keras.Model:
    """Return a backbone of keras_hub."""
    import keras_hub

    keras.utils.set_random_seed(0)
    return getattr(keras_hub.models, name)(**HUB[name])


@keras.saving.register_keras_serializable("benchmarks")
class Residual(layers.Layer):
    """A residual block of two convolutions, as a layer of one's own."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.second = layers.Conv2D(filters, 3, padding="same")

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.first.build(shape)
        self.norm.build((*shape[:-1], self.filters))
        self.second.build((*shape[:-1], self.filters))

    def call(self, x: Any, training: bool | None = None) -> Any:
        return keras.ops.relu(x + self.second(keras.ops.relu(self.norm(self.first(x), training=training))))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


class Subclassed(keras.Model):
    """A network without a functional graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layers.Conv2D(16, 3, strides=2, padding="same")
        self.blocks = [Residual(16), Residual(16)]
        self.head = layers.Dense(10)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = keras.ops.relu(self.stem(x))
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(keras.ops.mean(x, axis=(1, 2)))


@keras.saving.register_keras_serializable("benchmarks")
class Attention(layers.Layer):
    """Self-attention of ``EinsumDense`` layers and ``keras.ops``, causal."""

    def __init__(self, heads: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.width = heads, width
        self.query, self.key, self.value = (
            layers.EinsumDense("btd,dhk->bthk", (None, heads, width // heads), bias_axes="hk", name=name)
            for name in ("q", "k", "v")
        )
        self.out = layers.EinsumDense("bthk,hkd->btd", (None, width), bias_axes="d", name="out")

    def call(self, x: Any) -> Any:
        scores = keras.ops.einsum("bqhk,bshk->bhqs", self.query(x), self.key(x)) * (self.width // self.heads) ** -0.5
        length = x.shape[1]
        causal = keras.ops.tril(keras.ops.ones((length, length), "bool"))
        scores = keras.ops.where(causal, scores, -1e4)
        return self.out(keras.ops.einsum("bhqs,bshk->bqhk", keras.ops.softmax(scores), self.value(x)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "width": self.width}


def own(name: str) -> keras.Model:
    """Return one of the models of ``OWN``."""
    keras.utils.set_random_seed(0)
    model: keras.Model = OWN[name]()
    return model


def _subclassed() -> keras.Model:
    model = Subclassed()
    model(keras.ops.zeros((2, 64, 64, 3)))
    return model


def _image(middle: Any) -> keras.Model:
    inputs = keras.Input((64, 64, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(middle(x))))


def _tokens(middle: Any) -> keras.Model:
    inputs = keras.Input((32,), dtype="int32")
    x = layers.Embedding(1000, 64)(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(middle(x))))


def _frames() -> keras.Model:
    inputs = keras.Input((4, 32, 32, 3))
    x = layers.TimeDistributed(layers.Conv2D(16, 3, strides=2, activation="relu"))(inputs)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def _masked() -> keras.Model:
    ids, mask = keras.Input((32,), dtype="int32", name="ids"), keras.Input((32,), dtype="int32", name="mask")
    x = layers.Embedding(1000, 64)(ids)
    seen = keras.ops.cast(keras.ops.expand_dims(mask, 1), "bool")
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16)(x, x, attention_mask=seen))
    return keras.Model({"ids": ids, "mask": mask}, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def _siamese() -> keras.Model:
    branch = keras.Sequential(
        [layers.Conv2D(16, 3, strides=2, use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.GlobalMaxPooling2D()]
    )
    left, right = keras.Input((32, 32, 3), name="left"), keras.Input((32, 32, 3), name="right")
    return keras.Model([left, right], layers.Dense(10)(layers.Concatenate()([branch(left), branch(right)])))


def _separable() -> keras.Model:
    return _image(
        keras.Sequential(
            [
                layers.SeparableConv2D(32, 3, dilation_rate=2), layers.BatchNormalization(), layers.Activation("swish"),
                layers.Conv2D(32, 1), layers.LeakyReLU(), layers.Conv2DTranspose(16, 3, strides=2),
                layers.PReLU(shared_axes=(1, 2)),
            ]
        )
    )  # fmt: skip


def _bidirectional() -> keras.Model:
    return _tokens(layers.Bidirectional(layers.LSTM(16, return_sequences=True, unroll=True)))


#: Models that are more than a chain of standard layers.
OWN: dict[str, Any] = {
    "Subclassed model": _subclassed,
    "Layers of one's own": lambda: _image(keras.Sequential([Residual(16), Residual(16)])),
    "TimeDistributed": _frames,
    "Bidirectional LSTM": _bidirectional,
    "SpectralNormalization": lambda: _image(layers.SpectralNormalization(layers.Conv2D(32, 3))),
    "Masked attention": _masked,
    "EinsumDense attention": lambda: _tokens(Attention(4, 64)),
    "Siamese": _siamese,
    "Separable, dilated": _separable,
}
