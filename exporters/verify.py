"""Verification: the artifact in its runtime, optimizations on, against the prepared model in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qat.errors import DataError, RuntimeMismatchError
from qat.program.program import Instruction, Program
from qat.runtimes import Session
from qat.runtimes.model_file import Parity
from qat.system.sample_axes import count_of

#: The inputs of a model: one array, or an array for each input.
Batch = np.ndarray | Sequence[np.ndarray]
#: Takes the inputs as arrays, returns the prepared model's outputs.
Predict = Callable[..., tuple[np.ndarray, ...]]
#: Takes the inputs as arrays, returns the prepared model's values on the integer grid by name.
Locate = Callable[..., Mapping[str, np.ndarray]]
#: Takes names of quantized values, returns a session of the artifact that has those values as further outputs.
OpenArtifact = Callable[[tuple[str, ...]], Session]

#: Batches are joined up to so many samples and bytes of inputs; a larger one stays as it is.
_MOST_SAMPLES, _MOST_BYTES = 64, 4 * 2**20


def verify(
    open_artifact: OpenArtifact, program: Program, predict: Predict, locate: Locate | None, data: Iterable[Batch]
) -> Parity:
    """Run an artifact and the prepared model on the same inputs.

    Args:
        open_artifact: gives the runtime's session; with names, a session that returns those values too.
        program: that the artifact was written from.
        predict: gives the prepared model's outputs in eval mode.
        locate: gives the prepared model's values on the grid; None leaves ``first_difference`` without an operator.
        data: batches of inputs, each one array or a tuple of arrays.

    Raises:
        DataError: there are no samples, or they do not fit the model.
        RuntimeMismatchError: one side gives NaN, or outputs of another number or shape.
    """
    session = open_artifact(())
    scales = [_scale(program, name) for name in program.outputs]
    tally = _Tally()
    failing: tuple[np.ndarray, ...] | None = None
    for arrays in _joined(map(_arrays, data), program):
        expected = tuple(y.astype(np.float32) if y.dtype == bool else y for y in predict(*arrays))
        got = _aligned(session.run(*_in_layout(program, arrays)), expected, program)
        for want, have, scale in zip(expected, got, scales, strict=True):
            tally.add_output(want, have, scale)
        tally.add_samples(expected[0], got[0], count_of(arrays, program.sample_axes))
        if failing is None and tally.equal < tally.values:
            failing = arrays
    if tally.samples == 0:
        raise DataError("verification got no samples: pass at least one batch")
    if failing is None:
        return tally.parity(None)
    # A second file, to look for an operator whose integers differ, is not worth its time where all that differs is rounding.
    rounded = tally.parity(None).is_rounding and _floats(program)
    return tally.parity(_difference_in_float(program) if rounded else _first_difference(open_artifact, program, locate, failing))


def _arrays(batch: Batch) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a, np.float32) for a in (batch if isinstance(batch, (tuple, list)) else (batch,)))


def _joined(batches: Iterable[tuple[np.ndarray, ...]], program: Program) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield batches, small ones joined where samples do not depend on each other: each pass prepares the model's weights."""
    free = all(program.values[name].shape[:1] == (None,) for name in program.inputs)
    together = free and all(instruction.mode != "dynamic" for instruction in program.instructions)
    held: list[tuple[np.ndarray, ...]] = []
    for arrays in batches:
        if held and not (together and _can_join([*held, arrays])):
            yield _as_one(held)
            held = []
        held.append(arrays)
    if held:
        yield _as_one(held)


def _as_one(batches: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return batches[0] if len(batches) == 1 else tuple(map(np.concatenate, zip(*batches, strict=True)))


def _can_join(batches: Sequence[tuple[np.ndarray, ...]]) -> bool:
    """Return whether batches have one shape but for the number of samples, and are few and small enough to be one."""
    shapes = {tuple(a.shape[1:] for a in arrays) for arrays in batches}
    counts = [{len(a) if a.ndim else 0 for a in arrays} for arrays in batches]
    if len(shapes) > 1 or any(len(of_batch) > 1 or 0 in of_batch for of_batch in counts):
        return False
    return sum(map(sum, counts)) <= _MOST_SAMPLES and sum(a.nbytes for arrays in batches for a in arrays) <= _MOST_BYTES


@dataclass
class _Tally:
    """The comparison of the outputs so far; :class:`qat.runtimes.model_file.Parity` is made of it."""

    equal: int = 0
    values: int = 0
    total_lsb: float = 0.0
    max_lsb: float = 0.0
    agreeing: int = 0
    ranked: int = 0
    samples: int = 0

    def add_output(self, want: np.ndarray, have: np.ndarray, scale: float | None) -> None:
        """Add an output of a batch."""
        difference = np.abs(np.asarray(want, np.float64) - have)
        difference /= scale or _float_step(want)
        self.equal += int((want == have).sum())
        self.values += want.size
        self.total_lsb += float(difference.sum())
        self.max_lsb = max(self.max_lsb, float(difference.max(initial=0.0)))

    def add_samples(self, want: np.ndarray, have: np.ndarray, samples: int) -> None:
        """Add the samples of a batch by the first output, whose largest values are compared where it holds scores."""
        self.samples += samples
        if want.ndim == 2 and want.shape[1] > 1:
            self.ranked += len(want)
            self.agreeing += int((want.argmax(1) == have.argmax(1)).sum())

    def parity(self, first_difference: str | None) -> Parity:
        """Return the figures."""
        values, top1 = max(self.values, 1), self.agreeing / self.ranked if self.ranked else None
        return Parity(self.equal / values, top1, self.total_lsb / values, self.max_lsb, self.samples, first_difference)


def _float_step(values: np.ndarray) -> float:
    """Return what stands for the scale of a float output: 1/255 of its range, or of what it is if that is one number.

    Sums of a softmax are one number but for float32's rounding.
    """
    span, most = float(np.ptp(values)), float(np.abs(values).max())
    return (span if span > 2**-16 * most else most or 1.0) / 255


def _in_layout(program: Program, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return the model's inputs in the layout of the artifact's."""
    if len(arrays) != len(program.inputs):
        return arrays  # the session's error says how many it takes
    return tuple(program.values[name].laid(a) for name, a in zip(program.inputs, arrays, strict=True))


def _aligned(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...], program: Program) -> list[np.ndarray]:
    """Return the artifact's outputs in the model's shapes, after a check that both sides are comparable."""
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


def _scale(program: Program, name: str) -> float | None:
    """Return the scale of an output that a ``dequantize`` writes; None of a float output."""
    for instruction in program.instructions:
        if instruction.kind == "dequantize" and instruction.outputs == (name,):
            encoding = program.values[instruction.inputs[0]].encoding
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
        name: instruction
        for instruction in program.instructions
        if instruction.kind != "constant" and not _is_inside_block(program, instruction)
        for name in instruction.outputs
        if program.values[name].encoding is not None and name in expected
    }
    found = open_artifact(tuple(writers)).run_named(*_in_layout(program, arrays))
    for name, instruction in writers.items():
        value = program.values[name]
        encoding = value.encoding
        if encoding is None or name not in found:
            continue
        want = value.laid(np.asarray(expected[name], np.float64)) + encoding.zero_point
        difference = np.abs(want - found[name].astype(np.float64).reshape(want.shape))
        if difference.any():
            share, most = float((difference > 0).mean()), int(difference.max())
            where = f"{instruction.kind} '{instruction.layer}'"
            return f"{where}: {share:.4%} of its values differ, by {most} at most"
    return _difference_in_float(program)


def _is_inside_block(program: Program, instruction: Instruction) -> bool:
    """Return whether the float block computes an instruction's result and does not return it."""
    return instruction.keeps_framework and program.block is not None and instruction.outputs[0] not in program.block.outputs


def _difference_in_float(program: Program) -> str:
    """Describe a difference that no integer operator shows, by the operators with float outputs."""
    floats = _floats(program)
    where = f"in an operator with float outputs ({', '.join(floats)})" if floats else "at the output"
    return f"no integer operator: the difference arises {where}"


def _floats(program: Program) -> list[str]:
    """Return what the operators with float outputs are called."""
    kept = [i for i in program.instructions if i.kind == "float" or i.mode != "static"]
    return sorted({i.label + (f" {i.mode}" if i.mode != "static" else "") for i in kept})
