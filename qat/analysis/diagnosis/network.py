"""A file as a graph of neutral operators: what ``.onnx`` and ``.tflite``, quantized by any tool, have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Kinds that only change how a value is held.
HOLDS = frozenset({"quantize", "dequantize", "quantize_dynamic"})
#: Kinds of one activation that a tool may fold into the operator before them.
FUSED = frozenset({"relu", "relu6", "clip", "batch_norm", "cast", "identity"})
#: Kinds that fold where their other operands are constant: a bias, or a BatchNorm in pieces.
AFFINE = frozenset({"add", "sub", "mul", "div"})
#: Kinds that place values elsewhere and compute nothing.
MOVES = frozenset({"reshape", "transpose", "pad", "slice", "gather", "split", "expand"})
#: Kinds whose second operand is a weight where it is constant.
LINEAR = frozenset({"conv", "conv_transpose", "dense"})


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers of a tensor: ``real = scale * (q - zero_point)``, one scale, or one a channel along ``axis``."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int
    axis: int | None = None

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Return the real values of integers."""
        scale, zero_point = self.along(self.scale, integers.ndim), self.along(self.zero_point, integers.ndim)
        return np.asarray((integers.astype(np.float32) - zero_point) * scale, np.float32)

    def integers(self, real: np.ndarray, dtype: str) -> np.ndarray:
        """Return the nearest integers of real values, clipped to the type's limits."""
        scale, zero_point = self.along(self.scale, real.ndim), self.along(self.zero_point, real.ndim)
        return np.asarray(np.clip(np.rint(real / scale) + zero_point, self.low, self.high), dtype)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest real value; of several scales those of the widest."""
        low = (self.low - self.zero_point.astype(np.float64)) * self.scale
        high = (self.high - self.zero_point.astype(np.float64)) * self.scale
        return float(low.min()), float(high.max())

    def along(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Return scales or zero points as they stand beside an array of a rank."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if len(flat) == 1 or self.axis is None:
            return flat[:1] if rank else flat[0]
        return flat.reshape([-1 if axis == self.axis % rank else 1 for axis in range(rank)])


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file. ``data`` are the stored values of a constant, ``grid`` is None of a float tensor."""

    name: str
    dtype: str = "float32"
    grid: Grid | None = None
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
        kind: neutral: ``conv``, ``dense``, ``add``, ``softmax``, ...; of an operator without a neutral name its own.
        name: of the operator in its file.
        inputs: the names of the tensors that it reads, empty where one is left out.
        outputs: the names of the tensors that it writes.
        channels: the axis of the weight's output channels.
        attributes: of a convolution in an ``.onnx``.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Network:
    """A file's graph, in the order of its operators."""

    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels_last: bool
    #: Tensors that hold no activation although the file computes them, such as scales that are measured as it runs.
    numbers: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_quantized(self) -> bool:
        """Whether a tool rounded anything: a constant, an activation, or to half precision."""
        return any(op.kind in HOLDS for op in self.operators) or any(
            tensor.grid is not None or tensor.dtype == "float16" for tensor in self.tensors.values()
        )

    @property
    def has_integer_activations(self) -> bool:
        """Whether an operator's result is held in integers."""
        return any(tensor.grid is not None and tensor.data is None for tensor in self.tensors.values())

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; of a name that the file says nothing of, a float one."""
        return self.tensors.get(name) or Tensor(name)
