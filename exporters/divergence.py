"""Divergence: weights that left the ranges of their layers' outputs so far that no kernel computes with the scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qat.arithmetic.grid import UNIT_LIMIT
from qat.errors import ExportError
from qat.program.program import Instruction, Program

#: What helps where weights have diverged.
ADVICE = (
    "go back to an earlier checkpoint and train with a lower learning_rate, or call qat.calibrate again if the weights are right"
)


def refuse_diverged(program: Program) -> None:
    """Refuse a program whose weights have diverged.

    Raises:
        ExportError: a scale is no finite number, or the products of a layer are beyond its output's scale.
    """
    for name, value in program.values.items():
        if value.encoding is not None and not np.isfinite(value.encoding.scale).all():
            raise ExportError(f"the scale of '{name}' is no finite number: the weights have diverged: {ADVICE}")
    for step, factor in scale_ratios(program):
        if step.weight_encoding is not None and not factor < UNIT_LIMIT:
            raise ExportError(
                f"'{step.layer}' ({step.kind}): the weights have diverged: one unit of their products is {factor:.3g} steps of "
                f"the output's scale, which has to be less than {UNIT_LIMIT:.0f}: {ADVICE}"
            )


def scale_ratios(program: Program) -> Iterator[tuple[Instruction, float]]:
    """Yield the integer operators, each with the unit of its sums, in steps of its output's scale.

    The unit is the scale of the first input, for a layer times its weight's largest one; elsewhere the scale that is farthest
    from the output's counts.
    """
    for step in program.instructions:
        encodings = [program.values[name].encoding for name in (*step.inputs, *step.outputs)]
        scales = [float(e.scale) for e in encodings if e is not None]
        if len(scales) < len(encodings) or len(scales) < 2 or step.keeps_framework:
            continue
        ratios = [scale / scales[-1] for scale in scales[:-1]]
        if step.weight_encoding is not None:
            yield step, ratios[0] * float(np.max(step.weight_encoding.scale))
        else:
            yield step, max(ratios, key=lambda ratio: abs(np.log2(ratio)))
