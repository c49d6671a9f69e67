"""One operator of a file, with what it reads: the face that the rows of the table are written against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
import torch

from qat.errors import CaptureError
from qat.sources.module_writer import Value

from .known import Known, Operand, Size, expression
from .reading import FileNode

#: What to do about an operator that has no form in PyTorch.
CUT = "cut the model before it with onnx.utils.extract_model"
#: What to do about an axis that must have one size.
FIX = "fix its size by onnxruntime.tools.make_dynamic_shape_fixed"
#: What to do about a file that contradicts itself.
DAMAGED = "the file is damaged, export it again"
#: A tensor's size along an axis.
Length: TypeAlias = int | Size
#: What a row returns: the only output, or all of them; None for one that nothing may read.
Result: TypeAlias = Operand | Sequence[Operand | None]


@dataclass(frozen=True)
class Batch:
    """The batch of a file that is fixed to one size, where the module takes any.

    Attributes:
        size: in the file.
        symbol: in the module.
    """

    size: int
    symbol: Any

    def is_in(self, size: Length) -> bool:
        """Whether a size grows with the batch."""
        return isinstance(size, Size) and self.symbol in size.number.node.expr.free_symbols

    def in_file(self, own: Length) -> int | None:
        """Return what a size that grows with the batch is in the file; None where it grows with a free axis too."""
        size = expression(own).subs(self.symbol, self.size)
        return int(size) if size.is_Integer else None

    def times(self, own: Length, written: Length) -> Length:
        """Return for any batch a size that the file has for its own; ``own`` is that of an axis that grows with the batch."""
        count = self.in_file(own) or self.size
        if isinstance(written, int) and count == written:
            return own
        samples = own // (count // self.size)
        return samples * written if self.size == 1 or isinstance(written, Size) else samples * (written // self.size)


class Calls(Protocol):
    """Where the calls of an operator go: into the module, or, where all that it reads is known, to PyTorch at once."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        """Call a function that returns one tensor."""

    def call_like(self, operand: Operand, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Operand:
        """Call a function that returns a tensor of the operand's shape and type."""

    def calls(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Sequence[Operand]:
        """Call a function that returns several tensors."""

    def shape(self, operand: Operand) -> list[Length]:
        """Return the sizes of a tensor."""

    def dtype(self, operand: Operand) -> torch.dtype:
        """Return the type of a tensor."""


class Operator:
    """An operator of the file.

    Attributes:
        node: as the file has it.
        opset: the version of its operators that the file uses.
        inputs: what it reads; None where an input is left out.
        batch: that the file fixes and the module does not; None for any other file.
    """

    def __init__(
        self, node: FileNode, opset: int, inputs: Sequence[Operand | None], calls: Calls, batch: Batch | None = None
    ) -> None:
        self.node, self.opset, self.inputs, self.batch = node, opset, tuple(inputs), batch
        self.call, self.call_like, self.calls = calls.call, calls.call_like, calls.calls
        self.shape, self.dtype = calls.shape, calls.dtype

    def __getitem__(self, index: int) -> Operand:
        operand = self.get(index)
        if operand is None:
            self.refuse(f"has no input {index}", DAMAGED)
        return operand

    def get(self, index: int) -> Operand | None:
        """Return an input; None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.node.attributes.get(name, default)

    def refuse(self, reason: str, advice: str = CUT) -> NoReturn:
        """Raise the error that this operator cannot be read.

        Raises:
            CaptureError: always.
        """
        domain = f"{self.node.domain}." if self.node.domain else ""
        raise CaptureError(f"operator {domain}{self.node.type} '{self.node.name}' {reason}: {advice}")

    # --- inputs whose numbers must be known ---

    def array(self, index: int) -> np.ndarray:
        """Return the numbers of an input that does not depend on the model's inputs."""
        operand = self[index]
        if not isinstance(operand, Known) or operand.symbolic:
            self.refuse(f"computes its input {index} from the model's inputs, and a module needs it as a constant")
        return operand.array

    def number(self, index: int, default: float | None = None) -> float | None:
        """Return an input of one number."""
        return default if self.get(index) is None else self.array(index).reshape(-1)[0].item()

    def lengths(self, index: int) -> list[Length]:
        """Return an input of sizes, indices or axes, each of which is a number or computed from the size of a free axis."""
        operand = self[index]
        if not isinstance(operand, Known):
            self.refuse(f"computes its input {index} from values, and a module needs it as a constant or from sizes")
        return [n if isinstance(n, Size) else int(n) for n in operand.array.reshape(-1)]

    def ints(self, name: str, index: int, default: Sequence[int] | None = None) -> list[int] | None:
        """Return integers that older opsets have as an attribute, newer ones as an input."""
        given = self.attr(name)
        if given is None and self.get(index) is not None:
            given = self.array(index).reshape(-1)
        return [int(n) for n in np.atleast_1d(given)] if given is not None else None if default is None else list(default)

    # --- tensors ---

    def rank(self, operand: Operand) -> int:
        """Return the number of axes."""
        return len(self.shape(operand))

    def axis(self, operand: Operand, axis: int) -> int:
        """Return an axis counted from the front."""
        rank = self.rank(operand)
        if not -rank <= axis < max(rank, 1):
            self.refuse(f"names axis {axis} of a tensor of {rank} axes", DAMAGED)
        return axis % max(rank, 1)

    def fixed(self, operand: Operand) -> list[int]:
        """Return the sizes of a tensor that has no free axis."""
        return self.fixed_from(operand, 0)

    def fixed_from(self, operand: Operand, axis: int) -> list[int]:
        """Return the sizes of a tensor from an axis on, none of which is free."""
        sizes = self.shape(operand)[axis:]
        if not all(isinstance(size, int) for size in sizes):
            self.refuse(
                "needs an axis of one size, and that of the file is free",
                FIX,
            )
        return sizes  # type: ignore[return-value]

    def is_float(self, operand: Operand) -> bool:
        """Whether a tensor holds real numbers."""
        return self.dtype(operand).is_floating_point


#: A row of the table.
Row: TypeAlias = Callable[[Operator], Result]
Rows: TypeAlias = Mapping[str, Row]
__all__ = ["Calls", "Known", "Length", "Operand", "Operator", "Result", "Row", "Rows", "Size", "Value", "expression"]
