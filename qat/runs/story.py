"""How the files of a run came about, as its report shows it: training curves, calibration, the plan, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from qat.calibration.evidence import Evidence
from qat.display.table import Table
from qat.frameworks import has_plan
from qat.report.html.page import Block, Figure, Section
from qat.report.html.plots import Line, Lines, Reference
from qat.report.report import Report
from qat.report.story import Story
from qat.trainers import History
from qat.trainers.metrics import METRICS
from qat.typing import PreparedModel

from .by_layer import error_by_layer, section_of
from .config import RunConfig
from .data import RunData
from .job import Job


def story_of(
    job: Job, data: RunData, prepared: PreparedModel, seen: Evidence | None, histories: Mapping[str, History], report: Report
) -> Story:
    """Return the story of a whole run.

    Args:
        job: the run.
        data: of the run.
        prepared: the trained model.
        seen: what calibration saw; None where that is not known.
        histories: of the trainings, by the names of the lines that show them.
        report: the comparison of its files.
    """
    c = job.config
    layers = error_by_layer(report, prepared.plan, data) if has_plan(prepared) else "error by layer: the model has no plan"
    found = () if isinstance(layers, str) else layers
    sections = (
        section_of(c.framework, found), _training(c.framework, histories), _calibration(seen), _plan(prepared),
    )  # fmt: skip
    return Story(
        facts=(("recipe", c.recipe), ("target", job.target.name), ("configuration", c.name)),
        sections=tuple(section for section in sections if section.blocks),
        not_run=(*_not_run(c), *([layers] if isinstance(layers, str) else [])),
        classes=tuple(data.dataset.class_names),
        document={
            "layers": [asdict(layer) for layer in found],
            "training": {name: history.to_dict() for name, history in histories.items()},
            "calibration": None if seen is None else {"saw": seen.line(), "warnings": list(seen.warnings())},
        },
    )


def _training(framework: str, histories: Mapping[str, History]) -> Section:
    """Return the curves of the loss and of each metric, and a table of the epochs."""
    ran = {name: history for name, history in histories.items() if history.epochs}
    if not ran:
        return Section("Training", ())
    losses = tuple(_line(name, {e.number: e.loss for e in history.epochs}) for name, history in ran.items())
    figures = [Figure(f"{framework}_loss", Lines("Training loss", "epoch", "loss", losses), "What the training makes small.")]
    for metric in dict.fromkeys(name for history in ran.values() for e in history.epochs for name in e.metrics):
        found = {name: {e.number: e.metrics[metric] for e in h.epochs if metric in e.metrics} for name, h in ran.items()}
        heading = METRICS[metric].heading if metric in METRICS else metric
        before = next((h.before[metric] for h in ran.values() if metric in h.before), None)
        plot = Lines(
            f"{heading[:1].upper()}{heading[1:]} on the validation data", "epoch", heading,
            tuple(_line(name, values) for name, values in found.items()),
            reference=None if before is None else Reference("before training", before),
        )  # fmt: skip
        figures.append(Figure(f"{framework}_curve{len(figures)}", plot, "The weights of the best epoch are kept."))
    tables: list[Block] = [
        replace(block, title=f"{name}: {block.title}")
        for name, history in ran.items()
        for block in history.page().blocks
        if isinstance(block, Table)
    ]
    return Section("Training", (*figures, *tables))


def _line(name: str, values: Mapping[int, float]) -> Line:
    return Line(name, tuple(map(float, values)), tuple(values.values()))


def _calibration(seen: Evidence | None) -> Section:
    return Section("Calibration", () if seen is None else seen.page().blocks)


def _plan(prepared: PreparedModel) -> Section:
    return Section("The plan, layer by layer", prepared.plan.page().blocks if has_plan(prepared) else ())


def _not_run(c: RunConfig) -> list[str]:
    """Return what the configuration left out."""
    left_out = (
        (not c.ptq, "PTQ baselines (ptq: false): whether training was needed cannot be told"),
        (not c.control, "the float control (control: false): QAT's gain may be that of its extra steps"),
        (not c.adaround, "AdaRound (adaround: true runs it)"),
        (not c.calibration.reconstruction, "block reconstruction (calibration.reconstruction: true)"),
        (not c.equalize, "equalization of neighbouring layers (equalize: true)"),
        (not c.calibration.bias_correction, "bias correction (calibration.bias_correction: true)"),
        (not c.latency_runs, "timing (latency_runs: 0)"),
    )
    return [sentence for is_left_out, sentence in left_out if is_left_out]
