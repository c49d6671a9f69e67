"""BatchNorms that follow no convolution or dense layer of their own: one kernel, exact in both runtimes."""

import keras
import numpy as np
import pytest
from keras import layers as L

import qat
from support.rows import by_turns

RNG = np.random.default_rng(0)
PICTURES = RNG.normal(size=(8, 8, 8, 3)).astype("float32")


def features(x):
    return L.Conv2D(8, 3, activation="relu")(x)


def by_two_norms(layer, x):
    return L.Add()([L.BatchNormalization()(layer(x)), L.BatchNormalization()(layer(x))])


CASES = {
    "pooling": lambda x: L.BatchNormalization()(L.GlobalAveragePooling2D()(features(x))),
    "flattening": lambda x: L.BatchNormalization(scale=False)(L.Flatten()(features(x))),
    "an activation": lambda x: L.BatchNormalization(center=False)(L.Dense(6, activation="relu")(L.Flatten()(x))),
    "another": lambda x: L.BatchNormalization()(L.BatchNormalization()(L.GlobalMaxPooling2D()(features(x)))),
    "a layer that is called twice": lambda x: by_two_norms(L.Dense(6), L.Flatten()(features(x))),
    "five axes": lambda x: L.Flatten()(L.BatchNormalization()(L.Reshape((3, 2, 6, 8))(features(x)))),
}


@pytest.mark.parametrize(("after", "target"), by_turns(CASES))
def test_a_batch_norm_of_features_is_a_kernel(after, target, tmp_path):
    entry = keras.Input((8, 8, 3))
    model = keras.Model(entry, L.Dense(4)(L.Dropout(0.2)(CASES[after](entry))))
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 1.5, w.shape).astype("float32") for w in layer.weights])
    prepared = qat.calibrate(qat.prepare(model, target=target), [PICTURES])
    assert not prepared.plan.floats()
    float_outputs = model.predict(PICTURES, verbose=0)
    assert np.abs(prepared.predict(PICTURES, verbose=0) - float_outputs).max() < 0.05 * np.abs(float_outputs).max()
    file = tmp_path / f"model{prepared.plan.target.suffix}"
    assert qat.export(prepared, file, verify=[PICTURES]).parity.exact == 1.0


def test_a_batch_norm_of_the_inputs_stays_float():
    entry = keras.Input((5,))
    prepared = qat.prepare(keras.Model(entry, L.Dense(4)(L.BatchNormalization(name="units")(entry))))
    assert list(prepared.plan.floats()) == ["units"]
