"""PyTorch's operators on the grid: through the public calls, exact in ONNX Runtime, trained with a gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters import torch as adapter
from qat.arithmetic import lookup as functions
from qat.arithmetic.encoding import from_range
from qat.program import interpreter as reference
from qat.runtimes import open_session


@pytest.fixture(scope="module")
def images():
    return torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A function of an image between two convolutions, or of two images after one each."""

    def __init__(self, work, *, binary=False):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.end = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)
        self.scale, self.position = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 6, 6))
        self.register_buffer("shift", torch.randn(6))
        self.work, self.binary = work, binary

    def forward(self, x):
        a = self.a(x)
        return self.end(self.work(self, a, self.b(x)) if self.binary else self.work(self, a))


def check(model, x, path, floats=()):
    """Prepare, train a step, export: nothing but ``floats`` stays float, and the artifact is the model."""
    prepared = qat.calibrate(qat.prepare(model.eval(), x[:2]), [x])
    assert sorted(prepared.plan.floats()) == sorted(floats), prepared.plan.floats()
    with torch.no_grad():
        expected = model(x)
    assert float((prepared.eval()(x) - expected).norm() / expected.norm()) < 0.1
    prepared.train()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    prepared(x).square().mean().backward()
    optimizer.step()
    artifact = qat.export(prepared.eval(), path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    values = reference.run(adapter.lower(prepared), x.numpy(), call=_no_block)
    for name, value in adapter.grid_values(prepared, x.numpy()).items():
        if name in values:
            np.testing.assert_array_equal(value, values[name], err_msg=name)
    return prepared, open_session(artifact.path).ops()


def _no_block(block, arrays):
    raise AssertionError("nothing stays float")


BROADCASTS = {
    "gate": lambda m, a, b: a * b.mean((2, 3), keepdim=True),
    "gate first": lambda m, a, b: b.mean((2, 3), keepdim=True) * a,
    "sum of a row": lambda m, a, b: a.mean((2, 3), keepdim=True) + b,
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
def test_operands_of_other_shapes_and_constants(name, images, tmp_path):
    prepared, ops = check(Between(BROADCASTS[name], binary=True), images, tmp_path)
    assert not {"Add", "Mul", "Sub", "Div"} & set(ops)
    grads = dict(prepared.named_parameters())
    for parameter in {"position": "position", "layer scale": "scale"}.get(name, "a.weight").split():
        assert float(grads[parameter].grad.abs().sum()) > 0


FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "abs": torch.abs,
    "neg": lambda x: -x,
    "square": torch.square,
    "power": lambda x: x**2,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp above": lambda x: x.clamp(max=0.4),
    "hardtanh": F.hardtanh,
    "root": lambda x: F.relu(x).sqrt(),
    "inverse root": lambda x: (F.relu(x) + 1).rsqrt(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_tables(name, images, tmp_path):
    prepared, ops = check(Between(lambda m, x: FUNCTIONS[name](x)), images, tmp_path)
    assert "QLinearConv" in ops and not {"Conv", "Gemm", "MatMul"} & set(ops)
    assert float(prepared.get_parameter("a.weight").grad.abs().sum()) > 0


MOVES = {
    "permute": lambda x: x.permute(0, 1, 3, 2),
    "transpose": lambda x: x.transpose(1, 2).flip(3).transpose(2, 1),
    "slice": lambda x: x[:, :, 1:5:2],
    "select": lambda x: x[:, :, 2].unsqueeze(2),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "split": lambda x: torch.cat(x.split(2, 1)[::-1], 1),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "index": lambda x: x.index_select(1, torch.tensor([3, 1, 0, 2])),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 3, -1),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2)[:, ::4],
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "shuffle by hand": lambda x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).reshape(-1, 4, 6, 6),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "maximum": lambda x: x.amax((2, 3), keepdim=True),
    "minimum": lambda x: x.amin(2, keepdim=True),
    "minimum of an axis": lambda x: x.min(3, keepdim=True).values,
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive maxima": lambda x: F.adaptive_max_pool2d(x, 3),
    "adaptive maximum of rows": lambda x: F.adaptive_max_pool1d(x.flatten(2), 1).unsqueeze(3),
    "maxima, the last windows beyond the edge": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "zeros beside channels": lambda x: F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)),
    "zeros beside all axes": lambda x: F.pad(x[:, :2], (1, 0, 0, 2, 2, 0)),
    "zeros beside two axes of three": lambda x: F.pad(x[:, :3].flatten(2), (1, 2, 0, 1)).unsqueeze(2),
    "zeros beside a row": lambda x: F.pad(x.flatten(1), (0, 4)).view(-1, 4, 37, 1),
    "indices": lambda x: x[:, [3, 1, 0, 2]],
    "windows": lambda x: x.unfold(3, 2, 2).amax(4),
    "columns": lambda x: F.unfold(x, 2, stride=2)[:, :4].unflatten(2, (3, 3)),
    "moved axes": lambda x: x.movedim(1, 2).swapaxes(1, 2),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "interleaved": lambda x: x.repeat_interleave(2, 3),
    "expanded as": lambda x: x[:, :, :1].expand_as(x),
    "maximum of an axis": lambda x: x.max(2, keepdim=True)[0],
    "reflected": lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
    "two chained": lambda x: F.mish(F.softplus(x.transpose(2, 3)).roll(1, 2)).flip(2),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_run_on_integers(name, images, tmp_path):
    prepared = qat.calibrate(qat.prepare(Between(lambda m, x: MOVES[name](x)).eval(), images[:2]), [images])
    assert not prepared.plan.floats()
    prepared.train()(images).square().mean().backward()
    assert float(prepared.get_parameter("a.weight").grad.abs().sum()) > 0
    artifact = qat.export(prepared.eval(), tmp_path / "m.onnx", verify=[images, images[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    ops = open_session(artifact.path).ops()
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1, 1)


def test_table_is_the_float_function_rounded():
    x, y = from_range(-4.0, 3.0, 0, 255), from_range(-0.2, 3.0, 0, 255)
    real = torch.arange(x.lo, x.hi + 1) * float(x.scale)
    expected = (F.silu(real.double()).float() / float(y.scale)).round().clamp(y.lo, y.hi)
    np.testing.assert_array_equal(functions.table("silu", {}, x, y), expected.numpy())
    slopes = torch.func.vmap(torch.func.grad(F.silu))(real) * float(x.scale) / float(y.scale)
    np.testing.assert_allclose(functions.slopes("silu", {}, x, y), slopes, atol=1e-3)


class Signals(nn.Module):
    """Convolutions, BatchNorm, activations and pooling of one dimension, with a residual sum and a concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.norm = nn.Conv1d(1, 8, 9, 2), nn.BatchNorm1d(8)
        self.depthwise, self.after = nn.Conv1d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm1d(8)
        self.causal, self.end = nn.Conv1d(8, 8, 3, dilation=2), nn.Linear(16, 3)
        with torch.no_grad():
            for norm in (self.norm, self.after):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        y = F.relu6(self.after(self.depthwise(x)))
        y = torch.sigmoid(self.causal(F.pad(y, (4, 0))))
        y = F.avg_pool1d(torch.cat([x + y, x], 1), 2)
        return self.end(F.adaptive_avg_pool1d(y, 1).flatten(1))


def test_signals_are_images_of_one_row(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared, ops = check(Signals(), x, tmp_path)
    assert ops["QLinearConv"] == 4  # of which one is the average pooling
    assert prepared.get_parameter("stem.weight").shape == (8, 1, 9)
    kinds = [planned.op.kind for planned in prepared.plan.ops]
    assert "batch_norm" not in kinds
    assert kinds.count("reshape") == 3  # in, out, and the flattening: neighbours keep the axis between them


def test_signals_are_exact_in_litert(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared = qat.calibrate(qat.prepare(Signals().eval(), x[:2], target="litert"), [x])
    assert not prepared.plan.floats()
    assert qat.export(prepared.eval(), tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


def test_signals_in_float_reach_litert(tmp_path):
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    prepared = qat.prepare(Signals().eval(), x[:2], target="litert", recipe="float16").eval()
    path = qat.export(prepared, tmp_path / "m.tflite").path
    (got,) = open_session(path).run(x.numpy())
    np.testing.assert_allclose(got, prepared(x).detach().numpy(), atol=1e-4)
