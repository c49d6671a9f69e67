"""Dropout, noise and augmentation layers act in training of a prepared model, and nowhere else."""

import keras
import numpy as np
import pytest
from keras import layers

import qat


class OwnDropPath(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(3)

    def call(self, x, training=None):
        if not training:
            return x
        mask = keras.random.uniform((keras.ops.shape(x)[0], 1, 1, 1), seed=self.seed_generator)
        return x / 0.5 * keras.ops.floor(0.5 + mask)


def net(act, first=None):
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(first(i) if first else i)
    x = layers.Flatten()(act(x) if act else x)
    return keras.Model(i, layers.Dense(4)(x))


CASES = {
    "dropout": lambda: net(layers.Dropout(0.5)),
    "spatial": lambda: net(layers.SpatialDropout2D(0.5)),
    "noise": lambda: net(layers.GaussianNoise(0.5)),
    "gaussian": lambda: net(layers.GaussianDropout(0.5)),
    "alpha": lambda: net(layers.AlphaDropout(0.5)),
    "own stochastic depth": lambda: net(OwnDropPath()),
    "before a table": lambda: net(keras.Sequential([layers.Dropout(0.5), layers.Activation("gelu")])),
    "augmentation": lambda: net(None, keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.2)])),
}


@pytest.mark.parametrize("name", CASES)
def test_what_training_adds_acts_in_training_alone(name):
    model, x = CASES[name](), np.random.default_rng(0).random((16, 8, 8, 3), np.float32)
    prepared, without = (qat.calibrate(qat.prepare(model, dropout=d), [x]) for d in (True, False))

    def run(m, training):
        return np.asarray(m(x, training=training))

    assert len(prepared.plan.acts) == 1
    assert (run(prepared, True) != run(prepared, True)).any()
    assert np.array_equal(run(prepared, False), run(without, False))
    assert np.array_equal(run(without, True), run(without, True))


def test_a_saved_model_keeps_it(tmp_path):
    x = np.random.default_rng(0).random((16, 8, 8, 3), np.float32)
    prepared = qat.calibrate(qat.prepare(net(layers.Dropout(0.5))), [x])
    prepared.save(tmp_path / "m.keras")
    made = keras.saving.load_model(tmp_path / "m.keras")
    assert (np.asarray(made(x, training=True)) != np.asarray(made(x, training=True))).any()
    assert np.array_equal(np.asarray(made(x)), np.asarray(prepared(x)))
