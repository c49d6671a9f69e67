"""A baseline, the ways to make one, and the calls that the tools of every framework share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from qat.runtimes import Format
from qat.runtimes.model_file import FileKind, ModelFile

#: The inputs of a batch, as arrays.
Sample: TypeAlias = tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Baseline(ModelFile):
    """The file that a post-training tool makes of a float model, named ``onnxruntime_static_minmax``, say.

    Where the tool failed, ``path`` is None and ``error`` says why. :class:`qat.runtimes.model_file.ModelFile` has the fields.
    """


@dataclass(frozen=True)
class Maker:
    """One way of a tool to make a file of a float model.

    Attributes:
        name: of the baseline.
        tool: for reports.
        recipe: in the tool's words.
        make: returns the bytes of the file.
        kind: of the baseline.
    """

    name: str
    tool: str
    recipe: str
    make: Callable[[], bytes]
    kind: FileKind = "ptq"


class Tools(Protocol):
    """The module of the tools for one framework: :mod:`qat.baselines.onnxruntime` or :mod:`qat.baselines.tflite`.

    Attributes:
        FORMAT: of the files that the tools write.
        FLOAT_TOOL: the exporter of float models.
    """

    FORMAT: Format
    FLOAT_TOOL: str

    def makers(self, model: Any, example: Sample, batches: list[Sample], per_channel: bool) -> list[Maker]:
        """Return a maker for each baseline, the float model's first. The float model is exported once.

        Args:
            model: a float model of the framework.
            example: a batch of inputs.
            batches: for calibration.
            per_channel: whether weights get one scale per channel, where the tool offers the choice.
        """

    def float_bytes(self, model: Any, example: Sample) -> bytes:
        """Return a float model as the bytes of a file, with a dynamic batch."""
