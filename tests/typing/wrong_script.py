"""Mistakes that mypy finds in a user's script: tests/test_public_face.py expects an error in each line that says so."""

from pathlib import Path

import torch
from torch import nn

import qat


def mistakes(net: nn.Module, x: torch.Tensor, data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    model = qat.prepare(net, x)
    qat.prepare(3, x)  # wrong
    qat.calibrate(net, [x])  # wrong
    qat.calibrate(model, [x], estimator="minmaks")  # wrong
    qat.finetune(model, data, epoch=2)  # wrong
    qat.finetune(model, data, epochs="2")  # wrong
    qat.finetune(model, data, optimizer="sdg")  # wrong
    qat.finetune(model, 3)  # wrong
    qat.evaluate(model, data, epochs=1)  # wrong
    qat.export(model, "net.onnx", io_dtype="int4")  # wrong
    print(qat.export(model, "net.onnx").parity.exact)  # wrong
    qat.compare([3], data)  # wrong
    qat.compare(["net.onnx"], data, runs=3)  # wrong
    qat.freeze_ranges(net)  # wrong
    path: str = qat.export(model, Path("net.onnx")).path  # wrong
    print(qat.finetune(model, data).accuracy, path)  # wrong
