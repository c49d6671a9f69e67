"""Two files run side by side: batch by batch, with sums alone kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from qat.errors import DataError
from qat.system.machine import processor

from .layouts import LAYOUTS, as_input, best_layout
from .matching import Pair, pairs_of
from .measured import Facts, StepFacts, WeightFacts
from .network import Network
from .probes import ERROR, OWN, Probe, Probes, probes_of
from .saturation import saturation, windows_of
from .steps import Step, steps_of
from .sums import Channels, Noise, Spread, Values
from .weights import weight_facts

#: Arrays by the names of tensors.
Named: TypeAlias = dict[str, np.ndarray]
#: Bytes of tapped values that are held at once, of one file.
_BYTES = 1 << 26
#: Samples for the shares of the error, each of which is run once for every step.
_SHARED = 8


@dataclass(frozen=True)
class Job:
    """Two files, and inputs: arrays ``[samples, ...]`` in the order of the files' inputs, images with channels first or last."""

    float_path: Path
    quantized_path: Path
    arrays: tuple[np.ndarray, ...]


@dataclass
class _Sums:
    """The sums of one pair; ``layout`` turns a float value into the form of the quantized file."""

    layout: str
    values: Values
    channels: Channels
    whole: Noise
    own: Noise
    reached: float = 0.0
    weight: WeightFacts | None = None


def measure(job: Job) -> Facts:
    """Measure two files.

    Raises:
        DataError: a file is damaged, the files are not of one model, or the data do not fit.
        QatError: a runtime refuses a file.
    """
    return _Measurement(job).facts()


class _Measurement:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.files: tuple[Probes, Probes] = (probes_of(job.float_path), probes_of(job.quantized_path))
        float_steps, quantized_steps = (steps_of(file.network) for file in self.files)
        found = [p for p in pairs_of(float_steps, quantized_steps) if p.float.held.dtype == "float32"]
        if not any(pair.float.kind != "input" for pair in found):
            raise DataError(
                f"{job.quantized_path} is not of the model of {job.float_path}: none of its operators is found in both files"
            )
        self.unmatched = [s.held.name for s in float_steps if s.weight is not None and not any(p.float is s for p in found)]
        self.pairs, self.sums = self._with_layouts(found)

    # -- running

    def _with_layouts(self, found: Sequence[Pair]) -> tuple[list[Pair], list[_Sums]]:
        """Run the first samples; keep the pairs whose values have a common form."""
        names = ([p.float.held.name for p in found], [p.quantized.held.name for p in found])
        self.tapped = tuple(file.tapped(own) for file, own in zip(self.files, names, strict=True))
        fixed = [probe.batch for probe in self.tapped if probe.batch is not None]
        self.batch = max(fixed, default=1)
        real, integers = self._run(slice(0, self.batch))
        held = sum(value.nbytes for value in (*real.values(), *integers.values()))
        if self.tapped[0].batch is None or self.batch == 1:
            self.batch *= int(np.clip(_BYTES // max(held, 1), 1, 32))
        pairs, sums = [], []
        for pair in found:
            a, b = real[pair.float.held.name], _real(pair.quantized, integers[pair.quantized.held.name])
            layout = best_layout(a, b)
            if layout is None:
                continue
            axis = _channel_axis(pair.quantized, b, self.files[1].network)
            pairs.append(pair)
            facts = weight_facts(pair, self._input_scale(pair.quantized))
            sums.append(_Sums(layout, Values(pair.quantized.grid, axis), Channels(axis), Noise(), Noise(), weight=facts))
        if not any(pair.float.kind != "input" for pair in pairs):
            raise DataError(
                f"{self.job.quantized_path} is not of the model of {self.job.float_path}: no tensor has the same size in both"
            )
        return pairs, sums

    def _input_scale(self, step: Step) -> float | None:
        grid = self.files[1].network.tensor(step.inputs[0]).grid if step.inputs else None
        return None if grid is None else float(np.max(grid.scale))

    def _inputs(self, which: int, samples: slice) -> dict[str, np.ndarray]:
        """Return the inputs of the float file (0) or the quantized one (1) in its types."""
        network, path = self.files[which].network, (self.job.float_path, self.job.quantized_path)[which]
        if len(network.inputs) != len(self.job.arrays):
            raise DataError(
                f"{path} has {len(network.inputs)} inputs, the data {len(self.job.arrays)}: the files are not of one model, or "
                "the data are of another"
            )
        found = {}
        for name, array in zip(network.inputs, self.job.arrays, strict=True):
            value, tensor = array[samples], network.tensor(name)
            value = as_input(value, self.tapped[which].shapes[name], name, path)
            found[name] = value.astype(tensor.dtype) if tensor.grid is None else tensor.grid.integers(value, tensor.dtype)
        return found

    def _run(self, samples: slice) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        real, integers = (
            feeds | probe.run(feeds) for feeds, probe in ((self._inputs(i, samples), self.tapped[i]) for i in (0, 1))
        )
        return real, integers

    def _batches(self) -> Iterator[slice]:
        """Yield the samples in batches; those that do not fill a batch that a file fixes are left out."""
        count = len(self.job.arrays[0])
        fixed = max(probe.batch or 1 for probe in self.tapped)
        if count < fixed:
            raise DataError(f"the files take batches of {fixed} samples, and the data hold {count}: give more")
        whole = count - count % fixed
        yield from (slice(start, min(start + self.batch, whole)) for start in range(0, whole, self.batch))

    def facts(self) -> Facts:
        """Return what was measured."""
        cut = tuple(
            file.cut([n for n in names if n not in file.network.inputs])
            for file, names in zip(self.files, self._names(), strict=True)
        )
        disturbed = self.files[0].disturbed([n for n in self._names()[0] if n not in self.files[0].network.inputs])
        outputs = [(Noise(), Spread()) for _ in self.files[0].network.outputs]
        answers, seen = [], 0
        for samples in self._batches():
            real, integers = self._run(samples)
            errors = self._add(real, integers, cut, self._inputs(0, samples), self._inputs(1, samples))
            finals = self._outputs(real, integers)
            for (noise, spread), (a, b) in zip(outputs, finals, strict=True):
                noise.add(a, b)
                spread.add(a, b)
            answers.append(_answers(*finals[0]))
            if seen < _SHARED:
                self._share(real, errors, disturbed, self._inputs(0, samples))
            seen += samples.stop - samples.start
        return self._collected(outputs, answers, seen)

    def _names(self) -> tuple[list[str], list[str]]:
        return [p.float.held.name for p in self.pairs], [p.quantized.held.name for p in self.pairs]

    # -- one batch

    def _add(self, real: Named, integers: Named, cut: tuple[Probe, ...], float_inputs: Named, quantized_inputs: Named) -> Named:
        """Add a batch to all sums; return the error that each step makes alone, in the float file's form."""
        given: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = (dict(float_inputs), dict(quantized_inputs))
        for pair, sums in zip(self.pairs, self.sums, strict=True):
            a, q = real[pair.float.held.name], integers[pair.quantized.held.name]
            value = LAYOUTS[sums.layout].to(a, q)
            sums.values.add(value)
            sums.whole.add(value, _real(pair.quantized, q))
            rounded = value.astype(q.dtype) if pair.quantized.grid is None else pair.quantized.grid.integers(value, q.dtype.name)
            given[1][pair.quantized.held.name] = rounded
            given[0][pair.float.held.name] = LAYOUTS[sums.layout].back(_real(pair.quantized, rounded), a).astype(np.float32)
        alone = tuple(probe.run({name: feeds[name] for name in probe.inputs}) for probe, feeds in zip(cut, given, strict=True))
        errors = {}
        for pair, sums in zip(self.pairs, self.sums, strict=True):
            name, other = pair.float.held.name, pair.quantized.held.name
            exact = alone[0].get(name + OWN, real[name])
            found = _real(pair.quantized, alone[1].get(other + OWN, given[1][other]))
            value = LAYOUTS[sums.layout].to(exact, found)
            sums.own.add(value, found)
            sums.channels.add(value, found)
            errors[name] = LAYOUTS[sums.layout].back(found - value, exact).astype(np.float32)
            if sums.weight is not None and sums.weight.saturation_sqnr == float("inf"):
                sums.weight = self._saturated(pair.quantized, sums.weight, given[1])
        return errors

    def _saturated(self, step: Step, facts: WeightFacts, given: Mapping[str, np.ndarray]) -> WeightFacts:
        """Return the facts of a weight with what a processor without VNNI would make of it."""
        weight, grid = step.weight, self.files[1].network.tensor(step.inputs[0]).grid if step.inputs else None
        x = given.get(step.inputs[0]) if step.inputs else None
        if weight is None or weight.stored is None or grid is None or x is None or x.dtype != np.uint8 or weight.bits != 8:
            return facts
        flat = weight.stored.reshape(len(weight.stored), -1)
        if step.kind == "conv":
            found = windows_of(x, weight.stored, step.attributes, int(grid.zero_point[0]))
            flat = np.moveaxis(weight.stored, 1, -1).reshape(len(flat), -1)
        else:
            found = x.reshape(-1, flat.shape[1])[:256] if x.size % flat.shape[1] == 0 else None
        if found is None or found.shape[1] != flat.shape[1]:
            return facts
        share, left = saturation(found, flat)
        return replace(facts, saturated=share, saturation_sqnr=left)

    def _outputs(self, real: Mapping[str, np.ndarray], integers: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the outputs of both files as real values of one form."""
        found = []
        networks = [file.network for file in self.files]
        for a, b in zip(networks[0].outputs, networks[1].outputs, strict=False):
            tensor = networks[1].tensor(b)
            value = integers[b].astype(np.float32) if tensor.grid is None else tensor.grid.real(integers[b])
            layout = best_layout(real[a].astype(np.float32), value)
            if layout is None:
                raise DataError(
                    f"{self.job.quantized_path} is not of the model of {self.job.float_path}: output '{a}' has the sizes "
                    f"{real[a].shape} in the float file and {value.shape} in the other"
                )
            found.append((LAYOUTS[layout].to(real[a].astype(np.float32), value), value))
        return found

    def _share(self, real: Named, errors: Named, disturbed: Probe, inputs: Named) -> None:
        """Run the float file once for each step with the step's error added, and sum what reaches the outputs."""
        quiet = {name: np.zeros_like(real[name.removesuffix(ERROR)]) for name in disturbed.inputs if name.endswith(ERROR)}
        outputs = self.files[0].network.outputs
        scales = [max(float(np.square(real[name], dtype=np.float64).sum()), 1e-30) for name in outputs]
        for pair, sums in zip(self.pairs, self.sums, strict=True):
            name = pair.float.held.name
            if name + ERROR in quiet:
                feeds = inputs | quiet | {name + ERROR: errors[name]}
            elif name in inputs:
                feeds = inputs | quiet | {name: inputs[name] + errors[name]}
            else:
                continue
            made = disturbed.run({n: feeds[n] for n in disturbed.inputs})
            for output, scale in zip(outputs, scales, strict=True):
                sums.reached += float(np.square(made[output].astype(np.float64) - real[output]).sum()) / scale

    # -- all of them

    def _collected(
        self, outputs: Sequence[tuple[Noise, Spread]], answers: list[tuple[np.ndarray, np.ndarray] | None], seen: int
    ) -> Facts:
        whole = sum(sums.reached for sums in self.sums)
        names = {pair.float.held.name for pair in self.pairs}
        lowest = [min(one.sqnr for one in ones) for ones in zip(*outputs, strict=True)]
        steps = []
        for pair, sums in zip(self.pairs, self.sums, strict=True):
            dead, correlation, gain = sums.channels.compared()
            steps.append(
                StepFacts(
                    name=pair.name,
                    quantized_name=pair.quantized.held.name,
                    kind=pair.float.kind,
                    inputs=tuple(n for n in pair.float.inputs if n in names),
                    feeds=tuple(sorted(pair.float.feeds)),
                    is_output=pair.float.is_output,
                    sqnr=sums.whole.sqnr,
                    own_sqnr=sums.own.sqnr,
                    share=sums.reached / whole if whole else 0.0,
                    channels=sums.channels.sums.shape[1],
                    dead=dead,
                    correlation=correlation,
                    gain=gain,
                    values=sums.values.facts(),
                    weight=sums.weight,
                )
            )
        return Facts(tuple(steps), tuple(self.unmatched), lowest[0], lowest[1], seen, _same(answers), _saturates())


def _real(step: Step, value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if step.grid is None else step.grid.real(value)


def _channel_axis(step: Step, value: np.ndarray, network: Network) -> int:
    """Return the axis of a value's channels."""
    return 1 if value.ndim == 4 and not network.channels_last else value.ndim - 1


def _answers(real: np.ndarray, quantized: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the chosen classes of both files; None where the output is no row of scores."""
    if real.ndim != 2 or real.shape[1] < 2:
        return None
    return real.argmax(1), quantized.argmax(1)


def _same(answers: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> int | None:
    """Return how many samples have the same answer; None of models without classes."""
    found = [pair for pair in answers if pair is not None]
    return sum(int((a == b).sum()) for a, b in found) if found and len(found) == len(answers) else None


def _saturates() -> bool:
    found = processor()
    return found.kind == "x86" and not found.features.get("VNNI", True)
