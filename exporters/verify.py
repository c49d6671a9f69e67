"""Verification: the artifact in its runtime, optimizations on, against the prepared model in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qat.encoding import Encoding
from qat.errors import DataError, RuntimeMismatchError
from qat.program import Program

Predict = Callable[..., tuple[np.ndarray, ...]]
Locate = Callable[..., Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from the model it was exported from.

    Attributes:
        exact: the share of output values that are equal in every bit.
        top1_agreement: the share of samples whose largest output is at the same place.
        mean_lsb, max_lsb: the difference in steps of the output's scale; of a float output, relative to 1/255 of its range.
        samples: how many were run.
        first_difference: which operator differs first, how often and how far; None where all are equal.
    """

    exact: float
    top1_agreement: float
    mean_lsb: float
    max_lsb: float
    samples: int
    first_difference: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def verify(
    open_artifact: Callable[[tuple[str, ...]], Any], program: Program, predict: Predict, locate: Locate, data: Iterable[Any]
) -> Parity:
    """Run an artifact and the prepared model on the same inputs.

    Args:
        open_artifact: returns a runtime session of the artifact, with the named values as extra outputs.
        program: what the artifact was written from.
        predict: the prepared model's outputs in eval mode, for arrays.
        locate: the prepared model's values on the grid by name, for arrays.
        data: batches of inputs: one array, or a tuple of them.

    Raises:
        DataError: no data.
        RuntimeMismatchError: one side gives NaN.
    """
    session = open_artifact(())
    equal = values = agreeing = samples = 0
    total = worst = 0.0
    failing: tuple[np.ndarray, ...] | None = None
    steps = [_step(program, name) for name in program.outputs]
    for batch in data:
        arrays = tuple(np.asarray(a, np.float32) for a in (batch if isinstance(batch, (tuple, list)) else (batch,)))
        expected, got = predict(*arrays), session.run(*arrays)
        for name, want, have, step in zip(program.outputs, expected, got, steps, strict=True):
            have = have.reshape(want.shape)
            if np.isnan(want).any() or np.isnan(have).any():
                raise RuntimeMismatchError(f"output '{name}' holds NaN: check the model's weights and the data")
            difference = np.abs(want - have) / (step or max(float(np.ptp(want)), 1e-30) / 255)
            equal += int((want == have).sum())
            values += want.size
            total += float(difference.sum())
            worst = max(worst, float(difference.max(initial=0.0)))
            if failing is None and not np.array_equal(want, have):
                failing = arrays
        want, have = expected[0], got[0].reshape(expected[0].shape)
        agreeing += int((want.reshape(len(want), -1).argmax(1) == have.reshape(len(want), -1).argmax(1)).sum())
        samples += len(want)
    if samples == 0:
        raise DataError("verification got no samples: pass at least one batch")
    first = None if failing is None else _first_difference(open_artifact, program, locate, failing)
    return Parity(equal / values, agreeing / samples, total / values, worst, samples, first)


def _step(program: Program, name: str) -> float | None:
    """Return the scale of an output that a dequantize writes, None for a float one."""
    for step in program.instructions:
        if step.kind == "dequantize" and step.outputs == (name,):
            encoding = program.values[step.inputs[0]].encoding
            return None if encoding is None else float(encoding.scale)
    return None


def _first_difference(
    open_artifact: Callable[[tuple[str, ...]], Any], program: Program, locate: Locate, arrays: tuple[np.ndarray, ...]
) -> str:
    """Name the first instruction whose integers differ, with every value made an output of the artifact."""
    writers = {s.outputs[0]: s for s in program.instructions if program.values[s.outputs[0]].encoding is not None}
    session = open_artifact(tuple(writers))
    found = session.run_named(*arrays)
    expected = locate(*arrays)
    for name, step in writers.items():
        if name not in found or name not in expected:
            continue
        encoding = program.values[name].encoding
        assert isinstance(encoding, Encoding)
        want = expected[name] + encoding.zero_point
        difference = np.abs(want - found[name].astype(np.float64).reshape(want.shape))
        if difference.any():
            share = float((difference > 0).mean())
            return f"{step.kind} '{step.scope or step.name}': {share:.4%} of its values differ, by at most {difference.max():.0f}"
    return "no integer operator: the difference arises in a float operator"
