"""Signals of one dimension in the neutral graph, written as images of height 1."""

from typing import Any

import pytest
import torch
from torch import nn

import qat
from qat.graph.decompose.conv1d import signals_as_images
from qat.graph.graph import Graph, Op, TensorSpec

#: A window of one axis, and of two: what the first becomes.
ONE = {"strides": (2,), "padding": ((1, 2),), "dilations": (1,), "groups": 1, "channel_axis": 0}
TWO = {"strides": (1, 2), "padding": ((0, 0), (1, 2)), "dilations": (1, 1), "groups": 1, "channel_axis": 0}


def chain(
    *kinds: tuple[str, dict[str, Any]], layout: str = "NCHW", outputs: tuple[str, ...] = (), length: int | None = 8
) -> Graph:
    """Operators that each read the one before, on tensors of 4 channels. Each has the name of its kind."""
    shape = (None, 4, length) if layout == "NCHW" else (None, length, 4)
    names = ["x", *(kind for kind, _ in kinds)]
    example = tuple(12 if n is None else n for n in (3, *shape[1:])) if length is None else ()
    specs = {name: TensorSpec(name, shape, example=example) for name in names}
    ops = [Op(kind, kind, (source,), (kind,), {}, attrs) for source, (kind, attrs) in zip(names, kinds, strict=False)]
    return Graph("net", layout, ("x",), outputs or (names[-1],), tuple(ops), specs)


def test_operators_of_signals_stay_on_images_between_two_reshapes():
    norm = {"epsilon": 1e-3, "axis": 1}
    made = signals_as_images(chain(("conv2d", ONE), ("batch_norm", norm), ("relu", {}), ("concat", {"axis": 2})))
    assert [op.kind for op in made.ops] == ["reshape", "conv2d", "batch_norm", "relu", "concat", "reshape"]
    assert (made.inputs, made.outputs) == (("x",), ("concat",))
    assert dict(made.ops[1].attrs) == TWO
    assert made.ops[2].attrs["axis"] == 1 and made.ops[4].attrs["axis"] == 3
    assert made.tensors["conv2d_image"].shape == (None, 4, 1, 8)
    assert list(made.tensors) == ["x", *(op.output for op in made.ops)]


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (-1, 4, 1, 8)), ("NHWC", (-1, 1, 8, 4))])
def test_the_axis_of_height_lies_before_the_length(layout, shape):
    first, *_, last = signals_as_images(chain(("conv2d", ONE), layout=layout)).ops
    assert (first.attrs["shape"], last.attrs["shape"]) == (shape, (-1, *(n for n in shape[1:] if n != 1)))


def test_a_signal_that_another_operator_reads_is_there_beside_its_image():
    made = signals_as_images(chain(("conv2d", ONE), ("softmax", {"beta": 1.0}), ("relu", {}), outputs=("relu", "conv2d")))
    assert [op.kind for op in made.ops] == ["reshape", "conv2d", "reshape", "softmax", "relu"]


def test_a_mean_over_the_length_is_one_over_an_image():
    graph = chain(("conv2d", ONE), ("mean", {"axes": (2,), "keepdims": False}))
    graph = graph.replace(tensors={**graph.tensors, "mean": TensorSpec("mean", (None, 4))})
    *_, mean = signals_as_images(graph).ops
    assert (mean.kind, mean.inputs, dict(mean.attrs)) == ("mean", ("conv2d_image",), {"axes": (2, 3), "keepdims": False})


def test_a_free_length_is_left_to_the_reshape_where_the_example_tells_it():
    made = signals_as_images(chain(("conv2d", ONE), length=None))
    assert [op.attrs["shape"] for op in made.ops if op.kind == "reshape"] == [(-1, 4, 1, -1), (-1, 4, -1)]
    assert made.tensors["conv2d_image"].example == (3, 4, 1, 12)


def test_a_name_that_is_taken_is_not_given_twice():
    graph = chain(("conv2d", ONE), ("relu", {}))
    taken = graph.replace(
        tensors={**graph.tensors, "conv2d_image": TensorSpec("conv2d_image", (None, 1))}, inputs=("x", "conv2d_image")
    )
    assert signals_as_images(taken).tensors["conv2d_image_"].shape == (None, 4, 1, 8)


class OverFrames(nn.Module):
    """Frames are the samples, and the second convolution runs over them."""

    def __init__(self):
        super().__init__()
        self.frame, self.time = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 2, 3, padding=1)

    def forward(self, x):
        return self.time(torch.relu(self.frame(x)).mean(2).t()[None])


def test_a_signal_whose_length_is_the_batch_is_convolved(tmp_path):
    torch.manual_seed(0)
    net, x = OverFrames().eval(), torch.rand(6, 4, 5)
    prepared = qat.calibrate(qat.prepare(net, x), [x])
    assert not prepared.plan.floats()
    longer = torch.rand(9, 4, 5)
    torch.testing.assert_close(prepared(longer), net(longer), atol=0.2, rtol=0)
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x, longer[:6]]).parity.exact == 1.0
