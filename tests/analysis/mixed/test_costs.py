"""Bytes against exported artifacts; conversions against the planner's plans; times as whoever is asked says."""

import random
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.analysis.mixed import stopwatch
from qat.analysis.mixed.choices import FLOAT
from qat.analysis.mixed.conversions import Conversions, problem_of
from qat.analysis.mixed.costs import LayerCost, layer_costs
from qat.analysis.mixed.lowering import lowering
from qat.analysis.mixed.single_layers import weight_bytes
from qat.analysis.mixed.times import GivenTimes, TimedHere, read_times
from qat.captured import captured
from qat.errors import ConfigError
from qat.exporters.inspection import inspect
from support.nets import net


class Wide(nn.Module):
    """Layers of several kinds, one of them transposed, with odd numbers of weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3, padding=1)
        self.depth = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.up = nn.ConvTranspose2d(5, 3, 3, stride=2)
        self.head = nn.Linear(3, 7)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(self.up(x + self.depth(x)).mean((2, 3)))


def assignments(network, count, floats):
    """Return some assignments that the planner keeps, with float layers or without."""
    draw, found = random.Random(0), []
    while len(found) < count:
        chosen = {layer: draw.choice([n for n in names if floats or n != FLOAT]) for layer, names in network.options.items()}
        if not network.refused(chosen):
            found.append(chosen)
    return found


def held_in(artifact):
    """Return the bytes of the weights in an artifact. TensorFlow's converter writes some biases with four axes."""
    weights = inspect(artifact.path).weights
    return weight_bytes(w for w in weights if not (w.dtype == "float32" and w.shape[:3] == (1, 1, 1)))


def check_bytes(model, target, network_of, images, folder, count, floats):
    float_model = Wide().eval() if model == "wide" else net(model)
    x = images("keras" if model == "keras" else "torch")
    network = network_of(float_model, x, target)
    costs = layer_costs(network, lowering(captured(float_model, x, network.target)), None)
    assert set(costs) == {(layer, name) for layer, names in network.options.items() for name in names}
    for number, chosen in enumerate(assignments(network, count, floats)):
        prepared = qat.calibrate(qat.prepare(float_model, x, network.recipe(chosen), target), [x])
        artifact = qat.export(prepared, folder / f"{number}{network.target.suffix}")
        assert held_in(artifact) == sum(costs[item].bytes for item in chosen.items()), chosen


@pytest.mark.parametrize(("model", "target"), [("torch", "onnxruntime"), ("keras", "litert")])
def test_bytes_are_those_of_the_artifact(model, target, network_of, images, tmp_path):
    check_bytes(model, target, network_of, images, tmp_path, 3, False)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["torch", "keras", "wide"])
@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_bytes_of_float_layers_are_those_of_the_artifact(model, target, network_of, images, tmp_path):
    check_bytes(model, target, network_of, images, tmp_path, 5, True)


class OneEach:
    """A millisecond for each conversion, none for layers."""

    def of_layer(self, layer, choice, held):
        return 0.0

    def of_conversion(self, value, writer, back):
        return 1.0


@pytest.mark.parametrize("form", ["chain", "fork"])
def test_conversions_of_pairs_add_up_to_those_of_the_plan(form, network_of):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            x = self.a(x)
            return self.c(torch.relu(self.b(x))) if form == "chain" else (self.b(x), self.c(x))

    network = network_of(Fork().eval(), torch.zeros(2, 4), "onnxruntime", ["static_wi8_ai8", "float16", FLOAT])
    conversions = Conversions(network, OneEach())
    nothing = dict.fromkeys(product(network.layers, network.choices), LayerCost(0, 0.0))
    problem = problem_of(network, nothing, dict.fromkeys(nothing, 0.0), conversions)
    for chosen in product(network.choices, repeat=3):
        assignment = dict(zip(network.layers, chosen, strict=True))
        plan = network.plan_of(assignment)
        real = 0 if plan is None else len(plan.quantize) + len(plan.dequantize)
        assert problem.totals(assignment).ms == pytest.approx(real), assignment


def test_ends_that_are_integers_are_not_converted(network_of, images):
    network = network_of(net("keras"), images("keras"), "litert", ["static_wi8_ai8", FLOAT])
    everything = dict.fromkeys(network.layers, "static_wi8_ai8")
    ends = frozenset((*network.graph.inputs, *network.graph.outputs))
    assert Conversions(network, OneEach()).ms(everything) == 2
    assert Conversions(network, OneEach(), ends).ms(everything) == 0


def test_a_kernel_of_one_shape_is_timed_once(network_of, monkeypatch):
    layers = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.ReLU()))).eval()
    timed = []
    real = stopwatch._median
    monkeypatch.setattr(stopwatch, "_median", lambda file: timed.append(file) or real(file))
    x = np.zeros((2, 6), np.float32)
    network = network_of(layers, x, "onnxruntime", ["static_wi8_ai8", "float16"])
    costs = layer_costs(network, lowering(captured(layers, x, network.target)), TimedHere(".onnx"))
    # One kernel for each choice, and the call that does nothing.
    assert len(timed) == 3
    for choice in network.choices:
        assert len({costs[layer, choice].ms for layer in network.layers}) == 1
    assert all(cost.ms >= 0 for cost in costs.values())


def test_a_float_layer_costs_the_time_of_float16_and_four_bytes_a_weight(network_of, images):
    network = network_of(net("torch"), images("torch"), "litert")
    rows = {(layer, name): 1.0 + i for layer, names in network.options.items() for i, name in enumerate(names)}
    costs = layer_costs(network, lowering(captured(net("torch"), images("torch"), network.target)), GivenTimes(rows))
    assert {key: cost.ms for key, cost in costs.items()} == rows
    assert costs["2", FLOAT].bytes == 4 * 8 * 8 * 3 * 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "layer,choice,ms\n0,float,1.5\ninput,quantize,2\n"),
        ("t.yaml", "- {layer: 0, choice: float, ms: 1.5}\n- {layer: input, choice: quantize, ms: 2}\n"),
    ],
)
def test_a_table_of_latencies_is_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_times(tmp_path / name).rows == {("0", "float"): 1.5, ("input", "quantize"): 2.0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "layer,choice\n0,float\n", "row 1 needs layer, choice and ms"),
        ("t.csv", "layer,choice,ms\n0,float,fast\n", "row 1 needs layer, choice and ms"),
        ("t.csv", "layer,choice,ms\n0,float,-1\n", "row 1: ms is -1"),
        ("t.csv", "layer,choice,ms\n0,float,nan\n", "row 1: ms is nan"),
        ("t.csv", "layer,choice,ms\n0,float,1\n0,float,2\n", "row 2: layer '0' in 'float' has two rows"),
        ("t.yaml", "a: [", "not valid YAML"),
        ("t.yaml", "a: 1", "expected a list of rows"),
        ("t.yaml", "- 5", "row 1 needs layer"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_times(tmp_path / name)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_times(tmp_path / "no.csv")


def test_a_table_has_a_row_for_every_option_and_for_nothing_else():
    options = {"conv": ("int8", "float")}
    rows = {("conv", "int8"): 1.0, ("conv", "float"): 2.0, ("x", "quantize"): 0.5}
    GivenTimes(rows).check(options, ["x"])
    with pytest.raises(ConfigError, match="no row for layer 'conv' in 'float'"):
        GivenTimes({("conv", "int8"): 1.0}).check(options, ["x"])
    with pytest.raises(ConfigError, match=r"no layer 'con' \(did you mean 'conv'\?\)"):
        GivenTimes(rows | {("con", "int8"): 1.0}).check(options, ["x"])
    with pytest.raises(ConfigError, match="'int9' is no choice of layer 'conv'"):
        GivenTimes(rows | {("conv", "int9"): 1.0}).check(options, ["x"])
