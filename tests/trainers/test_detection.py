"""The detector of the zoo: its cells and boxes, its loss in both frameworks, and what a wrong label is answered."""

import json

import numpy as np
import pytest

import qat
from qat.errors import ConfigError, DataError, OptionError
from qat.runs.scenes import scenes
from qat.trainers import TrainingOptions
from qat.trainers.detection_grid import Grid, decode, intersection_over_union, suppressed
from qat.trainers.detection_labels import check_boxes, limits_of
from qat.trainers.metrics import measure, metric

RANDOM = np.random.default_rng(0)
GRID = Grid(64, 64)


def raw(n=2, classes=3, cells=80):
    offsets = RANDOM.normal(0, 0.3, (n, cells, 4)).astype(np.float32)
    return {"box_offsets": offsets, "class_logits": RANDOM.normal(-2, 1, (n, cells, classes)).astype(np.float32)}


def answer(labels, classes=3, sure=6.0):
    """Return the raw outputs that are the labels: one cell each, of the map that is responsible."""
    offsets = np.zeros((len(labels), GRID.cells, 4), np.float32)
    logits = np.full((len(labels), GRID.cells, classes), -12, np.float32)
    for image, rows in enumerate(labels):
        for left, top, right, bottom, number in rows[rows[:, 4] >= 0]:
            middle, size = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top])
            fits = (GRID.sides[:, 0] < size.max()) & (size.max() <= GRID.sides[:, 1])
            cell = np.argmin(np.where(fits, np.abs(GRID.middles - middle).max(1), np.inf))
            offsets[image, cell] = *((middle - GRID.middles[cell]) / GRID.stride[cell]), *np.log(size / GRID.stride[cell])
            logits[image, cell, int(number)] = sure
    return {"box_offsets": offsets, "class_logits": logits}


LABELS = np.array(
    [[[4, 6, 20, 22, 0], [30, 30, 60, 58, 2], [-1, -1, -1, -1, -1]], [[-1] * 5] * 3, [[40, 2, 50, 20, 1], [-1] * 5, [-1] * 5]],
    np.float32,
)


def test_the_cells_lie_row_by_row_from_the_finest_map():
    assert (GRID.shapes, GRID.cells) == (((8, 8), (4, 4)), 80)
    np.testing.assert_array_equal(GRID.middles[[0, 1, 8, 64, 65]], [[4, 4], [12, 4], [4, 12], [8, 8], [24, 8]])
    np.testing.assert_array_equal(GRID.stride[[0, 63, 64]], [8, 8, 16])
    assert Grid.of(80) == GRID and Grid.of(320) == Grid(128, 128)
    np.testing.assert_array_equal(GRID.boxes(np.zeros((80, 4)))[0], [0, 0, 8, 8])
    for cells in (0, 1, 81):
        with pytest.raises(ConfigError, match=f"outputs of {cells} cells are no detector's"):
            Grid.of(cells)


def test_raw_outputs_become_the_boxes_that_they_mean_surest_first():
    outputs = answer(LABELS)
    outputs["class_logits"][0][outputs["class_logits"][0].argmax(0)[2], 2] = 8.0
    first, none, last = decode(outputs)
    np.testing.assert_allclose(first[0], [[30, 30, 60, 58], [4, 6, 20, 22]], atol=1e-4)
    assert first[1].tolist() == [2, 0] and first[2][0] > first[2][1] > 0.99
    assert [len(part) for part in none] == [0, 0, 0]
    np.testing.assert_allclose(last[0], [[40, 2, 50, 20]], atol=1e-4)
    unnamed = (outputs["class_logits"], outputs["box_offsets"])  # as a converter may order them
    np.testing.assert_array_equal(decode(unnamed)[0][0], first[0])
    with pytest.raises(ConfigError, match=r"a detector returns box_offsets \[n, cells, 4\] and class_logits"):
        decode(outputs["box_offsets"])
    with pytest.raises(ConfigError, match="80 cells, and Grid"):
        decode(outputs, Grid(32, 32))


def test_a_box_falls_to_a_surer_one_of_its_class_alone():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 4]], np.float32)
    np.testing.assert_allclose(intersection_over_union(boxes[:1], boxes), [[1, 9 / 11, 1, 0, 0.4]])
    assert suppressed(boxes, np.array([0, 0, 1, 0, 0]), 0.6).tolist() == [0, 2, 3, 4]
    assert suppressed(boxes, np.array([0, 0, 1, 0, 0]), 0.3).tolist() == [0, 2, 3]


def test_map_by_hand():
    """Two images, one class. Detections by score: a hit, a miss, a hit; the precision at both recalls is 1 and 2 / 3."""
    pytest.importorskip("pycocotools")
    labels = np.array([[[4, 4, 20, 20, 0]], [[30, 30, 50, 50, 0]]], np.float32)
    found = [(np.array([[4, 4, 20, 20], [40, 40, 60, 60]]), np.zeros(2), np.array([0.9, 0.8]))]
    found += [(np.array([[30, 30, 50, 50]]), np.zeros(1), np.array([0.7]))]
    made = metric({"name": "map", "decode": lambda outputs: found})
    # COCO asks at 101 recalls: 51 of them up to 1 / 2.
    assert measure([made], [(np.zeros((2, 1)), labels)])["map"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert measure([metric({"name": "map50", "decode": "grid"})], [(answer(LABELS), LABELS)])["map50"] == pytest.approx(100)
    shifted = answer(LABELS + np.array([2, 0, 2, 0, 0], np.float32) * (LABELS[..., 4:] >= 0))
    # Boxes 16, 30 and 10 pixels wide, two pixels off: an IoU of 14/18, 28/32 and 8/12; 6, 8 and 4 of the ten thresholds are met.
    assert measure([metric({"name": "map", "decode": "grid"})], [(shifted, LABELS)])["map"] == pytest.approx(60.0)


def losses(outputs, labels):
    """Return the loss in PyTorch and in Keras, and the gradients of both."""
    import tensorflow as tf
    import torch

    from qat.trainers.keras.detection_loss import detection_loss as of_keras
    from qat.trainers.torch.detection_loss import detection_loss as of_torch

    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in outputs.items()}
    loss = of_torch(tensors, torch.from_numpy(labels))
    loss.backward()
    variables = {name: tf.Variable(x) for name, x in outputs.items()}
    with tf.GradientTape() as tape:
        other = of_keras(variables, tf.constant(labels))
    gradients = tape.gradient(other, variables)
    return (
        float(loss.detach()),
        float(other),
        {n: t.grad.numpy() for n, t in tensors.items()},
        {n: np.array(g) for n, g in gradients.items()},
    )


def test_both_frameworks_have_one_loss_and_one_gradient():
    near = {name: x + 0.013 for name, x in answer(LABELS).items()}  # at the answer itself a corner has two slopes
    cases = [(raw(3), LABELS), (near, LABELS), (raw(1), LABELS[1:2])]
    cases += [({name: np.full_like(x, 100) for name, x in raw(3).items()}, LABELS)]
    for outputs, labels in cases:
        a, b, grad_a, grad_b = losses(outputs, labels)
        assert np.isfinite(a) and a == pytest.approx(b, rel=1e-5)
        for name, gradient in grad_a.items():
            assert np.isfinite(gradient).all()
            np.testing.assert_allclose(gradient, grad_b[name], atol=1e-5 * max(1, np.abs(gradient).max()))


def test_the_loss_falls_to_zero_on_the_way_to_the_answer():
    """Every cell that answers for a box is asked to be sure of it, so that the least loss needs all of them right."""
    import torch

    from qat.trainers.torch.detection_loss import assigned, detection_loss

    answers, chosen = (x.numpy() for x in assigned(torch.from_numpy(LABELS), GRID))
    assert answers.any(1).tolist() == [True, False, True]
    assert {int(i) for i in chosen[0][answers[0]]} == {0, 1}
    assert np.abs(GRID.middles[answers[2]] - [45, 11]).max() < 8
    right = answer(LABELS)
    boxes = LABELS[np.arange(3)[:, None], chosen][..., :4]
    middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    stride = GRID.stride[:, None]
    with np.errstate(divide="ignore"):
        there = np.concatenate([(middle - GRID.middles) / stride, np.log(np.maximum(size, 1e-3) / stride)], -1)
    right["box_offsets"] = np.where(answers[..., None], there, 0).astype(np.float32)
    kinds = np.eye(3)[LABELS[np.arange(3)[:, None], chosen][..., 4].astype(int).clip(0)]
    right["class_logits"] = np.where(answers[..., None] & (kinds > 0), 12, -12).astype(np.float32)
    wrong = {name: x + (0.5 if name == "box_offsets" else 0) for name, x in right.items()}
    of = lambda outputs: float(detection_loss({k: torch.from_numpy(v) for k, v in outputs.items()}, torch.from_numpy(LABELS)))  # noqa: E731
    assert 0 <= of(right) < 1e-3 < 0.2 < of(wrong)


WRONG = {
    "a": (np.zeros((2, 5)), "are no boxes: give numbers"),
    "b": (np.zeros((2, 1, 4)), "are no boxes: give numbers"),
    "c": (np.zeros((2, 0, 5)), "are no boxes: give numbers"),
    "d": (np.array([["x"]]), "are no boxes: give numbers"),
    "e": ([[[0, 0, 9, 9, 0]], [[np.nan, 0, 9, 9, 1]]], r"box 0 of image 1, \(nan, 0, 9, 9, 1\), holds NaN"),
    "f": ([[[0, 0, 9, 9, np.nan]]], "box 0 of image 0, .* has no number as its class"),
    "g": ([[[0, 0, 9, 9, 0.5]]], "has no whole number as its class"),
    "h": ([[[0, 0, 9, 9, -2]]], "has a class below -1"),
    "i": ([[[0, 0, 9, 9, 3]]], "is of no class of the model, which has 3"),
    "j": ([[[5, 5, 5, 9, 0]]], "has no size"),
    "k": ([[[9, 9, 5, 5, 0]]], "has no size"),
    "l": ([[[60, 60, 80, 80, 0]]], "is not within the image of 64 x 64 pixels: clip it"),
    "m": ([[[-9, 0, 9, 9, 0]]], "is not within the image"),
}


@pytest.mark.parametrize(("labels", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_label_is_one_sentence(labels, said):
    with pytest.raises(DataError, match=rf"^step 3: .*{said}") as error:
        check_boxes(labels if isinstance(labels, np.ndarray) else np.array(labels, np.float32), 64, 64, 3, "step 3")
    assert "\n" not in str(error.value)


def test_right_labels_pass_those_of_an_image_without_a_box_too():
    check_boxes(LABELS, 64, 64, 3, "step 3")
    check_boxes(np.full((2, 1, 5), -1), 64, 64, 3, "step 3")
    assert limits_of(raw(classes=7)) == (64, 64, 7)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_finetune_says_what_is_wrong_with_a_box(framework):
    x = np.zeros((2, 64, 64, 1) if framework == "keras" else (2, 1, 64, 64), np.float32)
    if framework == "torch":
        from qat.runs.zoo_torch import ssdlite
    else:
        from qat.runs.zoo_keras import ssdlite
    model, labels = ssdlite(classes=3), LABELS[:2].copy()
    history = qat.finetune(model, [(x, labels)], loss="detection", learning_rate=1e-4, progress=False)
    assert np.isfinite(history.epochs[0].loss)
    labels[0, 0, 4] = 3
    with pytest.raises(DataError, match=r"step 0: box 0 of image 0, .* is of no class of the model, which has 3"):
        qat.finetune(model, [(x, labels)], loss="detection", progress=False)
    with pytest.raises(DataError, match="are no boxes"):
        qat.finetune(model, [(x, labels[:, 0])], loss="detection", progress=False)


def test_the_loss_brings_its_metrics_and_takes_no_teacher():
    assert [m.name for m in TrainingOptions(loss="detection").chosen_metrics] == ["map", "map50"]
    assert [m.name for m in TrainingOptions(loss="detection", metrics=["mse"]).chosen_metrics] == ["mse"]
    for other in ({"labels": "none"}, {"teacher": lambda x: x}):
        with pytest.raises(OptionError, match="loss 'detection' is against boxes"):
            TrainingOptions(loss="detection", **other)
    with pytest.raises(ConfigError, match=r"unknown decode 'girds'.*grid"):
        metric({"name": "map", "decode": "girds"})
    assert json.dumps(TrainingOptions(loss="detection").decisive()["metrics"]) == '["map", "map50"]'


def test_scenes_are_the_same_for_a_seed_and_their_boxes_hold_the_ink():
    data, again, other = scenes(count=60, seed=3), scenes(count=60, seed=3), scenes(count=60, seed=4)
    np.testing.assert_array_equal(data.train_x, again.train_x)
    np.testing.assert_array_equal(data.test_y, again.test_y)
    assert not np.array_equal(data.train_x, other.train_x)
    assert (len(data.train_x), len(data.test_x), data.classes) == (48, 12, 10)
    check_boxes(data.train_y, 64, 64, 10, "train")
    there = data.train_y[..., 4] >= 0
    assert 0 in there.sum(1) and there.sum(1).max() == 4
    for image, rows in zip(data.train_x[..., 0], data.train_y, strict=True):
        outside = image.copy()
        for left, top, right, bottom, number in rows[rows[:, 4] >= 0].astype(int):
            ink = image[top:bottom, left:right] > 60
            assert ink.any() and 0 <= number < 10
            outside[top:bottom, left:right] = 0
        assert outside.max() < 60  # noise alone
    wide = scenes(size=(32, 96), count=10)
    assert wide.train_x.shape == (8, 32, 96, 1)
    check_boxes(wide.train_y, 32, 96, 10, "train")
    with pytest.raises(DataError, match="10 scenes and 32 pixels are the least"):
        scenes(count=9)


CASES = [("torch", ".onnx"), ("torch", ".tflite"), ("keras", ".tflite"), ("keras", ".onnx")]


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "suffix"), CASES)
def test_the_heads_are_exact_in_the_runtimes(framework, suffix, tmp_path):
    """The artifact returns the prepared model's offsets and logits, every bit of them."""
    data = scenes(count=100)
    layout = "NCHW" if framework == "torch" else "NHWC"
    if framework == "torch":
        from qat.runs.zoo_torch import ssdlite
    else:
        from qat.runs.zoo_keras import ssdlite
    model = ssdlite()
    train = data.batches("train", 16, layout)
    qat.finetune(model, train, loss="detection", optimizer="adam", learning_rate=1e-3, progress=False)
    samples = [x for x, _ in data.batches("train", 40, layout)]
    target = {".onnx": "onnxruntime", ".tflite": "litert"}[suffix]
    prepared = qat.calibrate(qat.prepare(model, samples[0], target=target), samples)
    assert {op.mode for op in prepared.plan.ops if op.op.kind != "concat"} == {"static"}
    made = qat.export(prepared, tmp_path / f"detector{suffix}", verify=data.batches("test", 10, layout))
    assert made.parity.exact == 1.0 and made.parity.samples == 20
