"""Activations of fewer than 8 bits: no runtime has them, the NumPy reference does."""

import numpy as np
import pytest

import qat
from qat.errors import ExportError
from qat.frameworks import adapter_for
from qat.planning.recipe import QuantSpec, Rule
from qat.program import interpreter as reference
from support.eager import eagerly
from support.low_bits import FRAMEWORKS, images, net, recipe


@pytest.mark.parametrize(("bits", "framework"), [(4, "torch"), (3, "torch"), (3, "keras")])
def test_the_model_computes_what_the_reference_does(framework, bits):
    x, y = images(framework), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net(framework), x[:2], f"static_wi{bits}_ai{bits}", "simulated"), [x])
    qat.finetune(model, [(x, y)] * 3, learning_rate=0.01, progress=False)
    adapter = adapter_for(framework)
    program = adapter.lower(model)
    held_out = images(framework, 8, seed=1)
    expected = reference.run(program, held_out)
    found = adapter.grid_values(model, held_out)
    assert len(found) > 10
    for name, value in found.items():
        assert np.array_equal(expected[name], value), name
    inside = [e for e in program.encodings().values() if e["qmin"] == 0 and e["axis"] is None]
    assert {e["qmax"] for e in inside} >= {2**bits - 1, 255}


@FRAMEWORKS
def test_there_is_nothing_to_export(framework, tmp_path):
    x = images(framework)
    model = qat.calibrate(qat.prepare(net(framework), x[:2], "static_wi4_ai4", "simulated"), [x])
    with pytest.raises(ExportError, match=r"target 'simulated' has no runtime.*prepare with a recipe of 8-bit activations"):
        qat.export(model, tmp_path / "model.onnx")


def scales(model):
    """Return the learned scales of a model by name, as arrays."""
    if hasattr(model, "named_parameters"):
        named = {name: p.detach().numpy() for name, p in model.named_parameters()}
    else:
        named = {v.path: np.array(v) for v in model.trainable_variables}
    ranges = {name: v.copy() for name, v in named.items() if name.endswith("range")}
    return ranges, {name: v.copy() for name, v in named.items() if "weight_step" in name}


@pytest.fixture
def eager(framework):
    with eagerly(framework):
        yield


@pytest.mark.slow
@FRAMEWORKS
@pytest.mark.parametrize(
    ("weights", "activations", "target", "granularity"),
    [(4, 4, "simulated", "channel"), (3, 3, "simulated", "tensor"), (4, 8, "litert", "channel"), (4, 8, "litert", "tensor")],
)
@pytest.mark.usefixtures("eager")
def test_learned_scales_are_trained_and_the_model_computes_what_the_reference_does(
    framework, weights, activations, target, granularity
):
    x, y = images(framework), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net(framework), x[:2], recipe(weights, activations, granularity), target), [x])
    before = scales(model)
    qat.finetune(model, [(x, y)] * 5, learning_rate=0.02, progress=False)
    after = scales(model)
    assert len(before[0]) == (13 if activations < 8 else 14)  # the logits have 8 bits
    assert len(before[1]) == 11
    assert all(not np.array_equal(a[name], b[name]) for a, b in zip(before, after, strict=True) for name in a)
    adapter = adapter_for(framework)
    held_out = images(framework, 8, 1)
    expected, found = reference.run(adapter.lower(model), held_out), adapter.grid_values(model, held_out)
    for name, value in found.items():
        assert np.array_equal(expected[name], value), name


@FRAMEWORKS
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.usefixtures("eager")
def test_learned_scales_reach_the_artifact(framework, suffix, tmp_path):
    x, y = images(framework), np.arange(32) % 10
    target = {".onnx": "onnxruntime", ".tflite": "litert"}[suffix]
    model = qat.calibrate(qat.prepare(net(framework), x[:2], recipe(4, 8), target), [x])
    qat.finetune(model, [(x, y)] * 5, learning_rate=0.02, progress=False)
    assert qat.export(model, tmp_path / f"model{suffix}", verify=[images(framework, 8, 1)]).parity.exact == 1.0


def fake_quantized(x, weight, bias, step, low, high, bits, x_step):
    """LSQ and LSQ+ as published, on real values, by automatic differentiation of straight-through rounding."""
    import torch

    def rounded(v):
        return v + (v.round() - v).detach()

    qmax, levels = 2 ** (bits - 1) - 1, 2**bits - 1
    w = rounded((weight / step.view(-1, 1, 1, 1)).clamp(-qmax, qmax)) * step.view(-1, 1, 1, 1)
    b = rounded(bias / (step.detach() * x_step)) * step.detach() * x_step
    real = torch.nn.functional.conv2d(x, w, b)
    s = (high - low) / levels
    lo = torch.round(low.detach() / s.detach())
    inside = rounded((real / s).clamp(lo, lo + levels)) * s
    # Where the value is clipped the output is an end of the range, which is learned as itself.
    return torch.where(real / s >= lo + levels, high, torch.where(real / s <= lo, low, inside))


def test_gradients_are_those_of_lsq():
    import torch

    torch.manual_seed(0)
    x = torch.randn(64, 3, 6, 6)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(5, 2, 1))
    model = qat.calibrate(qat.prepare(net, x[:2], recipe(3, 3), "simulated"), [x.numpy()]).train()
    node = next(m for m in model.modules() if getattr(m, "weight_step", None) is not None)
    node.weight_step.data.mul_(0.97)  # no weight exactly at a limit, where the two differ
    grid, x_grid = node.output, node.inputs[0]
    ints = torch.clamp((x / x_grid.scale).round(), x_grid.lo, x_grid.hi)
    real_grad = torch.randn(64, 5, 6, 6)
    weight, bias = model.get_parameter("0.weight"), model.get_parameter("0.bias")
    node(ints, weight, bias).backward(real_grad * grid.scale)  # of the integers: that of the real value times the scale
    found = [p.grad.clone() for p in (weight, bias, node.weight_step, grid.range)]

    leaves = [t.detach().clone().requires_grad_() for t in (weight, bias, node.weight_step, grid.range[0], grid.range[1])]
    w, b, step, low, high = leaves
    fake_quantized(ints * x_grid.scale, w, b, step, low, high, 3, x_grid.scale).backward(real_grad)
    per_channel = (3 * 3) ** 0.5  # LSQ's factor: elements times qmax
    assert torch.allclose(found[0], w.grad, rtol=1e-3, atol=1e-3)
    assert torch.allclose(found[1], b.grad, rtol=1e-3, atol=1e-3)
    assert torch.allclose(found[2], step.grad / per_channel, rtol=1e-3, atol=1e-2)
    factor = 7**2 / (5 * 36 * 7) ** 0.5
    assert torch.allclose(found[3], torch.stack([low.grad, high.grad]) * factor, rtol=1e-3, atol=0.2)


def test_both_frameworks_have_the_same_gradients():
    import tensorflow as tf
    import torch

    from qat.adapters.keras.autograd import learned_scales as in_keras
    from qat.adapters.keras.nodes.activation_grid import Grid as KerasGrid
    from qat.adapters.torch.autograd import learned_scales as in_torch
    from qat.adapters.torch.nodes.activation_grid import Grid as TorchGrid
    from qat.planning.plan import Group

    random = np.random.default_rng(0)
    group = Group("g", ("t",), QuantSpec(bits=3, learned=True), 0, 7, False, learned=True)
    v, g = random.normal(0, 3, (4, 6, 6, 5)).astype(np.float32), random.normal(size=(4, 6, 6, 5)).astype(np.float32)
    w, gw = random.normal(size=(5, 12)).astype(np.float32), random.normal(size=(5, 12)).astype(np.float32)
    step = np.abs(random.normal(0.3, 0.05, 5)).astype(np.float32)

    grid = TorchGrid(group)
    grid.set_range(-0.4, 1.1)
    tv = torch.from_numpy(v).requires_grad_()
    limits = (grid.lo, grid.hi)
    in_torch.requantize(tv, grid.range, grid.scale_value, limits, limits).backward(torch.from_numpy(g))
    tw, ts = torch.from_numpy(w).requires_grad_(), torch.from_numpy(step).requires_grad_()
    in_torch.quantize_weight(tw, ts, ts.detach(), 3).backward(torch.from_numpy(gw))

    other = KerasGrid(group)
    other.set_range(-0.4, 1.1)
    kv, kw, ks = tf.constant(v), tf.constant(w), tf.constant(step)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((kv, kw, ks))
        ends = (tf.convert_to_tensor(other.lo), tf.convert_to_tensor(other.hi))
        y = in_keras.requantize(kv, other.range, tf.convert_to_tensor(other.scale), ends, ends, 7.0)
        q = in_keras.quantize_weight(kw, ks, ks, (5, 1), tf.constant(3.0))
    found = [tape.gradient(y, t, tf.constant(g)) for t in (kv, other.learned.value)]
    found += [tape.gradient(q, t, tf.constant(gw)) for t in (kw, ks)]
    for ours, theirs in zip((tv.grad, grid.range.grad, tw.grad, ts.grad), found, strict=True):
        assert np.allclose(ours.numpy(), np.asarray(theirs), rtol=1e-4, atol=1e-4)


@FRAMEWORKS
@pytest.mark.usefixtures("eager")
def test_learned_scales_do_not_decay(framework):
    x, y = images(framework), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net(framework), x[:2], recipe(4, 4), "simulated"), [x])
    before = scales(model)
    qat.finetune(model, [(x, y)], learning_rate=1e-6, weight_decay=1e4, gradient_clip=1e-3, progress=False)
    for a, b in zip(before, scales(model), strict=True):
        assert all(np.allclose(a[name], b[name], rtol=1e-4, atol=1e-6) for name in a)


@FRAMEWORKS
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("estimator", "moves"), [("minmax", True), ("ema", True), ("percentile", False), ("mse", False)])
def test_training_does_not_move_ranges_that_leave_values_out(framework, estimator, moves):
    x, y = images(framework), np.arange(32) % 10
    model = qat.prepare(net(framework), x[:2], recipe(4, 4, learned=False), "simulated")
    qat.calibrate(model, [x], estimator=estimator)
    before = {name: grid.encoding.scale for name, grid in model.grids.items()}
    qat.finetune(model, [(0.5 * x, y)] * 3, learning_rate=1e-6, observe_fraction=1.0, progress=False)
    assert any(before[name] != grid.encoding.scale for name, grid in model.grids.items()) == moves


@pytest.mark.slow
@FRAMEWORKS
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.usefixtures("eager")
def test_dampening_draws_weights_to_their_grid(framework, learned):
    from importlib import import_module

    def distance():
        found = import_module(f"qat.adapters.{framework}.dampening").distance(model)
        return float(found.detach() if framework == "torch" else found)

    x, y = images(framework), np.arange(32) % 10
    ends = []
    for dampening in (0.0, 10.0):
        model = qat.calibrate(qat.prepare(net(framework), x[:2], recipe(3, 3, learned=learned), "simulated"), [x])
        start = distance()
        qat.finetune(
            model, [(x, y)] * 6, learning_rate=0.01, schedule="constant", gradient_clip=None, dampening=dampening, progress=False
        )
        ends.append(distance() / start)
    assert ends[1] < 0.9 * ends[0]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"weight": {"symmetric": True, "learned": True}, "mode": "dynamic"}, "learned in mode static"),
        ({"activation": {"bits": 16, "learned": True}}, "activations of up to 8 bits"),
    ],
)
def test_scales_that_nothing_learns_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        Rule.model_validate(rule)
