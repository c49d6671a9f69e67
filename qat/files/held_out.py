"""The samples held out, float beside quantized, as a comparison shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qat.report.differences import differences
from qat.report.report import Report
from qat.report.samples import Chooser
from qat.runtimes.model_file import ModelFile
from qat.system.sample_axes import samples_first
from qat.trainers.output_losses import OutputLosses

from .opened import Opened


def held_out(
    opened: Opened,
    name: str,
    batches: Sequence[tuple[np.ndarray, ...]],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    losses: OutputLosses,
) -> Report:
    """Return the samples that tell most of a quantized file.

    Args:
        opened: the float model.
        name: of the quantized file.
        batches: the inputs held out.
        before, after: the outputs of float and of the quantized file, of all of them.
        losses: of the outputs, by which the first one holds classes or values.
    """
    first = losses.each[0]
    files = [ModelFile(name="float", kind="float", path=opened.path or Path(opened.name))]
    files.append(ModelFile(name=name, kind="qat", path=Path(name)))
    chooser = Chooser(files, lambda output, labels: first.axis if first.name == "kl" else None)
    parts = zip(opened.samples.axes, zip(*batches, strict=True), strict=True)
    inputs = tuple(np.concatenate([samples_first(x, axis) for x in column]) for axis, column in parts)
    chooser.see(inputs, None, [tuple(before), tuple(after)])
    return Report(
        "", opened.samples.said, len(inputs[0]), (), "", "float", examined=name, samples=chooser.chosen(),
        errors=differences(name, "float", after, before), measured=(),
    )  # fmt: skip
