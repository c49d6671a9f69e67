"""Weights that a layer's ``call`` computes from its variables: they are quantized, and the variables train through them."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import qat
from qat.errors import CaptureError, ConfigError

X = np.random.default_rng(0).normal(size=(128, 6, 6, 3)).astype("float32")


class Standardized(L.Conv2D):
    """As Weight Standardization (Qiao et al. 2019) computes its kernel."""

    def call(self, x):
        mean, variance = ops.moments(self.kernel, axes=(0, 1, 2), keepdims=True)
        return ops.conv(x, (self.kernel - mean) / ops.sqrt(variance + 1e-5), padding="valid") + self.bias


class Convolved(L.Conv2D):
    """The same in the place that Keras has for it."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True))


class ByChannel(L.DepthwiseConv2D):
    def call(self, x):
        return ops.depthwise_conv(x, self.kernel - ops.mean(self.kernel, axis=(0, 1), keepdims=True), padding="valid") + self.bias


class OfSignals(L.Conv1D):
    def call(self, x):
        return ops.conv(x, 2.0 * self.kernel, padding="valid") + self.bias


class WeightNorm(L.Layer):
    def build(self, shape):
        self.v = self.add_weight(shape=(shape[-1], 5), name="v")
        self.g = self.add_weight(shape=(5,), initializer="ones", name="g")

    def call(self, x):
        return ops.matmul(x, self.v * (self.g / ops.norm(self.v, axis=0)))


class EqualizedDense(L.Layer):
    """As StyleGAN's layers scale their weights (Karras et al. 2018)."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 5), initializer="random_normal", name="w")
        self.b = self.add_weight(shape=(5,), initializer="zeros", name="b")

    def call(self, x):
        return ops.matmul(x, (2 / x.shape[-1]) ** 0.5 * self.w) + self.b


class LowRank(L.Dense):
    def build(self, shape):
        super().build(shape)
        self.down = self.add_weight(shape=(shape[-1], 2), initializer="random_normal", name="down")
        self.up = self.add_weight(shape=(2, self.units), initializer="random_normal", name="up")

    def call(self, x):
        return ops.matmul(x, self.kernel + ops.matmul(self.down, self.up)) + self.bias


class Masked(L.Dense):
    def build(self, shape):
        super().build(shape)
        self.mask = self.add_weight(shape=self.kernel.shape, trainable=False, name="mask", initializer=self.checkered)

    def checkered(self, shape, dtype=None):
        return ops.cast(np.indices(shape).sum(0) % 2, dtype)

    def call(self, x):
        return ops.matmul(x, self.kernel * self.mask) + self.bias


class Reshaped(L.Layer):
    """Lays its variable out anew."""

    def build(self, shape):
        self.w = self.add_weight(shape=(5, shape[-1], 1), name="w")

    def call(self, x):
        return ops.matmul(x, ops.transpose(ops.squeeze(self.w, -1)))


def of_images(layer):
    return lambda x: L.Flatten()(L.ReLU()(L.BatchNormalization(name="norm")(layer(x))))


def of_features(layer):
    return lambda x: L.ReLU()(layer(L.Flatten()(x)))


LAYERS = {
    "standardized": (lambda: of_images(Standardized(4, 3, name="own")), ("own/kernel", "own/bias")),
    "convolved": (lambda: of_images(Convolved(4, 3, name="own")), ("own/kernel", "own/bias")),
    "by channel": (lambda: of_images(ByChannel(3, name="own")), ("own/kernel", "own/bias")),
    "of signals": (
        lambda: lambda x: L.Flatten()(OfSignals(4, 3, name="own")(L.Reshape((18, 6))(x))), ("own/kernel", "own/bias")
    ),
    "weight norm": (lambda: of_features(WeightNorm(name="own")), ("own/v", "own/g")),
    "equalized": (lambda: of_features(EqualizedDense(name="own")), ("own/w", "own/b")),
    "low rank": (lambda: of_features(LowRank(5, name="own")), ("own/kernel", "own/down", "own/up", "own/bias")),
    "masked": (lambda: of_features(Masked(5, name="own")), ("own/kernel", "own/bias")),
    "reshaped": (lambda: of_features(Reshaped(name="own")), ("own/w",)),
}  # fmt: skip


def net(name):
    keras.utils.set_random_seed(0)
    entry = keras.Input(X.shape[1:])
    model = keras.Model(entry, L.Dense(4, name="head")(LAYERS[name][0]()(entry)))
    for norm in (layer for layer in model.layers if layer.name == "norm"):
        norm.moving_mean.assign(np.linspace(-0.2, 0.3, norm.moving_mean.shape[0]))
        norm.gamma.assign(np.linspace(0.5, 2, norm.gamma.shape[0]))
    return model


#: The weight is lowered alike for both formats: most layers are tried in one of them.
TRIED = [("standardized", "onnxruntime"), *((name, ("onnxruntime", "litert")[i % 2]) for i, name in enumerate(LAYERS, 1))]


@pytest.mark.parametrize(("name", "target"), TRIED)
def test_a_computed_weight_is_quantized_and_its_variables_train(name, target, tmp_path):
    model = net(name)
    prepared = qat.prepare(model, target=target)
    assert not prepared.plan.floats()
    assert {p.op.kind for p in prepared.plan.ops} <= {"conv2d", "depthwise_conv2d", "dense", "reshape"}
    np.testing.assert_allclose(prepared(X), model(X), atol=1e-4)
    qat.calibrate(prepared, [X])
    before = {v.path: np.array(v) for v in prepared.trainable_variables}
    assert {*LAYERS[name][1], "head/kernel", "head/bias"} == before.keys()
    prepared.compile("sgd", "mse", run_eagerly=True)
    prepared.fit(X[:8], np.ones((8, 4), np.float32), verbose=0)
    assert all((np.array(v) != before[v.path]).any() for v in prepared.trainable_variables)
    file = tmp_path / f"model{prepared.plan.target.suffix}"
    assert qat.export(prepared, file, verify=[X]).parity.exact == 1.0


METHODS = {
    "adaround": lambda q: qat.adaround(q, [X]),
    "correct_biases": lambda q: qat.correct_biases(q, [X]),
    "saved": lambda q: q,
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_calibration_correct_the_weight_and_files_keep_it(method, tmp_path):
    model = net("standardized")
    prepared = METHODS[method](qat.calibrate(qat.prepare(model), [X]))
    weight = prepared.plan.ops[0].op.params["weight"]
    prepared.set_tensor(weight, 1.1 * prepared.tensor(weight))
    prepared.save(tmp_path / "prepared.keras")
    loaded = keras.saving.load_model(tmp_path / "prepared.keras")
    np.testing.assert_allclose(loaded.tensor(weight), prepared.tensor(weight), atol=1e-6)
    np.testing.assert_array_equal(loaded(X), prepared(X))
    np.testing.assert_array_equal(model.layers[1].kernel, loaded.parameters["own/kernel"])
    assert qat.export(prepared, tmp_path / "model.tflite", verify=[X]).parity.exact == 1.0


def test_a_variable_that_is_read_as_it_is_too_is_scaled_for_that_reader_alone():
    class Twice(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(3, 3, shape[-1], shape[-1]), name="w")

        def call(self, x):
            return ops.conv(ops.conv(x, self.w, padding="same"), self.w + ops.flip(self.w, 0), padding="same")

    class Folded(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.twice, self.norm = Twice(), L.BatchNormalization()

        def build(self, shape):
            self.twice.build(shape)
            self.norm.build(shape)

        def call(self, x):
            y = self.norm(ops.conv(x, self.twice.w, padding="same"))
            return y + self.twice(x)

    keras.utils.set_random_seed(0)
    entry = keras.Input(X.shape[1:])
    layer = Folded()
    model = keras.Model(entry, layer(entry))
    layer.norm.moving_variance.assign([4.0, 1.0, 9.0])
    np.testing.assert_allclose(qat.prepare(model)(X), model(X), atol=1e-4)


def updated(kind):
    """A model with a layer that has a low-rank update, the layer, and its input."""
    made = {
        "dense": (L.Dense(8, activation="relu"), X[:16]),
        "conv": (L.Conv2D(8, 3, activation="relu"), X[:16]),
        "einsum": (L.EinsumDense("abcd,de->abce", (None, None, 6), bias_axes="e"), X[:16]),
        "embedding": (L.Embedding(9, 4), np.arange(80).reshape(16, 5) % 9),
    }
    keras.utils.set_random_seed(0)
    layer, x = made[kind]
    entry = keras.Input(x.shape[1:], dtype=str(x.dtype))
    model = keras.Model(entry, L.Dense(3)(layer(entry)))
    layer.enable_lora(2)
    for variable in layer.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(0, 0.3, variable.shape))
    return model, layer, x


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("kind", ["dense", "conv", "einsum", "embedding"])
def test_a_low_rank_update_trains_and_the_weight_behind_it_stays(kind, target, tmp_path):
    model, layer, x = updated(kind)
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-5)
    trained = {v.path for v in prepared.trainable_variables if v.path.startswith(f"{layer.name}/")}
    assert trained == {v.path for v in layer.trainable_variables}
    qat.calibrate(prepared, [x])
    assert qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[x]).parity.exact == 1.0


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_weights_that_keras_has_quantized_are_refused(mode):
    entry = keras.Input((8,))
    model = keras.Model(entry, L.Dense(3)(L.Dense(8, name="first")(entry)))
    model.quantize(mode)
    with pytest.raises(CaptureError, match=rf"was quantized by Keras, by model.quantize\('{mode}'\): prepare the float model"):
        qat.prepare(model)


def test_a_prepared_model_is_not_quantized_again():
    entry = keras.Input((8,))
    with pytest.raises(ConfigError, match=r"a prepared model is quantized by its recipe"):
        qat.prepare(keras.Model(entry, L.Dense(3)(entry))).quantize("int8")
