"""Calls on tensors that are known: PyTorch computes them at once, and the result is known too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from qat.errors import DataError

from .known import Known
from .operator import Length, Operand

#: More numbers than a constant may have that is computed from smaller ones.
MOST_NUMBERS = 2**28


class Eager:
    """Calls functions of PyTorch on constants: see :class:`qat.sources.onnx.operator.Calls`."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        """Call a function that returns one tensor."""
        return _known(self._run(function, args, kwargs))

    def call_like(self, operand: Operand, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        """Call a function that returns a tensor of the operand's shape and type."""
        return self.call(function, *args, **kwargs)

    def calls(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Sequence[Operand]:
        """Call a function that returns several tensors."""
        return [_known(tensor) for tensor in self._run(function, args, kwargs)]

    def shape(self, operand: Operand) -> list[Length]:
        """Return the sizes of a constant."""
        assert isinstance(operand, Known)
        return list(operand.array.shape)

    def dtype(self, operand: Operand) -> torch.dtype:
        """Return the type of a constant."""
        assert isinstance(operand, Known)
        return torch.from_numpy(np.empty(0, operand.array.dtype)).dtype

    @staticmethod
    def _run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        args, kwargs = _tensors(args), {name: _tensors(arg) for name, arg in kwargs.items()}
        with torch.no_grad():
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    planned = function(*args, **kwargs)
            except DynamicOutputShapeException:  # such as nonzero, whose result is no larger than what it reads
                planned = ()
            count = sum(math.prod(t.shape) for t in (planned if isinstance(planned, (tuple, list)) else (planned,)))
            if count > MOST_NUMBERS:
                raise DataError(
                    f"the file computes a constant of {count:,} numbers: it is damaged, or export it with that constant left out"
                )
            return function(*args, **kwargs)


def as_array(array: np.ndarray) -> np.ndarray:
    """Return an array in a type that PyTorch computes with.

    Raises:
        DataError: it holds no numbers.
    """
    if array.dtype.name in ("uint16", "uint32", "uint64"):
        return array.astype(np.int64)
    if array.dtype.kind not in "biuf":
        raise DataError(f"the file has a constant of type {array.dtype}: cut the model behind it with onnx.utils.extract_model")
    return array


def _known(tensor: torch.Tensor) -> Known:
    return Known("", tensor.numpy())


def _tensors(argument: Any) -> Any:
    if isinstance(argument, Known):
        return torch.from_numpy(np.array(argument.array, order="C"))
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_tensors, argument))
    return argument
