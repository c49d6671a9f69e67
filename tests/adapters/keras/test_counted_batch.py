"""Calls that compute with the number of samples: recorded with a number, and free of it in the artifact."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import qat
from support.rows import by_turns

X = np.random.default_rng(0).normal(size=(8, 6, 8)).astype("float32")


class Plain(L.Layer):
    """A layer of a function of itself and its input."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(self, x)


class Trained(Plain):
    """Has a token and a table of positions."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal", name="token")
        self.table = L.Embedding(shape[1], shape[2], name="table")
        self.table.build(None)


class Table(L.Layer):
    """Returns its weight."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, shape[-1], 8), initializer="normal", name="table")

    def call(self, x):
        return self.table

    def compute_output_shape(self, shape):
        return 1, shape[-1], 8


def _heads(_, x):
    n, length, width = ops.shape(x)
    heads = ops.transpose(ops.reshape(x, (n, length, 2, width // 2)), (0, 2, 1, 3))
    return ops.reshape(heads, (n * 2, length, width // 2))


def _windows(_, x):
    """The attention of Swin: the parts of each sample's heads come before the samples, and the windows are folded into these."""
    n, length, width = ops.shape(x)
    windows = ops.reshape(x, (n * 2, length // 2, width))
    parts = ops.transpose(ops.reshape(windows, (n * 2, length // 2, 2, 2, width // 4)), (2, 0, 3, 1, 4))
    query, value = ops.unstack(parts, axis=0)
    scores = ops.softmax(ops.matmul(query, ops.transpose(value, (0, 1, 3, 2))))
    heads = ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3))
    return ops.reshape(heads, (n, length, width // 2))


def _behind_others(_, x):
    """A tensor of which the samples are an axis behind others."""
    return ops.transpose(ops.expand_dims(ops.transpose(x, (1, 0, 2)), 0), (0, 2, 1, 3))[0]


def _no_heads(_, x):
    n, length, width = ops.shape(x)
    return ops.reshape(x, (n // 2, length, width * 2))


def _tokens(how):
    return lambda self, x: ops.concatenate([how(self.token, ops.shape(x)), x], axis=1)


#: By name: the layers, and the kinds of operators that stay float.
CALLS = {
    "broadcast": ([_tokens(lambda token, s: ops.broadcast_to(token, (s[0], 1, s[2])))], ["SpreadOverBatch"]),
    "tile": ([_tokens(lambda token, s: ops.tile(token, (s[0], 1, 1)))], ["SpreadOverBatch"]),
    "repeat": ([_tokens(lambda token, s: ops.repeat(token, s[0], axis=0))], ["SpreadOverBatch"]),
    "zeros": ([_tokens(lambda _, s: ops.zeros((s[0], 1, s[2])))], ["SpreadOverBatch"]),
    "over heads": ([lambda _, x: ops.broadcast_to(ops.reshape(x, (-1, 1, 6, 8)), (ops.shape(x)[0], 2, 6, 8))], []),
    "spread, then added": ([lambda self, x: x + ops.broadcast_to(self.token, ops.shape(x))], []),
    "a constant for each sample": ([lambda _, x: x * ops.ones(ops.shape(x)[:2])[:, :, None]], []),
    "folded": ([_heads, _no_heads], []),
    "reshape with -1": ([lambda _, x: ops.reshape(x, (ops.shape(x)[0], -1, 4))], []),
    "positions": ([lambda self, x: x + self.table(ops.arange(ops.shape(x)[1]))], []),
    "positions of one sample": ([lambda self, x: x + self.table(ops.arange(ops.shape(x)[1])[None])], []),
    "windows": ([_windows], []),
    "behind other axes": ([_behind_others], []),
    "slice": ([lambda _, x: ops.slice(x, (0, 1, 0), (ops.shape(x)[0], 4, 8))], []),
}


def around(functions, layer=Trained):
    keras.utils.set_random_seed(0)
    entry = keras.Input(X.shape[1:])
    x = L.Dense(8)(entry)
    for index, function in enumerate(functions):
        x = layer(function, name=f"own_{index}")(x)
    return keras.Model(entry, L.Dense(4)(L.Dense(8, activation="relu")(x)))


@pytest.mark.parametrize(("name", "target"), by_turns(CALLS))
def test_the_batch_is_free_again(name, target, tmp_path):
    functions, floats = CALLS[name]
    model = around(functions)
    prepared = qat.prepare(model, target=target)
    for count in (8, 2):
        np.testing.assert_allclose(prepared(X[:count]), model(X[:count]), atol=1e-5)
    plan = prepared.plan
    assert [p.op.attrs["target"] for p in plan.ops if p.op.name in plan.floats()] == floats
    qat.calibrate(prepared, [X])
    file = tmp_path / f"model{plan.target.suffix}"
    assert qat.export(prepared, file, verify=[X[:4], X[:2]]).parity.exact == 1.0
    prepared.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(X[:3]), prepared(X[:3]))


def test_sizes_that_follow_from_the_number_of_samples_reach_the_next_layer():
    def heads(_, x):  # Keras records an output of free length
        n = ops.shape(x)[0]
        turned = ops.transpose(ops.reshape(x, (n, ops.shape(x)[1], 2, 4)), (0, 1, 3, 2))
        return (ops.reshape(turned, (n, -1, 8)),)

    entry = keras.Input(X.shape[1:])
    (x,) = Plain(heads)(entry)
    (x,) = Plain(heads)(L.LayerNormalization()(x + entry))
    model = keras.Model(entry, L.Dense(4)(x))
    assert model.output.shape == (None, None, 4)
    prepared = qat.prepare(model, target="onnxruntime")
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(X[:3]), model(X[:3]), atol=1e-5)


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_a_sum_with_positions_of_all_samples_leaves_the_batch_free(target, suffix, tmp_path):
    entry = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8)(entry)
    x = L.Add()([x, Table()(entry)])
    assert x.shape == (1, 6, 8)  # Keras' record
    model = keras.Model(entry, L.Dense(4)(L.LayerNormalization()(x)))
    ids = np.random.default_rng(0).integers(0, 20, (8, 6)).astype("int32")
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(ids), model(ids), atol=1e-5)
    qat.calibrate(prepared, [ids])
    assert qat.export(prepared, tmp_path / f"model{suffix}", verify=[ids[:5], ids[:2]]).parity.exact == 1.0


def test_positions_train():
    prepared = qat.calibrate(qat.prepare(around(CALLS["positions"][0])), [X])
    assert any("table" in v.path for v in prepared.trainable_variables)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda _, x: x / ops.cast(ops.shape(x)[0], "float32"), "true_divide"),
        (lambda _, x: x + ops.reshape(ops.arange(ops.shape(x)[0] * 8, dtype="float32"), (ops.shape(x)[0], 1, 8)), "add"),
        (lambda _, x: ops.tile(x, (1, ops.shape(x)[0], 1)), "tile"),
    ],
)
def test_a_call_that_computes_with_the_number_of_samples_stays_whole_and_says_so(function, operation):
    model = around([function], Plain)
    prepared = qat.prepare(model)
    np.testing.assert_allclose(prepared(X), model(X), atol=1e-5)
    assert f"Plain has a call that computes with the number of samples (in '{operation}" in prepared.plan.floats()["own_0"]


def test_constants_for_each_sample_among_the_outputs_keep_a_layer_whole():
    entry = keras.Input(X.shape[1:])
    y, ones = Plain(lambda _, x: (ops.reshape(x, (ops.shape(x)[0], 6, 8)), ops.ones((ops.shape(x)[0], 1, 8))), name="own")(entry)
    model = keras.Model(entry, L.Dense(4)(L.Dense(8)(y + ones)))
    prepared = qat.prepare(model)
    np.testing.assert_allclose(prepared(X), model(X), atol=1e-5)
    assert "returns values for each sample that no input reaches" in prepared.plan.floats()["own"]


def test_free_sizes_are_those_of_the_example(tmp_path, caplog):
    ids = np.random.default_rng(0).integers(1, 50, (8, 12)).astype("int32")
    entry = keras.Input((None,), dtype="int32", name="ids")
    x = L.Embedding(50, 16)(entry)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 8)(x, x))
    model = keras.Model({"ids": entry}, L.Dense(4)(x))
    prepared = qat.prepare(model, {"ids": ids}, target="onnxruntime")
    assert "sizes that the model leaves free are those of example_inputs: 'ids' (None, 12)" in caplog.text
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared({"ids": ids[:3]}), model({"ids": ids[:3]}), atol=1e-5)
    qat.calibrate(prepared, [{"ids": ids}])
    assert qat.export(prepared, tmp_path / "model.onnx", verify=[{"ids": ids[:2]}]).parity.exact == 1.0
    free = qat.prepare(model, target="onnxruntime")
    assert free.plan.graph.tensors["ids"].shape == (None, None)
    np.testing.assert_allclose(free({"ids": ids[:, :7]}), model({"ids": ids[:, :7]}), atol=1e-5)


def test_sizes_of_a_model_within_another_are_those_of_the_example():
    inner_entry = keras.Input((None, None, 3))
    inner = keras.Model(inner_entry, L.Conv2D(4, 3, strides=2, padding="same")(inner_entry), name="inner")
    entry = keras.Input((None, None, 3))
    model = keras.Model(entry, L.GlobalAveragePooling2D()(inner(entry)))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    prepared = qat.prepare(model, x)
    assert not prepared.plan.floats()
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    assert any(p.op.layer.startswith("inner/conv2d") for p in prepared.plan.ops)


class OfParts(keras.Model):
    """Has models without an input layer, of which one is called on what the other returns."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (keras.Sequential([L.Dense(4, activation="relu"), L.Dense(8)]) for _ in range(2))

    def call(self, x):
        return self.second(x + self.first(x)[:, :1])


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
@pytest.mark.parametrize("make", [OfParts, lambda: OfParts().first])
def test_the_batch_of_a_first_call_is_not_that_of_the_file(make, target, suffix, tmp_path):
    """Keras gives a Sequential model without an input layer the batch of its first call, that of ``fit`` say."""
    model = make()
    model(X[:3])
    prepared = qat.calibrate(qat.prepare(model, X[:3], target=target), [X])
    assert {spec.shape[0] for spec in prepared.plan.graph.tensors.values()} == {None}
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1.0
