"""What the tests of single PyTorch operators ask of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import qat
from qat.runtimes import open_session


def check_operator(model: torch.nn.Module, x: torch.Tensor, weight: str, folder: Path) -> tuple[Any, dict[str, int]]:
    """Return the prepared model and what ran: near the float model, all in integers, trained, equal in every bit."""
    prepared = qat.calibrate(qat.prepare(model, x[:2]), [x])
    assert not prepared.plan.floats()
    with torch.no_grad():
        expected = model(x)
    assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < 0.05
    prepared.train()(x).square().mean().backward()
    assert float(prepared.get_parameter(weight).grad.abs().sum()) > 0
    artifact = qat.export(prepared.eval(), folder / "m.onnx", verify=[x, x[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    return prepared, open_session(artifact.path).ops()
