"""A user's script, which mypy --strict reads in tests/test_public_face.py. It is not run."""

from pathlib import Path
from typing import assert_type

import keras  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import qat


def torch_model(net: nn.Module, folder: Path) -> float | None:
    images, labels = torch.zeros(64, 1, 8, 8), torch.zeros(64, dtype=torch.int64)
    data = DataLoader(TensorDataset(images, labels), batch_size=16)
    model = qat.calibrate(qat.prepare(net, images[:2], recipe="static_wi8_ai8"), [images], estimator="mse")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    qat.track_ranges(model)
    optimizer.step()
    qat.freeze_ranges(model)
    history = qat.finetune(model, data, data, epochs=2, optimizer="adam", on_epoch=show)
    artifact = qat.export(model.eval(), folder / "net.onnx", verify=data, overwrite=True)
    baselines = qat.ptq_baselines(net, data, folder, example_inputs=images[:2])
    report = qat.compare([*baselines, artifact, net, folder / "other.onnx"], data, metrics={"error": error})
    rows: list[dict[str, str]] = qat.plan(net, images[:2]).table()
    assert_type(model.get_parameter("0.weight"), nn.Parameter)  # no type is lost on the way
    assert_type((history, artifact, report), tuple[qat.History, qat.Artifact, qat.Report])
    print(history.best_epoch, report.decision, [entry.top1 for entry in report.entries], rows)
    return None if artifact.parity is None else artifact.parity.exact


def keras_model(net: keras.Model, folder: Path) -> dict[str, float]:
    x, y = np.zeros((64, 8, 8, 1), np.float32), np.zeros(64, np.int64)
    model: qat.PreparedModel = qat.prepare(net)
    model = qat.correct_biases(qat.adaround(qat.calibrate(model, x), [x], steps=10), [(x, y)])
    qat.finetune(model, [(x, y)], teacher=net, labels="none", metrics=["mse"], progress=False)
    print(qat.export(model, folder / "net.tflite", [x], "uint8").bytes, sorted(model.grids))
    return qat.evaluate(qat.load_prepared(model, folder / "best.keras"), [(x, y)], metrics=["top1", "top5"])


def show(epoch: qat.Epoch) -> None:
    print(epoch.number, epoch.loss, epoch.metrics, epoch.accuracy)


def error(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs.argmax(-1) != labels).mean())
