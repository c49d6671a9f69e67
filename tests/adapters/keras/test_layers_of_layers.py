"""Layers that wrap others, operations used directly, weights that several layers read: in integers, exact in both runtimes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import qat

RNG = np.random.default_rng(0)


class Scores(L.Layer):
    """The product with the transposed weight of an embedding."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


class Projection(L.Layer):
    """An equation of an input and a weight of its own."""

    def __init__(self, equation, shape, **kwargs):
        super().__init__(**kwargs)
        self.equation, self.shape = equation, shape

    def build(self, _):
        self.w = self.add_weight(shape=self.shape, name="w")

    def call(self, x):
        return ops.einsum(self.equation, x, self.w)


class Filters(L.Layer):
    """A convolution of ``keras.ops``."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], 5), name="kernel")
        self.bias = self.add_weight(shape=(5,), initializer="normal", name="bias")

    def call(self, x):
        return ops.conv(x, self.kernel, strides=2, padding="same") + self.bias


def _images_of_steps(layer):
    return lambda x: L.Flatten()(L.TimeDistributed(layer)(x))


def _block():
    return keras.Sequential(
        [keras.Input((9, 9, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(), L.GlobalAveragePooling2D()]
    )


def _tied(x):
    embedding = L.Embedding(20, 8)
    return Scores(embedding)(L.Dense(8)(embedding(x)))


def _reversed(x):
    embedding = L.ReversibleEmbedding(20, 8, logit_soft_cap=3.0)
    return embedding(L.Dense(8)(embedding(x)), reverse=True)


class Table(L.Layer):
    """Lines of a weight, and the product with the weight turned."""

    def build(self, shape):
        self.table = self.add_weight(shape=(20, 8), name="embeddings")

    def call(self, x):
        lines = tf.nn.embedding_lookup(self.table, x)
        return tf.matmul(lines * lines, self.table, transpose_b=True)


STEPS, SEQUENCES, IMAGES, IDS = (3, 9, 9, 3), (6, 8), (8, 8, 3), (6,)
#: By name: the shape of a sample, and the layers.
NETS = {
    "TimeDistributed": (STEPS, _images_of_steps(L.Conv2D(4, 3))),
    "TimeDistributed model": (STEPS, lambda x: _images_of_steps(_block())(x)),
    "EinsumDense, part of the bias": (SEQUENCES, L.EinsumDense("abc,cde->abde", output_shape=(6, 2, 4), bias_axes="e")),
    "EinsumDense, middle axis": (SEQUENCES, L.EinsumDense("abc,bd->adc", output_shape=(5, 8), bias_axes="d")),
    "EinsumDense, kernel turned": (SEQUENCES, L.EinsumDense("abc,dce->abde", output_shape=(6, 2, 4), bias_axes="de")),
    "EinsumDense, activation": (SEQUENCES, L.EinsumDense("abc,cd->adb", output_shape=(5, 6), activation="relu")),
    "einsum": (SEQUENCES, lambda x: Projection("btd,ndh->btnh", (2, 8, 4))(x)),
    "Lambda": (SEQUENCES, lambda x: L.Lambda(lambda t: ops.reshape(t * ops.sigmoid(t), (ops.shape(t)[0], 3, 16)))(L.Dense(8)(x))),
    "split": (SEQUENCES, lambda x: ops.multiply(*ops.split(L.Dense(8)(x), 2, -1))),
    "split at": (SEQUENCES, lambda x: ops.concatenate(ops.split(L.Dense(8)(x), [2, 3], -1)[::-1], 1 + 1)),
    "unstack": (SEQUENCES, lambda x: ops.stack(ops.unstack(L.Dense(8)(x), axis=1)[::2], axis=1)),
    "glu": (SEQUENCES, lambda x: ops.glu(L.Dense(8)(x))),
    "stack": (SEQUENCES, lambda x: ops.stack([L.Dense(8)(x), L.Dense(8)(x)], axis=-1)),
    "adaptive pooling": (IMAGES, lambda x: L.AdaptiveAveragePooling2D(4)(L.Conv2D(4, 1)(x))),
    "conv": (IMAGES, lambda x: Filters()(x)),
    "gate of attention": (SEQUENCES, lambda x: L.MultiHeadAttention(2, 4, use_gate=True)(x, x)),
    "grouped queries": (SEQUENCES, lambda x: L.GroupQueryAttention(4, 4, 2)(x, x)),
    "dot products": (SEQUENCES, lambda x: ops.dot_product_attention(*[L.EinsumDense("abc,cde->abde", (6, 2, 4))(x)] * 3)),
    "embedding and head": (IDS, _tied),
    "reversible embedding": (IDS, _reversed),
    "a table of one's own": (IDS, lambda x: Table()(x)),
    "steps of a number": (IDS, lambda x: L.Embedding(20, 8)(x) * 2.0),
}  # fmt: skip


def net_of(name):
    shape, layer = NETS[name]
    keras.utils.set_random_seed(0)
    entry = keras.Input(shape, dtype="int32" if shape == IDS else "float32")
    x = RNG.integers(0, 20, (8, *shape)).astype("int32") if shape == IDS else RNG.normal(size=(8, *shape)).astype("float32")
    return keras.Model(entry, L.Dense(4)(layer(entry))), x


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("name", NETS)
def test_all_is_in_integers_and_exact(name, target, tmp_path):
    model, x = net_of(name)
    prepared = qat.prepare(model, target=target)
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    qat.calibrate(prepared, [x])
    file = tmp_path / f"model{prepared.plan.target.suffix}"
    assert qat.export(prepared, file, verify=[x[:3]]).parity.exact == 1.0


@pytest.mark.parametrize("layer", [lambda x: L.UnitNormalization()(x), lambda x: L.LayerNormalization(axis=(1, 2))(x)])
def test_norms_are_exact_in_an_onnx(layer, tmp_path):
    entry = keras.Input(SEQUENCES)
    model = keras.Model(entry, L.Dense(4)(layer(L.Dense(8)(entry))))
    x = RNG.normal(size=(8, *SEQUENCES)).astype("float32")
    prepared = qat.prepare(model, target="onnxruntime")
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    assert qat.export(qat.calibrate(prepared, [x]), tmp_path / "model.onnx", verify=[x]).parity.exact == 1.0


def test_a_head_that_reads_the_embedding_has_one_parameter():
    for name in ("embedding and head", "reversible embedding", "a table of one's own"):
        prepared = qat.prepare(net_of(name)[0])
        readers = [p.op.kind for p in prepared.plan.ops if any("embeddings" in n for n in p.op.params.values())]
        assert readers == ["embedding", "dense"]
        assert len([v for v in prepared.trainable_variables if "embeddings" in v.path]) == 1


def test_dropout_of_attention_acts_in_training():
    entry = keras.Input(SEQUENCES)
    model = keras.Model(entry, L.Dense(4)(L.MultiHeadAttention(2, 4, dropout=0.5)(entry, entry)))
    x = RNG.normal(size=(8, *SEQUENCES)).astype("float32")
    prepared = qat.calibrate(qat.prepare(model), [x])
    assert [act.what for act in prepared.plan.acts] == ["Dropout, p=0.5"]
    assert np.abs(prepared(x, training=True) - prepared(x)).max() > 0.01
    np.testing.assert_array_equal(prepared(x), prepared(x))
