"""Layers and models of one's own: what their ``call`` consists of is quantized, and exact in both runtimes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import qat
from qat.errors import CaptureError
from support.rows import by_turns

X = np.random.default_rng(0).normal(size=(8, 10, 10, 6)).astype("float32")


class Residual(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm, self.drop = L.Conv2D(6, 3, padding="same", name="conv"), L.BatchNormalization(), L.Dropout(0.2)

    def call(self, x, training=False):
        return ops.relu(self.drop(self.norm(self.conv(x), training=training), training=training)) + x


class Scale(L.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="uniform", name="gamma")

    def call(self, x):
        return x * self.gamma


class Stage(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks, self.scale = [Residual(name=f"block{i}") for i in range(2)], Scale(name="scale")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.scale(x)


class Swish(L.Layer):
    def call(self, x):
        return x * ops.sigmoid(x)


class Halved(L.Layer):
    """Multiplies an array with a tensor, in this order, as RealNVP does with its masks."""

    def call(self, x):
        return np.full(6, 0.5, np.float32) * x


class Halves(L.Layer):
    """Reads parts of its weight by bare slices, as GAT does, which Keras' symbolic tensors do not know."""

    def build(self, shape):
        self.w = self.add_weight(shape=(2 * shape[-1], 4), name="w")

    def call(self, x):
        n = x.shape[-1]
        return ops.matmul(x, self.w[:n]) + ops.tanh(ops.matmul(x, self.w[n:]))


class Narrow(L.Conv2D):
    """Computes what a Conv2D does."""

    def __init__(self, **kwargs):
        super().__init__(4, 3, **kwargs)


class Doubled(L.Conv2D):
    """Computes something else."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, 2.0 * kernel)


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.stage, self.head = Stage(name="stage"), L.Dense(4, name="head")

    def call(self, x):
        return self.head(ops.mean(self.stage(x), (1, 2)))


@keras.saving.register_keras_serializable("test_opening")
class OfTensorFlow(L.Layer):
    def call(self, x):
        return tf.math.lgamma(x)


def around(layer):
    entry = keras.Input(X.shape[1:])
    return keras.Model(entry, L.Dense(4, name="head")(L.Flatten()(layer(entry))))


def called():
    net = Net()
    net(X)
    return net


MODELS = {
    "residual": lambda: around(Residual(name="residual")),
    "layers in layers": lambda: around(Stage(name="stage")),
    "an operation": lambda: around(Swish()),
    "an array before a tensor": lambda: around(Halved()),
    "parts of a weight": lambda: around(Halves()),
    "a subclass of a layer": lambda: around(Narrow()),
    "subclassed": called,
    "subclassed, within another": lambda: around(lambda x: called()(x)),
    "sequential": lambda: keras.Sequential([keras.Input(X.shape[1:]), Stage(), L.Flatten(), L.Dense(3)]),
}


@pytest.mark.parametrize(("name", "target"), by_turns(MODELS))
def test_what_a_call_consists_of_is_quantized(name, target, tmp_path):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    before = [np.copy(w) for w in model.get_weights()]
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(X), model(X), atol=1e-5)
    assert not prepared.plan.floats()
    qat.calibrate(prepared, [X])
    file = tmp_path / f"model{prepared.plan.target.suffix}"
    assert qat.export(prepared, file, verify=[X]).parity.exact == 1.0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_paths_and_weights_keep_the_users_names(tmp_path):
    model = around(Stage(name="stage"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: own\nrules:\n  - {mode: static}\n  - {scope: stage/block0/conv, mode: float}\n")
    prepared = qat.calibrate(qat.prepare(model, recipe=str(recipe)), [X])
    assert "stage_block0_conv" in prepared.plan.floats()
    assert "stage_block1_conv" not in prepared.plan.floats()
    assert {"stage/block0/conv/kernel", "stage/block1/conv/kernel", "head/kernel"} <= {
        v.path for v in prepared.trainable_variables
    }
    assert any(v.path.startswith("stage/scale") or "bias" in v.path for v in prepared.trainable_variables)
    prepared.save(tmp_path / "prepared.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "prepared.keras")(X), prepared(X))
    assert not model.get_layer("stage").blocks[0].conv._inbound_nodes


def test_a_subclassed_model_that_was_never_called_takes_example_inputs():
    with pytest.raises(CaptureError, match="input shape is not known: give example_inputs"):
        qat.prepare(Net())
    model = Net()
    prepared = qat.prepare(model, X)
    np.testing.assert_allclose(prepared(X), model(X), atol=1e-5)


def test_a_sequential_is_called_on_tensors_of_several_sizes():
    class Heads(keras.Model):
        """A head that detectors share between levels."""

        def __init__(self):
            super().__init__()
            self.head = keras.Sequential([L.Conv2D(4, 3, padding="same"), L.ReLU()])

        def call(self, x):
            return [L.GlobalAveragePooling2D()(self.head(level)) for level in (x, x[:, ::2, ::2])]

    model = Heads()
    expected = model(X)
    prepared = qat.prepare(model, X)
    assert not prepared.plan.floats()
    for found, wanted in zip(prepared(X), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_layer_that_cannot_be_opened_stays_float_and_says_why():
    model = around(OfTensorFlow(name="own"))
    (row,) = [row for row in qat.plan(model).table() if row["scope"] == "own"]
    assert row["runs"] == "float"
    assert "OfTensorFlow has a call that takes no symbolic tensors" in row["reason"]


class Normalized(L.Layer):
    def call(self, x):
        y = (x - np.linspace(0.4, 0.5, 6)) / np.full(6, 0.2)
        return y + ops.sign(y) * np.full((10, 1), 0.1)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_an_array_of_doubles_leaves_the_model_in_float32(suffix, tmp_path):
    """NumPy's own type; a layer behind it casts in Keras, and calibrate ended in TensorFlow's words."""
    inputs = keras.Input((10, 10, 6))
    model = keras.Model(inputs, Residual()(L.Conv2D(6, 3)(Normalized()(inputs))))
    prepared = qat.calibrate(qat.prepare(model, target="litert" if suffix == "tflite" else "onnxruntime"), [X])
    assert [reason for reason in prepared.plan.floats().values() if "float64" in reason] == []
    assert np.asarray(prepared(X[:1])).dtype == np.float32
    assert "conv2d" in {p.op.kind for p in prepared.plan.ops if p.integer and "conv" in p.op.name}
    assert qat.export(prepared, tmp_path / f"m.{suffix}", verify=[X]).parity.exact == 1.0


class Places(L.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(16, shape[-1]), name="table")

    def call(self, x):
        return x + ops.slice(self.table, (0, 0), (ops.shape(x)[1], x.shape[-1]))


def test_a_call_that_computes_with_a_free_size_stays_whole_and_says_what_to_do():
    """As keras_hub's positions do: a slice of a size that is not known was recorded, and calibrate ended in it."""
    inputs = keras.Input((None, 6), name="steps")
    model = keras.Model(inputs, Places(name="positions")(L.Dense(6)(inputs)))
    x = X[:, :9, 0]
    prepared = qat.calibrate(qat.prepare(model), [x])
    assert "a size that the model leaves free (in 'slice" in prepared.plan.floats()["positions"]
    np.testing.assert_allclose(prepared.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.1)
    assert not any("free" in reason for reason in qat.plan(model, x).floats().values())


def test_a_subclass_that_computes_something_else_is_not_taken_for_its_base():
    model = around(Doubled(4, 3, name="doubled"))
    np.testing.assert_allclose(qat.prepare(model)(X), model(X), atol=1e-5)


def test_a_constant_of_a_kept_operator_is_in_the_onnx(tmp_path):
    pytest.importorskip("tf2onnx")

    class Causal(L.Layer):
        def call(self, x):
            return ops.where(ops.tril(ops.ones((10, 10), "bool"))[None, :, :, None], x, -1.0)

    inputs = keras.Input(X.shape[1:])
    model = keras.Model(inputs, L.Conv2D(3, 1)(Causal()(L.Conv2D(4, 1)(inputs))))
    prepared = qat.calibrate(qat.prepare(model, target="onnxruntime"), [X])
    assert qat.export(prepared, tmp_path / "net.onnx", verify=[X]).parity.exact == 1.0


def test_example_inputs_that_a_subclassed_model_does_not_take():
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x["a"])

    with pytest.raises(CaptureError, match=r"\(Named\) does not take the example inputs: "):
        qat.prepare(Named(), {"b": np.zeros((2, 4), "float32")})


class Cell(L.Layer):
    """A step of a recurrent layer, in a class that is not registered."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1] + self.units, self.units), name="kernel")

    def call(self, x, states):
        state = ops.tanh(ops.matmul(ops.concatenate([x, states[0]], axis=-1), self.kernel))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_recurrent_layer_of_cells_of_ones_own(suffix, tmp_path):
    x = keras.Input((5, 6))
    model, samples = keras.Model(x, L.Dense(3)(L.RNN([Cell(4), L.GRUCell(4)])(L.Dense(4)(x)))), X[:, :5, 0]
    prepared = qat.prepare(model, samples, target={".onnx": "onnxruntime", ".tflite": "litert"}[suffix])
    np.testing.assert_allclose(prepared(samples), model(samples), rtol=1e-4, atol=1e-5)
    qat.calibrate(prepared, [samples])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[samples]).parity.exact == 1


class Regularized(L.Layer):
    """Adds losses, by itself and by a layer of Keras' own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4, activity_regularizer="l2")

    def call(self, x):
        y = self.dense(x)
        self.add_loss(ops.mean(y))
        return y


def test_a_layer_that_adds_a_loss_is_opened_and_the_loss_is_named(caplog):
    x = keras.Input((6,))
    prepared = qat.prepare(keras.Model(x, L.Dense(3)(Regularized(name="regularized")(x))), X[:, 0, 0])
    assert not prepared.plan.floats()
    assert "'regularized' adds a loss in its call, which is no part of the prepared model" in caplog.text


class OfSamples(Regularized):
    """Computes with the number of samples, so that its call is recorded several times."""

    def call(self, x):
        return ops.reshape(super().call(x), (ops.shape(x)[0], 2, 2))


def test_a_loss_is_named_once_however_often_the_call_is_recorded(caplog):
    x = keras.Input((6,))
    prepared = qat.prepare(keras.Model(x, L.Dense(3)(L.Flatten()(OfSamples(name="of_samples")(x)))), X[:, 0, 0])
    assert not prepared.plan.floats()
    assert caplog.text.count("'of_samples' adds a loss in its call") == 1


class Positions(L.Layer):
    """Holds indices as a variable, looks a table up by them, and returns constants beside its result, as DeiT and CLIP do."""

    def build(self, shape):
        self.table = L.Embedding(shape[1], shape[2], name="table")
        self.table.build((None, shape[1]))
        self.ids = self.add_weight(shape=(1, shape[1]), dtype="int32", trainable=False, initializer="zeros", name="ids")
        self.ids.assign(np.arange(shape[1])[None, ::-1])

    def call(self, x):
        return x + self.table(self.ids), ops.empty((0, 3)), ops.ones((1, 1, 4))


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_indices_are_no_parameters_and_constants_are_outputs_too(suffix, tmp_path):
    x = keras.Input((5, 4))
    y, _, ones = Positions(name="positions")(L.Dense(4)(x))
    model, samples = keras.Model(x, L.Dense(3)(y + ones)), X[:, :5, 0, :4]
    prepared = qat.prepare(model, samples, target={".onnx": "onnxruntime", ".tflite": "litert"}[suffix])
    assert not prepared.plan.floats()
    assert not any("ids" in name for name in prepared.parameters)
    np.testing.assert_allclose(prepared(samples), model(samples), rtol=1e-4, atol=1e-5)
    qat.calibrate(prepared, [samples])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[samples]).parity.exact == 1
