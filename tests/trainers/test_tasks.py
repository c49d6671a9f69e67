"""Fine-tuning and evaluation of any task: the loss, the metrics that follow from the labels, and those by name."""

import keras
import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import nn

import qat
from qat.errors import DataError
from qat.trainers.metrics import METRICS, default_metrics, measure
from support.task_nets import segmenter, two_heads

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(16, 8, 8, 3)).astype(np.float32)
ROWS = RANDOM.normal(size=(32, 6)).astype(np.float32)


def images(framework):
    return np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)) if framework == "torch" else IMAGES


def regressor(framework):
    if framework == "torch":
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])


def two_losses(outputs, labels):
    (scores, value), (classes, number) = outputs, labels
    if isinstance(scores, torch.Tensor):
        return nn.functional.cross_entropy(scores, classes.long()) + nn.functional.mse_loss(value[:, 0], number)
    classes = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(classes, scores, from_logits=True))
    return classes + keras.ops.mean(keras.ops.square(value[:, 0] - number))


def both_right(outputs, labels):
    return (outputs[0].argmax(-1) == labels[0]) & (np.abs(outputs[1][:, 0] - labels[1]) < 1)


@FRAMEWORKS
@pytest.mark.parametrize("shape", [(32,), (32, 1)])
def test_regression_is_measured_by_its_error(framework, shape):
    data = [(ROWS, ROWS.sum(1).reshape(shape).astype(np.float32))]
    model = qat.calibrate(qat.prepare(regressor(framework), ROWS), [ROWS])
    before = qat.evaluate(model, data)
    history = qat.finetune(model, data * 20, data, loss="mse", epochs=2, learning_rate=0.01, progress=False)
    assert list(before) == list(history.epochs[0].metrics) == ["mse", "mae"]
    assert qat.evaluate(model, data)["mse"] < before["mse"]
    assert history.best_epoch == 1 + int(np.argmin([epoch.metrics["mse"] for epoch in history.epochs]))


@FRAMEWORKS
def test_segmentation_trains_by_cross_entropy_and_is_measured_by_pixels(framework):
    labels = (IMAGES[..., 0] > 0).astype(np.int64) + 2 * (IMAGES[..., 1] > 0)
    labels[:, 0] = 255  # no class
    x, data = images(framework), [(images(framework), labels)]
    model = qat.calibrate(qat.prepare(segmenter(framework), x), [x])
    before = qat.evaluate(model, data)
    history = qat.finetune(model, data * 20, data, epochs=2, learning_rate=0.05, progress=False)
    assert list(before) == ["pixel_accuracy", "iou"]
    assert history.epochs[-1].metrics["pixel_accuracy"] > before["pixel_accuracy"] + 5
    with pytest.raises(DataError, match="label 9 is out of range: the model has 4 outputs"):
        qat.finetune(model, [(x, np.full_like(labels, 9))], progress=False)


@FRAMEWORKS
def test_several_inputs_outputs_and_labels(framework):
    inputs, labels = (ROWS, ROWS[::-1].copy()), ((ROWS.argmax(1) % 3), ROWS.sum(1))
    data = [(inputs, labels)]
    model = qat.calibrate(qat.prepare(two_heads(framework), inputs), [inputs])
    assert qat.evaluate(model, data) == {}
    history = qat.finetune(model, data * 5, data, loss=two_losses, metrics=[both_right], epochs=2, progress=False)
    assert [list(epoch.metrics) for epoch in history.epochs] == [["both_right"]] * 2
    assert (
        qat.evaluate(model, data, metrics=[both_right])["both_right"]
        == history.epochs[history.best_epoch - 1].metrics["both_right"]
    )


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@FRAMEWORKS
def test_the_artifact_of_each_epoch_takes_images_as_the_data_has_them(framework, target):
    x, labels = images(framework), (IMAGES[..., 0] > 0).astype(np.int64)
    model = qat.calibrate(qat.prepare(segmenter(framework), x, target=target), [x])
    history = qat.finetune(model, [(x, labels)], [(x, labels)], artifact_every=1, progress=False)
    assert history.epochs[0].artifact == pytest.approx(history.epochs[0].metrics)


def test_metrics_by_name_are_those_of_scikit_learn_and_torchmetrics():
    scores, classes = RANDOM.normal(size=(60, 4)), RANDOM.integers(0, 4, 60)
    maps, wanted = RANDOM.normal(size=(6, 4, 5, 5)), RANDOM.integers(0, 4, (6, 5, 5))
    values, truth = RANDOM.normal(size=(60, 3)), RANDOM.normal(size=(60, 3))

    def found(name, outputs, labels):
        halves = [
            (outputs[: len(outputs) // 3], labels[: len(labels) // 3]),
            (outputs[len(outputs) // 3 :], labels[len(labels) // 3 :]),
        ]
        return measure([METRICS[name]], halves)[name]

    f1 = sklearn_metrics.f1_score(classes, scores.argmax(1), average="macro")
    assert found("f1", scores, classes) == pytest.approx(100 * f1)
    iou = sklearn_metrics.jaccard_score(wanted.ravel(), maps.argmax(1).ravel(), average="macro")
    assert found("iou", maps, wanted) == found("iou", np.moveaxis(maps, 1, -1), wanted) == pytest.approx(100 * iou)
    assert found("rmse", values, truth) == pytest.approx(np.sqrt(sklearn_metrics.mean_squared_error(truth, values)))
    assert found("mae", values, truth) == pytest.approx(sklearn_metrics.mean_absolute_error(truth, values))
    assert found("r2", values, truth) == pytest.approx(sklearn_metrics.r2_score(truth, values))
    assert found("perplexity", scores, classes) == pytest.approx(
        np.exp(sklearn_metrics.log_loss(classes, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)))
    )
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = RANDOM.random((4, 3, 16, 16)).astype(np.float32), RANDOM.random((4, 3, 16, 16)).astype(np.float32)
    ssim = float(structural_similarity_index_measure(torch.from_numpy(a), torch.from_numpy(b), data_range=1.0))
    assert found("ssim", a, b) == found("ssim", np.moveaxis(a, 1, -1), np.moveaxis(b, 1, -1)) == pytest.approx(ssim, rel=1e-4)


@pytest.mark.parametrize(
    ("outputs", "labels", "names"),
    [
        (np.zeros((4, 3)), np.zeros(4, int), ["top1"]),
        (np.zeros((4, 3)), np.eye(3)[[0, 1, 2, 0]], ["top1"]),
        (np.zeros((4, 3, 5, 6)), np.zeros((4, 5, 6), int), ["pixel_accuracy", "iou"]),
        (np.zeros((4, 5, 6, 3)), np.zeros((4, 5, 6, 1), np.uint8), ["pixel_accuracy", "iou"]),
        (np.zeros((4, 1)), np.zeros(4), ["mse", "mae"]),
        (np.zeros((4, 5, 5, 3)), np.zeros((4, 5, 5, 3)), ["mse", "mae"]),
        ((np.zeros((4, 3)), np.zeros((4, 3))), np.zeros(4, int), []),
        (np.zeros((4, 3)), np.zeros((4, 7)), []),
    ],
)
def test_default_metrics_follow_from_the_labels(outputs, labels, names):
    assert [m.name for m in default_metrics(outputs, labels)] == names
