"""A system from its configuration to its int8 models, judged alone and together."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from qat.errors import ConfigError, DataError, QatError, at, reason_of
from qat.report.statistics import error_percent
from qat.system.atomic_files import make_folder, write_atomically
from qat.system.import_object import import_object
from qat.system.run_lock import only_run_in

from .config import SystemConfig, load_system
from .parts import Part
from .results import TOGETHER, PartResult, SystemResult
from .wiring import CallModel, Recording, System, Value, in_batches, record

log = logging.getLogger("qat")

#: The outputs of a sample in float and in int8, by step; returns a number, or numbers by name.
Metric = Callable[[Mapping[str, Value], Mapping[str, Value]], "float | Mapping[str, float]"]


def execute(path: str | Path, folder: Path | None = None) -> SystemResult:
    """Quantize the models of a system, and judge them alone and together.

    The calibration samples flow through the float system; what each model is called with there calibrates it, and its own float
    outputs teach it. The held-out samples then flow through the float system, through the system with all models quantized, and
    through it with one model quantized at a time.

    Args:
        path: of the configuration (:class:`qat.systems.config.SystemConfig`).
        folder: receives the artifacts and ``system.json``; None: ``output``, else ``runs/<name>``, beside the configuration.

    Raises:
        ConfigError: the configuration is invalid.
        DataError: there are too few samples, or a model is never called.
        QatError: a step fails, or a model cannot be quantized; the message names it.
    """
    config, system = load_system(path)
    base = Path(path).parent
    folder = folder or base / (config.output or f"runs/{config.name}")
    calibration, held_out = _samples(config, system)
    parts = [_loaded(name, config, base) for name in config.models]
    make_folder(folder)
    with only_run_in(folder):
        result = _judged(config, system, parts, calibration, held_out, folder)
        write_atomically(folder / "system.json", json.dumps(result.to_dict(), indent=2), overwrite=True)
    return result


def _judged(
    config: SystemConfig, system: System, parts: Sequence[Part], calibration: Sequence[Sequence[Value]],
    held_out: Sequence[Sequence[Value]], folder: Path,
) -> SystemResult:  # fmt: skip
    in_float = {part.name: part.call for part in parts}
    seen, _ = record(system, calibration, in_float)
    later, expected = record(system, held_out, in_float)
    in_int8: dict[str, CallModel] = {}
    results = []
    for part in parts:
        log.info("%s: %d calls by the calibration samples", part.name, len(seen[part.name].calls))
        results.append(_quantized(part, seen[part.name], later[part.name], config.batch_size, folder, in_int8))
    metric = _metric(config)
    mixtures = {TOGETHER: in_int8} | ({name: {name: call} for name, call in in_int8.items()} if len(in_int8) > 1 else {})
    metrics = {
        mixture: _measured(metric, expected, [system.run(sample, in_float | quantized) for sample in held_out])
        for mixture, quantized in mixtures.items()
    }
    return SystemResult(config.name, tuple(results), metrics, len(held_out))


def _quantized(
    part: Part, seen: Recording, later: Recording, size: int, folder: Path, in_int8: dict[str, CallModel]
) -> PartResult:
    """Quantize one model unless it stays float, and put its call among ``in_int8``."""
    count = sum(len(call[0]) for call in seen.calls)
    if part.config.keep_float:
        return PartResult(part.name, part.bytes, None, len(seen.calls), count, None)
    held_out = in_batches(later.calls, size)
    try:
        artifact, call = part.quantize(in_batches(seen.calls, size), held_out, folder)
    except QatError as error:
        raise at(f"models.{part.name}", error) from error
    in_int8[part.name] = call
    alone = error_percent(_outputs(call, held_out), _outputs(part.call, held_out)) if held_out else None
    return PartResult(part.name, part.bytes, artifact, len(seen.calls), count, alone)


def _outputs(call: CallModel, batches: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Return the values of each output of a model over batches, whose sizes may differ."""
    returned = [_arrays(call(*batch)) for batch in batches]
    return [np.concatenate([array.ravel() for array in output]) for output in zip(*returned, strict=True)]


def _loaded(name: str, config: SystemConfig, base: Path) -> Part:
    try:
        return Part.of(name, config.models[name], base)
    except ConfigError:
        raise
    except QatError as error:
        raise at(f"models.{name}", error) from error


def _samples(config: SystemConfig, system: System) -> tuple[list[Sequence[Value]], list[Sequence[Value]]]:
    """Return the calibration and the held-out samples.

    Raises:
        DataError: there are too few.
    """
    several = len(system.inputs) > 1
    samples: list[Sequence[Value]] = []
    for index, sample in enumerate(_given(config)):
        values = sample if isinstance(sample, (tuple, list)) else (sample,)
        if len(values) != len(system.inputs):
            raise DataError(
                f"data '{config.data}': sample {index} has {len(values)} values, inputs names {len(system.inputs)}"
                + ("" if several else ": name them in inputs")
            )
        samples.append(tuple(values))
    if len(samples) < 2:
        raise DataError(f"data '{config.data}' gives {len(samples)} samples: at least two are needed, to calibrate and to judge")
    # With fewer samples than asked for, both parts keep their shares.
    first = min(config.calibration, max(1, len(samples) * config.calibration // (config.calibration + config.held_out)))
    if len(samples) < config.calibration + config.held_out:
        log.warning("data gives %d samples: %d calibrate, %d judge", len(samples), first, len(samples) - first)
    return samples[:first], samples[first:]


def _given(config: SystemConfig) -> list[Value]:
    """Return as many samples as are wanted of what the user's function returns."""
    function = import_object(config.data, "data")
    try:
        found = function(**config.kwargs)
        if isinstance(found, Iterable):
            return list(islice(found, config.calibration + config.held_out))
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"data '{config.data}' fails: {type(error).__name__}: {reason_of(error)}") from error
    raise DataError(f"data '{config.data}' returned {type(found).__name__}: return the samples, a list or a generator")


def _metric(config: SystemConfig) -> Metric:
    if config.metric is None:
        return _differences
    found: Metric = import_object(config.metric, "metric")
    return found


def _differences(expected: Mapping[str, Value], got: Mapping[str, Value]) -> dict[str, float]:
    """Return the error of each output; of one whose shape changed (another number of boxes) 1 under ``... other shape``."""
    values: dict[str, float] = {}
    for step, value in expected.items():
        pairs = list(zip(_arrays(value), _arrays(got[step]), strict=False))
        same = len(_arrays(value)) == len(_arrays(got[step])) and all(a.shape == b.shape for a, b in pairs)
        values[f"{step}: other shape"] = float(not same)
        filled = [(b, a) for a, b in pairs if a.size]
        if same and filled:
            values[f"{step}: error, %"] = error_percent(*zip(*filled, strict=True))
    return values


def _arrays(value: Value) -> list[np.ndarray]:
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return [np.asarray(part) for part in parts if isinstance(part, (np.ndarray, float, int, np.generic))]


def _measured(
    metric: Metric, expected: Sequence[Mapping[str, Value]], got: Sequence[Mapping[str, Value]]
) -> dict[str, np.ndarray]:
    """Return the values of each metric over the samples; a sample for which a metric has no value is left out of it.

    Raises:
        QatError: the user's metric fails, or returns what is no number.
    """
    values: dict[str, list[float]] = {}
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        try:
            found = metric(a, b)
            numbers = found if isinstance(found, Mapping) else {"metric": found}
            for name, number in numbers.items():
                values.setdefault(str(name), []).append(float(number))
        except QatError:
            raise
        except Exception as error:  # of the user's metric: whatever it raises
            raise QatError(f"metric fails on held-out sample {index}: {type(error).__name__}: {reason_of(error)}") from error
    return {name: np.array(numbers) for name, numbers in values.items()}
