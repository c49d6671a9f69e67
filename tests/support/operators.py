"""Nets around one PyTorch operator, and what the tests of operators ask of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qat
from qat.adapters import torch as adapter
from qat.program import interpreter as reference
from qat.runtimes import open_session

#: The runtimes that tests of operators name, and the suffix of their artifacts.
RUNTIMES = (("onnxruntime", "onnx"), ("litert", "tflite"))

#: Images for :class:`Between`.
IMAGES = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A function of an image between two convolutions, or of two images after one each."""

    def __init__(self, work: Callable[..., Tensor], *, binary: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.end = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)
        self.scale, self.position = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 6, 6))
        self.register_buffer("shift", torch.randn(6))
        self.work, self.binary = work, binary

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.end(self.work(self, a, self.b(x)) if self.binary else self.work(self, a))


class Then(nn.Module):
    """A convolution, the work, and a fully connected layer on its flattened result."""

    def __init__(self, work: Callable[..., Tensor], extra: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem, self.extra, self.work = nn.Conv2d(3, 4, 1), extra or nn.Identity(), work
        with torch.no_grad():
            rows = self.tail(torch.zeros(1, 3, 6, 6))
        self.end = nn.Linear(rows.shape[1], 3)

    def tail(self, x: Tensor) -> Tensor:
        return self.work(self, self.stem(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.tail(x))


def calibrated(model: nn.Module, x: Tensor, target: str | None = None, within: float = 0.1) -> Any:
    """Return the calibrated model, of which nothing stays float, and whose outputs lie within a share of the float ones' norm."""
    prepared = qat.calibrate(qat.prepare(model.eval(), x[:2], target=target), [x])
    assert not prepared.plan.floats(), prepared.plan.floats()
    with torch.no_grad():
        expected = model(x)
        assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < within
    return prepared


def exact_artifact(prepared: Any, path: Path, *samples: Tensor) -> Path:
    """Export, and return the path: the artifact equals the model for each of the batches."""
    artifact = qat.export(prepared.eval(), path, verify=list(samples))
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    return artifact.path


def check_operator(model: nn.Module, x: Tensor, weight: str, folder: Path) -> tuple[Any, dict[str, int]]:
    """Check a model whose ``weight`` gets a gradient; return the prepared model and the operators that ran."""
    prepared = calibrated(model, x, within=0.05)
    prepared.train()(x).square().mean().backward()
    assert float(prepared.get_parameter(weight).grad.abs().sum()) > 0
    return prepared, open_session(exact_artifact(prepared, folder / "m.onnx", x, x[:3])).ops()


def check_trained(model: nn.Module, x: Tensor, folder: Path) -> tuple[Any, dict[str, int]]:
    """Check a model after a training step, each of its kernels too; return the prepared model and the operators that ran."""
    prepared = calibrated(model, x)
    optimizer = torch.optim.SGD(prepared.train().parameters(), 0.01)
    prepared(x).square().mean().backward()
    optimizer.step()
    path = exact_artifact(prepared, folder / "m.onnx", x)
    values = reference.run(adapter.lower(prepared), x.numpy(), call=_no_block)
    for name, value in adapter.grid_values(prepared, x.numpy()).items():
        if name in values:
            np.testing.assert_array_equal(value, values[name], err_msg=name)
    return prepared, open_session(path).ops()


def _no_block(block: Any, arrays: Any) -> Any:
    raise AssertionError("nothing stays float")


def check_then(work: Callable[..., Tensor], extra: nn.Module | None, target: str, path: Path) -> None:
    """Check :class:`Then` for a target: the weights before the work, and those of ``extra``, get gradients."""
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    prepared = calibrated(Then(work, extra), x, target)
    prepared.train()(x).square().mean().backward()
    trained = [name for name, p in prepared.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0]
    assert "stem.weight" in trained
    assert ("extra.weight" in trained) == (extra is not None and len(extra.weight) > 1)
    exact_artifact(prepared, path, x, x[:3])
