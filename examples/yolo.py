"""An Ultralytics YOLO: their model, their loss and their predictor, with the toolkit between (``pip install ultralytics``, AGPL).

``python examples/yolo.py [yolov8n.yaml] [--format tflite]`` trains on pictures that it draws. Give your own ``.pt`` and a loader
of your pictures for more than a demonstration.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from ultralytics import YOLO
from ultralytics.utils.nms import non_max_suppression

import qat
from qat.planning.recipe import Recipe, Rule

SIZE = 96  # of the pictures, in pixels
CONFIDENCE = 0.05  # little, after so little training
SUFFIXES = {"onnx": "onnxruntime", "tflite": "litert"}


def drawn(count, seed):
    """Return pictures of rectangles of three colours, and their boxes as Ultralytics' loss takes them."""
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 60, (count, SIZE, SIZE, 3), dtype=np.uint8)
    boxes, classes = [], []
    for picture in pictures:
        width, height = random.integers(24, 56, 2)
        left, top, kind = random.integers(0, SIZE - width), random.integers(0, SIZE - height), random.integers(3)
        picture[top : top + height, left : left + width, kind] = 230
        boxes.append(np.array([left + width / 2, top + height / 2, width, height]) / SIZE)
        classes.append([kind])
    labels = {"batch_idx": np.arange(count), "cls": np.array(classes), "bboxes": np.array(boxes)}
    return pictures, {name: torch.tensor(values, dtype=torch.float32) for name, values in labels.items()}


def as_inputs(pictures):
    """Return pictures as the network takes them: channels first, from 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255


def describe(path, yolo):
    """Write into a file what Ultralytics' predictor reads there, as their exporter does."""
    network = yolo.model
    facts = {"task": yolo.task, "stride": int(max(network.stride)), "imgsz": [SIZE, SIZE], "names": network.names, "channels": 3}
    facts |= {"batch": 1, "args": {}, "end2end": False, "head": type(network.model[-1]).__name__}
    if path.suffix == ".tflite":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.json", json.dumps(facts | {"names": {str(k): v for k, v in network.names.items()}}))
    else:
        file = onnx.load(path)
        onnx.helper.set_model_props(file, {name: str(value) for name, value in facts.items()})
        onnx.save(file, path)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", nargs="?", default="yolov8n.yaml", help="a .pt, or a .yaml for random weights")
    options.add_argument("--format", choices=SUFFIXES, default="onnx")
    options.add_argument("--steps", type=int, default=60, help="of training in float, and half as many in integers")
    chosen = options.parse_args()

    torch.manual_seed(0)
    yolo = YOLO(chosen.model)
    network = yolo.model
    network.args = argparse.Namespace(box=7.5, cls=0.5, dfl=1.5)  # their defaults of the loss
    criterion = network.init_criterion()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.2  # theirs, 0.03, is for thousands of steps
    train = [(as_inputs(pictures), labels) for pictures, labels in (drawn(16, seed) for seed in range(8))]

    def loss(outputs, labels):
        return criterion(outputs, labels)[0].sum()

    qat.finetune(network, train, loss=loss, optimizer="adam", learning_rate=1e-3, steps=chosen.steps)

    head = len(network.model) - 1
    if chosen.format == "tflite":
        network.model[head].stride = network.model[head].stride / SIZE  # their .tflite have boxes in parts of the picture
    # The head's last steps turn 16 numbers a side into pixels: 256 integers are too few for them, and they cost little.
    recipe = Recipe(name="yolo", rules=(Rule(), Rule(scope=rf"^model\.{head}(\.dfl.*)?$", mode="float")))
    model = qat.prepare(network.eval(), train[0][0], recipe, target=SUFFIXES[chosen.format])
    qat.calibrate(model, train)
    qat.finetune(model, train, loss=loss, learning_rate=1e-4, steps=chosen.steps // 2)

    held_out, _ = drawn(8, seed=100)
    path = Path(f"yolo.{chosen.format}")
    images = as_inputs(held_out)
    artifact = qat.export(
        model, path, verify=[images], io_dtype="float32", layout="NCHW", outputs=["output_0"], overwrite=True
    )  # fmt: skip
    print(artifact)
    describe(path, yolo)

    with torch.no_grad():
        decoded = model.eval()(images)[0]
    if chosen.format == "tflite":
        decoded[:, :4] *= SIZE
    wanted = non_max_suppression(decoded, CONFIDENCE, 0.7)
    # The file takes pictures of this size alone: rect=False fills them up.
    predictor = YOLO(path, task=yolo.task)
    bgr = [np.ascontiguousarray(picture[..., ::-1]) for picture in held_out]
    found = [r.boxes.data for r in predictor.predict(bgr, conf=CONFIDENCE, imgsz=SIZE, rect=False, verbose=False)]
    for boxes, expected in zip(found, wanted, strict=True):
        expected[:, :4].clamp_(0, SIZE)  # as they do
        torch.testing.assert_close(boxes, expected, rtol=0, atol=0.01)
    print(f"{sum(map(len, found))} detections of {len(found)} pictures, those of the prepared model")


if __name__ == "__main__":
    main()
