"""What users bring to Keras besides layers: another backend, training of their own class, Keras' export."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import qat
from qat.errors import CaptureError, ExportError

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = np.arange(16) % 3

ON_TORCH = """
import keras, numpy as np, qat
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
x = np.zeros((4, 4), np.float32)
for call in (qat.prepare, qat.plan, lambda m: qat.evaluate(m, [(x, np.zeros(4, int))])):
    try:
        call(model)
    except qat.QatError as error:
        print(error)
"""


class OwnStep(keras.Model):
    """Reports its loss under a name of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"own_loss": loss}


@pytest.fixture
def own_step():
    inputs = keras.Input((4,))
    return OwnStep(inputs, layers.Dense(3)(layers.Dense(8, activation="relu")(inputs)))


def test_another_backend_is_named_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", ON_TORCH], capture_output=True, text=True, check=False, env=os.environ | {"KERAS_BACKEND": "torch"}
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 3
    assert set(said) == {said[0]}
    assert said[0].startswith("qat needs TensorFlow's backend for a Keras model, and Keras runs on 'torch'")
    assert "KERAS_BACKEND=tensorflow" in said[0]


def test_a_train_step_of_ones_own_is_refused_by_name_and_the_advice_works(own_step):
    assert not qat.plan(own_step).floats()
    with pytest.raises(
        CaptureError, match=r"would lose OwnStep\.train_step: prepare keras\.Model\(model\.inputs, model\.outputs\)"
    ):
        qat.prepare(own_step)
    prepared = qat.calibrate(qat.prepare(keras.Model(own_step.inputs, own_step.outputs)), [X])
    prepared.train_step = types.MethodType(OwnStep.train_step, prepared)
    prepared.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = prepared.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert len(history.history["own_loss"]) == 2


def test_keras_export_of_a_prepared_model_leads_to_qat_export(own_step, tmp_path):
    prepared = qat.calibrate(qat.prepare(keras.Model(own_step.inputs, own_step.outputs)), [X])
    with pytest.raises(ExportError, match=r"exported by qat\.export\(model, 'model\.tflite'\)"):
        prepared.export(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
