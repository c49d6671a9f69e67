"""The planner, on graphs written by hand."""

import dataclasses
import json

import pytest

from qat.errors import ConfigError
from qat.graph.graph import Graph, Op, TensorSpec
from qat.planning.plan import Plan
from qat.planning.planner import plan
from qat.planning.recipe import QuantSpec, Recipe, Rule
from qat.planning.targets import TARGETS

RECIPE = Recipe(name="r", rules=(Rule(),))
LITERT = TARGETS["litert"]


def graph(*ops, inputs=("x",), outputs=None):
    """Return a graph of ``(name, kind, inputs)``; an operator's output carries its name."""
    made = []
    for name, kind, sources in ops:
        params = {"weight": f"{name}.weight"} if kind in ("conv2d", "dense") else {}
        attrs = {"float": {"target": "erf"}, "conv2d": {"groups": 1, "dilations": (1, 1)}}.get(kind, {})
        made.append(Op(name, kind, tuple(sources), (name,), params, attrs, scope=f"net.{name}"))
    names = (*inputs, *(op.name for op in made))
    tensors = {name: TensorSpec(name, (None, 4, 4, 4)) for name in names}
    return Graph("g", "NHWC", inputs, outputs or (made[-1].name,), tuple(made), tensors)


def test_activation_is_fused_where_nobody_else_reads_its_input():
    made = plan(graph(("c", "conv2d", "x"), ("r", "relu", "c")), RECIPE, LITERT)
    assert [(p.op.kind, p.activation, p.op.output) for p in made.ops] == [("conv2d", "relu", "r")]
    both = plan(graph(("c", "conv2d", "x"), ("r", "relu", "c"), ("a", "add", ("c", "r"))), RECIPE, LITERT)
    assert [(p.op.kind, p.activation) for p in both.ops] == [("conv2d", None), ("relu", None), ("add", None)]


def test_a_model_output_is_not_fused_away():
    made = plan(graph(("c", "conv2d", "x"), ("r", "relu", "c"), outputs=("c", "r")), RECIPE, LITERT)
    assert [p.activation for p in made.ops] == [None, None]


def test_concat_shares_one_scale_and_add_has_its_own():
    ops = (("a", "conv2d", "x"), ("b", "conv2d", "x"), ("j", "concat", ("a", "b")), ("s", "add", ("j", "j")))
    made = plan(graph(*ops), RECIPE, LITERT)
    assert made.group_of["a"] == made.group_of["b"] == made.group_of["j"]
    assert len({made.group_of[t] for t in ("x", "j", "s")}) == 3


def test_a_chain_of_pooling_and_reshape_keeps_its_input_scale():
    made = plan(graph(("c", "conv2d", "x"), ("p", "max_pool2d", "c"), ("v", "reshape", "p"), ("d", "dense", "v")), RECIPE, LITERT)
    assert made.group_of["c"] == made.group_of["p"] == made.group_of["v"] != made.group_of["d"]


def test_borders_stand_where_a_float_operator_interrupts():
    made = plan(graph(("c", "conv2d", "x"), ("e", "float", "c"), ("d", "conv2d", "e")), RECIPE, LITERT)
    assert made.quantize == ("x", "e")
    assert made.dequantize == ("c", "d")
    assert made.floats() == {"e": "target 'litert' has no integer kernel for erf"}


def test_an_add_of_float_tensors_is_not_worth_a_region():
    made = plan(graph(("c", "conv2d", "x"), ("e", "float", "c"), ("a", "add", ("e", "e"))), RECIPE, LITERT)
    assert "not worth a region" in made.floats()["a"]


def test_a_rule_that_matches_no_layer_is_said(caplog):
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope="stem", mode="float")))
    with caplog.at_level("WARNING", "qat"):
        plan(graph(("c", "conv2d", "x")), recipe, LITERT)
    assert "no layer matches the rule scope='stem'" in caplog.text


def test_a_rule_leaves_a_layer_float_and_the_table_says_which():
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope=r"net\.d$", mode="float")))
    made = plan(graph(("c", "conv2d", "x"), ("d", "dense", "c")), recipe, LITERT)
    rows = {row["scope"]: row for row in made.table()}
    assert rows["net.c"]["runs"] == "integer"
    assert "|q| <= 127" in rows["net.c"]["how"]
    assert rows["net.d"]["runs"] == "float"
    assert r"scope='net\.d$'" in rows["net.d"]["reason"]


RESIDUAL = Recipe(name="r", rules=(Rule(), Rule(role="residual", mode="float")))
BLOCK = (("f", "conv2d", "x"), ("a", "add", ("x", "f")), ("n", "layer_norm", ("a",)), ("h", "conv2d", ("n",)))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_rule_for_the_residual_stream_leaves_it_float_between_integers(target):
    made = plan(graph(*BLOCK), RESIDUAL, target)
    assert [p.op.name for p in made.residual_stream()] == ["a", "n"]
    assert [p.integer for p in made.ops] == [True, False, False, True]
    assert (made.quantize, made.dequantize) == (("x", "n"), ("f", "h"))
    assert made.floats()["a"] == "rule role='residual' of recipe 'r' leaves it float"
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_rule_for_a_residual_stream_that_is_not_there_is_said(caplog):
    with caplog.at_level("WARNING", "qat"):
        plan(graph(("c", "conv2d", "x")), RESIDUAL, LITERT)
    assert "the model has no residual stream, so the rule role='residual' does nothing" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "qat"):
        plan(graph(*BLOCK), Recipe(name="r", rules=(Rule(), Rule(op="mul", role="residual", mode="float"))), LITERT)
    assert "no layer matches the rule op='mul' role='residual'" in caplog.text


def test_a_residual_stream_in_16_bits_between_8_bits_is_refused():
    wide = Rule(role="residual", activation=QuantSpec(bits=16, symmetric=True))
    with pytest.raises(ConfigError, match=r"net\.a: its activations would have 8 and 16 bits, which no kernel mixes"):
        plan(graph(*BLOCK), Recipe(name="r", rules=(Rule(), wide)), LITERT)


def test_integer_inputs_are_not_quantized():
    made = graph(("c", "conv2d", "x"), ("e", "float", "t"), inputs=("x", "t"))
    made = made.replace(tensors={**made.tensors, "t": dataclasses.replace(made.tensors["t"], dtype="int64")})
    assert plan(made, RECIPE, LITERT).quantize == ("x",)


@pytest.mark.parametrize(("target", "limits", "qmax"), [("litert", (-128, 127), 127), ("onnxruntime", (0, 255), 64)])
def test_limits_are_the_target_s(target, limits, qmax):
    made = plan(graph(("c", "conv2d", "x")), RECIPE, TARGETS[target])
    group = made.groups[made.group_of["c"]]
    assert (group.qmin, group.qmax) == limits
    assert made.ops[0].qmax == qmax


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(activation=QuantSpec(bits=12)), "12-bit activations"),
        (Rule(weight=QuantSpec(bits=16, symmetric=True)), "weights of up to 8 bits"),
        (Rule(mode="float"), "quantizes nothing of this model"),
        (Rule(op="dense"), "quantizes nothing of this model"),
    ],
)
def test_what_a_target_cannot_do_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        plan(graph(("c", "conv2d", "x")), Recipe(name="r", rules=(rule,)), LITERT)


def test_low_bit_weights_narrow_their_integers():
    recipe = Recipe(name="r", rules=(Rule(weight=QuantSpec(bits=4, symmetric=True, granularity="channel")),))
    assert plan(graph(("c", "conv2d", "x")), recipe, LITERT).ops[0].qmax == 7


def low_bits(bits):
    return Recipe(name="low", rules=(Rule(weight=QuantSpec(bits=bits, symmetric=True), activation=QuantSpec(bits=bits)),))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_low_bit_activations_stand_between_kernels_and_8_bits_at_the_borders(bits):
    ops = (("c", "conv2d", "x"), ("p", "max_pool2d", "c"), ("d", "conv2d", "p"), ("e", "conv2d", "d"))
    made = plan(graph(*ops), low_bits(bits), TARGETS["simulated"])
    limits = {t: (made.groups[g].qmin, made.groups[g].qmax) for t, g in made.group_of.items()}
    inside = (0, 2**bits - 1)
    assert limits == {"x": (0, 255), "c": inside, "p": inside, "d": inside, "e": (0, 255)}
    assert {p.qmax for p in made.ops if p.weight} == {2 ** (bits - 1) - 1}


def test_low_bit_activations_need_the_target_without_a_runtime():
    with pytest.raises(ConfigError, match=r"needs kernels for 4-bit activations.*no target; target='simulated' trains it"):
        plan(graph(("c", "conv2d", "x")), low_bits(4), LITERT)


@pytest.mark.parametrize("mode", ["dynamic", "weight_only", "float16"])
def test_a_stored_weight_makes_no_region(mode):
    ops = (("c", "conv2d", "x"), ("r", "relu", "c"), ("a", "add", ("r", "r")), ("d", "dense", "a"))
    made = plan(graph(*ops), Recipe(name="r", rules=(Rule(mode=mode),)), LITERT)
    assert [(p.op.kind, p.mode, p.activation) for p in made.ops] == [
        ("conv2d", mode, "relu"), ("add", "float", None), ("dense", mode, None),
    ]  # fmt: skip
    assert not made.groups and not made.quantize and not made.floats()
    assert [p.keeps_framework for p in made.ops] == [False, True, False]


def test_modes_mix_by_scope_with_borders_between():
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope="net.d", mode="weight_only")))
    made = plan(graph(("c", "conv2d", "x"), ("d", "conv2d", "c"), ("e", "conv2d", "d")), recipe, LITERT)
    assert [p.mode for p in made.ops] == ["static", "weight_only", "static"]
    assert (made.quantize, made.dequantize) == (("x", "d"), ("c", "e"))


def test_a_kind_without_a_kernel_in_its_mode_says_so():
    recipe = Recipe(name="r", rules=(Rule(mode="dynamic"),))
    ops = graph(("c", "conv2d", "x"), ("t", "conv_transpose2d", "c"))
    ops = ops.replace(ops=(ops.ops[0], dataclasses.replace(ops.ops[1], params={"weight": "w"})))
    assert plan(ops, recipe, LITERT).floats() == {"t": "target 'litert' has no dynamic kernel for conv_transpose2d"}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_plan_survives_json(target):
    ops = (("c", "conv2d", "x"), ("r", "relu", "c"), ("p", "max_pool2d", "r"), ("e", "float", "p"), ("s", "sigmoid", "e"))
    made = plan(graph(*ops), RECIPE, target)
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_target_of_the_users_own_survives_json():
    # It keeps its name, and is no member of TARGETS.
    own = dataclasses.replace(LITERT, weight_qmax=31, rows=tuple(row for row in LITERT.rows if row.kind != "sigmoid"))
    made = plan(graph(("c", "conv2d", "x"), ("s", "sigmoid", "c")), RECIPE, own)
    read = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    assert read == made
    assert read.target == own != LITERT
    assert read.target.row("sigmoid") is None
