"""The record of a model's file: what it is, who made it, and how it compares with the model that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from qat.display.page import Displayed, Page
from qat.display.table import facts

#: ``float``: not quantized. ``control``: float, after the extra training steps of QAT. ``ptq``: calibrated. ``qat``: trained.
FileKind: TypeAlias = Literal["float", "control", "ptq", "qat"]

#: What differs by fewer steps is rounded otherwise: by up to 2^-18 of a float output's range. Integers differ by a step at least.
_ROUNDING = 1e-3


@dataclass(frozen=True, repr=False)
class Parity(Displayed):
    """The distance of an artifact from the model it was exported from, over every output value of the samples.

    Attributes:
        exact: the share of output values that are equal, 0 to 1.
        top1_agreement: the share of samples whose largest value of the first output is at the same index; None where that
            output is not a row of at least two scores.
        mean_lsb: the mean difference, in steps of the output's scale; of a float output, in 1/255 of its range, or of
            its one number.
        max_lsb: the largest difference, in the same unit.
        samples: how many were run.
        first_difference: the operator that differs first, with how often and how far it differs; None where all outputs are
            equal.
    """

    exact: float
    top1_agreement: float | None
    mean_lsb: float
    max_lsb: float
    samples: int
    first_difference: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"Parity({self.line()})"

    @property
    def is_rounding(self) -> bool:
        """Whether nothing differs but the last bits of float outputs, which no two kernels of float32 round alike."""
        return self.max_lsb < _ROUNDING

    def line(self) -> str:
        """Return the share of equal outputs, and how far the others are off."""
        equal = f"{100 * self.exact:.2f} % of outputs equal on {self.samples:,} samples"
        if self.exact == 1.0:
            return equal
        if self.is_rounding:
            bits = f"{100 * self.exact:.2f} % in every bit, the others within {self.max_lsb:.2g} LSB"
            return f"all outputs equal on {self.samples:,} samples but for float32's rounding: {bits}"
        # Below one half of a hundredth the share would be shown as all.
        equal = equal if self.exact < 0.99995 else f"all but {1 - self.exact:.1e} of outputs equal on {self.samples:,} samples"
        return f"{equal}, off by {self.mean_lsb:.3g} LSB on average, {self.max_lsb:.3g} at most"

    def page(self) -> Page:
        """Return the figures, and where the first difference arises."""
        return Page((facts(("parity", self.line()), *self.details()),))

    def details(self) -> tuple[tuple[str, str], ...]:
        """Return the figures beside the share of equal outputs, by name."""
        same = "" if self.top1_agreement is None else f"{100 * self.top1_agreement:.2f} % of samples"
        return ("same top-1", same), ("first difference", self.first_difference or "")


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelFile(Displayed):
    """A model's file, or the reason why there is none.

    Attributes:
        name: by which reports call it.
        kind: ``float``, ``control``, ``ptq`` or ``qat``.
        path: of the ``.onnx`` or ``.tflite``; None where its tool failed.
        bytes: its size; 0 where its tool failed.
        framework: ``torch``, ``keras`` or ``tf_keras``; empty where that is not known.
        tool: that wrote it.
        recipe: by which it was quantized, in the tool's words.
        parity: the file in its runtime against the prepared model; None where the file was not verified.
        axes: for each input, the order in which the file takes the axes of the data, None where it takes them as they are:
            see :attr:`qat.program.program.Value.axes`. Empty where that is not known.
        error: why the tool failed; None where it did not.
    """

    name: str
    kind: FileKind
    path: Path | None
    bytes: int = 0
    framework: str = ""
    tool: str = ""
    recipe: str = ""
    parity: Parity | None = None
    axes: tuple[tuple[int, ...] | None, ...] = ()
    error: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {self._line()})"

    def _line(self) -> str:
        if self.error is not None or self.path is None:
            return f"failed: {self.error}"
        exact = "" if self.parity is None else f", {self.parity.line()}"
        return f"{self.path}, {self.bytes:,} bytes{exact}"

    def page(self) -> Page:
        """Return the file, who made it, and how far it is from its model."""
        size = f"{self.bytes:,} bytes" if self.path is not None else ""
        made = ("file", "" if self.path is None else str(self.path)), ("size", size), *self._made()
        parity = () if self.parity is None else (("parity", self.parity.line()), *self.parity.details())
        return Page((facts(("name", self.name), *made, *parity, ("failed", self.error or "")),))

    def _made(self) -> tuple[tuple[str, str], ...]:
        made_by = ", ".join(part for part in (self.tool, self.framework) if part)
        return ("kind", self.kind), ("made by", made_by), ("recipe", self.recipe)
