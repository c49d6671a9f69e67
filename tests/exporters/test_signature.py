"""A ``.tflite`` is called by the model's own names, whatever the types of its inputs and outputs."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import qat
from qat.program.caller_names import caller_names, paths_of
from qat.runtimes import open_session

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter

random = np.random.default_rng(0)
IMAGES = random.normal(size=(8, 8, 8, 3)).astype(np.float32)
EXTRA = random.normal(size=(8, 4)).astype(np.float32)


class Detector(torch.nn.Module):
    def __init__(self, named):
        super().__init__()
        self.conv, self.classes, self.boxes = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(8, 3), torch.nn.Linear(8, 4)
        self.named = named

    def forward(self, image, extra):
        features = torch.cat([self.conv(image).relu().mean((2, 3)), extra], 1)
        classes, boxes = self.classes(features), self.boxes(features).sigmoid()
        return {"classes": classes, "boxes": boxes} if self.named else (classes, boxes)


def keras_detector(named):
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra")
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    features = keras.layers.Concatenate()([features, extra])
    classes = keras.layers.Dense(3, name="logits")(features)
    boxes = keras.layers.Dense(4, activation="sigmoid", name="corners")(features)
    if named:
        return keras.Model({"picture": image, "more": extra}, {"classes": classes, "boxes": boxes})
    return keras.Model([image, extra], [classes, boxes])


CASES = {
    "torch, a dict": ("torch", True, ("image", "extra"), ("classes", "boxes")),
    "torch, a tuple": ("torch", False, ("image", "extra"), ("output_0", "output_1")),
    "keras, dicts": ("keras", True, ("picture", "more"), ("classes", "boxes")),
    "keras, lists": ("keras", False, ("image", "extra"), ("logits", "corners")),
}


@pytest.mark.parametrize("case", CASES)
def test_callers_use_the_models_own_names(case, tmp_path):
    framework, named, (image, extra), (classes, boxes) = CASES[case]
    if framework == "torch":
        inputs = (IMAGES.transpose(0, 3, 1, 2), EXTRA)
        model = qat.prepare(Detector(named).eval(), tuple(torch.from_numpy(x) for x in inputs), target="litert")
    else:
        model = qat.prepare(keras_detector(named))
        inputs = (EXTRA, IMAGES) if named else (IMAGES, EXTRA)  # Keras orders a dict by its keys
    qat.calibrate(model, [inputs])
    for dtype in ("int8", "uint8", "float32"):
        artifact = qat.export(model, tmp_path / f"{dtype}.tflite", [inputs], dtype)
        assert artifact.parity.exact == 1.0
        session, interpreter = open_session(artifact.path), Interpreter(str(artifact.path))
        found = interpreter.get_signature_list()["serving_default"]
        assert sorted(found["inputs"]) == sorted([image, extra])
        assert sorted(found["outputs"]) == sorted([classes, boxes])
        ordered = inputs if framework == "keras" else (IMAGES, EXTRA)
        feeds = session.in_file_types(*ordered)
        by_name = {image if feed.ndim == 4 else extra: feed for feed in feeds}
        got = interpreter.get_signature_runner()(**by_name)
        assert got[classes].shape == (8, 3)
        assert got[boxes].shape == (8, 4)
        assert got[classes].dtype == dtype
        want = {value.shape[1]: value for value in session.invoke(*feeds)}
        assert np.array_equal(got[classes], want[3])
        assert np.array_equal(got[boxes], want[4])


def test_names_follow_the_nesting_and_are_distinct():
    Pair = namedtuple("Pair", "left right")
    nested = {"scores": 1, "maps": [2, Pair(3, 4)]}
    paths = list(paths_of(nested))
    assert paths == [("scores",), ("maps", 0), ("maps", 1, "left"), ("maps", 1, "right")]
    assert caller_names(paths, "abcd") == ("scores", "maps_0", "maps_1_left", "maps_1_right")
    assert caller_names(paths_of((1, 2)), ("same", "same")) == ("same", "same_1")
    assert caller_names(paths_of(1), ("output_0",)) == ("output_0",)
