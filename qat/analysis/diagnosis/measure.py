"""Two files run side by side: batch by batch, with sums alone kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.errors import DataError
from qat.system.machine import processor

from .layouts import LAYOUTS, best_layout
from .matching import Pair, pairs_of
from .measured import Facts
from .network import Network
from .probes import ERROR, OWN
from .side import Named, Side
from .step_sums import StepSums
from .steps import steps_of
from .sums import Noise, Spread

#: Bytes of tapped values that are held at once, and the most samples of a batch.
_BYTES, _MOST = 1 << 26, 32
#: Samples for the shares of the error, each of which is run once for every step.
_SHARED = 8


@dataclass(frozen=True)
class Job:
    """Two files, and inputs: arrays ``[samples, ...]`` in the order of the files' inputs, images with channels first or last."""

    float_path: Path
    quantized_path: Path
    arrays: tuple[np.ndarray, ...]


def measure(job: Job) -> Facts:
    """Measure two files.

    Raises:
        DataError: a file is damaged, the files are not of one model, or the data do not fit.
        QatError: a runtime refuses a file.
    """
    a, b = Side(job.float_path, job.arrays), Side(job.quantized_path, job.arrays)
    _refuse_kinds(a, b)
    float_steps = steps_of(a.network)
    pairs = [pair for pair in pairs_of(float_steps, steps_of(b.network)) if pair.float.held.dtype == "float32"]
    found = {id(pair.float) for pair in pairs}
    unmatched = tuple(step.held.name for step in float_steps if step.weight is not None and id(step) not in found)
    a.tap([pair.float.held.name for pair in pairs])
    b.tap([pair.quantized.held.name for pair in pairs])
    count = len(job.arrays[0])
    fixed = max(a.batch or 1, b.batch or 1)
    if count < fixed:
        raise DataError(f"the files take batches of {fixed} samples, and the data hold {count}: give more")
    real, stored = a.run(slice(0, fixed)), b.run(slice(0, fixed))
    steps = list(_with_layouts(pairs, real, stored, b.network))
    if not any(sums.pair.float.kind != "input" for sums in steps):
        raise _of_two_models(a, b, "none of its operators is found in both files")
    held = sum(value.nbytes for value in (*real.values(), *stored.values()))
    most = _MOST if all(axis == 0 for axis in a.axes) else 1  # what is counted goes by the first axis; a mask is of one sample
    parts = int(np.clip(_BYTES // max(held, 1), 1, max(most // fixed, 1)))
    return _Measurement(a, b, steps).over(_batches(count - count % fixed, fixed * parts), unmatched)


def _with_layouts(pairs: Sequence[Pair], real: Named, stored: Named, network: Network) -> Iterator[StepSums]:
    """Yield the sums of the pairs whose values have a common form."""
    for pair in pairs:
        value, grid = stored[pair.quantized.held.name], pair.quantized.grid
        value = value.astype(np.float32) if grid is None else grid.real(value)
        layout = best_layout(real[pair.float.held.name], value)
        if layout is not None:
            axis = 1 if value.ndim == 4 and not network.channels_last else value.ndim - 1
            yield StepSums(pair, layout, axis, network)


def _batches(count: int, size: int) -> Iterator[slice]:
    yield from (slice(start, min(start + size, count)) for start in range(0, count, size))


class _Measurement:
    """Adds batches to the sums of steps and outputs."""

    def __init__(self, a: Side, b: Side, steps: Sequence[StepSums]) -> None:
        self.a, self.b, self.steps = a, b, steps
        names = [sums.name for sums in steps]
        a.cut(names)
        a.let_in_errors(names)
        b.cut([sums.quantized_name for sums in steps])
        self.ends = _ends(a, b)
        self.noise = [(Noise(), Spread()) for _ in self.ends]

    def over(self, batches: Iterator[slice], unmatched: tuple[str, ...]) -> Facts:
        """Return what all batches say."""
        same: list[int | None] = []
        seen = 0
        for samples in batches:
            real, stored = self.a.run(samples), self.b.run(samples)
            errors = self._add(real, stored, is_first=seen == 0)
            same.append(self._add_outputs(real, stored))
            if seen < _SHARED:
                self._add_shares(real, errors)
            seen += samples.stop - samples.start
        whole = sum(sums.reached for sums in self.steps)
        measured = {sums.name for sums in self.steps}
        answers = [count for count in same if count is not None]
        return Facts(
            steps=tuple(sums.facts(measured, whole) for sums in self.steps),
            unmatched=unmatched,
            sqnr=min(noise.sqnr for noise, _ in self.noise),
            spread_sqnr=min(spread.sqnr for _, spread in self.noise),
            samples=seen,
            same=sum(answers) if len(answers) == len(same) else None,
            without_vnni=_saturates(),
        )

    def _add(self, real: Named, stored: Named, is_first: bool) -> Named:
        """Add a batch to all steps; return the error that each makes alone."""
        given, quantized = dict(real), dict(stored)
        for sums in self.steps:
            given[sums.name], quantized[sums.quantized_name] = sums.add(real[sums.name], stored[sums.quantized_name])
        exact, found = self.a.alone(given), self.b.alone(quantized)
        errors = {}
        for sums in self.steps:
            name, other = sums.name, sums.quantized_name
            errors[name] = sums.add_alone(exact.get(name + OWN, real[name]), found.get(other + OWN, quantized[other]))
            if is_first:
                sums.saturate(quantized)
        return errors

    def _add_outputs(self, real: Named, stored: Named) -> int | None:
        """Add a batch to the outputs; return how many answers of the first output are the same, where it has classes."""
        same = None
        for place, ((name, other), (noise, spread)) in enumerate(zip(self.ends, self.noise, strict=True)):
            grid = self.b.network.tensor(other).grid
            value = stored[other].astype(np.float32) if grid is None else grid.real(stored[other])
            layout = best_layout(real[name].astype(np.float32), value)
            if layout is None:
                raise _of_two_models(self.a, self.b, f"output '{name}' is {real[name].shape} there, and {value.shape} here")
            exact = LAYOUTS[layout].to(real[name].astype(np.float32), value)
            noise.add(exact, value)
            spread.add(exact, value)
            if place == 0 and exact.ndim == 2 and exact.shape[1] > 1:
                same = int((exact.argmax(1) == value.argmax(1)).sum())
        return same

    def _add_shares(self, real: Named, errors: Named) -> None:
        """Run the float file once for each step with the step's error added, and sum what reaches the outputs."""
        inputs = {name: real[name] for name in self.a.network.inputs}
        quiet = {name + ERROR: np.zeros_like(real[name]) for name in errors}
        scales = [max(float(np.square(real[name], dtype=np.float64).sum()), 1e-30) for name, _ in self.ends]
        for sums in self.steps:
            name, error = sums.name, errors[sums.name]
            if name in inputs:
                made = self.a.disturbed(inputs | {name: inputs[name] + error}, quiet)
            else:
                made = self.a.disturbed(inputs, quiet | {name + ERROR: error})
            for (output, _), scale in zip(self.ends, scales, strict=True):
                sums.reached += float(np.square(made[output].astype(np.float64) - real[output]).sum()) / scale


def _ends(a: Side, b: Side) -> list[tuple[str, str]]:
    """Return the outputs of both files, by their names where these are the same, else in their order."""
    first, second = a.network.outputs, b.network.outputs
    if len(first) != len(second):
        raise _of_two_models(a, b, f"it has {len(second)} outputs, and the other file {len(first)}")
    return [(name, name) for name in first] if set(first) == set(second) else list(zip(first, second, strict=True))


def _refuse_kinds(a: Side, b: Side) -> None:
    """Raise DataError where the first file is no float one, or the second no quantized one."""
    if a.network.has_integer_activations:
        raise DataError(f"{a.path} is quantized: name the float file that it was made from first, and the quantized one second")
    if not b.network.is_quantized:
        raise DataError(f"{b.path} is a float file: nothing in it is quantized. Name what a tool made of {a.path} second")


def _of_two_models(a: Side, b: Side, why: str) -> DataError:
    return DataError(f"{b.path} is not of the model of {a.path}: {why}")


def _saturates() -> bool:
    found = processor()
    return found.kind == "x86" and not found.features.get("VNNI", True)
