"""The record of a model's file: what it is, who made it, and how it compares with the model that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

#: ``float``: not quantized. ``control``: float, after the extra training steps of QAT. ``ptq``: calibrated. ``qat``: trained.
FileKind: TypeAlias = Literal["float", "control", "ptq", "qat"]


@dataclass(frozen=True)
class Parity:
    """The distance of an artifact from the model it was exported from, over every output value of the samples.

    Attributes:
        exact: the share of output values that are equal, 0 to 1.
        top1_agreement: the share of samples whose largest value of the first output is at the same index; None where that
            output is not a row of at least two scores.
        mean_lsb: the mean difference, in steps of the output's scale; of a float output, in 1/255 of its range.
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


@dataclass(frozen=True, kw_only=True)
class ModelFile:
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
