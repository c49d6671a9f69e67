"""A user whose labels are maps of classes, in Keras: the pixels that belong to a digit."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import qat

keras = pytest.importorskip("keras")


@pytest.mark.slow
def test_maps_are_judged_by_their_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    images = load_digits().images[:640].astype(np.float32) / 16
    maps = (images > 0.5).astype(np.int64)
    noisy = (images + np.random.default_rng(0).normal(0, 0.3, images.shape)).astype(np.float32)[..., None]
    inputs = keras.Input((8, 8, 1))
    a = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    b = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(a)
    c = keras.layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(b)
    float_model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.Concatenate()([a, c])))
    float_model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    float_model.fit(noisy[:512], maps[:512], batch_size=32, epochs=6, verbose=0)
    batches = [(noisy[i : i + 32], maps[i : i + 32]) for i in range(0, 640, 32)]
    train_data, test_data = batches[:16], batches[16:]

    model = qat.prepare(float_model)
    qat.calibrate(model, [x for x, _ in train_data])
    history = qat.finetune(model, train_data, test_data, epochs=1, progress=False)
    artifact = qat.export(model, "model.tflite", verify=[x for x, _ in test_data])
    report = qat.compare([float_model, artifact], test_data)

    assert artifact.parity.exact == 1.0
    assert set(history.epochs[-1].metrics) == {"pixel_accuracy", "iou"}
    reference, mine = report.entries
    assert mine.metrics["pixel_accuracy"] > 80
    assert mine.metrics["iou"] > reference.metrics["iou"] - 2
