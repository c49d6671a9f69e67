"""Metrics by name of detection, embeddings, landmarks, masks and texts; and the ways to write a metric."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import qat
from qat.errors import ConfigError, DataError, MissingDependencyError
from qat.report import statistics
from qat.trainers import TrainingOptions
from qat.trainers.metrics import METRICS, chosen, measure, metric, shown
from qat.trainers.named_outputs import NamedOutputs

RANDOM = np.random.default_rng(0)


def value(spec, outputs, labels):
    """Return a metric of outputs and labels in two batches."""
    made, half = metric(spec), (len(labels) + 1) // 2
    parts = [(outputs[:half], labels[:half]), (outputs[half:], labels[half:])]
    return measure([made], [part for part in parts if len(part[1])])[made.name]


def boxes(count, number):
    corner, size = RANDOM.uniform(0, 60, (count, number, 2)), RANDOM.uniform(10, 40, (count, number, 2))
    return np.concatenate([corner, corner + size], -1).astype(np.float32)


def detections(truth, classes, noise):
    """Return boxes near the true ones, some of them wrong, and scores by class."""
    found = truth + RANDOM.normal(scale=noise, size=truth.shape).astype(np.float32)
    scores = RANDOM.uniform(0.2, 0.9, (*classes.shape, 3)).astype(np.float32)
    sure = RANDOM.random(classes.shape) < 0.8
    np.put_along_axis(scores, classes[..., None].clip(0), np.where(sure, 0.95, 0.1)[..., None], -1)
    return found, scores


def test_map_is_that_of_coco_whatever_the_batches_and_the_format():
    pytest.importorskip("pycocotools")
    truth, classes = boxes(12, 3), RANDOM.integers(0, 3, (12, 3))
    classes[:, 2] = np.where(RANDOM.random(12) < 0.5, -1, classes[:, 2])  # images of two objects
    found, scores = detections(truth, classes, 2.0)
    wanted = {"boxes": truth, "labels": classes}
    outputs = NamedOutputs([scores, found], ["scores", "boxes"])

    def both(name, options, given, labels):
        made = metric({"name": name, **options})
        whole = measure([made], [(given, labels)])[made.name]
        cut = lambda x, part: (  # noqa: E731
            {k: v[part] for k, v in x.items()} if isinstance(x, dict) else
            NamedOutputs([v[part] for v in x], x.names) if isinstance(x, NamedOutputs) else
            tuple(v[part] for v in x) if isinstance(x, tuple) else x[part]
        )  # fmt: skip
        parts = [(cut(given, p), cut(labels, p)) for p in (slice(0, 5), slice(5, 12))]
        assert measure([made], parts)[made.name] == pytest.approx(whole)
        return whole

    expected = reference_map(found, scores, truth, classes)
    assert both("map", {}, outputs, wanted) == pytest.approx(expected["map"])
    assert both("map50", {}, (found, scores), (truth, classes)) == pytest.approx(expected["map50"])
    assert 20 < expected["map"] < expected["map50"] < 95
    five = np.concatenate([truth, classes[..., None]], -1)
    assert both("map", {}, (found, scores.max(-1), scores.argmax(-1)), five) == pytest.approx(expected["map"])
    listed = [{"boxes": b[c >= 0], "labels": c[c >= 0]} for b, c in zip(truth, classes, strict=True)]
    assert both("map", {}, outputs, listed) == pytest.approx(expected["map"])
    sized = lambda b: np.concatenate([(b[..., :2] + b[..., 2:]) / 2, b[..., 2:] - b[..., :2]], -1)  # noqa: E731
    middle = both("map", {"boxes": "cxcywh"}, (sized(found), scores), (sized(truth), classes))
    assert middle == pytest.approx(expected["map"], abs=0.01)
    assert measure([METRICS["map"]], [((truth, np.eye(3)[classes.clip(0)]), wanted)])["map"] > 80


def test_map_of_drawn_images_is_coco_s_of_the_images_drawn():
    """A bootstrap draws images many times, or never: each draw is held against pycocotools on a data set of these images."""
    pytest.importorskip("pycocotools")
    truth, classes = boxes(14, 3), RANDOM.integers(0, 3, (14, 3))
    classes[:4, 0] = -1
    found, scores = detections(truth, classes, 2.0)
    scores += RANDOM.uniform(0, 0.04, scores.shape).astype(np.float32)  # among equal scores the order of the images would decide
    rows = METRICS["map"].of_batch((found, scores), (truth, classes), "batch 0")
    drawn = {name: METRICS[name].drawn(rows) for name in ("map", "map50")}
    for _ in range(8):
        chosen = RANDOM.integers(0, 14, 14)
        expected = reference_map(found[chosen], scores[chosen], truth[chosen], classes[chosen])
        made = {name: of(np.bincount(chosen, minlength=14)) for name, of in drawn.items()}
        assert made == pytest.approx(expected, rel=1e-9)
    assert drawn["map"](np.zeros(14, int)) == 0.0
    one = statistics.difference(METRICS["map"], rows, METRICS["map"].of_batch((truth, scores), (truth, classes), "batch 0"))
    assert one.low < one.high < 0 and one.p < 0.05


def reference_map(found, scores, truth, classes):
    """Return mAP of single images joined to one data set, by pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def side(with_scores):
        rows = []
        for image in range(len(truth)):
            for place in range(truth.shape[1]):
                if with_scores or classes[image, place] >= 0:
                    x1, y1, x2, y2 = (float(v) for v in (found if with_scores else truth)[image, place])
                    row = {"id": len(rows) + 1, "image_id": image, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
                    number = scores[image, place].argmax() if with_scores else classes[image, place]
                    row |= {"area": (x2 - x1) * (y2 - y1), "category_id": int(number)}
                    rows.append(row | ({"score": float(scores[image, place].max())} if with_scores else {}))
        made = COCO()
        images, kinds = [{"id": i} for i in range(len(truth))], [{"id": c} for c in range(3)]
        made.dataset = {"images": images, "categories": kinds, "annotations": rows}
        made.createIndex()
        return made

    tool = COCOeval(side(False), side(True), "bbox")
    tool.evaluate()
    tool.accumulate()
    tool.summarize()
    return {"map": 100 * tool.stats[0], "map50": 100 * tool.stats[1]}


@pytest.mark.parametrize(
    ("outputs", "labels", "said"),
    [
        (np.zeros((2, 4)), np.zeros((2, 1, 5)), "mAP takes outputs of boxes and scores"),
        ((np.zeros((2, 3, 5)), np.zeros((2, 3))), np.zeros((2, 1, 5)), r"boxes \(2, 3, 5\) and scores"),
        ((np.zeros((2, 3, 4)), np.zeros((2, 3))), np.zeros(2), "labels are boxes"),
        ((np.zeros((2, 3, 4)), np.zeros((2, 3))), (np.zeros((2, 1, 4)), np.full((2, 1), 0.5)), "no class numbers"),
    ],
)
def test_what_is_no_detection_is_said(outputs, labels, said):
    with pytest.raises(DataError, match=said):
        measure([METRICS["map"]], [(outputs, labels)])


def test_raw_outputs_taken_for_boxes_are_warned_of_once(caplog):
    from qat.trainers import detection_metrics

    pytest.importorskip("pycocotools")
    detection_metrics._warn_of_order.cache_clear()
    with caplog.at_level("WARNING", "qat"):
        for _ in range(2):
            measure([METRICS["map"]], [((np.array([[[9.0, 9, 3, 3]] * 3]), np.ones((1, 3))), np.array([[[1.0, 1, 9, 9, 0]]]))])
    assert caplog.text.count("most of the boxes found have a negative size") == 1


def test_a_missing_tool_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qat-toolkit\[detection\]'"):
        measure([METRICS["map"]], [((boxes(2, 3), np.ones((2, 3))), np.zeros((2, 1, 5)))])


def test_retrieval_looks_among_all_samples():
    centres = RANDOM.normal(size=(4, 8))
    classes = RANDOM.integers(0, 4, 40)
    embeddings = centres[classes] + RANDOM.normal(scale=0.8, size=(40, 8))
    classes[0] = 9  # alone in its class: it cannot be found
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    hits = [classes[np.argsort(-near[i])[:3]] == classes[i] for i in range(1, 40)]
    assert value("recall@1", embeddings, classes) == pytest.approx(100 * np.mean([h[0] for h in hits]))
    assert value("recall@3", embeddings, classes) == pytest.approx(100 * np.mean([h.any() for h in hits]))
    others = ~np.eye(40, dtype=bool)
    scores = [average_precision_score((classes == classes[i])[others[i]], near[i][others[i]]) for i in range(1, 40)]
    assert value("retrieval_map", embeddings, classes) == pytest.approx(100 * np.mean(scores))
    with pytest.raises(DataError, match="every sample is alone in its class"):
        measure([metric("recall@1")], [(embeddings[:4], np.arange(4))])


def test_cosine_landmarks_and_masks():
    a = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert value("cosine", a, np.array([[0.0, 2.0], [6.0, 8.0]])) == pytest.approx(0.5)
    off = np.array([[[3.0, 4.0, 9.0], [0.0, 0.0, 9.0]]])
    assert value({"name": "landmark_error", "coordinates": 3}, off, np.zeros((1, 2, 3))) == pytest.approx(2.5)
    assert value({"name": "landmark_error", "scale": 10}, np.array([[0.3, 0.4]]), np.zeros((1, 1, 2)).reshape(1, 2)) == 5.0
    scores = np.array([0.9, 0.8, 0.1, 0.7]).reshape(1, 2, 2, 1)
    assert value("mask_iou", scores, np.array([1, 0, 1, 1]).reshape(1, 2, 2)) == 50.0
    assert value({"name": "mask_iou", "threshold": 0}, scores - 0.75, scores - 0.75) == 100.0
    assert value("mask_iou", np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2), int)) == 100.0
    logits = np.array([[2.0, -2.0, 0.2, -0.1]])
    assert value("bit_accuracy", logits, logits) == 100.0
    assert value({"name": "bit_accuracy", "threshold": 0.5}, 1 / (1 + np.exp(-logits)), np.array([[1, 0, 1, 1]])) == 75.0


def path(text, alphabet, blank):
    """Return one-hot scores that read as a text, with repeated characters and blanks between them."""
    numbers = []
    for character in text:
        number = alphabet.index(character)
        number += number >= blank
        numbers += [number, number, blank]
    return np.eye(len(alphabet) + 1, dtype=np.float32)[[blank, *numbers, *[blank] * (12 - len(numbers))]]


@pytest.mark.parametrize("blank", [0, -1])
def test_texts_are_read_greedily(blank):
    alphabet, none = "abc", 0 if blank == 0 else 3
    scores = np.stack([path(text, alphabet, none) for text in ("abc", "aab", "ca")])
    texts = np.array(["abc", "ab", "cbb"])
    options = {"blank": blank, "alphabet": alphabet}
    assert value({"name": "string_accuracy", **options}, scores, texts) == pytest.approx(100 / 3)
    assert value({"name": "character_accuracy", **options}, scores, texts) == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
    numbers = np.full((3, 4), -1)
    for row, text in zip(numbers, texts, strict=True):
        row[: len(text)] = [alphabet.index(c) + (alphabet.index(c) >= none) for c in text]
    assert value({"name": "string_accuracy", "blank": blank}, scores, numbers) == pytest.approx(100 / 3)
    assert value({"name": "character_accuracy", "blank": blank}, scores, scores) == 100.0
    with pytest.raises(DataError, match="labels are texts: give the alphabet"):
        value("string_accuracy", scores, texts)
    with pytest.raises(DataError, match="the alphabet has 2 characters, and the model 4 classes"):
        value({"name": "string_accuracy", "alphabet": "ab"}, scores, texts)


def spread(outputs, labels):
    return np.stack([outputs[:, 0], labels], 1)


spread.total = lambda rows: float(rows[:, 0].max() - rows[:, 1].min())
spread.higher_is_better = False


def test_ways_to_write_a_metric():
    outputs = NamedOutputs([np.eye(3)[[0, 1, 2, 0]], np.array([[1.0], [2.0], [3.0], [4.0]])], ["classes", "value"])
    labels = (np.array([0, 1, 2, 1]), np.array([1.0, 2.0, 3.0, 6.0]))
    found = measure(chosen([{"name": "top1", "output": "classes"}, {"name": "mae", "output": 1}]), [(outputs, labels)])
    assert found == {"top1 of classes": 75.0, "mae of 1": 0.5}
    by_name = dict(zip(("classes", "value"), labels, strict=True))
    assert measure([metric({"name": "mae", "output": "value", "as": "off"})], [(outputs, by_name)]) == {"off": 0.5}
    assert shown(found) == "top1 of classes 75.00 %, mae of 1 0.5"
    assert metric("top3").shown(50.0) == "50.00 %" and metric("mae to float").to_float
    own = metric(f"{__name__}:spread")
    assert (own.higher_is_better, own.is_mean) == (False, False)
    assert measure([own], [(outputs[1], labels[1])]) == {"spread": 3.0}
    with pytest.raises(DataError, match=r"metric 'mae of age' does not take evaluation batch 0 .*there is no output 'age'"):
        measure([metric({"name": "mae", "output": "age"})], [(outputs, labels)])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["recal@1"], r"unknown metric 'recal@1' \(did you mean 'recall@<k>'\?\)"),
        (
            [{"name": "string_accuracy", "blanc": 0}],
            r"has no option 'blanc' \(did you mean 'blank'\?\); valid: output, as, blank",
        ),
        ([{"output": 0}], "a metric with options has a name"),
        (["mae", {"name": "mae"}], "two metrics are called 'mae'"),
    ],
)
def test_a_mistake_is_said_before_training(written, said):
    with pytest.raises(ConfigError, match=said):
        chosen(written)
    if len(written) == 1:
        with pytest.raises(ConfigError, match=said):
            TrainingOptions(metrics=written)


def test_metrics_to_float_wait_for_the_comparison():
    torch = pytest.importorskip("torch")
    assert [m.name for m in TrainingOptions(metrics=["mae", "cosine to float"]).chosen_metrics] == ["mae"]
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), RANDOM.normal(size=(64, 4))
    x = x.astype(np.float32)
    prepared = qat.calibrate(qat.prepare(net, x), [x])
    labels = net(torch.from_numpy(x)).argmax(1).numpy()
    report = qat.compare([net, prepared], [(x, labels)], metrics=["cosine to float", "top1", "mae to float"], latency_runs=0)
    assert report.metric.name == "top1"
    base, made = (dict(entry.metrics) for entry in report.entries)
    assert base == {"cosine to float": pytest.approx(1.0), "top1": 100.0, "mae to float": 0.0}
    assert 0.99 < made["cosine to float"] < 1.0 and 0 < made["mae to float"] < 0.1
    unlabelled = qat.compare([net, prepared], [x], metrics=["mae", "cosine to float"], latency_runs=0)
    assert unlabelled.entries[1].metrics == {"mae to float": made["mae to float"], "cosine to float": made["cosine to float"]}
