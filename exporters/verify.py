"""Verification: the artifact in its runtime, optimizations on, against the prepared model in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from qat.errors import DataError, RuntimeMismatchError
from qat.program.program import Program
from qat.runtimes.model_file import Parity

#: Takes the inputs as arrays, returns the prepared model's outputs.
Predict = Callable[..., tuple[np.ndarray, ...]]
#: Takes the inputs as arrays, returns the prepared model's values on the integer grid by name.
Locate = Callable[..., Mapping[str, np.ndarray]]
#: Takes names of quantized values, returns a session of the artifact that has them as further outputs.
OpenArtifact = Callable[[tuple[str, ...]], Any]


def verify(open_artifact: OpenArtifact, program: Program, predict: Predict, locate: Locate | None, data: Iterable[Any]) -> Parity:
    """Run an artifact and the prepared model on the same inputs.

    Args:
        open_artifact: gives the runtime's session; with names, one that returns these values too.
        program: what the artifact was written from.
        predict: the prepared model's outputs in eval mode.
        locate: the prepared model's values on the grid; None leaves ``first_difference`` without an operator.
        data: batches of inputs, each one array or a tuple of them.

    Raises:
        DataError: there are no samples, or they do not fit the model.
        RuntimeMismatchError: one side gives NaN, or outputs of another number or shape.
    """
    session = open_artifact(())
    steps = [_lsb(program, name) for name in program.outputs]
    equal = values = agreeing = ranked = samples = 0
    total = worst = 0.0
    failing: tuple[np.ndarray, ...] | None = None
    for batch in data:
        arrays = tuple(np.asarray(a, np.float32) for a in (batch if isinstance(batch, (tuple, list)) else (batch,)))
        expected = predict(*arrays)
        got = _aligned(session.run(*_laid(program, arrays)), expected, program)
        for want, have, step in zip(expected, got, steps, strict=True):
            difference = np.abs(np.asarray(want, np.float64) - have)
            difference /= step or max(float(np.ptp(want)) / 255, np.finfo(np.float32).tiny)
            equal += int((want == have).sum())
            values += want.size
            total += float(difference.sum())
            worst = max(worst, float(difference.max(initial=0.0)))
            if failing is None and not np.array_equal(want, have):
                failing = arrays
        samples += len(expected[0])
        if expected[0].ndim == 2 and expected[0].shape[1] > 1:
            ranked += len(expected[0])
            agreeing += int((expected[0].argmax(1) == got[0].argmax(1)).sum())
    if samples == 0:
        raise DataError("verification got no samples: pass at least one batch")
    top1 = agreeing / ranked if ranked else None
    first = None if failing is None else _first_difference(open_artifact, program, locate, failing)
    return Parity(equal / max(values, 1), top1, total / max(values, 1), worst, samples, first)


def _laid(program: Program, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return the model's inputs as the artifact takes them."""
    if len(arrays) != len(program.inputs):
        return arrays  # the session says what it takes
    return tuple(program.values[name].laid(a) for name, a in zip(program.inputs, arrays, strict=True))


def _aligned(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...], program: Program) -> list[np.ndarray]:
    """Return the artifact's outputs in the model's shapes, once both sides are seen to be comparable."""
    if not len(got) == len(expected) == len(program.outputs):
        raise RuntimeMismatchError(f"the artifact gives {len(got)} outputs, the model {len(expected)}: export it again")
    out = []
    for name, want, have in zip(program.outputs, expected, got, strict=True):
        if want.size != have.size:
            raise RuntimeMismatchError(
                f"output '{name}' of the artifact is {have.shape}, the model's is {want.shape}: export it again"
            )
        for side, array in (("the model", want), ("the artifact", have)):
            if np.isnan(array).any():
                raise RuntimeMismatchError(f"{side} gives NaN in output '{name}': check its weights and the data for NaN")
        out.append(program.values[name].unlaid(have).reshape(want.shape))
    return out


def _lsb(program: Program, name: str) -> float | None:
    """Return the scale of an output that a dequantize writes, None for a float one."""
    for step in program.instructions:
        if step.kind == "dequantize" and step.outputs == (name,):
            encoding = program.values[step.inputs[0]].encoding
            return None if encoding is None else float(encoding.scale)
    return None


def _first_difference(
    open_artifact: OpenArtifact, program: Program, locate: Locate | None, arrays: tuple[np.ndarray, ...]
) -> str:
    """Name the first instruction whose integers differ, in program order, with every value made an output."""
    if locate is None:
        return "the outputs differ, and the model's integers were not given to find the operator"
    expected = locate(*arrays)
    writers = {
        name: step
        for step in program.instructions
        if step.kind != "constant" and (step.kind != "move" or program.block is None or step.outputs[0] in program.block.outputs)
        for name in step.outputs
        if program.values[name].encoding is not None and name in expected
    }
    found = open_artifact(tuple(writers)).run_named(*_laid(program, arrays))
    for name, step in writers.items():
        value = program.values[name]
        encoding = value.encoding
        if encoding is None or name not in found:
            continue
        want = value.laid(np.asarray(expected[name], np.float64)) + encoding.zero_point
        difference = np.abs(want - found[name].astype(np.float64).reshape(want.shape))
        if difference.any():
            share, most = float((difference > 0).mean()), int(difference.max())
            return f"{step.kind} '{step.scope or step.name}': {share:.4%} of its values differ, by {most} at most"
    kept = [s for s in program.instructions if s.kind == "float" or s.mode != "static"]
    floats = sorted({str(s.attrs.get("target", s.kind)) + (f" {s.mode}" if s.mode != "static" else "") for s in kept})
    where = f"in an operator with float outputs ({', '.join(floats)})" if floats else "at the output"
    return f"no integer operator: the difference arises {where}"
