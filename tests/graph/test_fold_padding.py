"""A padding that only convolutions read joins their own."""

import pytest

from qat.graph.fold_padding import fold_padding
from qat.graph.graph import Graph, Op, TensorSpec

PAD = Op("p", "pad", ("x",), ("p",), {}, {"padding": ((0, 1), (2, 3))})


def conv(name, source, kind="conv2d"):
    return Op(name, kind, (source,), (name,), {"weight": "w"}, {"padding": ((1, 1), (0, 0)), "strides": (2, 2)})


def graph(*ops, outputs=("y",)):
    names = ["x", *(op.output for op in ops)]
    return Graph("net", "NCHW", ("x",), outputs, ops, {name: TensorSpec(name, (None, 4, 8, 8)) for name in names})


def test_each_reader_pads_as_the_operator_did():
    made = fold_padding(graph(PAD, conv("a", "p"), conv("y", "p", "depthwise_conv2d"), outputs=("a", "y")))
    assert [(op.name, op.inputs, op.attrs["padding"]) for op in made.ops] == [
        ("a", ("x",), ((1, 2), (2, 3))),
        ("y", ("x",), ((1, 2), (2, 3))),
    ]
    assert list(made.tensors) == ["x", "a", "y"]


@pytest.mark.parametrize(
    ("ops", "outputs"),
    [
        ((PAD, conv("y", "p"), Op("m", "max_pool2d", ("p",), ("m",), {}, {"padding": ((0, 0), (0, 0))})), ("y", "m")),
        ((PAD, conv("y", "p")), ("y", "p")),
        ((PAD, conv("y", "p", "conv_transpose2d")), ("y",)),
    ],
)
def test_a_padding_that_another_operator_reads_stays(ops, outputs):
    made = graph(*ops, outputs=outputs)
    assert fold_padding(made) == made
