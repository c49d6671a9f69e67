"""Operators of PyTorch that stay float in a ``.tflite``: each gives what PyTorch gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import qat
from qat.exporters.tflite.aten_table import ATEN
from qat.planning.held_in_tflite import ASSERTIONS, HELD, LIMITS
from qat.runtimes import open_session


def weight(*shape):
    return torch.linspace(-0.5, 0.5, int(np.prod(shape))).reshape(shape)


def changed_in_place(x):
    y = x.clone()
    y[:, 1] += 1
    y[:, :, 2:7:2] = 0
    return y


def positive(x):
    return x.mean(1, keepdim=True).abs() + 0.5


GROUPS = {
    "order": {
        "argmax": lambda x: x.argmax(1),
        "argmin": lambda x: x.argmin(-1, keepdim=True),
        "topk": lambda x: x.flatten(1).topk(3).values,
        "smallest": lambda x: x.topk(2, 1, largest=False).indices,
        "sort": lambda x: x.sort(-1)[0],
        "argsort": lambda x: x.argsort(1, descending=True),
        "median": lambda x: x.median(1)[0],
        "cummax": lambda x: x.cummax(1)[0],
        "cumprod": lambda x: x.cumprod(2),
        "cumsum": lambda x: (x > 0).cumsum(1),
    },
    "choice": {
        "gather": lambda x: x.gather(1, x.argsort(1)[:, :2]),
        "indices": lambda x: x[:, :, torch.tensor([[0], [2]]), torch.tensor([1, -3])],
        "far_indices": lambda x: x[:, [0, 2], :, 1],
        "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0),
        "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, x.argsort(1), x),
        "greatest": lambda x: x.scatter_reduce(1, x.argsort(1) // 2, x, "amax"),
        "least": lambda x: torch.zeros_like(x).scatter_reduce(1, x.argsort(1)[:, :2], x, "amin", include_self=False),
        "average": lambda x: x.scatter_reduce(1, x.argsort(1) // 2, x, "mean"),
        "product": lambda x: x.scatter_reduce(2, x.argsort(2) // 2, x, "prod", include_self=False),
        "across_samples": lambda x: torch.zeros(len(x), 8).scatter_add(
            0, torch.arange(len(x))[:, None].expand(-1, 8), x[:, 0, 0]
        ),
        "in_place": changed_in_place,
        "fill": lambda x: x.index_fill(1, torch.tensor([0, 3]), 2.0),
        "joined_types": lambda x: torch.cat([x, x > 0, x.argsort(1)], 1),
        "diagonal": lambda x: x.diagonal(1, 2, 3),
        "repeated": lambda x: x.argmax(1).flatten(1).repeat(1, 2) + torch.arange(3).repeat(x.shape[0], 1)[:, :1],
        "not_squeezed": lambda x: x.argmax(1).squeeze(1).repeat(1, 2, 1),
        "repeated_along_new_axes": lambda x: x.argmax(1).repeat(2, 1, 1, 1).sum(0),
        "one_hot": lambda x: F.one_hot(x.argmax(1), 4).float(),
        "one_channel": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    },
    "arithmetic": {
        "erf": torch.erf,
        "divided_down": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
        "divided_to_zero": lambda x: torch.div(x, positive(x), rounding_mode="trunc"),
        "integers_divided": lambda x: (x * 10).int() // 3,
        "of_integers": lambda x: (x * 9).long().abs() + (x * 9).long().sign(),
        "integers_limited": lambda x: torch.min(torch.as_tensor(2), (x * 9).long()),
        "greatest_integer": lambda x: (x * 9).long().argmax(1),
        "remainder": lambda x: x % positive(x),
        "fmod": lambda x: torch.fmod(x, 0.7),
        "power": lambda x: x.abs() ** 1.7 + 2.0**x,
        "bits": lambda x: torch.where(~(x > 0) & (x > -0.5) | (x > 1) ^ (x > 2), x, -1.0),
        "shifted": lambda x: torch.add((x * 8).int() << 1, 3, alpha=2),
        "arcs": lambda x: torch.atan(x) + torch.asin(x.tanh()) + torch.asinh(x) + torch.log2(x.abs() + 1),
        "norms": lambda x: x.norm(float("inf"), 1) + x.norm(3, 1),
        "counted": lambda x: (x > 0).sum((1, 2)),
        "truths": lambda x: x > 0,
        "finite": lambda x: torch.isfinite(x).float(),
        "bytes": lambda x: (x.clamp(0, 1) * 255).to(torch.uint8),
    },
    "images": {
        "bicubic": lambda x: F.interpolate(x, size=(5, 13), mode="bicubic"),
        "smoothed": lambda x: F.interpolate(x, size=(5, 6), mode="bilinear", antialias=True),
        "nearest_exact": lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"),
        "bilinear": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        "uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
        "uneven_max": lambda x: F.adaptive_max_pool2d(x, (3, 5)),
        "averages": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        "padded_averages": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        "dilated_maxima": lambda x: F.max_pool2d(x, 3, 1, dilation=2),
        "coordinates": lambda x: F.grid_sample(x, torch.tanh(x[:, :2]).permute(0, 2, 3, 1) * 1.3, align_corners=False),
        "transposed": lambda x: F.conv_transpose2d(x, weight(4, 3, 3, 3), groups=2, dilation=3, stride=2, output_padding=1),
        "volumes": lambda x: F.conv3d(x[:, None], weight(2, 1, 3, 3, 3)),
    },
}


class Applied(torch.nn.Module):
    def __init__(self, functions):
        super().__init__()
        self.stem, self.functions = torch.nn.Conv2d(3, 4, 1), functions

    def forward(self, x):
        y = self.stem(x.float() / 255)
        assert y.shape[1] == 4
        return {name: function(y) for name, function in self.functions.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_an_operator_computes_what_pytorch_computes(group, tmp_path):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    model = qat.calibrate(qat.prepare(Applied(GROUPS[group]).eval(), x, target="litert"), [x])
    artifact = qat.export(model, tmp_path / "net.tflite", layout="NCHW")
    with torch.no_grad():
        expected = model.eval()(x)
    session = open_session(artifact.path)
    for name, got in zip(session.output_names, session.run(x.numpy()), strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), rtol=1e-5, atol=2e-6, err_msg=name)


def test_what_is_sent_to_one_place_reaches_an_onnx(tmp_path):
    places = lambda x: x.argsort(1)[:, :2] // 2  # noqa: E731
    functions = {
        "average": lambda x: x.scatter_reduce(1, places(x), 2 * x, reduce="mean"),
        "alone": lambda x: x.scatter_reduce(1, places(x), 2 * x, "mean", include_self=False),
        "sum": lambda x: x.scatter_add(1, places(x), x),
        "put": lambda x: x.scatter(1, x.argsort(1)[:, :2], 2 * x),
    }
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = qat.calibrate(qat.prepare(Applied(functions), x), [x])
    assert qat.export(model, tmp_path / "net.onnx", verify=[x]).parity.exact == 1


def test_the_planners_table_and_the_exporters_are_one():
    assert {str(operator) for operator in ATEN} == HELD
    assert LIMITS.keys() <= HELD
    assert not HELD & ASSERTIONS
