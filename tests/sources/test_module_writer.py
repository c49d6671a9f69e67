"""A module written call by call: its parameters' and scopes' names, its free sizes, its copies."""

import copy
import operator
import pickle

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.sources.module_writer import ModuleWriter


@pytest.fixture
def net():
    """A convolution, a reshape by a computed size, a dense layer and a split, as a file would have them."""
    random = np.random.default_rng(0)
    writer = ModuleWriter()
    x = writer.input("image:0", (None, 3, 8, 8), torch.float32)
    with writer.operator("/stem/conv/Conv"):
        kernel = writer.parameter("stem.conv.weight", random.normal(size=(4, 3, 3, 3)).astype(np.float32))
        y = writer.call(F.relu, writer.call(F.conv2d, x, kernel, None, 2))
    with writer.operator("flat"):
        rest = writer.arithmetic(operator.mul, writer.size(y, 1), 9)
        y = writer.call(torch.reshape, y, [writer.size(y, 0), rest])
    with writer.operator("fc"):
        y = writer.call(F.linear, y, writer.parameter("fc/kernel:0", random.normal(size=(5, 36)).astype(np.float32)))
    with writer.operator("parts"):
        outputs = writer.calls(torch.split, y, [2, 3], 1)
    return writer.finish(outputs)


def test_parameters_bear_the_files_names(net):
    assert [name for name, _ in net.named_parameters()] == ["stem.conv.weight", "fc.kernel_0"]


def test_the_module_takes_any_batch(net):
    for batch in (1, 3):
        assert [tuple(output.shape) for output in net(torch.ones(batch, 3, 8, 8))] == [(batch, 2), (batch, 3)]


def test_the_plan_names_the_operators_of_the_file(net):
    plan = qat.plan(net, torch.zeros(2, 3, 8, 8))
    assert [row["scope"] for row in plan.table()] == ["stem.conv.Conv", "flat", "fc_1", "parts", "parts"]
    assert not plan.floats()


def test_copies_compute_the_same(net):
    x = torch.randn(2, 3, 8, 8)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for mine, its in zip(net(x), copied(x), strict=True):
            assert torch.equal(mine, its)


def test_a_tensor_read_twice_is_one_parameter():
    writer = ModuleWriter()
    x = writer.input("x", (None, 4), torch.float32)
    weight = np.eye(4, dtype=np.float32)
    for _ in range(2):
        x = writer.call(F.linear, x, writer.parameter("shared", weight))
    assert len(list(writer.finish([x]).parameters())) == 1


def test_a_weight_that_a_file_holds_twice_is_one_parameter(tmp_path):
    """An exporter writes the weight of an embedding and of its head as two constants, one of them turned."""
    net = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    net[1].weight = net[0].weight
    ids = torch.randint(0, 50, (64, 6), generator=torch.Generator().manual_seed(0))
    axes = {"ids": {0: "n"}}
    torch.onnx.export(net, (ids,), tmp_path / "net.onnx", dynamo=False, input_names=["ids"], dynamic_axes=axes)
    assert [x.dims for x in onnx.load(tmp_path / "net.onnx").graph.initializer if len(x.dims) == 2] == [[50, 8], [8, 50]]
    model = qat.load(tmp_path / "net.onnx", ids)
    assert [tuple(p.shape) for p in model.parameters()] == [(50, 8), (50,)]
    prepared = qat.calibrate(qat.prepare(model, ids), [ids])
    assert qat.export(prepared, tmp_path / "net_int8.onnx", verify=[ids]).parity.exact == 1.0
    assert [x.dims for x in onnx.load(tmp_path / "net_int8.onnx").graph.initializer if len(x.dims) == 2] == [[50, 8]]


def test_weights_of_one_number_and_empty_ones_stay_apart():
    writer = ModuleWriter()
    x = writer.input("x", (None, 4), torch.float32)
    held = [("a", np.zeros((4, 4))), ("b", np.zeros((4, 4))), ("c", np.zeros((0, 4))), ("d", np.zeros((0, 4)))]
    made = [writer.parameter(name, array.astype(np.float32)) for name, array in held]
    outputs = [writer.call(F.linear, x, weight) for weight in made]
    assert len(list(writer.finish(outputs).parameters())) == 4


def test_names_that_collide_stay_apart():
    writer = ModuleWriter()
    x = writer.input("x", (None, 4), torch.float32)
    for name in ("a", "a/b", "a.b", "0", "forward", ""):
        x = writer.call(torch.add, x, writer.buffer(name, np.ones(4, np.float32)))
    net = writer.finish([x])
    assert len(list(net.buffers())) == 6
    assert torch.equal(net(torch.zeros(1, 4)), torch.full((1, 4), 6.0))
