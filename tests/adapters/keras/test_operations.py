"""Operations of ``keras.ops`` that do what a layer does, in a layer of one's own: in integers, and exact in both runtimes."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import qat

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype("float32")


class Own(L.Layer):
    """Computes a function of a tensor and of weights."""

    def __init__(self, function, shapes, **kwargs):
        super().__init__(**kwargs)
        self.function, self.shapes = function, shapes

    def build(self, shape):
        new = {"initializer": "glorot_normal"}
        self.kernels = [self.add_weight(shape=one, name=f"w{i}", **new) for i, one in enumerate(self.shapes)]

    def call(self, x):
        return self.function(x, *self.kernels)


def batch_norm(x, mean, variance, offset, scale):
    return ops.batch_normalization(x, mean, 1.0 + ops.square(variance), -1, offset, scale)


#: By operation: functions of images of 8x8x4, and the shapes of their weights.
OPERATIONS = {
    "convolutions": [
        (lambda x, w: ops.conv_transpose(x, w, 2, "same"), [(3, 3, 6, 4)]),
        (lambda x, w: ops.conv_transpose(x, w, (2, 3), "valid"), [(3, 2, 4, 6)]),
        (lambda x, d, p: ops.separable_conv(x, d, p, 1, "same"), [(3, 3, 4, 2), (1, 1, 8, 5)]),
    ],
    "signals": [
        (lambda x: ops.reshape(x, (-1, 64, 4)), []),
        (lambda x, w: ops.conv_transpose(x, w, 2, "same"), [(3, 6, 4)]),
        (lambda x, d, p: ops.separable_conv(x, d, p, 1, "same"), [(3, 6, 1), (1, 6, 5)]),
        (lambda x: ops.max_pool(ops.average_pool(x, 2, 2), 2, 1, "same"), []),
    ],
    "pooling": [
        (lambda x: ops.max_pool(x, 2, 1, "same"), []),
        (lambda x: ops.average_pool(x, (2, 1), 1), []),
        (L.AdaptiveMaxPooling2D((7, 4)), []),
    ],
    "norms": [
        (batch_norm, [(4,)] * 4),
        (ops.layer_normalization, [(4,), (4,)]),
        (ops.rms_normalization, [(4,)]),
        (ops.normalize, []),
    ],
    "products": [(ops.dot, [(4, 6)]), (lambda x, w: ops.tensordot(x, w, 1), [(6, 4)])],
    "images": [
        (lambda x: ops.image.resize(x, (16, 16), interpolation="nearest"), []),
        (lambda x: ops.image.pad_images(x, 1, 2, target_height=20, target_width=19), []),
        (lambda x: ops.image.crop_images(x, 1, 3, target_height=15, target_width=12), []),
        (lambda x: ops.rot90(x, 1, (1, 2)), []),
        (lambda x: ops.image.extract_patches(x, (4, 3)), []),
    ],
    "functions": [
        (ops.hard_tanh, []),
        (ops.celu, []),
        (lambda x: ops.fmax(x, ops.fmin(x, 2.0 * x)), []),
        (lambda x: ops.amax(x, 1), []),
    ],
}


def model_of(name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = L.Dense(4)(inputs)
    for function, shapes in OPERATIONS[name]:
        x = Own(function, shapes)(x)
    return keras.Model(inputs, L.Dense(3)(x))


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_exact_in_integers(name, target, tmp_path):
    model = qat.prepare(model_of(name), target=target)
    assert [p.op.name for p in model.plan.ops if not p.integer and p.op.kind != "constant"] == []
    qat.calibrate(model, [IMAGES])
    artifact = qat.export(model, tmp_path / ("m" + model.plan.target.suffix), verify=IMAGES)
    assert artifact.parity.exact == 1.0


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_differences_of_whole_numbers_stay_whole(target, tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (8, 5)).astype("int32")
    entry = keras.Input((5,), dtype="int32")
    apart = ops.clip(ops.expand_dims(entry, 2) - ops.expand_dims(entry, 1), -3, 3)
    model = keras.Model(entry, L.Dense(3)(L.Embedding(7, 4)(apart + 3)))
    prepared = qat.prepare(model, target=target)
    np.testing.assert_allclose(prepared(ids), model(ids), atol=1e-5)
    qat.calibrate(prepared, [ids])
    assert qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[ids]).parity.exact == 1.0


def test_weights_of_operations_are_trained():
    model = qat.calibrate(qat.prepare(model_of("signals")), [IMAGES])
    before = {name: np.array(v) for name, v in model.parameters.items()}
    model.compile("sgd", "mse")
    model.train_on_batch(IMAGES, np.ones(model(IMAGES).shape, np.float32))
    assert all(not np.array_equal(before[name], v) for name, v in model.parameters.items())


def test_operands_that_are_activations_stay_float():
    inputs = keras.Input((8, 8, 4))
    x = L.Dense(4)(inputs)
    mean, variance = ops.moments(x, (0, 1, 2))
    plan = qat.plan(keras.Model(inputs, L.Dense(3)(ops.batch_normalization(x, mean, variance, -1))))
    assert "BatchNorm" in {p.op.attrs.get("target") for p in plan.ops if not p.integer}
