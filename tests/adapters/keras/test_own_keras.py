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

OTHER_BACKEND = """
import keras, numpy as np, qat
class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(3)
    def call(self, x):
        return self.layer(x)
inputs, x = keras.Input((4,)), np.zeros((4, 4), np.float32)
functional = keras.Model(inputs, keras.layers.Dense(3)(inputs))
data = [(x, np.zeros(4, int))]
for model in (keras.Sequential([inputs, keras.layers.Dense(3)]), functional, Own()):
    model(x)
    for call in (
        qat.prepare, qat.plan, lambda m: qat.evaluate(m, data), lambda m: qat.finetune(m, data),
        lambda m: qat.ptq_baselines(m, [x], "out"), lambda m: qat.compare([m, m], data),
        lambda m: qat.load_prepared(m, "best.keras"),
    ):
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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_backend_is_named_in_one_sentence(backend):
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACKEND], capture_output=True, text=True, check=False,
        env=os.environ | {"KERAS_BACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 21
    assert set(said) == {said[0]}
    assert said[0].startswith(f"qat needs TensorFlow's backend for a Keras model, and Keras runs on '{backend}'")
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


class Mixin:
    def compute_loss(self, *args, **values):
        return keras.Model.compute_loss(self, *args, **values)


def of_class(kind, base, *bases, **methods):
    """Return a small model of ``kind`` of a class of the user's with some methods."""
    module = {"keras": keras, "tf_keras": pytest.importorskip("tf_keras")}[base]
    inputs = module.Input((4,))
    parent = module.Sequential if kind == "sequential" else module.Model
    own = type("Own", (*bases, parent), {"__module__": "users", **methods})
    return own([inputs, module.layers.Dense(3)]) if kind == "sequential" else own(inputs, module.layers.Dense(3)(inputs))


def step(self, data):
    return {"loss": 0.0}


step.__module__ = "users"


@pytest.mark.parametrize("base", ["keras", "tf_keras"])
@pytest.mark.parametrize("kind", ["sequential", "functional"])
@pytest.mark.parametrize("method", ["train_step", "test_step", "fit", "make_train_function"])
def test_every_method_of_training_is_refused_in_every_kind_of_model(base, kind, method):
    with pytest.raises(CaptureError, match=rf"would lose Own\.{method}: prepare {base}\.Model\(model"):
        qat.prepare(of_class(kind, base, **{method: step}))
    assert qat.prepare(of_class(kind, base, summary=step)) is not None


def test_a_method_of_a_mixin_or_of_one_model_alone_is_refused_too():
    with pytest.raises(CaptureError, match=r"would lose Own\.compute_loss"):
        qat.prepare(of_class("functional", "keras", Mixin))
    model = of_class("functional", "keras")
    model.train_step = types.MethodType(step, model)
    with pytest.raises(CaptureError, match=r"would lose model\.train_step: .*\(model\.train_step\.__func__, prepared\)"):
        qat.prepare(model)


def test_a_subclassed_model_with_training_of_its_own_is_refused_by_name():
    class Subclassed(keras.Model):
        train_step = step

        def __init__(self):
            super().__init__()
            self.layer = layers.Dense(3)

        def call(self, x):
            return self.layer(x)

    model = Subclassed()
    model(X)
    with pytest.raises(CaptureError, match=r"would lose Subclassed\.train_step: prepare keras\.Model\(x, model\(x\)\)"):
        qat.prepare(model)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_compiled_and_trained_model_is_taken(kind):
    model = of_class(kind, "keras")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, verbose=0)
    prepared = qat.calibrate(qat.prepare(model), [X])
    with pytest.raises(ExportError, match=r"exported by qat\.export"):
        prepared.export("saved")


def test_the_tasks_of_keras_hub_are_prepared_and_their_preprocessing_is_named(caplog):
    """Their fit and evaluate preprocess the data, and train as Keras does."""

    class Task(keras.Model):
        preprocessor = None

        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    Task.fit.__module__ = "keras_hub.src.utils.pipeline_model"
    entry = keras.Input((4,))
    model = Task(entry, layers.Dense(2)(entry), name="task")
    assert "preprocess" not in caplog.text
    Task.preprocessor = str
    prepared = qat.prepare(model)
    assert [p.op.kind for p in prepared.plan.ops] == ["dense"]
    assert "'task' preprocesses the data of fit: give the prepared model what model.preprocessor returns" in caplog.text
