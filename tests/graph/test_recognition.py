"""Functions in pieces: every spelling gets the kernels of the functional form, a near miss does not, and both are exact."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qat
from qat.graph.recognition.functions import function_of
from support.rows import every_second

RUNTIMES = (("onnxruntime", "onnx"), ("litert", "tflite"))
ROOT = math.sqrt(2 / math.pi)


def centred(x, axes):
    return x - x.mean(axes, keepdim=True)


def spread(x, axes):
    return (centred(x, axes) ** 2).mean(axes, keepdim=True)


def even(x, axes):
    return centred(x, axes) / torch.sqrt(spread(x, axes) + 1e-5)


def square_mean(x):
    return (x * x).mean(-1, keepdim=True)


def rows(f):
    """Return a function of channels-first images as one of channels-last ones."""
    return lambda m, x: f(m, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


#: By name: the functional form, then spellings of it. ``m`` has the parameters of :class:`Branches`.
SPELLINGS = {
    "hard swish": (
        lambda m, x: F.hardswish(x),
        lambda m, x: x * torch.clamp(x + 3, 0, 6) / 6,
        lambda m, x: F.relu6(3 + x) * (1 / 6) * x,
        lambda m, x: x / 6 * torch.clamp(x + 3, min=0).clamp(max=6),
        lambda m, x: torch.clamp(x / 6 + 0.5, 0, 1) * x,
        lambda m, x: x * F.hardsigmoid(x),
        lambda m, x: x * torch.minimum(torch.relu(x + 3), torch.tensor(6.0)) / torch.tensor(6.0),
    ),
    "hard sigmoid": (
        lambda m, x: F.hardsigmoid(x),
        lambda m, x: F.relu6(x + 3) / 6,
        lambda m, x: torch.clamp(0.5 + x * 0.16666667, 0, 1),
        lambda m, x: (x / 6 + 0.5).clamp(min=0).clamp(max=1),
    ),
    "gelu": (
        lambda m, x: F.gelu(x),
        lambda m, x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda m, x: x * (torch.erf(x * 0.70710678) + 1.0) * 0.5,
        lambda m, x: x * 0.5 * (1.0 + torch.special.erf(x / 1.4142135)),
        lambda m, x: x * (0.5 + torch.erf(x / math.sqrt(2)) / 2),
    ),
    "gelu by tanh": (
        lambda m, x: F.gelu(x, approximate="tanh"),
        lambda m, x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
        lambda m, x: x * (0.5 + 0.5 * torch.tanh(ROOT * x * (1 + 0.044715 * x * x))),
        lambda m, x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * torch.pow(x, 3))),
    ),
    "silu": (
        lambda m, x: F.silu(x),
        lambda m, x: x * torch.sigmoid(x),
        lambda m, x: torch.sigmoid(x) * x,
        lambda m, x: x / (1 + torch.exp(-x)),
        lambda m, x: 0.5 * x * (1 + torch.tanh(x / 2)),
    ),
    "mish": (
        lambda m, x: F.mish(x),
        lambda m, x: x * torch.tanh(F.softplus(x)),
        lambda m, x: torch.tanh(torch.log(1 + torch.exp(x))) * x,
    ),
    "softplus": (
        lambda m, x: F.softplus(x),
        lambda m, x: torch.log(1 + torch.exp(x)),
        lambda m, x: torch.log1p(x.exp()),
        lambda m, x: torch.relu(x) + torch.log1p(torch.exp(-x.abs())),
    ),
    "sigmoid": (
        lambda m, x: torch.sigmoid(x),
        lambda m, x: 1 / (1 + torch.exp(-x)),
        lambda m, x: torch.reciprocal(torch.exp(-x) + 1),
    ),
    "tanh": (
        lambda m, x: torch.tanh(x),
        lambda m, x: 2 * torch.sigmoid(2 * x) - 1,
        lambda m, x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    ),
    "leaky relu": (
        lambda m, x: F.leaky_relu(x, 0.1),
        lambda m, x: torch.maximum(x, 0.1 * x),
        lambda m, x: torch.where(x > 0, x, x * 0.1),
        lambda m, x: F.relu(x) - 0.1 * F.relu(-x),
        lambda m, x: x.clamp(min=0) + 0.1 * x.clamp(max=0),
    ),
    "elu": (
        lambda m, x: F.elu(x),
        lambda m, x: torch.where(x >= 0, x, torch.exp(x) - 1),
        lambda m, x: F.relu(x) + x.clamp(max=0).expm1(),
    ),
    "absolute": (lambda m, x: x.abs(), lambda m, x: torch.maximum(x, -x), lambda m, x: F.relu(x) + F.relu(-x)),
    "relu6": (
        lambda m, x: F.relu6(x),
        lambda m, x: torch.clamp(torch.clamp(x, min=0), max=6),
        lambda m, x: torch.minimum(torch.maximum(x, torch.tensor(0.0)), torch.tensor(6.0)),
    ),
    "clamp": (
        lambda m, x: x.clamp(-0.5, 0.5),
        lambda m, x: x.clamp(min=-0.5).clamp(max=0.5),
        lambda m, x: x.clamp(max=0.5).clamp(min=-0.5),
    ),
    "layer norm": (
        rows(lambda m, x: F.layer_norm(x, (4,), m.gamma, m.beta, 1e-6)),
        rows(lambda m, x: centred(x, -1) / torch.sqrt(spread(x, -1) + 1e-6) * m.gamma + m.beta),
        rows(lambda m, x: m.beta + m.gamma * (centred(x, 3) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-6))),
        rows(lambda m, x: m.gamma * centred(x, -1) * (x.var(-1, keepdim=True, unbiased=False) + 1e-6) ** -0.5 + m.beta),
        rows(lambda m, x: centred(x, -1) / (square_mean(x) - x.mean(-1, keepdim=True) ** 2 + 1e-6).sqrt() * m.gamma + m.beta),
        lambda m, x: m.gamma[:, None, None] * (centred(x, 1) / torch.sqrt(spread(x, 1) + 1e-6)) + m.beta[:, None, None],
        lambda m, x: m.gamma_image * centred(x, 1) * torch.rsqrt(spread(x, 1) + 1e-6) + m.beta_image,
    ),
    "layer norm of images": (
        lambda m, x: F.layer_norm(x, (4, 6, 6)),
        lambda m, x: centred(x, (1, 2, 3)) / torch.sqrt(spread(x, (1, 2, 3)) + 1e-5),
    ),
    "deviation norm": (
        lambda m, x: x / torch.sqrt(spread(x, -1) + 1e-5),
        lambda m, x: x * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-5),
    ),
    "instance norm": (
        lambda m, x: F.instance_norm(x, None, None, m.gamma, m.beta),
        lambda m, x: F.group_norm(x, 4, m.gamma, m.beta),
        lambda m, x: even(x, (2, 3)) * m.gamma_image + m.beta_image,
        lambda m, x: m.gamma[:, None, None] * centred(x, (2, 3)) * torch.rsqrt(spread(x, (2, 3)) + 1e-5) + m.beta_image,
        lambda m, x: m.beta_image + centred(x, (2, 3)) * (x.var((2, 3), False, True) + 1e-5) ** -0.5 * m.gamma_image,
    ),
    "instance norm alone": (
        lambda m, x: F.instance_norm(x),
        lambda m, x: even(x, (2, 3)),
    ),
    "group norm": (
        lambda m, x: F.group_norm(x, 2, m.gamma, m.beta),
        lambda m, x: even(x.view(-1, 2, 72), -1).view_as(x) * m.gamma_image + m.beta_image,
        lambda m, x: m.beta_image + m.gamma[:, None, None] * even(x.view(-1, 2, 2, 6, 6), (2, 3, 4)).view(-1, 4, 6, 6),
    ),
    "rms norm": (
        lambda m, x: F.rms_norm(x, (6,), eps=1e-5),
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda m, x: x / torch.sqrt((x * x).sum(-1, keepdim=True) / 6 + 1e-5),
    ),
    "l2 norm": (
        lambda m, x: F.normalize(x, dim=1),
        lambda m, x: x / x.norm(dim=1, keepdim=True),
        lambda m, x: x / torch.sqrt((x * x).sum(1, keepdim=True)),
        lambda m, x: x * x.square().sum(1, keepdim=True).rsqrt(),
        lambda m, x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12),
        lambda m, x: x * x.square().sum(1, keepdim=True).rsqrt().clamp(max=1e7),
        lambda m, x: x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-6),
        lambda m, x: x / torch.sqrt((x * x).mean(1, keepdim=True) * x.shape[1] + 1e-6),
    ),
    "attention": (
        lambda m, x: F.scaled_dot_product_attention(x, x, x),
        lambda m, x: torch.softmax(x @ x.transpose(-2, -1) / math.sqrt(6), -1) @ x,
        lambda m, x: ((x / math.sqrt(6)) @ x.transpose(-2, -1)).softmax(-1) @ x,
        lambda m, x: (x @ (x * 6**-0.5).transpose(-2, -1)).softmax(-1) @ x,
        lambda m, x: torch.softmax(x @ x.transpose(-2, -1) * m.share, -1) @ x,
        lambda m, x: torch.softmax((x * m.share) @ x.mT, -1) @ x,
        lambda m, x: (lambda y: (y @ y.mT).softmax(-1) @ x)(x * m.root_share),
    ),
    "batch norm": (
        lambda m, x: F.batch_norm(x, m.mean, m.variance, m.gamma, m.beta),
        lambda m, x: (x - m.mean[:, None, None]) / torch.sqrt(m.variance[:, None, None] + 1e-5) * m.gamma_image + m.beta_image,
        lambda m, x: x * m.variance.view(1, 4, 1, 1) + m.mean.view(1, 4, 1, 1),
        lambda m, x: (m.mean.view(4, 1, 1) - x) / m.variance.view(4, 1, 1),
        lambda m, x: x * 2.0 - 1.0,
        lambda m, x: 1 - x / 2.0,
    ),
    "normalized sums": (
        lambda m, x: F.batch_norm(x + x.mean((2, 3), keepdim=True), m.mean, m.variance),
        lambda m, x: (x + x.mean((2, 3), keepdim=True) - m.mean[:, None, None]) / m.variance[:, None, None],
    ),
}  # fmt: skip


class Branches(nn.Module):
    """For each function a convolution, the function of its image, and another convolution."""

    def __init__(self, functions):
        super().__init__()
        torch.manual_seed(0)
        self.functions = functions
        self.first = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in functions)
        self.last = nn.ModuleList(nn.Conv2d(4, 2, 1) for _ in functions)
        self.gamma, self.beta = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))
        self.gamma_image, self.beta_image = nn.Parameter(torch.rand(4, 1, 1) + 0.5), nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)
        self.register_buffer("share", torch.tensor(6**-0.5))
        self.register_buffer("root_share", torch.tensor(6**-0.25))

    def forward(self, x):
        return [last(f(self, first(x))) for f, first, last in zip(self.functions, self.first, self.last, strict=True)]


IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def kinds(plan):
    """Return how often each kind runs in integers, or in float."""
    return Counter((p.op.kind, p.integer) for p in plan.ops if p.op.kind != "constant")


def proved(model, target, path):
    """Return the prepared model: exact in its runtime, and near the float model."""
    prepared = qat.calibrate(qat.prepare(model.eval(), IMAGES[:2], target=target), [IMAGES])
    with torch.no_grad():
        for found, expected in zip(prepared.eval()(IMAGES), model(IMAGES), strict=True):
            assert float((found - expected).norm() / expected.norm()) < 0.06
    parity = qat.export(prepared, path, verify=[IMAGES, IMAGES[:3]]).parity
    assert parity.exact == 1.0, parity.first_difference
    return prepared


@pytest.mark.parametrize("name", every_second(SPELLINGS))
def test_every_spelling_gets_the_kernels_of_the_functional_form(name):
    functions = SPELLINGS[name]
    for target, _ in RUNTIMES:
        alone = kinds(qat.plan(Branches(functions[:1]).eval(), IMAGES[:2], target=target))
        found = kinds(qat.plan(Branches(functions).eval(), IMAGES[:2], target=target))
        assert found == Counter({kind: count * len(functions) for kind, count in alone.items()})


def test_a_factor_of_both_operands_counts_twice():
    *_, both = SPELLINGS["attention"]
    (found,) = [p.op for p in qat.plan(Branches([both]).eval(), IMAGES[:2]).ops if p.op.kind == "softmax"]
    assert found.attrs["beta"] == pytest.approx(6**-0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_exact(name, target, suffix, tmp_path):
    proved(Branches(SPELLINGS[name]), target, tmp_path / f"m.{suffix}")


#: The kind that each of these is nearly, and is not.
NEAR_MISSES = {
    "limits": ("hard_swish", lambda m, x: x * torch.clamp(x + 3, 0, 5) / 6),
    "divisor": ("hard_swish", lambda m, x: x * torch.clamp(x + 3, 0, 6) / 6.01),
    "root": ("gelu", lambda m, x: 0.5 * x * (1 + torch.erf(x / 1.414))),
    "cubic": ("gelu", lambda m, x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.0447 * x**3)))),
    "quick": ("silu", lambda m, x: x * torch.sigmoid(1.702 * x)),
    "alpha": ("hard_sigmoid", lambda m, x: torch.clamp(0.2 * x + 0.5, 0, 1)),
    "product": ("silu", lambda m, x: F.relu(x) * torch.sigmoid(x)),
    "unbiased": ("layer_norm", lambda m, x: centred(x, -1) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5)),
    "outside": ("layer_norm", lambda m, x: centred(x, -1) / (torch.sqrt(spread(x, -1)) + 1e-2)),
    "axes": ("layer_norm", lambda m, x: centred(x, -1) / torch.sqrt(spread(x, (1, 2, 3)) + 1e-5)),
    "centre": ("layer_norm", lambda m, x: (x - 0.1) / torch.sqrt(spread(x, -1) + 1e-5)),
    "read twice": ("hard_swish", lambda m, x: (lambda gate: x * gate / 6 + gate)(torch.clamp(x + 3, 0, 6))),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
def test_a_near_miss_stays_another_function_and_exact(target, suffix, tmp_path):
    prepared = proved(Branches([function for _, function in NEAR_MISSES.values()]), target, tmp_path / f"m.{suffix}")
    assert not {p.op.kind for p in prepared.plan.ops} & {kind for kind, _ in NEAR_MISSES.values()}


class Pairs(nn.Module):
    """A mean over pairs of rows, as of a mixture's two experts: a fold of the batch within a product with one weight a column."""

    def __init__(self):
        super().__init__()
        self.before, self.weight, self.after = nn.Linear(8, 8), nn.Parameter(torch.rand(8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.after(self.before(x).view(-1, 2, 8).mean(1) * self.weight)


class RowsOfGroups(nn.Module):
    """A normalization of groups by hand: each group of a sample is a row."""

    def __init__(self):
        super().__init__()
        self.before, self.weight, self.after = nn.Conv2d(3, 8, 3), nn.Parameter(torch.rand(1, 8, 1, 1)), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.before(x)
        rows = y.reshape(len(y) * 2, -1)
        rows = centred(rows, 1) * torch.rsqrt(spread(rows, 1) + 1e-5)
        return self.after(rows.view(y.shape) * self.weight)


@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
@pytest.mark.parametrize(("net", "sizes"), [(Pairs, (4, 8)), (RowsOfGroups, (3, 6, 6))])
def test_a_fold_of_the_batch_is_no_part_of_a_function(net, sizes, target, suffix, tmp_path):
    x = torch.randn(4, *sizes)
    prepared = qat.calibrate(qat.prepare(net().eval(), x[:2], target=target), [x])
    parity = qat.export(prepared, tmp_path / f"m.{suffix}", verify=[x, x[:1]]).parity
    assert parity.exact == 1.0, parity.first_difference


def test_a_trained_number_is_no_constant():
    """``x * sigmoid(beta x)`` with a trained ``beta`` of 1 is no SiLU for long."""

    class Swish(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.beta = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(1))

        def forward(self, x):
            y = self.conv(x)
            return y * torch.sigmoid(self.beta * y)

    assert "sigmoid" in {p.op.kind for p in qat.plan(Swish().eval(), IMAGES[:2]).ops}


def test_operators_that_the_recipe_leaves_float_stay_in_pieces():
    model = Branches([lambda m, x: x * torch.sigmoid(x)]).eval()
    plan = qat.plan(model, IMAGES[:2], recipe="weightonly_wi8_afp32")
    assert {"sigmoid", "mul"} <= {p.op.kind for p in plan.ops}


@settings(max_examples=60, deadline=None)
@given(order=st.sampled_from([*permutations(range(3))]), share=st.floats(0.2, 5.0), negate=st.booleans(), flip=st.booleans())
def test_the_order_of_factors_and_their_sizes_do_not_matter(order, share, negate, flip):
    """GELU as a product of three factors in any order, of which two share a number."""
    number = -share if negate else share
    steps = [("div", "x", math.sqrt(2)), ("erf", "#0"), ("add", "#1", 1.0), ("mul", "#2", number), ("mul", 0.5, "x")]
    factors = [("#4",), ("#3",), (1 / number,)]
    first, second, third = (factors[i][0] for i in order)
    steps += [("mul", second, first) if flip else ("mul", first, second), ("mul", "#5", third)]
    rounded = tuple(tuple(float(np.float32(o)) if isinstance(o, float) else o for o in step) for step in steps)
    assert function_of(rounded) == ("gelu", {"approximate": False})


@settings(max_examples=60, deadline=None)
@given(off=st.floats(2e-6, 0.5), place=st.integers(0, 2), up=st.booleans())
def test_a_constant_that_float32_tells_apart_gives_another_function(off, place, up):
    constants = [3.0, 6.0, 1 / 6]
    constants[place] *= 1 + off if up else 1 - off
    shift, limit, share = constants
    steps = (("add", "x", shift), ("clamp", "#0", 0.0, limit), ("mul", "x", "#1"), ("mul", "#2", share))
    assert function_of(steps) is None or function_of(steps)[0] != "hard_swish"


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_a_bias_that_is_added_behind_a_product_is_the_layers_bias_and_trains_from_zero(target):
    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = torch.nn.Parameter(torch.randn(6, 5)), torch.nn.Parameter(torch.zeros(5))

        def forward(self, x):
            return x @ self.w + self.b

    torch.manual_seed(0)
    x = torch.randn(128, 6)
    prepared = qat.calibrate(qat.prepare(Product(), x, target=target), [x])
    (op,) = [p.op for p in prepared.plan.ops]
    assert (op.kind, op.params["bias"]) == ("dense", "b")
    prepared.train()(x).square().sum().backward()
    assert (prepared.get_parameter("b").grad != 0).all()


def test_a_bias_that_others_read_too_stays_an_operator():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, 6, bias=False), torch.nn.Linear(6, 6, bias=False)
            self.b = torch.nn.Parameter(torch.ones(6))

        def forward(self, x):
            return self.second(self.first(x) + self.b) + self.b

    plan = qat.plan(Shared(), torch.zeros(2, 6))
    assert [p.op.kind for p in plan.ops].count("add") == 2
