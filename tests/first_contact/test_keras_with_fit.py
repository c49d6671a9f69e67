"""A user of Keras who trains with compile and fit, callbacks and all, and never calls qat.finetune."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import qat

keras = pytest.importorskip("keras")


@pytest.mark.slow
@pytest.mark.ci
def test_fit_trains_the_prepared_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images.astype(np.float32)[..., None] / 16, digits.target
    float_model = keras.Sequential(
        [
            keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, use_bias=False), keras.layers.BatchNormalization(),
            keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(10),
        ]
    )  # fmt: skip
    options = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
    float_model.compile("adam", **options)
    float_model.fit(x[:1200], y[:1200], epochs=5, verbose=0)

    model = qat.prepare(float_model)
    qat.calibrate(model, [x[i : i + 50] for i in range(0, 500, 50)])
    model.compile(keras.optimizers.Adam(1e-4), **options)
    callbacks = [keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True), keras.callbacks.EarlyStopping(patience=2)]
    held_out = x[1200:1500], y[1200:1500]
    history = model.fit(x[:1200], y[:1200], validation_data=held_out, epochs=2, callbacks=callbacks, verbose=0)
    artifact = qat.export(model, "digits.tflite", verify=[x[1500:]])

    assert artifact.parity.exact == 1.0
    assert artifact.parity.top1_agreement == 1.0
    assert history.history["val_accuracy"][-1] > 0.85
    loaded = keras.models.load_model("best.keras")
    assert loaded.predict(x[:4], verbose=0).shape == (4, 10)
