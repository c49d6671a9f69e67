"""Cells of recurrent networks run in integers, step by step, in both formats."""

import numpy as np
import pytest
import torch
from torch import nn

import qat

CELLS = {
    "lstm": lambda: nn.LSTMCell(4, 6), "gru": lambda: nn.GRUCell(4, 6), "tanh": lambda: nn.RNNCell(4, 6, bias=False),
    "relu": lambda: nn.RNNCell(4, 6, nonlinearity="relu"),
}  # fmt: skip
X = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))


class Steps(nn.Module):
    """A cell over three steps; the first has no state."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(6, 2)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_runs_in_integers_and_trains(name, tmp_path):
    torch.manual_seed(0)
    model = Steps(CELLS[name]()).eval()
    for target, suffix in (("onnxruntime", ".onnx"), ("litert", ".tflite")):
        prepared = qat.calibrate(qat.prepare(model, X[:2], target=target), [X])
        products = [p for p in prepared.plan.ops if p.op.kind == "dense"]
        assert len(products) == 7 and all(p.integer for p in products)
        with torch.no_grad():
            near, expected = prepared.eval()(X), model(X)
        assert float((near - expected).norm() / expected.norm()) < 0.1
        qat.finetune(prepared, [(X, torch.zeros(8, 2))], loss="mse", learning_rate=1e-2, progress=False)
        assert not np.allclose(prepared.get_parameter("cell.weight_hh").detach(), model.cell.weight_hh.detach())
        assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1
