"""Means over any axes in the neutral graph, written as means over images."""

import pytest

from qat.graph.decompose.reductions import means_over_images
from qat.graph.graph import Graph, Op, TensorSpec


def mean(layout, axes, output, shape=(None, 4, 6, 5), keepdims=False, example=()):
    """Return the graph of one mean."""
    specs = {"x": TensorSpec("x", shape, example=example), "y": TensorSpec("y", output)}
    op = Op("y", "mean", ("x",), ("y",), {}, {"axes": axes, "keepdims": keepdims}, "scope")
    return Graph("net", layout, ("x",), ("y",), (op,), specs)


@pytest.mark.parametrize(
    ("layout", "axes", "output", "kinds", "image"),
    [
        ("NCHW", (1,), (None, 6, 5), ["transpose", "reshape", "mean", "reshape"], (None, 30, 4, 1)),
        ("NCHW", (3,), (None, 4, 6), ["reshape", "mean", "reshape"], (None, 24, 5, 1)),
        ("NCHW", (1, 2, 3), (None,), ["reshape", "mean", "reshape"], (None, 1, 120, 1)),
        ("NHWC", (1,), (None, 6, 5), ["reshape", "mean", "reshape"], (None, 4, 1, 30)),
        ("NHWC", (1, 3), (None, 6), ["transpose", "reshape", "mean"], (None, 20, 1, 6)),
    ],
)
def test_reduced_axes_become_the_height_of_an_image(layout, axes, output, kinds, image):
    made = means_over_images(mean(layout, axes, output))
    assert [op.kind for op in made.ops] == kinds
    (op,) = (op for op in made.ops if op.kind == "mean")
    assert made.tensors[op.inputs[0]].shape == image
    assert dict(op.attrs) == {"axes": (2, 3) if layout == "NCHW" else (1, 2), "keepdims": kinds[-1] == "reshape"}
    assert (op.name, op.scope, made.ops[-1].output, made.outputs) == ("y", "scope", "y", ("y",))
    assert list(made.tensors) == ["x", *(op.output for op in made.ops)]


def test_a_mean_over_an_image_stays():
    graph = mean("NCHW", (2, 3), (None, 4, 1, 1), keepdims=True)
    assert means_over_images(graph) == graph


def test_one_free_size_is_left_to_the_reshape():
    made = means_over_images(mean("NCHW", (1,), (None, None), (None, 4, None), example=(3, 4, 7)))
    assert [op.attrs.get("axes") or op.attrs["shape"] for op in made.ops] == [(0, 2, 1), (-1, -1, 4, 1), (2, 3)]
    assert made.tensors["y_image"].example == (3, 7, 4, 1)
