"""The end of a search: the best artifact under a plain name, its comparison on the test data, and the files of the result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qat.files.request import ending_of
from qat.report.html.render import write_page
from qat.report.render import write_report
from qat.report.report import Report
from qat.runs.job import Job
from qat.runtimes.model_file import ModelFile
from qat.system.atomic_files import write_atomically

from .bench import Bench
from .building import folder_of
from .clock import Clock
from .evidence import Evidence
from .html import web_page
from .journal import Attempt
from .judging import Judge, figures_of
from .result import Automatic, decision_of, journal_page

#: How the reason of a step begins that does not fit into the time: by its estimate, or as it turned out.
LATE = ("it takes about", "it was given up after")


def finished(bench: Bench, attempts: Sequence[Attempt], best: Attempt, evidence: Evidence | None, clock: Clock) -> Automatic:
    """Compare the best artifact with the float model on the test data, write everything, and return it.

    Args:
        bench: of the search.
        attempts: the steps in order.
        best: the one that is chosen.
        evidence: of the first step; None where that reached the goal.
        clock: of the search.
    """
    job, judge, goal = bench.job, bench.judge, bench.goal
    artifact, recipe = write_chosen(job, best)
    report = job.stage("comparison on the test data", lambda: _report(job, judge, attempts[0], best))
    found = figures_of(report, best.step, judge.metric)
    finest = judge.finest * (judge.samples + 2) / (found.samples + 2)
    made = Automatic(
        goal, goal.said(judge.metric, judge.score), judge.metric,
        best.good and goal.judged(found, judge.metric, finest)[0] != "missed",
        best, artifact, recipe, tuple(attempts), evidence, report, job.folder, clock.spent,
    )  # fmt: skip
    decision = decision_of(made, found, finest, _notes(judge, attempts))
    made = replace(made, report=replace(report, decision=decision))
    _write(made)
    return made


def write_chosen(job: Job, best: Attempt) -> tuple[Path, Path]:
    """Copy a step's artifact and its recipe to plain names in the folder of the results, and return both paths."""
    assert best.choices is not None
    stem = f"{job.config.name}_{ending_of(best.choices.recipe)}"
    source = folder_of(job, best.step) / best.artifact
    artifact, recipe = job.folder / f"{stem}{source.suffix}", job.folder / f"{stem}.yaml"
    for path in source.parent.glob(f"{source.name}*"):  # the encodings lie beside it
        write_atomically(job.folder / path.name.replace(source.name, artifact.name), path.read_bytes(), overwrite=True)
    write_atomically(recipe, best.choices.written(recipe), overwrite=True)
    return artifact, recipe


def _report(job: Job, judge: Judge, first: Attempt, best: Attempt) -> Report:
    """Return the comparison on the test data: the float model, the first step for contrast, and the best."""
    files = [_file(job, attempt) for attempt in {a.step: a for a in (first, best)}.values()]
    return judge.report([judge.file, *files], "test", job.config.latency_runs)


def _file(job: Job, attempt: Attempt) -> ModelFile:
    assert attempt.choices is not None
    path = folder_of(job, attempt.step) / attempt.artifact
    return ModelFile(
        name=attempt.step, kind="ptq" if attempt.choices.training == "none" else "qat", path=path, bytes=path.stat().st_size,
        framework=job.config.framework, tool="qat", recipe=attempt.choices.recipe.name, parity=attempt.parity,
    )  # fmt: skip


def _notes(judge: Judge, attempts: Sequence[Attempt]) -> list[str]:
    """Return what a reader of the decision must know besides."""
    late = [a.step for a in attempts if a.outcome == "skipped" and a.why.startswith(LATE)]
    notes = []
    if late and not any(a.good for a in attempts):
        notes.append(f"Not tried for want of time: {', '.join(late)}; a larger --budget with --resume goes on")
    if not judge.apart:
        notes.append("The data have no part of their own for the test: these are the samples that the steps were chosen by")
    if judge.taught:
        notes.append("There are no labels: the float model's own answers are the right ones")
    return notes


def _write(result: Automatic) -> None:
    """Write report.html, summary.json, summary.md, the plots and the journal's page into the folder of a result."""
    write_report([result.report], result.folder)
    write_page(web_page(result), result.folder / "report.html", overwrite=True, prefix="")  # the comparison's plots lie there
    write_atomically(result.folder / "journal.md", journal_page(result), overwrite=True)
    document = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(result.folder / "summary.json", document, overwrite=True)
