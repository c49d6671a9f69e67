"""Accumulators as tensor cores compute them: exact with bfloat16 operands, and by another form where a device is not."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.adapters.torch.autograd import linear, tensor_cores
from qat.arithmetic import accumulators


@pytest.fixture(autouse=True)
def untried():
    tensor_cores.chosen.clear()
    yield
    tensor_cores.chosen.clear()


def integers(low, high, *shape):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0))


def names():
    return [form.name for form in tensor_cores.chosen.values()]


@pytest.mark.parametrize(("channels", "kernel", "stride", "groups"), [(24, 1, 1, 1), (24, 1, 2, 1), (8, 3, 1, 1), (8, 3, 2, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_equal_the_reference(channels, kernel, stride, groups, layout):
    x = integers(-100, 155, 2, channels, 6, 5).float().to(memory_format=layout)
    weight, bias = (
        integers(-127, 127, 16, channels // groups, kernel, kernel).to(torch.int8),
        integers(-(2**20), 2**20, 16).float(),
    )
    geometry = ((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups)
    found = tensor_cores.conv2d(x, x, weight, bias, geometry, -100, 127)
    pads = ((kernel // 2, kernel // 2),) * 2
    expected = accumulators.conv2d(x.numpy(), weight.numpy(), bias.numpy(), (stride, stride), pads, (1, 1), groups)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert names() == ["bfloat16" if (kernel, stride) == (1, 1) else "float32"]


def test_sums_that_bfloat16_could_not_hold_are_split(monkeypatch):
    taken = []
    product = tensor_cores._product
    monkeypatch.setattr(tensor_cores, "_product", lambda a, b: taken.append((a.dtype, a.shape[1])) or product(a, b))
    x, weight = torch.full((3, 4, 1200), 255.0), torch.full((2, 1200), 127, dtype=torch.int8)
    weight[1] = integers(-127, 127, 1200)
    x[..., 600:] = 254.0
    bias = torch.tensor([-(2.0**23), 5.0])
    found = tensor_cores.linear(x, x, weight, bias, 0, 127)
    np.testing.assert_array_equal(found.numpy(), accumulators.dense(x.numpy(), weight.numpy(), bias.numpy()))
    assert {dtype for dtype, _ in taken} == {torch.bfloat16}
    assert max(size for _, size in taken) * 255 * 127 < 2**24


def test_a_device_that_adds_in_fewer_bits_gets_another_form(monkeypatch):
    monkeypatch.setattr(tensor_cores, "_product", lambda a, b: (a @ b).float())  # sums of bfloat16
    x, weight = integers(0, 255, 2, 64, 3, 3).float(), integers(-127, 127, 8, 64, 1, 1).to(torch.int8)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    expected = accumulators.conv2d(x.numpy(), weight.numpy(), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    np.testing.assert_array_equal(tensor_cores.conv2d(x, x, weight, None, geometry, 0, 127).numpy(), expected)
    assert names() == ["float32"]

    def inexact(x, weight, bias, geometry):
        return torch.nn.functional.conv2d(x, weight.float(), bias, *geometry) * (1 + 2**-20)

    monkeypatch.setattr(
        tensor_cores, "FORMS", (*tensor_cores.FORMS[:1], tensor_cores.Form("float32", inexact), tensor_cores.FORMS[2])
    )
    tensor_cores.chosen.clear()
    np.testing.assert_array_equal(tensor_cores.conv2d(x, x, weight, None, geometry, 0, 127).numpy(), expected)
    assert names() == ["float64"]


def test_a_device_without_the_operator_gets_another_form(monkeypatch):
    def missing(a, b):
        raise NotImplementedError("Could not run 'aten::mm.dtype'")

    monkeypatch.setattr(tensor_cores, "_product", missing)
    x, weight = integers(0, 255, 3, 20).float(), integers(-127, 127, 8, 20).to(torch.int8)
    assert torch.equal(tensor_cores.linear(x, x, weight, None, 0, 127), x @ weight.float().t())
    assert names() == ["float32"]


def test_values_that_no_byte_holds_stay_in_float32():
    x, weight = integers(0, 999, 2, 4, 3, 3).float() / 7, integers(-127, 127, 8, 4, 1, 1).to(torch.int8)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    expected = torch.nn.functional.conv2d(x, weight.float())
    assert torch.equal(tensor_cores.conv2d(x, x, weight, None, geometry, None, 127), expected)
    assert torch.equal(
        tensor_cores.linear(x, x, weight[:, :3, 0, 0], None, None, 127),
        torch.nn.functional.linear(x, weight[:, :3, 0, 0].float()),
    )
    assert not tensor_cores.chosen


@pytest.mark.parametrize("training", [False, True])
def test_a_model_gives_the_same_bits_and_gradients(training, monkeypatch):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 24, 1), nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.ReLU()
    )
    net, x = nn.Sequential(body, nn.Conv2d(24, 40, 1), nn.Flatten(), nn.Linear(640, 5)), torch.randn(4, 3, 8, 8)
    model = qat.calibrate(qat.prepare(net.eval(), x), [x]).train(training)

    def run():
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        return [out.detach(), *(p.grad.clone() for p in model.parameters())]

    expected = run()
    monkeypatch.setattr(linear, "kernels_of", lambda x: tensor_cores)
    found = run()
    assert sorted(names()) == ["bfloat16"] * 3 + ["float32"] * 2
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other)
