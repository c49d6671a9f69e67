"""Attention in Keras, however it is written: exact in both runtimes, trained with a gradient."""

import contextlib

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import qat  # noqa: E402
from qat.arithmetic.masks import TAKES_PART  # noqa: E402
from qat.graph.einsum import as_dense_sum, as_product  # noqa: E402
from support.eager import eagerly  # noqa: E402

layers, ops = keras.layers, keras.ops
LENGTH, WIDTH = 6, 16


def model(work, tokens=False):
    """Return a model whose core is ``work``, of sequences [batch, length, width]; of token ids where ``tokens``."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32") if tokens else keras.Input((LENGTH, WIDTH))
    x = layers.Embedding(50, WIDTH)(inputs) if tokens else layers.Dense(WIDTH)(inputs)
    return keras.Model(inputs, layers.Dense(10)(work(x)))


def by_hand(x):
    q, k, v = (layers.Dense(WIDTH)(x) for _ in range(3))
    return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) * 0.25), v)


def by_einsum(x):
    q, k, v = (layers.EinsumDense("abc,cde->abde", (LENGTH, 4, 4), bias_axes="de")(x) for _ in range(3))
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    y = ops.einsum("bhqk,bkhd->bqhd", scores, v)
    return layers.EinsumDense("abcd,cde->abe", (LENGTH, WIDTH), bias_axes="e", activation="relu")(y)


WAYS = {
    "layer": lambda x: layers.MultiHeadAttention(4, 4)(x, x),
    "cross": lambda x: layers.MultiHeadAttention(2, 8, value_dim=4, dropout=0.1)(x, layers.Dense(WIDTH)(x)[:, :4]),
    "no bias": lambda x: layers.MultiHeadAttention(4, 4, use_bias=False)(query=x, value=x, key=x),
    "by hand": by_hand,
    "by einsum": by_einsum,
}


EQUATIONS = {
    "...ij,...kj->...ik": 2, "bij,bij->bi": 2, "bij,bij->bij": 2, "bij,bik->bijk": 2, "bij->bji": 1, "bij->bi": 1,
    "bij,bkj,bkl->bil": 3, "bij,bkl->bl": 2,
}  # fmt: skip


def of_equations(x):
    parts = [layers.Dense(WIDTH)(x) for _ in range(3)]
    found = [layers.Flatten()(ops.einsum(equation, *parts[:count])) for equation, count in EQUATIONS.items()]
    four = ops.reshape(parts[0], (-1, 2, 3, WIDTH))
    found.append(layers.Flatten()(ops.einsum("bnij,bnkj->bik", four, four)))
    return layers.Concatenate()([layers.Dense(4)(y) for y in found])


@pytest.fixture(scope="module")
def sequences():
    return np.random.default_rng(0).normal(size=(8, LENGTH, WIDTH)).astype(np.float32)


def exact(net, x, path, target):
    """Prepare, train a step, export: nothing stays float, and the artifact is the model."""
    prepared = qat.calibrate(qat.prepare(net, target=target), [x])
    assert not prepared.plan.floats(), prepared.plan.floats()
    expected, found = (np.asarray(m(x, training=False)) for m in (net, prepared))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    before = {v.path: np.asarray(v) for v in prepared.trainable_variables}
    # Traced for one target and eagerly for the other: the training step is the same, and tracing is slow.
    prepared.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=target == "onnxruntime")
    prepared.fit(x, np.ones_like(expected), batch_size=4, verbose=0)
    assert all(np.any(before[v.path] != np.asarray(v)) for v in prepared.trainable_variables if "kernel" in v.path)
    artifact = qat.export(prepared, path, verify=[x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    return prepared


@pytest.mark.parametrize("name", WAYS)
def test_attention_is_exact_in_integers(name, sequences, tmp_path):
    prepared = exact(model(WAYS[name]), sequences, tmp_path / "m.tflite", "litert")
    kinds = [p.op.kind for p in prepared.plan.ops]
    assert kinds.count("matmul") == 2 and kinds.count("softmax") == 1


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_equations_that_are_no_matrix_product_run_in_integers(target, suffix, sequences, tmp_path):
    net = model(of_equations)
    prepared = qat.calibrate(qat.prepare(net, target=target), [sequences])
    assert not prepared.plan.floats()
    expected = np.asarray(net(sequences))
    assert np.linalg.norm(prepared(sequences) - expected) < 0.1 * np.linalg.norm(expected)
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[sequences]).parity.exact == 1.0


@pytest.mark.parametrize("name", ["layer", "by einsum"])
def test_attention_is_exact_in_an_onnx(name, sequences, tmp_path):
    exact(model(WAYS[name]), sequences, tmp_path / "m.onnx", "onnxruntime")


def test_a_prepared_model_is_saved_and_loaded(sequences, tmp_path):
    prepared = qat.calibrate(qat.prepare(model(WAYS["layer"])), [sequences])
    prepared.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(sequences), prepared(sequences))


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_embeddings(target, suffix, tmp_path):
    ids = np.random.default_rng(0).integers(0, 50, (8, LENGTH)).astype(np.int32)
    prepared = exact(model(lambda x: x, tokens=True), ids, tmp_path / f"m{suffix}", target)
    assert prepared.plan.ops[0].op.kind == "embedding"


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_indices_of_an_embedding_are_numbers_of_any_type(target, suffix, tmp_path):
    """``keras.Input((6,))`` of tokens is of float32, and Keras converts; the files' look-ups take integers alone."""
    ids = np.random.default_rng(0).integers(0, 50, (8, LENGTH))
    inputs = [keras.Input((LENGTH,)), keras.Input((LENGTH,), dtype="uint8")]
    net = keras.Model(inputs, layers.Dense(3)(layers.Add()([layers.Embedding(50, WIDTH)(x) for x in inputs])))
    x = [ids.astype(np.float32), ids.astype(np.uint8)]
    prepared = qat.calibrate(qat.prepare(net, target=target), [x])
    assert {p.op.kind for p in prepared.plan.ops if p.integer} == {"embedding", "add", "dense"}
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1


class Lines(layers.Layer):
    """Lines of a weight, taken by indices that count from the end too."""

    def build(self, shape):
        self.table = self.add_weight(shape=(50, WIDTH), name="table")

    def call(self, ids):
        return ops.take(self.table, ids - 1, axis=0)


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_a_look_up_by_hand_is_an_embedding_and_trains(target, suffix, tmp_path):
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 50, (8, LENGTH)).astype(np.int32)
    entry = keras.Input((LENGTH,), dtype="int32")
    net = keras.Model(entry, layers.Dense(3)(layers.Flatten()(Lines()(entry))))
    prepared = qat.calibrate(qat.prepare(net, target=target), [ids])
    assert "embedding" in {p.op.kind for p in prepared.plan.ops if p.integer}
    qat.finetune(prepared, [(ids, np.arange(8) % 3)], epochs=1, progress=False)
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[ids]).parity.exact == 1


def test_a_mask_of_padding_is_not_lost():
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 3, (8, LENGTH)).astype(np.int32)
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(50, WIDTH, mask_zero=True)(inputs)
    net = keras.Model(inputs, layers.Dense(10)(layers.MultiHeadAttention(4, 4)(x, x)))
    prepared = qat.calibrate(qat.prepare(net), [ids])
    expected = np.asarray(net(ids))
    assert np.linalg.norm(prepared(ids) - expected) < 0.1 * np.linalg.norm(expected)


def padded(last):
    entry = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(entry, layers.Dense(10)(last(layers.Dense(WIDTH)(layers.Embedding(50, WIDTH, mask_zero=True)(entry)))))


MASKED = {
    "attention": lambda x: layers.MultiHeadAttention(4, 4)(x, x),
    "two inputs": lambda x: layers.MultiHeadAttention(4, 4)(x, layers.Dense(WIDTH)(x)),
    "pooling": layers.GlobalAveragePooling1D(),
    "normalization": layers.BatchNormalization(),
    "recurrent": layers.LSTM(8, unroll=True),
    "within a model": lambda x: keras.Sequential([keras.Input((LENGTH, WIDTH)), layers.GlobalAveragePooling1D()])(x),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_of_padding_reach_their_readers_through_integers(name, tmp_path):
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 3, (8, LENGTH)).astype(np.int32)
    ids[:, 0] = 1
    net = padded(MASKED[name])
    prepared = qat.prepare(net)
    assert prepared.plan.ops[0].op.kind == "embedding"
    np.testing.assert_allclose(prepared(ids), net(ids), atol=1e-5)
    qat.calibrate(prepared, [ids])
    assert qat.export(prepared, tmp_path / "model.tflite", verify=[ids]).parity.max_lsb <= 1


def _dots(x):
    """Products by the layer ``Dot`` of [batch, 6, 16], over each axis, of tensors of two, three and four axes."""
    y, z = layers.Reshape((LENGTH, 2, 8))(layers.Dense(WIDTH)(x)), layers.Dense(WIDTH)(x)[:, 0]
    products = [
        layers.Dot(axes=(2, 1))([x, layers.Permute((2, 1))(layers.Dense(WIDTH)(x))]),
        layers.Dot(axes=1)([x, layers.Dense(3)(x)]),
        layers.Dot(axes=-1, normalize=True)([z, layers.Dense(WIDTH, activation="relu")(z)]),
        layers.Dot(axes=(1, 1), normalize=True)([y, x]),
        layers.Dot(axes=(2, 1))([x, z]),
    ]
    return layers.Concatenate()([layers.Flatten()(product) for product in products])


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_products_by_the_layer_dot(target, suffix, sequences, tmp_path):
    prepared = exact(model(_dots), sequences, tmp_path / f"m{suffix}", target)
    assert sum(p.op.kind == "matmul" for p in prepared.plan.ops) == 5
    assert sum(p.op.kind == "rms_norm" for p in prepared.plan.ops) == 4


def test_equations():
    assert as_product("ij,jk->ik") == ((0, 1), (0, 1), False, (0, 1))
    assert as_product("abc,adc->abd").transposed
    assert all(as_product(e) is None for e in ("ij,jk->i", "ii,ij->j", "ijk,jkl->il", "...ij,...jk->...ik", "ij->ji"))
    assert as_dense_sum("abc,cde->abde") == ((0, 1, 2), 1, (1, 2), (0, 1, 2, 3))
    assert as_dense_sum("abcd,dce->abe") == ((0, 1, 3, 2), 2, (2,), (0, 1, 2))
    assert as_dense_sum("abc,bd->adc") == ((0, 2, 1), 1, (1,), (0, 2, 1))
    assert all(as_dense_sum(e) is None for e in ("abc,abd->acd", "abc,ad->bcd", "ab,cd->abcd", "abc,cd->bad", "ab,b->a"))


CAUSAL = np.tri(LENGTH, dtype=bool)


def scores(x):
    return ops.matmul(x, ops.transpose(x, (0, 2, 1))) * 0.2


def attended(x, mask):
    return ops.matmul(ops.softmax(mask(scores(x))), x)


def heads(x):
    return ops.reshape(x, (-1, LENGTH, 4, WIDTH // 4))


HIDING = {
    "where": lambda x, mask: attended(x, lambda s: ops.where(mask, s, -1e9)),
    "where not": lambda x, mask: attended(x, lambda s: ops.where(ops.logical_not(mask), -1e4, s)),
    "where constant": lambda x, mask: attended(x, lambda s: ops.where(CAUSAL[None], s, -1e9)),
    "sum": lambda x, mask: attended(x, lambda s: s + (1.0 - ops.cast(mask, "float32")) * -1e9),
    "sum of constant": lambda x, mask: attended(x, lambda s: s + np.where(CAUSAL, 0, -1e9).astype("float32")[None]),
    "softmax of constant": lambda x, mask: ops.matmul(layers.Softmax()(scores(x), mask=CAUSAL), x),
    "products": lambda x, mask: ops.reshape(
        ops.dot_product_attention(heads(x), heads(x), heads(x), mask=ops.expand_dims(mask, 1)), (-1, LENGTH, WIDTH)
    ),
    "causal products": lambda x, mask: ops.reshape(
        ops.dot_product_attention(heads(x), heads(x), heads(x), is_causal=True), (-1, LENGTH, WIDTH)
    ),
    "dropout": lambda x, mask: layers.MultiHeadAttention(4, 4, dropout=0.1)(x, x, use_causal_mask=True),
    "constant mask": lambda x, mask: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=CAUSAL[None]),
    "grouped": lambda x, mask: layers.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True),
    "causal": lambda x, mask: layers.MultiHeadAttention(4, 4)(x, x, use_causal_mask=True),
    "mask": lambda x, mask: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=mask),
    "both": lambda x, mask: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=mask, use_causal_mask=True),
    "softmax": lambda x, mask: ops.matmul(layers.Softmax()(ops.matmul(x, ops.transpose(x, (0, 2, 1))) * 0.2, mask=mask), x),
}


@pytest.mark.parametrize(
    ("name", "target"), [*((name, "onnxruntime") for name in HIDING), *((name, "litert") for name in ("both", "softmax", "sum"))]
)
def test_masked_scores_run_in_integers(name, target, sequences, tmp_path):
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((LENGTH, WIDTH), name="x"), keras.Input((LENGTH, LENGTH), dtype="bool", name="mask")
    y = layers.Dense(10)(HIDING[name](layers.Dense(WIDTH)(x), mask))
    alone = any(word in name for word in ("causal", "constant", "dropout", "grouped"))
    net = keras.Model(x if alone else [x, mask], y)
    seen = np.repeat((np.arange(LENGTH)[None] < 3 + np.arange(8)[:, None] % 4)[:, None], LENGTH, 1)
    batch = sequences if alone else (sequences, seen)
    prepared = qat.calibrate(qat.prepare(net, target=target), [batch])
    floats = {p.op.attrs.get("target", p.op.kind) for p in prepared.plan.ops if p.op.name in prepared.plan.floats()}
    assert floats <= {"shown", "Cast", "LogicalNot", "ExpandDims", "mul", "add", "composed", "reshape"}  # they make the mask
    kinds = [p.op.kind for p in prepared.plan.ops if p.integer]
    # A layer's mask that may hide a whole row clears the shares, too.
    assert kinds.count("mask") == (2 if name in ("both", "softmax") else 1) and kinds.count("softmax") == 1
    expected, found = (np.asarray(m(batch, training=False)) for m in (net, prepared))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    # Traced for one target and eagerly for the other: the training step is the same, and tracing is slow.
    with contextlib.nullcontext() if target == "litert" else eagerly():
        qat.finetune(prepared, [(batch, np.ones_like(expected))], loss="mse", learning_rate=1e-3, progress=False)
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[batch])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    if name == "mask":  # a hidden token has no influence
        other = np.where(seen[:, :1, :].transpose(0, 2, 1), sequences, -1.0).astype(np.float32)
        before, after = (np.asarray(prepared((values, seen), training=False)) for values in (sequences, other))
        shown = seen[:, 0]
        np.testing.assert_array_equal(before[shown], after[shown])


#: Of scores [batch, tokens, tokens] and a float mask [batch, 1, tokens].
FAR = {
    "product": lambda s, m: ops.softmax(s + (1 - m) * float(np.finfo("float32").min)),
    "difference": lambda s, m: ops.softmax(s - 1e4 * (1 - m)),
    "least of two": lambda s, m: ops.softmax(ops.minimum(s, (2 * m - 1) * 1e4)),
    "scaled after": lambda s, m: ops.softmax((s + (m - 1) * 1e9) * 0.7),
    "with a fixed mask": lambda s, m: ops.softmax(
        s + ((m - 1) * 1e9 + np.triu(np.full((1, LENGTH, LENGTH), -1e9, "float32"), 1))
    ),
    "another axis": lambda s, m: ops.transpose(ops.softmax(s + (1 - ops.transpose(m, (0, 2, 1))) * -1e4, axis=1), (0, 2, 1)),
}
#: The same of masks of which a kernel cannot hide alone.
BESIDE = {
    "shifted": lambda s, m: ops.softmax(s + ops.log(ops.maximum(m, 1e-9))),
    "gates": lambda s, m: ops.sigmoid(s + (1 - m) * -1e4),
}


def masked_model(ways):
    """Return a model whose outputs are those of ways to mask, its batch, and the float outputs."""
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((LENGTH, WIDTH), name="x"), keras.Input((1, LENGTH), name="mask")
    y = layers.Dense(WIDTH)(x)
    net = keras.Model([x, mask], [layers.Dense(4)(ops.matmul(way(scores(y), mask), y)) for way in ways.values()])
    seen = (np.arange(LENGTH)[None] < 3 + np.arange(8)[:, None] % 4).astype(np.float32)[:, None]
    batch = (np.random.default_rng(0).normal(size=(8, LENGTH, WIDTH)).astype(np.float32), seen)
    return net, batch, [np.asarray(y) for y in net(batch, training=False)]


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("litert", marks=pytest.mark.slow)])
def test_scores_keep_their_integers_beside_a_mask_of_numbers(target, tmp_path):
    """A mask may be a float input of the model: no scores are multiplied by a number as far."""
    net, batch, expected = masked_model(FAR)
    prepared = qat.calibrate(qat.prepare(net, target=target), [batch])
    kinds = [p.op.kind for p in prepared.plan.ops if p.integer]
    assert kinds.count("mask") == kinds.count("softmax") == len(FAR)
    for name, wanted, found in zip(FAR, expected, prepared(batch, training=False), strict=True):
        assert np.linalg.norm(np.asarray(found) - wanted) < 0.1 * np.linalg.norm(wanted), name
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[batch])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference


def test_a_mask_that_does_more_than_hide_keeps_the_scores_float():
    net, batch, expected = masked_model(BESIDE)
    prepared = qat.calibrate(qat.prepare(net, target="onnxruntime"), [batch])
    floats = [p.op.kind for p in prepared.plan.ops if p.reason == TAKES_PART]
    assert floats.count("softmax") == 1 and floats.count("add") >= 2
    for wanted, found in zip(expected, prepared(batch, training=False), strict=True):
        assert np.linalg.norm(np.asarray(found) - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_row_that_a_mask_hides_whole_is_of_zeros_where_keras_has_them(target, sequences, tmp_path):
    x, mask = keras.Input((LENGTH, WIDTH)), keras.Input((LENGTH, LENGTH), dtype="bool")
    hidden = {name: layers.Dense(10)(HIDING[name](layers.Dense(WIDTH)(x), mask)) for name in ("softmax", "mask", "where")}
    model = keras.Model([x, mask], list(hidden.values()))
    seen = np.arange(LENGTH) < np.arange(8)[:, None] % 4
    batch = (sequences, seen[:, None] & seen[:, :, None])
    prepared = qat.prepare(model, target=target)
    for found, expected in zip(prepared.predict(batch, verbose=0), model.predict(batch, verbose=0), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    qat.calibrate(prepared, [batch])
    for found, expected in zip(prepared.predict(batch, verbose=0), model.predict(batch, verbose=0), strict=True):
        assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)
    parity = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[batch]).parity
    assert parity.exact == 1.0, parity.first_difference


def test_hidden_tokens_have_no_share_where_scores_are_small(sequences):
    """The softmax multiplies scores by a factor, beside which a hidden one must lie as far below."""
    x = keras.Input((LENGTH, WIDTH))
    model = keras.Model(x, layers.MultiHeadAttention(2, 64)(x, x, use_causal_mask=True))
    prepared = qat.calibrate(qat.prepare(model), [0.1 * sequences])
    expected, found = (np.asarray(m(0.1 * sequences, training=False)) for m in (model, prepared))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
