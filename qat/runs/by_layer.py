"""The error along the network, as a run's report shows it: each layer of the trained file against the float one, and its plan."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qat.analysis.diagnosis.measure import Job as Measurement
from qat.analysis.diagnosis.measure import measure
from qat.analysis.diagnosis.measured import StepFacts
from qat.errors import reason_of
from qat.exporters.inspection import inspect
from qat.planning.plan import Plan
from qat.report.html.page import Figure, Section
from qat.report.html.plots import Bar, Bars
from qat.report.report import Report
from qat.system.sample_sets import as_pair
from qat.system.samples import first_of_pair

from .data import RunData

log = logging.getLogger("qat")

#: The samples that are measured on: the error of a layer is a mean over its values, of which each sample has many.
_SAMPLES = 16
#: The most layers that a plot has, those with the largest shares of the error.
_MOST_BARS = 60


@dataclass(frozen=True)
class LayerError:
    """The error of a layer of the examined file.

    Attributes:
        scope: of the layer, as the plan has it; the name of its result where the plan has none.
        kind: of its operator.
        runs: how the plan runs it; empty of an input.
        sqnr_db: of its result against the float file's, with the errors of all layers before it; None where both are equal.
        share: of the outputs' error that it makes alone, 0 to 1; None where that is not known.
    """

    scope: str
    kind: str
    runs: str
    sqnr_db: float | None
    share: float | None


def error_by_layer(report: Report, plan: Plan, data: RunData) -> tuple[LayerError, ...] | str:
    """Return the error of each layer in the order of the network, or why it was not measured.

    Args:
        report: whose float file and examined file are held against each other.
        plan: of the examined file.
        data: on whose test split.
    """
    floats = next((e.path for e in report.entries if e.kind == "float" and e.path is not None), None)
    examined = next((e.path for e in report.entries if e.name == report.examined and e.path is not None), None)
    if floats is None or examined is None or floats.suffix != examined.suffix:
        return "error by layer: it takes a float file of the trained one's format"
    try:
        facts = measure(Measurement(floats, examined, _arrays(data, len(plan.graph.inputs))))
        scopes = inspect(examined).scopes
    except Exception as error:  # whatever the reading of two files raises: a report is not worth the hours of a run
        log.debug("error by layer", exc_info=True)
        return f"error by layer: {reason_of(error)}"
    runs = {row["scope"]: row["runs"] for row in plan.table()}

    def layer(step: StepFacts) -> LayerError:
        scope = scopes.get(step.quantized_name, step.name)
        return LayerError(scope, step.kind, runs.get(scope, ""), step.sqnr if math.isfinite(step.sqnr) else None, step.share)

    return tuple(map(layer, facts.steps))


def section_of(framework: str, layers: Sequence[LayerError]) -> Section:
    """Return the layers as plots, along the network."""
    largest = sorted(layers, key=lambda layer: -(layer.share or 0.0))[:_MOST_BARS]
    shown = [layer for layer in layers if layer in largest]

    def bars(values: Sequence[float | None]) -> tuple[Bar, ...]:
        pairs = zip(shown, values, strict=True)
        return tuple(Bar(f"{x.scope} ({x.kind})", value, group=x.runs or x.kind) for x, value in pairs if value is not None)

    quality = bars([layer.sqnr_db for layer in shown])
    shares = bars([None if layer.share is None else 100 * layer.share for layer in shown])
    plots = (
        (Bars("SQNR along the network", "dB, with the errors of all layers before", quality, ".1f"), "layers"),
        (Bars("Share of the error", "% of the outputs' error that the layer makes", shares, ".1f"), "shares"),
    )
    said = f"On {_SAMPLES} samples, from the input to the output; the colour is how the plan runs a layer."
    return Section("Error by layer", tuple(Figure(f"{framework}_{name}", plot, said) for plot, name in plots if plot.bars))


def _arrays(data: RunData, inputs: int) -> tuple[np.ndarray, ...]:
    """Return a few inputs of the test split, in the order of the model's."""
    columns: list[list[np.ndarray]] = [[] for _ in range(inputs)]
    for batch in map(as_pair, data.batches("test")):
        found = first_of_pair(batch, inputs)
        values = found.values() if isinstance(found, Mapping) else found if isinstance(found, (tuple, list)) else (found,)
        for column, value in zip(columns, values, strict=True):
            column.append(np.asarray(value))
        if sum(map(len, columns[0])) >= _SAMPLES:
            break
    return tuple(np.concatenate(column)[:_SAMPLES] for column in columns)
