"""Operations that a converter of TensorFlow lacks are written in another form; what no format holds is said by prepare."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import qat
from qat.errors import CaptureError, ExportError

X = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype("float32")
IDS = np.random.default_rng(0).integers(0, 9, (8, 5)).astype("int32")


@keras.saving.register_keras_serializable("test_writable_forms")
class Whole(L.Layer):
    """A layer whose ``call`` reads values."""

    def __init__(self, **kwargs):
        super().__init__(**{"name": "whole", **kwargs})

    def call(self, x):
        return keras.activations.gelu(tf.grad_pass_through(lambda y: y)(x))


@keras.saving.register_keras_serializable("test_writable_forms")
class Metered(L.Layer):
    """A layer with a metric of what it passes on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.meter = keras.metrics.Mean()

    def call(self, x):
        self.meter.update_state(ops.mean(x))
        return x


class OfTensorFlow(L.Layer):
    """Logarithms of a spectrum as code of tf.keras computes them."""

    def call(self, x):
        return tf.math.log(tf.abs(tf.signal.stft(x, 20, 12)) + 0.1)


def windows(x):
    signals = L.Flatten()(x)
    bands = L.MelSpectrogram(32, 16, 24, sampling_rate=8000, num_mel_bins=4, power_to_db=False, mag_exp=1.0)
    return L.Concatenate()([L.Flatten()(y) for y in (bands(signals), ops.stft(signals, 24, 12, 32)[1], OfTensorFlow()(signals))])


def moved(x, **options):
    """Return images as their own first values move them."""
    numbers = np.array([1.1, 0.2, -0.3, -0.2, 0.9, 0.4, 0.01, 0.0], np.float32)
    return ops.image.affine_transform(x, 0.02 * ops.sin(ops.reshape(x, (-1, 144))[:, :8]) + numbers, **options)


class Sized(L.Layer):
    """Computes the size of what it returns."""

    def call(self, x):
        return ops.image.resize(x, (ops.cast(5, "int32"), np.int64(9)), interpolation="lanczos3")

    def compute_output_shape(self, shape):
        return shape[0], 5, 9, shape[-1]


FORMS = {
    "affine": (lambda x: moved(x, fill_value=0.5), X),
    "metric": (lambda x: Metered()(x), X),
    "roll": (lambda x: ops.roll(x, 2, axis=1), X),
    "roll of axes": (lambda x: ops.roll(x, (1, -8), axis=(2, 3)), X),
    "argmax": (lambda x: x + ops.cast(ops.argmax(x, axis=-1, keepdims=True), "float32"), X),
    "argmin": (lambda x: L.Embedding(6, 4)(ops.argmin(x, axis=1)), X),
    "sinh": (lambda x: ops.sinh(0.1 * x) + ops.cosh(x), X),
    "pooling of volumes": (lambda x: L.MaxPooling3D((2, 3, 2), 2, "same")(ops.expand_dims(x, -1)), X),
    "mean of volumes": (lambda x: L.AveragePooling3D((2, 3, 2), 2, "same")(ops.expand_dims(x, -1)), X),
    "cubic": (lambda x: L.UpSampling2D(2, interpolation="bicubic")(x), X),
    "lanczos": (lambda x: Sized()(x), X),
    "area": (lambda x: L.Resizing(5, 3, interpolation="area")(x), X),
    "antialias": (lambda x: L.Resizing(5, 3, antialias=True)(x), X),
    "Fourier": (lambda x: L.Concatenate()([*ops.fft((x, 2.0 * x)), ops.ifft2(ops.fft2((x, ops.sin(x))))[1]]), X),
    "windows": (windows, X),
    "multi-hot": (lambda x: L.CategoryEncoding(9, "multi_hot")(x), IDS),
    "count": (lambda x: L.CategoryEncoding(9, "count")(x), IDS),
    "exponentials and logarithms": (lambda x: ops.nn.celu(ops.sin(x), 0.5) + ops.logaddexp(ops.sin(x), ops.cos(x)), X),
    "buckets": (lambda x: L.Discretization([-1.0, 0.0, 0.5], output_mode="multi_hot")(L.Flatten()(x)), X),
    "buckets by number": (lambda x: L.Embedding(4, 2)(L.Discretization([-1.0, 0.0, 0.5])(L.Flatten()(x))), X),
}


def net(middle, data):
    keras.utils.set_random_seed(0)
    entry = keras.Input(data.shape[1:], dtype=data.dtype.name)
    x = L.Dense(4)(entry) if data is X else entry
    return keras.Model(entry, L.Dense(3)(L.Flatten()(middle(x))))


#: What a ``.tflite`` lacked is tried there, what an ``.onnx`` lacked there.
TRIED = [
    *((name, "litert") for name in FORMS if not name.startswith("buckets")),
    *(
        (name, "onnxruntime")
        for name in ("affine", "argmax", "Fourier", "windows", "buckets", "buckets by number", "exponentials and logarithms")
    ),
]


@pytest.mark.parametrize(("name", "target"), TRIED)
def test_another_form_has_the_same_values_and_is_exact(name, target, tmp_path):
    middle, data = FORMS[name]
    model = net(middle, data)
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(data), model(data), atol=1e-5)
    qat.calibrate(prepared, [data])
    prepared.save(tmp_path / "prepared.keras")
    assert qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[data]).parity.exact == 1.0
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "prepared.keras")(data), prepared(data))


@pytest.mark.parametrize("shift", [0, 1, -2, 7, -13])
@pytest.mark.parametrize("axis", [1, (1, 2), (-1,)])
def test_parts_are_rolled_as_numpy_rolls_them(shift, axis):
    from qat.adapters.keras.capture.writable_forms import Roll

    np.testing.assert_array_equal(Roll(shift, axis)(X), np.roll(X, shift, axis))


@pytest.mark.parametrize(
    ("middle", "data", "target", "kind", "other"),
    [
        (lambda x: ops.irfft(ops.fft((x, x))), X, "litert", "IRFFT", ""),
        (ops.erfinv, X, "onnxruntime", "Erfinv", ""),
        (lambda x: ops.rfft(x)[0], X, "onnxruntime", "RFFT", "litert"),
        (ops.arctan, X, "litert", "Arctan", "onnxruntime"),
        (lambda x: ops.erf(ops.sin(x)), X, "litert", "Erf", "onnxruntime"),
        (lambda x: ops.diagonal(x, axis1=1, axis2=2), X, "litert", "Diagonal", "onnxruntime"),
        (ops.i0, X, "onnxruntime", "I0", ""),
        (lambda x: moved(x, interpolation="nearest"), X, "litert", "AffineTransform", ""),
        (lambda x: ops.cast(L.Hashing(7)(x), "float32"), IDS, "litert", "Hashing", ""),
        (lambda x: ops.cast(L.IntegerLookup(vocabulary=[1, 2])(x), "float32"), IDS, "onnxruntime", "IntegerLookup", ""),
    ],
)
def test_prepare_says_what_no_file_holds_and_which_other_file_does(middle, data, target, kind, other):
    advice = rf", or choose the target '{other}'$" if other else ", or prepare the part of the model before it$"
    with pytest.raises(ExportError, match=rf"cannot hold {kind}:.*{advice}"):
        qat.prepare(net(middle, data), target=target)


@pytest.mark.parametrize("size", [(), (1, 6, 6, 4)])
@pytest.mark.parametrize("by", ["no seed", "a seed", "TensorFlow"])
def test_prepare_refuses_a_layer_that_draws_random_numbers_in_inference(size, by):
    """A variational encoder's sample, say: a noise that was drawn once would stay in the file."""

    class Sampling(L.Layer):
        seed = keras.random.SeedGenerator(1) if by == "a seed" else None

        def call(self, x):
            if by == "TensorFlow":
                return x + tf.random.normal(size or tf.shape(x))
            return x + keras.random.normal(size or ops.shape(x), seed=self.seed)

    with pytest.raises(
        ExportError, match=r"cannot hold Sampling, which draws random numbers outside training: let its call return"
    ):
        qat.prepare(net(Sampling(), X))


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_prepare_refuses_a_state_from_call_to_call(target):
    """A file starts anew each time: an .onnx was up to 100 units off, without a word."""
    model = keras.Sequential([keras.Input(batch_shape=(4, 6, 3)), L.Bidirectional(L.GRU(2, stateful=True)), L.Dense(2)])
    with pytest.raises(ExportError, match=r"cannot hold the state that Bidirectional keeps from call to call: give it stateful="):
        qat.prepare(model, target=target)


def test_an_exact_gelu_of_a_layer_that_is_kept_whole_reaches_an_onnx(tmp_path):
    prepared = qat.calibrate(qat.prepare(net(Whole(), X), target="onnxruntime"), [X])
    assert "whole" in prepared.plan.floats()
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[X]).parity.max_lsb <= 1


def test_a_crop_at_random_keeps_the_whole_image_or_is_refused(tmp_path):
    prepared = qat.prepare(net(lambda x: L.CenterCrop(6, 6)(L.RandomCrop(6, 6)(x)), X))
    assert [p.op.kind for p in prepared.plan.ops] == ["dense", "reshape", "dense"]
    with pytest.raises(CaptureError, match=r"RandomCrop.*makes 4x4 of images.*crop where the data is read"):
        qat.prepare(net(lambda x: L.RandomCrop(4, 4)(x), X))
