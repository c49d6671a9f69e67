"""Large channels of norms: what moves into the next weights, what stays, and that the float function is the same."""

import numpy as np
import pytest

from qat.graph.even_norms import even_norms
from qat.graph.graph import Graph, Op, TensorSpec

WIDTH = 8


def case(more=(), outputs=("d", "e"), framework=False, moved=()):
    """Return a graph in which two layers read a norm, behind the operators ``moved``, and its parameters; channel 2 is large."""
    held = {"gamma": "g", "beta": "b"}
    attrs = {"epsilon": 1e-5}
    norm = (
        Op("n", "float", ("x",), ("n",), {}, {"computes": "layer_norm", "target": "LayerNormalization", **attrs, **held})
        if framework
        else Op("n", "layer_norm", ("x",), ("n",), held, attrs)
    )
    read = moved[-1].output if moved else "n"
    layers = [Op(name, "dense", (read,), (name,), {"weight": f"{name}.w"}, {"channel_axis": 0}) for name in ("d", "e")]
    ops = (norm, *moved, *layers, *more)
    tensors = {name: TensorSpec(name, (None, 4, WIDTH)) for name in ("x", *(op.output for op in ops))}
    rng = np.random.default_rng(0)
    params = {
        "g": np.ones(WIDTH),
        "b": 0.1 * np.ones(WIDTH),
        "d.w": rng.normal(size=(3, WIDTH)),
        "e.w": rng.normal(size=(5, WIDTH)),
    }
    for name in params:
        params[name] = params[name].astype(np.float32)
        params[name][..., 2] *= 50 if name in ("g", "b") else 1 / 50
    return Graph("g", "NCHW", ("x",), outputs, ops, tensors), params


def products(params):
    """Return what each layer makes of gamma and of beta."""
    return [params[f"{name}.w"] * params[role] for name in ("d", "e") for role in ("g", "b")]


@pytest.mark.parametrize("framework", [False, True])
def test_a_large_channel_becomes_even_and_the_function_stays(framework):
    graph, params = case(framework=framework)
    changed, made = even_norms(graph, params, {"n"})
    np.testing.assert_allclose(products(made)[0], products(params)[0], rtol=1e-6)
    for before, after in zip(products(params), products(made), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)
    assert 0.5 < made["g"][2] < 2
    others = np.arange(WIDTH) != 2
    assert all(np.array_equal(made[name][..., others], params[name][..., others]) for name in params)
    assert (changed.ops[0].kind, changed.ops[0].params) == ("layer_norm", {"gamma": "g", "beta": "b"})
    assert {name: value.dtype for name, value in made.items()} == dict.fromkeys(params, np.float32)


def movement(name, kind, read, **attrs):
    return Op(name, kind, (read,), (name,), {}, attrs)


TURN = movement("t", "transpose", "n", axes=(0, 2, 1))
SECOND = Op("f", "dense", ("x",), ("f",), {"weight": "d.w"}, {"channel_axis": 0})


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param((movement("m", "move", "n", target="aten.slice.Tensor"),), id="slice"),
        pytest.param((TURN, movement("u", "transpose", "t", axes=(0, 2, 1))), id="transpositions"),
        pytest.param((movement("m", "mean", "n", axes=(1,), keepdims=True),), id="mean"),
        pytest.param((movement("m", "reshape", "n", shape=(-1, 4, WIDTH)),), id="reshape"),
    ],
)
def test_movement_that_leaves_the_channels_is_no_hindrance(moved):
    graph, params = case(moved=moved)
    made = even_norms(graph, params, {"n"})[1]
    assert made["g"][2] < 2
    for before, after in zip(products(params), products(made), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param({}, set(), id="not named"),
        pytest.param({"more": (Op("a", "add", ("n", "x"), ("a",)),)}, {"n"}, id="a sum reads it too"),
        pytest.param({"outputs": ("d", "e", "n")}, {"n"}, id="an output"),
        pytest.param({"more": (SECOND,)}, {"n"}, id="a shared weight"),
        pytest.param({"moved": (TURN,)}, {"n"}, id="other axes"),
        pytest.param({"moved": (movement("m", "move", "n", target="aten.roll.default"),)}, {"n"}, id="channels change places"),
    ],
)
def test_other_norms_stay(changes, names):
    graph, params = case(**changes)
    changed, made = even_norms(graph, params, names)
    assert changed.ops == graph.ops
    assert all(made[name] is params[name] for name in params)


def test_usual_channels_stay():
    graph, params = case()
    params["g"][2], params["b"][2] = 3.5, 0.1
    made = even_norms(graph, params, {"n"})[1]
    assert all(made[name] is params[name] for name in params)


def test_a_large_channel_with_usual_weights_is_shared_between_both():
    graph, params = case()
    for name in ("d.w", "e.w"):
        params[name][:, 2] = np.sign(params[name][:, 2]) * np.median(np.abs(params[name]))
    made = even_norms(graph, params, {"n"})[1]
    assert 4 < made["g"][2] < 20
