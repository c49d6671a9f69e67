"""Sums, products, limits and slopes of PyTorch, with operands of other shapes and constants: all in integers, and exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support.operators import IMAGES, RUNTIMES, Between, Then, calibrated, check_then, check_trained, exact_artifact

BROADCASTS = {
    "gate": lambda m, a, b: a * b.mean((2, 3), keepdim=True),
    "gate expanded": lambda m, a, b: a * b.mean((2, 3), keepdim=True).expand_as(a),
    "sum of one expanded": lambda m, a, b: b.mean(2, keepdim=True).expand(-1, -1, a.shape[2], -1) + a,
    "gate first": lambda m, a, b: b.mean((2, 3), keepdim=True) * a,
    "sum of a row": lambda m, a, b: a.mean((2, 3), keepdim=True) + b,
    "sum of a row and a column": lambda m, a, b: a.mean(2, keepdim=True) + b.mean(3, keepdim=True),
    "position": lambda m, a, b: a + m.position,
    "layer scale": lambda m, a, b: m.scale * a + b,
    "buffer": lambda m, a, b: a * m.shift,
    "half": lambda m, a, b: a * 0.5,
    "divided": lambda m, a, b: a / 3,
    "shifted": lambda m, a, b: (a + 3) + b,
    "less": lambda m, a, b: a - 1.5,
    "rest": lambda m, a, b: 1 - a,
    "difference": lambda m, a, b: a - b,
}


@pytest.mark.parametrize("name", BROADCASTS)
def test_operands_of_other_shapes_and_constants(name, tmp_path):
    prepared, ops = check_trained(Between(BROADCASTS[name], binary=True), IMAGES, tmp_path)
    assert not {"Add", "Mul", "Sub", "Div", "Expand"} & set(ops)
    grads = dict(prepared.named_parameters())
    for parameter in {"position": "position", "layer scale": "scale"}.get(name, "a.weight").split():
        assert float(grads[parameter].grad.abs().sum()) > 0


def slopes(count):
    torch.manual_seed(6)
    made = nn.PReLU(count)
    with torch.no_grad():
        made.weight.copy_(torch.rand(count) - 0.3)
    return made


CASES = {
    "maximum with a number": (lambda m, x: torch.maximum(x, torch.tensor(0.1)), None),
    "minimum with a number": (lambda m, x: torch.min(torch.tensor([0.2]), x), None),
    "gated": (lambda m, x: F.glu(x, 1), None),
    "one slope": (lambda m, x: m.extra(x), slopes(1)),
    "a slope for each channel": (lambda m, x: m.extra(x), slopes(4)),
    "a slope for each channel of rows": (lambda m, x: m.extra(x.flatten(2)), slopes(4)),
    "a slope for each feature": (lambda m, x: m.extra(x[:, :, 1, 2]), slopes(4)),
}


@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_limits_and_slopes_run_on_integers(name, target, suffix, tmp_path):
    check_then(*CASES[name], target, tmp_path / f"m.{suffix}")


def test_a_trained_limit_is_a_constant_on_the_grid(tmp_path):
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    prepared = calibrated(Then(lambda m, x: torch.maximum(x, m.extra.weight), slopes(1)), x)
    prepared.train()(x).square().mean().backward()
    assert float(prepared.extra.weight.grad.abs().sum()) > 0
    exact_artifact(prepared, tmp_path / "m.onnx", x)


def test_a_sum_whose_scales_are_far_apart_is_evaluated_with_gradients_on():
    prepared = calibrated(Between(lambda m, a, b: a + b * 1e-6, binary=True), IMAGES, target="litert")
    assert prepared.eval()(IMAGES).isfinite().all()
