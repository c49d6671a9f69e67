"""Nodes that look integers up: functions of one tensor, and parameters on the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.arithmetic import lookup as functions
from qat.arithmetic.expressions import ARITHMETIC, evaluate
from qat.planning.plan import PlannedOp

from .activation_grid import Grid
from .base import Node, narrowed
from .float_functions import as_runtime
from .quantize import quantize_parameter

#: Operators of several operands in composed functions.
_OF_SEVERAL: dict[str, Any] = {
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "where": torch.where,
}

#: PyTorch's functions by kind, for a model that is not calibrated yet and for operators that stay float.
FUNCTIONS: dict[str, Any] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": lambda x, approximate: F.gelu(x, approximate="tanh" if approximate else "none"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, alpha),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
    "erf": torch.erf,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "reciprocal": torch.reciprocal,
    "power": lambda x, exponent: torch.pow(x, exponent),
    "composed": lambda x, steps: evaluate(steps, x, {**FUNCTIONS, **ARITHMETIC, **_OF_SEVERAL}),
}


class Function(Node):
    """A function of one tensor: a table of the output's integers, which is made again when a scale has changed.

    Attributes:
        writer: the operator that computes the input, where this node has to give a gradient of 0 for clipped inputs; None where
            that operator has a clip mask of its own.
    """

    keeps_inputs, keeps_bytes = False, True

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__(planned, grids, kernels_name)
        self.made_for: tuple[Any, ...] = ()
        self.tables: tuple[Tensor, ...] = ()
        self.writer: PlannedOp | None = None

    def integer(self, x: Tensor) -> Tensor:
        """Look up; in training the gradient is the mean slope around each integer."""
        grid = self.inputs[0]
        if self.tracks_output:
            with torch.no_grad():
                self.observe(self.real(x * grid.scale) / self.output.scale)
        return kernels.lookup(x, *self._tables(x.device), int(grid.lo))

    def real(self, x: Tensor) -> Tensor:
        """PyTorch's own function."""
        return FUNCTIONS[self.planned.op.kind](x, **self.attrs)

    def evaluated(self, x: Tensor) -> Tensor:
        """The same in the runtime's arithmetic, where that is known."""
        found = as_runtime(self.planned.op.kind, x, self.kernels)
        return self.real(x) if found is None else found

    def _tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the integers and their slopes, float32 of one entry for each integer of the input.

        The slope is 0 where the output is at its limits, and where the input is at the limits of :attr:`writer`.
        """
        grid, output = self.inputs[0], self.output
        key = (grid.scale_value, grid.lo, output.scale_value, output.lo, device)
        if key != self.made_for:
            encodings = (grid.encoding, output.encoding)
            kind = self.planned.op.kind
            values = functions.table(kind, self.attrs, *encodings, self.kernels).astype(np.float32)
            slopes = functions.slopes(kind, self.attrs, *encodings) * inside(values, self.limits())
            if self.writer is not None:
                slopes *= inside(np.arange(len(values)) + grid.lo, narrowed(grid, self.writer.activation))
            self.tables = tuple(torch.from_numpy(a.astype(np.float32)).to(device) for a in (values, slopes))
            self.made_for = key
        return self.tables


def inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return which values are strictly within limits."""
    return (values > limits[0]) & (values < limits[1])


class Constant(Node):
    """A parameter on the grid. Its range is calibrated and observed as an activation's is."""

    def integer(self, value: Tensor) -> Tensor:
        """Quantize; the gradient reaches the parameter in its own unit."""
        return quantize_parameter(self.real(value), self.output, self.kernels, self.tracks_output)

    def real(self, value: Tensor) -> Tensor:
        """The parameter itself."""
        return value.reshape(self.attrs["shape"]) if "shape" in self.attrs else value
