"""Range tracking in PyTorch: the ranges move after a training pass, all at once, and only where calibration lets them."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters.torch import set_range_tracking
from qat.adapters.torch.nodes.range_tracking import MOMENTUM
from qat.arithmetic.encoding import from_range
from qat.arithmetic.range_estimators import RangeMode


class Joined(nn.Module):
    """Two branches of one scale, tables behind a fused ReLU and a product, an addition."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.a(x))
        y = torch.cat([y, self.b(torch.tanh(y))], 1)
        y = F.silu(self.c(y)) + y
        return self.head(y.mean((2, 3)))


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32))


def made(images, estimator=None):
    torch.manual_seed(0)
    return qat.calibrate(qat.prepare(Joined().eval(), images[:2]), [images], estimator)


def ranges(model):
    return {name: grid.range.detach().clone() for name, grid in model.grids.items()}


def test_a_tracking_pass_computes_with_the_scales_of_its_start(images):
    """Nothing of the pass sees the ranges move: outputs and gradients are those of frozen ranges."""
    results = []
    for tracking in (True, False):
        model = made(images)
        set_range_tracking(model, tracking)
        before = ranges(model)
        y = model.train()(3 * images)
        y.square().sum().backward()
        results.append((y.detach(), [p.grad for p in model.parameters()]))
        moved = [not torch.equal(before[name], now) for name, now in ranges(model).items()]
        assert all(moved) if tracking else not any(moved)
    (y, grads), (expected, expected_grads) = results
    assert torch.equal(y, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_ranges_move_towards_the_extremes_of_the_batch(images):
    model = made(images)
    first = model.grids[model.plan.graph.inputs[0]]
    set_range_tracking(model, True)
    before, seen = first.range.clone(), 3 * torch.stack(images.aminmax())
    model.train()(3 * images)
    torch.testing.assert_close(first.range, before + MOMENTUM * (seen - before))
    model.eval()(5 * images)
    torch.testing.assert_close(first.range, before + MOMENTUM * (seen - before))
    for grid in model.grids.values():
        expected = from_range(*grid.range.tolist(), grid.group.qmin, grid.group.qmax, grid.group.symmetric)
        assert grid.encoding.same_as(expected)
        assert (float(grid.scale), float(grid.zero_point)) == (float(expected.scale), float(expected.zero_point))
        assert (grid.lo, grid.hi) == (expected.lo, expected.hi)


def test_tensors_of_one_scale_count_as_one(images):
    model = made(images)
    shared = next(grid for grid in model.grids.values() if len(grid.group.tensors) > 2)
    joined = next(p.op for p in model.plan.ops if p.op.kind == "concat")
    nodes, seen = model.get_submodule("_qat.nodes"), []
    for writer in [p.op.name for p in model.plan.ops if p.op.output in joined.inputs]:
        nodes.get_submodule(writer).register_forward_hook(lambda node, args, y: seen.append(y.detach() * shared.scale))
    set_range_tracking(model, True)
    before = shared.range.clone()
    model.train()(images)
    extremes = torch.stack([min(y.min() for y in seen), max(y.max() for y in seen)])
    assert float(((shared.range - before) / MOMENTUM - (extremes - before)).abs().max()) < float(shared.scale)


def test_one_reduction_over_processes_a_pass(images, monkeypatch):
    calls = []
    model = made(images)
    set_range_tracking(model, True)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: calls.append(tuple(tensor.shape)))
    model.train()(images)
    assert len(calls) == 1
    model(images)
    assert len(calls) == 2


def test_a_pass_that_was_not_finished_moves_no_range(images):
    model, other = made(images), made(images)
    for each in (model, other):
        set_range_tracking(each, True)
        each.train()
    last = model.get_submodule("_qat.nodes.linear")
    broken = last.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(100 * images)
    broken.remove()
    set_range_tracking(model, True)
    model(images)
    other(images)
    assert all(torch.equal(now, ranges(other)[name]) for name, now in ranges(model).items())


def test_values_that_are_no_numbers_move_no_range(images):
    model = made(images)
    first = model.grids[model.plan.graph.inputs[0]]
    set_range_tracking(model, True)
    before = first.range.clone()
    model.train()(images * float("nan"))
    assert torch.equal(first.range, before)
    assert all(torch.isfinite(grid.range).all() for grid in model.grids.values())


def loaded(model, images, way, tmp_path):
    if way == "deepcopy":
        return copy.deepcopy(model)
    if way == "pickle":
        return pickle.loads(pickle.dumps(model))
    fresh = qat.prepare(Joined().eval(), images[:2])
    if way == "state_dict":
        fresh.load_state_dict(model.state_dict())
        return fresh
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "m.safetensors")
    return qat.load_prepared(fresh, tmp_path / "m.safetensors")


@pytest.mark.parametrize("way", ["load_prepared", "state_dict", "pickle", "deepcopy"])
@pytest.mark.parametrize(("estimator", "moves"), [("mse", False), ("minmax", True)])
def test_a_saved_model_knows_whether_its_ranges_may_move(way, estimator, moves, images, tmp_path):
    model = loaded(made(images, estimator), images, way, tmp_path)
    before = ranges(model)
    options = {"learning_rate": 1e-6, "observe_fraction": 1.0, "progress": False}
    qat.finetune(model, [(0.5 * images, torch.arange(8) % 5)] * 2, **options)
    assert any(not torch.equal(before[name], now) for name, now in ranges(model).items()) == moves


def test_a_state_of_before_the_flag_is_loaded(images):
    model = made(images)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(".trackable")}
    fresh = qat.prepare(Joined().eval(), images[:2])
    fresh.load_state_dict(state)
    set_range_tracking(fresh, True)
    assert any(grid.mode is RangeMode.TRACKING for grid in fresh.grids.values())


def test_the_scale_of_a_softmax_follows():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return torch.softmax(self.q(x) @ self.k(x).mT, -1) @ x

    torch.manual_seed(0)
    x = torch.randn(4, 40, 8)
    model = qat.calibrate(qat.prepare(Attention().eval(), x), [0.1 * x], "percentile")
    (grid,) = [grid for grid in model.grids.values() if grid.group.probabilities]
    scales = [float(grid.scale)]
    set_range_tracking(model, True)
    for _ in range(3):
        model.train()(x).sum().backward()
        scales.append(float(grid.scale))
        assert float(grid.encoding.scale) == float(grid.group.encoding(*grid.range.tolist()).scale) == scales[-1]
    assert scales == sorted(set(scales))
