"""``prefer: speed``: operators stay float where that is quicker, conversions included, and the plan says so."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import keras
import pytest
import torch
from torch import nn

import qat
from qat.errors import ConfigError
from qat.planning import prefer_speed
from qat.planning.minimum_cut import SINK, SOURCE, source_side
from qat.planning.operator_costs import BORDER, COSTS, OperatorCost, work_of
from qat.planning.recipe import Recipe, Rule, load_recipe
from qat.planning.recipe_text import recipe_yaml
from qat.planning.targets import TARGETS

QUICK = Recipe(name="quick", rules=(Rule(),), prefer="speed")
SUFFIX = {"onnxruntime": ".onnx", "litert": ".tflite"}


class Attention(nn.Module):
    """Attention over 96 tokens, whose softmax no integer kernel is quick with, and a wide layer that integers are quick with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.wide, self.last = nn.Linear(64, 192), nn.Linear(64, 512), nn.Linear(512, 64)

    def forward(self, x):
        q, k, v = self.project(x).split(64, -1)
        return self.last(torch.relu(self.wide(torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v)))


def attention_in_keras() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((96, 64))
    q, k, v = (keras.layers.Dense(64)(inputs) for _ in range(3))
    weights = keras.ops.softmax(keras.ops.matmul(q, keras.ops.transpose(k, (0, 2, 1))) * 0.25)
    return keras.Model(inputs, keras.layers.Dense(64)(keras.layers.Dense(512, activation="relu")(keras.ops.matmul(weights, v))))


TOKENS = torch.randn(3, 96, 64, generator=torch.Generator().manual_seed(0))
MODELS = {"torch": lambda: (Attention().eval(), TOKENS), "keras": lambda: (attention_in_keras(), TOKENS.numpy())}


@pytest.mark.parametrize("target", SUFFIX)
@pytest.mark.parametrize("framework", MODELS)
def test_a_slow_softmax_stays_float_and_the_rest_is_exact(framework, target, tmp_path: Path):
    model, tokens = MODELS[framework]()
    plain = qat.plan(model, tokens, target=target)
    prepared = qat.prepare(model, tokens, QUICK, target)
    rows = {row["op"]: row for row in prepared.plan.table()}
    assert all(row["runs"] == "integer" for row in prepared.plan.table() if row["op"].startswith("dense"))
    assert next(p for p in plain.ops if p.op.kind == "softmax").integer
    assert rows["softmax"]["runs"] == "float"
    assert "prefer: speed" in rows["softmax"]["reason"] and "us less in float, conversions included" in rows["softmax"]["reason"]
    artifact = qat.export(qat.calibrate(prepared, [tokens]), tmp_path / f"m{SUFFIX[target]}", verify=[tokens])
    assert artifact.parity.exact > 0.9, "a float softmax may differ in its last bit"


def test_without_the_key_the_plan_is_as_before():
    assert load_recipe("static_wi8_ai8").prefer == "integers"
    assert "prefer: speed\n" in recipe_yaml(QUICK) and "prefer" not in recipe_yaml(load_recipe("static_wi8_ai8"))


def test_a_target_without_times_is_refused():
    with pytest.raises(ConfigError, match=r"no times of kernels for target 'tensorrt'.*onnxruntime"):
        qat.plan(nn.Conv2d(3, 4, 3).eval(), torch.randn(2, 3, 8, 8), QUICK, "tensorrt")


def test_times_are_those_of_the_targets_processor():
    """Without VNNI products of integers gain less: a small net is quickest in float."""
    first, *others = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
    model, x = nn.Sequential(first, nn.SiLU(), others[0], nn.SiLU(), others[1]), torch.randn(3, 3, 16, 16)
    assert all(p.integer for p in qat.plan(model.eval(), x, QUICK, "onnxruntime_vnni").ops)
    with pytest.raises(
        ConfigError, match=r"prefer: speed: the whole model is quicker in float on target .*: ship the float model"
    ):
        qat.plan(model, x, QUICK, "onnxruntime")


def test_the_choice_is_the_quickest_of_all(monkeypatch: pytest.MonkeyPatch):
    """Any times: no other assignment of forms to the operators of a net with branches takes less."""
    from torch.nn import functional as F

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = F.hardswish(self.first(x))
            return F.hardswish(self.left(x) + torch.sigmoid(self.right(x)))

    target = TARGETS["onnxruntime"]
    plan = qat.plan(Branches().eval(), torch.randn(2, 3, 9, 9))
    kinds = {p.op.kind for p in plan.ops} | {BORDER}
    for seed in range(20):
        chance = random.Random(seed)
        rates = {k: OperatorCost(*((chance.uniform(0, 4), 0.0, 0.0) for _ in range(2))) for k in kinds}
        monkeypatch.setitem(COSTS, target.name, rates | {"transpose": OperatorCost((0.5, 0.0, 0.0), (0.5, 0.0, 0.0))})
        free = {p.op.name: prefer_speed._times(p, plan.graph, target) for p in plan.ops if p.integer}
        borders = [*prefer_speed._borders(plan.ops, plan.graph, target)]
        every = itertools.chain.from_iterable(itertools.combinations(free, n) for n in range(len(free) + 1))
        least = min(prefer_speed._total(free, borders, set(chosen)) for chosen in every)
        chosen = set(prefer_speed.quicker_in_float(plan.ops, plan.graph, target))
        assert prefer_speed._total(free, borders, chosen) == pytest.approx(least)


def test_the_cut_is_the_least():
    for seed in range(30):
        chance = random.Random(seed)
        nodes = list("abcdef")
        edges = [
            (a, b, chance.choice([0.5, 1.0, 2.0, 3.5])) for a, b in itertools.permutations(nodes, 2) if chance.random() < 0.4
        ]
        edges += [(SOURCE, n, chance.uniform(0, 3)) for n in nodes] + [(n, SINK, chance.uniform(0, 3)) for n in nodes]

        def cut(side, edges=edges):
            return sum(c for a, b, c in edges if a in side and b not in side)

        every = (set(s) | {SOURCE} for n in range(7) for s in itertools.combinations(nodes, n))
        assert cut(source_side(edges)) == pytest.approx(min(map(cut, every)))


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=2), (4, 16, 20), 6 * 7 * 8 * 4 * 15),
        (nn.Conv2d(8, 8, 3, groups=8), (8, 9, 9), 8 * 49 * 9),
        (nn.Conv2d(8, 16, 1, groups=4), (8, 5, 5), 16 * 25 * 2),
        (nn.ConvTranspose2d(4, 6, 2, 2), (4, 5, 5), 6 * 100 * 4),
        (nn.Linear(12, 7), (5, 12), 5 * 7 * 12),
    ],
)
def test_multiply_accumulates(layer, shape, macs):
    plan = qat.plan(nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(3, *shape))
    assert work_of(plan.ops[0], plan.graph).macs == macs


def test_free_sizes_and_a_batch_that_is_folded_have_work_too():
    plan = qat.plan(
        nn.Sequential(nn.Conv2d(3, 64, 3), nn.Hardswish()).eval(), torch.randn(2, 3, 64, 64), QUICK, dynamic=("height",)
    )
    assert all(work_of(p, replace(plan.graph)).values > 0 for p in plan.ops)


def dropped_in_torch():
    depthwise = [nn.Conv2d(64, 64, 3, groups=64, bias=False) for _ in range(2)]
    torch.manual_seed(0)
    first = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)
    return nn.Sequential(*first, depthwise[0], nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.3), depthwise[1]).eval()


def dropped_in_keras():
    layers = keras.layers
    first = layers.Conv2D(64, 3), layers.Conv2D(64, 3), layers.DepthwiseConv2D(3, use_bias=False)
    behind = layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.3), layers.DepthwiseConv2D(3)
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((24, 24, 3)), *first, *behind])


@pytest.mark.parametrize(("model", "shape"), [(dropped_in_torch, (4, 3, 24, 24)), (dropped_in_keras, (4, 24, 24, 3))])
def test_dropout_behind_an_activation_that_is_part_of_a_float_operator(model, shape, tmp_path: Path):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy()
    prepared = qat.calibrate(qat.prepare(model(), images, QUICK, "onnxruntime_vnni"), [images])
    floats = [p for p in prepared.plan.ops if p.op.name in prepared.plan.floats()]
    assert len(floats) == 2 and "relu" in floats[0].op.output
    parity = qat.export(prepared, tmp_path / "m.onnx", verify=[images]).parity
    assert parity.exact == 1 or parity.is_rounding


@pytest.mark.parametrize(("size", "outputs", "is_float"), [(7, 1, True), (5, 1, False), (3, 2, True)])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_depthwise_convolutions_stay_float_where_the_delegate_of_litert_has_no_kernel(framework, size, outputs, is_float):
    """It has none of large windows, and none of several outputs a channel."""
    if framework == "torch":
        torch.manual_seed(0)
        depthwise = nn.Conv2d(96, 96 * outputs, size, padding=size // 2, groups=96)
        model, images = nn.Sequential(nn.Conv2d(3, 96, 4, 4), depthwise, nn.Conv2d(96 * outputs, 8, 1)).eval(), (2, 3, 64, 64)
    else:
        layers, images = keras.layers, (2, 64, 64, 3)
        depthwise = layers.Conv2D(96 * outputs, size, padding="same", groups=96)
        model = keras.Sequential([keras.Input(images[1:]), layers.Conv2D(96, 4, 4), depthwise, layers.Conv2D(8, 1)])
    plan = qat.plan(model, torch.rand(images).numpy(), QUICK, "litert")
    in_float = [p.op.name in plan.floats() for p in plan.ops if int(p.op.attrs.get("groups", 1)) == 96]
    assert in_float == [is_float]
