"""Truth values that PyTorch adds, compares and chooses as it does numbers, in both formats."""

import pytest
import torch
from torch import nn

import qat

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
FORMS = {
    "sums": lambda a, b: [a + b, a * b, a * 3, a + 1, b * 1.5],
    "comparisons": lambda a, b: [a > b, a >= b, a < b, a <= b, a == b, a > 0],
    "extremes": lambda a, b: [
        torch.maximum(a, b), torch.minimum(a, b), a.amax(1, keepdim=True), b.view(-1, 2, 4).amin((1, 2))[:, None],
        a.max(1, keepdim=True)[0], (a.max() & b.min()).expand(a.shape[0], 1),
    ],
    "choices": lambda a, b: [torch.where(a, b, ~b), a.masked_fill(b, True), a.masked_fill(b, False), torch.where(a, 1, 0)],
    "members": lambda a, b: [
        torch.isin(a.long(), torch.tensor([[1, 2], [3, 4]])), torch.isin(b.int(), torch.tensor([1, 5]), invert=True)
    ],
}  # fmt: skip


class Truths(nn.Module):
    """Two truth values of each feature, and what a form makes of them."""

    def __init__(self, form):
        super().__init__()
        self.form, self.dense = form, nn.Linear(8, 8)

    def forward(self, x):
        y = self.dense(x)
        return y, torch.cat([made.float() for made in self.form(y > 0.1, y < 0.5)], 1)


@pytest.mark.parametrize(("target", "suffix"), [("onnxruntime", ".onnx"), ("litert", ".tflite")])
@pytest.mark.parametrize("form", FORMS)
def test_truth_values_reach_both_formats(form, target, suffix, tmp_path):
    torch.manual_seed(0)
    prepared = qat.calibrate(qat.prepare(Truths(FORMS[form]).eval(), X[:2], target=target), [X])
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1
