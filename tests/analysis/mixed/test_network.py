"""The choices of layers as the planner keeps them, and the recipes of assignments."""

import pytest
import torch
from torch import nn

import qat
from qat.analysis.mixed.choices import FLOAT, choices_for
from qat.analysis.mixed.problem import Some
from qat.errors import ConfigError
from qat.planning.recipe import QuantSpec, Recipe, Rule, load_recipe
from qat.planning.recipe_text import recipe_yaml
from qat.planning.targets import TARGETS, load_target
from support.nets import net

INT8, INT4, WIDE = "static_wi8_ai8", "static_wi4_ai8", "static_wi8_ai16"


class Residual(nn.Module):
    """A depthwise branch beside its input: all three layers meet at one addition."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head((x + self.branch(x)).mean((2, 3)))


@pytest.fixture
def residual(network_of):
    return network_of(Residual().eval(), torch.zeros(2, 1, 8, 8), "litert")


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("target", ["litert", "onnxruntime", "tensorrt"])
def test_a_layer_has_what_the_target_runs(framework, target, network_of, images):
    found = network_of(net(framework), images(framework), target).options
    has = {name for names in found.values() for name in names}
    assert len(found) == 3
    assert all(len(set(names)) == len(names) and FLOAT in names and INT8 in names for names in found.values())
    # A weight of 4 bits that the file would hold in int8 saves nothing.
    assert (INT4 in has) == (target == "litert")
    assert ("float16" in has) == (target != "tensorrt")


def test_a_choice_that_one_layer_lacks_is_left_out_for_it(residual):
    assert {layer for layer, names in residual.options.items() if "dynamic_wi4_afp32" in names} == {"first", "head"}


def test_forms_that_no_kernel_mixes_exclude_each_other(residual):
    mixed = {"first": WIDE, "branch": INT8, "head": FLOAT}
    refused = residual.refused(mixed)
    assert refused == [(Some("first", frozenset({WIDE})), Some("branch", frozenset({INT8, INT4})))]


def test_operators_between_wide_layers_are_wide(residual):
    together = {"first": WIDE, "branch": WIDE, "head": WIDE}
    assert residual.refused(together) == []
    plan = residual.plan_of(together)
    assert all(p.integer for p in plan.ops)
    assert {group.spec.bits for group in plan.groups.values()} == {16}


def test_an_assignment_that_quantizes_nothing_is_refused(residual):
    everything = dict.fromkeys(residual.layers, FLOAT)
    assert residual.refused(everything) == [tuple(Some(layer, frozenset({FLOAT})) for layer in residual.layers)]


def test_a_recipe_names_what_differs_from_the_base_and_no_other_layer(network_of, tmp_path):
    class Dotted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.axb = nn.Linear(4, 4)

        def forward(self, x):
            return self.axb(self.a[1](self.a[0](x)))

    found = network_of(Dotted().eval(), torch.zeros(2, 4), "litert")
    recipe = found.recipe({"a.0": INT4, "a.1": INT8, "axb": FLOAT}, "chosen", "words")
    assert [rule.scope for rule in recipe.rules] == [".*", r"^a\.0$", "^axb$"]
    (tmp_path / "chosen.yaml").write_text(recipe_yaml(recipe))
    read = load_recipe(tmp_path / "chosen.yaml")
    assert read == recipe
    runs = {
        row["scope"]: row["how"][:11] or row["runs"]
        for row in qat.plan(Dotted().eval(), torch.zeros(2, 4), read, "litert").table()
    }
    assert runs == {"a.0": "weight int4", "a.1": "weight int8", "axb": "float"}


def test_layers_that_share_a_weight_have_one_choice(network_of):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    layers = network_of(Tied().eval(), torch.zeros(2, 4), "litert").layers
    assert [layer.scopes for layer in layers.values()] == [("first", "second")]


def test_choices_follow_the_target():
    for target in TARGETS.values():
        names = [choice.name for choice in choices_for(target)]
        assert INT8 in names and names[-1] == FLOAT
        assert (WIDE in names) == bool(target.modes.int16)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["static_wi8_ai8"], "two precisions or more"),
        (["static_wi8_ai16", "float"], "'onnxruntime' has no kernels for the choice 'static_wi8_ai16'"),
        (["static_wi8_ai9", "float"], "unknown recipe"),
        ([Recipe(name="own", rules=(Rule(), Rule(op="dense", mode="float"))), "float"], "'own' is no single precision"),
        ([Recipe(name="own", rules=(Rule(scope="a"),)), "float"], "'own' is no single precision"),
    ],
)
def test_choices_that_cannot_be_are_refused(names, said):
    with pytest.raises(ConfigError, match=said):
        choices_for(load_target("onnxruntime"), names)


def test_a_recipe_of_the_users_own_is_a_choice(network_of):
    per_tensor = Recipe(name="coarse", rules=(Rule(weight=QuantSpec(symmetric=True)),))
    found = network_of(net("torch"), torch.zeros(2, 1, 8, 8), "onnxruntime", [per_tensor, "float"])
    assert set(found.options.values()) == {("coarse", FLOAT)}


def test_a_model_without_weights_has_nothing_to_choose(network_of):
    class Nothing(nn.Module):
        def forward(self, x):
            return x + torch.relu(x)

    network = network_of(Nothing().eval(), torch.zeros(2, 4), "litert")
    with pytest.raises(ConfigError, match="runs no layer of this model"):
        _ = network.options
