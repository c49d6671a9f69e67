"""The gradients of a fully connected layer, as products of matrices with one row for each vector."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel_choice import Form, by_precision, gradients, has_bf16, rounded


def of_input(grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input, [rows, inputs], from that of the output, [rows, outputs]."""
    return _OF_INPUT[gradients()](grad, weight)


def of_weight(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the weight, [outputs, inputs], from that of the output and the input, [rows, inputs]."""
    return _OF_WEIGHT[gradients()](grad, x)


def _input_in_bf16(grad: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(grad.bfloat16(), weight.bfloat16()).float()


def _of_weight(grad: Tensor, x: Tensor) -> Tensor:
    return torch.mm(grad.t(), x)


def _weight_in_bf16(grad: Tensor, x: Tensor) -> Tensor:
    return torch.mm(grad.bfloat16().t(), x.bfloat16()).float()


_OF_INPUT = by_precision(
    "gradient of a layer's input", 1, (Form("product", torch.mm),),
    Form("rounded", lambda grad, weight: torch.mm(rounded(grad), rounded(weight))),
    (Form("bf16 product", _input_in_bf16, lambda *args: has_bf16()),),
)  # fmt: skip
_OF_WEIGHT = by_precision(
    "gradient of a layer's weight", 2, (Form("product", _of_weight),),
    Form("rounded", lambda grad, x: _of_weight(rounded(grad), rounded(x))),
    (Form("bf16 product", _weight_in_bf16, lambda *args: has_bf16()),),
)  # fmt: skip
