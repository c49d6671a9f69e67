"""Where the noise of a calibrated model comes from: what says which further step can help."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qat.arithmetic.range_estimators import RangeMode
from qat.arithmetic.spread import spread
from qat.calibration.adaround_solver import Problem, learn
from qat.calibration.layerwise import Layer, Layerwise
from qat.frameworks import adapter_for, framework_of
from qat.graph.equalization import channel_ranges, pairs_of
from qat.graph.weight_views import by_channel
from qat.typing import Adapter, Model, PreparedModel

#: The most samples that are looked at.
_SAMPLES = 256
#: Steps of AdaRound that are timed, and how many a layer takes.
_TIMED, _STEPS = 2, 1000


@dataclass(frozen=True)
class Evidence:
    """What is known of a calibrated model's noise, on samples of calibration.

    Noise is the mean squared difference of the outputs from float's, each output in units of its own variance.

    Attributes:
        sqnr: of all noise, in dB.
        weights: the share of the noise that there is where weights alone are quantized.
        shift: the share of the noise that is a constant shift of each output.
        spread: of layers with one scale in all: the widest channel's range over the middle one's, the largest; 1 without any.
        apart: of neighbouring layers: the widest channel between them over the middle one, the largest; 1 without any.
        pairs: of neighbouring layers whose channels can be equalized.
        stream: how many operators of a transformer's residual stream are quantized.
        layers: with integer weights of their own.
        rounding: the seconds that AdaRound takes, estimated.
        sample: the seconds that a sample takes in the prepared model.
        cause: what :mod:`qat.analysis.diagnosis` names first of the first step's artifact; empty where it names nothing.
        diagnosis: its sentence.
    """

    sqnr: float
    weights: float
    shift: float
    spread: float
    apart: float
    pairs: int
    stream: int
    layers: int
    rounding: float
    sample: float
    cause: str = ""
    diagnosis: str = ""

    @property
    def activations(self) -> float:
        """The share of the noise that quantizing activations adds to that of the weights."""
        return 1 - self.weights

    def said(self) -> str:
        """Return the evidence in a sentence."""
        uneven = f"; under one scale the widest channel is {self.spread:.1f} times the middle one" if self.spread > 1 else ""
        named = f"; the diagnosis: {self.diagnosis}" if self.cause else ""
        return (
            f"the noise is {self.sqnr:.1f} dB below the outputs: quantizing weights makes {100 * self.weights:.0f} % of it; "
            f"{100 * self.shift:.0f} % is a constant shift{uneven}{named}"
        )


def look(model: PreparedModel, float_model: Model, samples: Sequence[Any]) -> Evidence:
    """Return the evidence of a calibrated model, which is not changed.

    Args:
        model: calibrated; no method has changed its weights.
        float_model: that it was made of.
        samples: batches of inputs.
    """
    framework = framework_of(model)
    assert framework != "tf_keras"
    adapter = adapter_for(framework)
    walk = Layerwise(model, _few(samples), "qat auto")
    batches = walk.batches
    reference = _outputs(adapter, float_model, batches)
    started = time.perf_counter()
    everything = _outputs(adapter, model, batches)
    seconds = time.perf_counter() - started
    total = _noise(everything, reference)
    parameters = _parameters(adapter, model)
    pairs = pairs_of(model.plan.graph, parameters)
    between = (channel_ranges(pair, parameters, model.plan.graph.layout)[0] for pair in pairs)
    rounded = adapter.twin_of(walk.twin)
    for layer in walk.layers:
        adapter.set_parameter(rounded, layer.op.params["weight"], _rounded(layer))
    _let_float(adapter, rounded)
    weights = _noise(_outputs(adapter, rounded, batches), reference)
    count = len(batches[0][0]) * len(batches)
    return Evidence(
        sqnr=float(-10 * np.log10(max(total, 1e-12))),
        weights=_share(weights, total),
        shift=_shift(everything, reference),
        spread=_spread(adapter, model),
        apart=max(map(_over_middle, between), default=1.0),
        pairs=len(pairs),
        stream=sum(planned.integer for planned in model.plan.residual_stream()),
        layers=len(walk.layers),
        rounding=_rounding_seconds(walk, seconds),
        sample=seconds / count,
    )


def _few(samples: Sequence[Any]) -> list[Any]:
    found, seen = [], 0
    for batch in samples:
        found.append(batch)
        first = batch
        while isinstance(first, (tuple, list)):
            first = first[0]
        seen += len(next(iter(first.values())) if isinstance(first, dict) else first)
        if seen >= _SAMPLES:
            break
    return found


def _outputs(adapter: Adapter, model: Any, batches: Sequence[Any]) -> list[np.ndarray]:
    parts = [adapter.forward(model, inputs) for inputs in batches]
    return [np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True)]


def _noise(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    return float(np.mean([np.square(y - t).mean() / spread(t) ** 2 for y, t in zip(outputs, reference, strict=True)]))


def _shift(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Return the share of the noise that is the same for all samples."""
    off = [(y - t) / spread(t) for y, t in zip(outputs, reference, strict=True)]
    constant = float(np.mean([np.square(d.mean(0)).mean() for d in off]))
    return _share(constant, float(np.mean([np.square(d).mean() for d in off])))


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else 0.0


def _let_float(adapter: Adapter, model: Any) -> None:
    for grid in adapter.grids(model).values():
        grid.mode = RangeMode.CALIBRATING  # without an estimator it computes in float


def _rounded(layer: Layer) -> np.ndarray:
    """Return a layer's weight as its integers hold it, in the framework's layout."""
    scale = layer.scale
    made = layer.of.adapter.parameter(layer.of.model, layer.op.params["weight"])
    view = by_channel(layer.op, made)
    assert view is not None
    view[...] = (layer.nearest(layer.weight, scale) * scale).reshape(layer.shape)
    return made


def _parameters(adapter: Adapter, model: PreparedModel) -> dict[str, np.ndarray]:
    names = {name for planned in model.plan.ops for name in planned.op.params.values()}
    return {name: adapter.parameter(model, name) for name in names}


def _spread(adapter: Adapter, model: PreparedModel) -> float:
    found = [1.0]
    for planned in model.plan.ops:
        if planned.integer and planned.weight is not None and planned.weight.granularity == "tensor":
            view = by_channel(planned.op, adapter.parameter(model, planned.op.params["weight"]))
            if view is not None:
                ranges = np.abs(view).reshape(view.shape[0] * view.shape[1], -1).max(1)
                found.append(_over_middle(ranges))
    return max(found)


def _over_middle(ranges: np.ndarray) -> float:
    return float(ranges.max() / max(np.median(ranges), 1e-12))


def _rounding_seconds(walk: Layerwise, forward: float) -> float:
    """Return the time of AdaRound: a few steps of each form of layer are timed, and half a pass a layer reads its inputs."""
    random = np.random.default_rng(0)
    known: dict[tuple[int, int, int], float] = {}
    total = 0.0
    for layer in walk.layers:
        groups, outputs, inputs = layer.weight.shape
        form = (groups, outputs, inputs)
        if form not in known:
            rows = random.normal(size=(512, groups, inputs)).astype(np.float32)
            weight = layer.weight
            bias = np.zeros((groups, 1, outputs), np.float32)
            problem = Problem(rows, np.matmul(rows.swapaxes(0, 1), weight.swapaxes(1, 2)), bias, None)
            started = time.perf_counter()
            learn(problem, weight, layer.scale, layer.planned.qmax, _TIMED, 1.0, 0)
            known[form] = (time.perf_counter() - started) / (_TIMED + 1)  # a first pass measures the start
        total += _STEPS * known[form] + forward
    return total
