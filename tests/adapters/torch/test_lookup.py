"""Functions of one value in PyTorch: each is a table of integers, exact in ONNX Runtime, trained with a gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qat.arithmetic import lookup
from qat.arithmetic.encoding import from_range
from support.operators import IMAGES, Between, check_trained

FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "abs": torch.abs,
    "neg": lambda x: -x,
    "square": torch.square,
    "power": lambda x: x**2,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp above": lambda x: x.clamp(max=0.4),
    "hardtanh": F.hardtanh,
    "root": lambda x: F.relu(x).sqrt(),
    "inverse root": lambda x: (F.relu(x) + 1).rsqrt(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_tables(name, tmp_path):
    prepared, ops = check_trained(Between(lambda m, x: FUNCTIONS[name](x)), IMAGES, tmp_path)
    assert "QLinearConv" in ops and not {"Conv", "Gemm", "MatMul"} & set(ops)
    assert float(prepared.get_parameter("a.weight").grad.abs().sum()) > 0


def test_table_is_the_float_function_rounded():
    x, y = from_range(-4.0, 3.0, 0, 255), from_range(-0.2, 3.0, 0, 255)
    real = torch.arange(x.lo, x.hi + 1) * float(x.scale)
    expected = (F.silu(real.double()).float() / float(y.scale)).round().clamp(y.lo, y.hi)
    np.testing.assert_array_equal(lookup.table("silu", {}, x, y), expected.numpy())
    slopes = torch.func.vmap(torch.func.grad(F.silu))(real) * float(x.scale) / float(y.scale)
    np.testing.assert_allclose(lookup.slopes("silu", {}, x, y), slopes, atol=1e-3)
