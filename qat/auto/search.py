"""The search: step after step, the cheapest first, until the validation data say that the goal is reached or the time is over."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.text import Text

from qat.baselines import float_baseline
from qat.display.progress import length
from qat.errors import ConfigError, ExportError, QatError, reason_of
from qat.runs import float_files, float_model
from qat.runs.beginning import hold_to_beginning
from qat.runs.data import RunData
from qat.runs.job import Job
from qat.runtimes.model_file import ModelFile
from qat.trainers.time_budget import seconds_of
from qat.typing import Model

from .bench import Bench, NothingToChange, diagnosis_of
from .building import build, calibrated, folder_of
from .choices import Choices
from .clock import Clock, Pace
from .deadline import OutOfTime, deadline
from .evidence import Evidence, look
from .finishing import LATE, finished, write_chosen
from .goal import Goal
from .journal import Attempt, Journal
from .judging import judge_of
from .result import Automatic
from .steps import STEPS, Situation, Step

log = logging.getLogger("qat")


class SearchInterrupted(QatError):
    """A search was stopped by Ctrl-C; the message says what is best so far, and how to go on."""

    exit_code = 130


def search(job: Job, goal: Goal, resume_by: str) -> Automatic:
    """Look for the cheapest artifact that reaches a goal, and write it with all that was seen into the job's folder.

    A search whose process was killed is continued where ``job.resume`` says so: steps that have ended are not repeated, and a
    training goes on from its last checkpoint.

    Args:
        job: of a configuration.
        goal: what is looked for.
        resume_by: the command that continues the search, for messages.

    Raises:
        ConfigError: the target has no artifacts, or a search that is continued began with another configuration.
        SearchInterrupted: by Ctrl-C.
        QatError: the model, the data or the first step do not work.
    """
    if not job.target.suffix:
        raise ConfigError(f"target: '{job.config.target}' has no runtime, and a search judges artifacts: choose another target")
    if job.config.outputs is not None:
        raise ConfigError("outputs: a search judges artifacts of all outputs: leave it out, or take qat run")
    job.console.print(Text.assemble((job.config.name, "bold"), f": {job.config.framework}, recipe {job.config.recipe}"))
    data = job.stage("data", lambda: RunData(job.config, job.base))
    with job.alone():
        journal = Journal.opened(job.folder, job.resume)
        hold_to_beginning(job)
        model = job.stage("float model", lambda: float_model.trained(job, data))
        clock = Clock(goal.budget, journal.seconds + _unfinished(journal, job))
        file = float_file(job, data, model.model)
        judge = job.stage("float model on the validation data", lambda: judge_of(job, data, file))
        journal.add("float", seconds=round(time.perf_counter() - clock.started, 2), score=judge.score, samples=judge.samples)
        found = _Search(Bench(job, data, model, judge, goal), journal, clock)
        try:
            found.go()
        except (KeyboardInterrupt, QatError) as error:
            if isinstance(error, QatError) and error.exit_code != 130:
                raise
            raise SearchInterrupted(found.so_far(resume_by)) from error
        return found.result()


def float_file(job: Job, data: RunData, model: Model) -> ModelFile:
    """Return the float model as a file: that which it was read from, or a written one.

    Raises:
        ExportError: its framework cannot write it.
    """
    read = float_files.artifact_of(job.config, job.base)
    if read is not None:
        return ModelFile(name="float", kind="float", path=read, bytes=read.stat().st_size, recipe="float32")
    written = float_baseline(model, data.example(), job.folder / "steps", target=job.target)
    if written.path is None:
        raise ExportError(f"the float model cannot be exported, and nothing can be held against it: {written.error}")
    return written


@dataclass(frozen=True)
class _Search:
    """A search under way; all that it knows of what is done is in the journal."""

    bench: Bench
    journal: Journal
    clock: Clock

    @property
    def attempts(self) -> list[Attempt]:
        """The steps that have ended, judged by the goal of now: one that is continued may have another."""
        return [self._judged(a) for a in self.journal.attempts]

    def _judged(self, attempt: Attempt) -> Attempt:
        if attempt.figures is None:
            return attempt
        verdict, said = self.bench.goal.judged(attempt.figures, self.bench.judge.metric, self.bench.judge.finest)
        return replace(attempt, verdict=verdict, said=said)

    @property
    def best(self) -> Attempt:
        """The step that reached the goal; else the one with the best figure, of equal ones that with the least noise."""
        sign = 1.0 if self.bench.judge.metric.higher_is_better else -1.0

        def rank(a: Attempt) -> tuple[bool, float, float]:
            assert a.figures is not None
            return a.good, sign * a.figures.delta, float("inf") if a.figures.sqnr is None else a.figures.sqnr

        return max((a for a in self.attempts if a.figures is not None), key=rank)

    def go(self) -> None:
        """Do the steps that have not ended yet, until one reaches the goal."""
        done = {a.step for a in self.attempts if a.outcome != "skipped"}
        for step in self._order():
            if any(a.good for a in self.attempts):
                return
            if step.name not in done:
                self._step(step)

    def _order(self) -> Iterator[Step]:
        """Yield the steps in their order; after the first those come first that mend what the diagnosis names."""
        yield STEPS[0]
        cause = self._evidence().cause if not any(a.good for a in self.attempts) else ""
        yield from sorted(STEPS[1:], key=lambda step: not cause or cause not in step.mends)

    def _step(self, step: Step) -> None:
        if step is STEPS[0]:
            choices = Choices.of(self.bench.job.config, self.bench.job.recipe)
            self._do(step, choices, "the configuration's own recipe", {}, float("inf"))
            return
        now, pace = self._situation(), self._pace()
        advice, least, left = step.advice(now), pace.least(step), max(self.clock.left, 0.0)
        begun = self.journal.begun(step.name)
        if not advice.helps:
            self._skip(step, advice.why)
        elif begun is None and least > left:
            self._skip(step, f"{LATE[0]} {least:.0f} s, and {left:.0f} s of {self.bench.goal.budget:.0f} s are left")
        else:
            training = begun["training"] if begun is not None else self._training(pace) if step.trains else {}
            self._do(step, now.best, advice.why, training, left - pace.final)

    def _training(self, pace: Pace) -> dict[str, Any]:
        """Return the options that end a training: the configuration's own length, or the time that is left where that is less."""
        own, seconds = self.bench.job.config.training, pace.for_training(self.clock.left)
        steps = own.steps or own.max_steps
        if own.time_budget is not None:
            seconds = min(seconds, seconds_of(own.time_budget))
        elif steps is None:
            steps = own.epochs * len(self.bench.data.training(own.seed))
        return {"time_budget": round(seconds, 1), "steps": None, "max_steps": steps}

    def _do(self, step: Step, choices: Choices, why: str, training: Mapping[str, Any], seconds: float) -> None:
        """Build a step's artifact from the choices before it, hold it against the float model, and write down what came out.

        A step that takes longer than ``seconds`` is given up.
        """
        before = _unfinished(self.journal, self.bench.job)
        if self.journal.begun(step.name) is None:
            shutil.rmtree(self.bench.job.checkpoints / step.name, ignore_errors=True)  # of a training that was given up
            self.journal.add("begin", step=step.name, why=why, training=dict(training))
        started = time.perf_counter()
        try:
            with deadline(seconds):
                attempt = self.bench.job.stage(step.does, lambda: self._tried(step, choices, why, training))
        except OutOfTime:
            attempt = Attempt(step.name, "skipped", f"{LATE[1]} {time.perf_counter() - started:.0f} s, when its time was over")
        except NothingToChange as error:
            attempt = Attempt(step.name, "skipped", str(error))
        except Exception as error:  # whatever a model that no step was tried on raises
            if step is STEPS[0] or getattr(error, "exit_code", 2) != 2 or isinstance(error, ExportError):
                raise
            log.debug("%s", step.name, exc_info=True)
            said = str(error) if isinstance(error, QatError) else f"{type(error).__name__}: {reason_of(error)}"
            attempt = Attempt(step.name, "failed", said)
        attempt = replace(attempt, seconds=round(before + time.perf_counter() - started, 2))
        self.journal.add_attempt(attempt)
        self._say(attempt)

    def _tried(self, step: Step, before: Choices, why: str, training: Mapping[str, Any]) -> Attempt:
        started = time.perf_counter()
        choices = step.change(before, self.bench)
        artifact = build(self.bench.job, self.bench.data, self.bench.model, step.name, choices, training)
        built = time.perf_counter() - started
        figures = self.bench.judge.figures(artifact)
        assert artifact.path is not None
        made = Attempt(
            step.name, "tried", why, artifact=artifact.path.name, choices=choices, figures=figures, built=round(built, 2),
            parity=artifact.parity,
        )  # fmt: skip
        return self._judged(made)

    def _skip(self, step: Step, why: str) -> None:
        attempt = Attempt(step.name, "skipped", why)
        if attempt not in self.attempts:  # of a search that is continued it may be known
            self.journal.add_attempt(attempt)
            self._say(attempt)

    def _say(self, attempt: Attempt) -> None:
        tried = attempt.outcome == "tried"
        said = f"  {attempt.step} {attempt.outcome}: {attempt.said if tried else attempt.why}"
        self.bench.job.console.print(said, style="" if tried else "dim")

    def _situation(self) -> Situation:
        choices = self.best.choices
        assert choices is not None
        return Situation(self.bench.job.config, self._evidence(), self.attempts, choices, self.bench.data.labelled)

    def _evidence(self) -> Evidence:
        found = self.journal.evidence
        if found is None:
            found = self.bench.job.stage("where the noise comes from", self._look)
            self.bench.job.console.print(f"  {found.said()}", style="dim")
        return found

    def _look(self) -> Evidence:
        started = time.perf_counter()
        b = self.bench
        prepared = calibrated(b.job, b.data, b.model, Choices.of(b.job.config, b.job.recipe), first=False)
        first = self.journal.attempts[0]
        cause, said = diagnosis_of(b, folder_of(b.job, first.step) / first.artifact)
        found = replace(look(prepared, b.model.model, b.data.calibration()), cause=cause, diagnosis=said)
        self.journal.add("evidence", seconds=round(time.perf_counter() - started, 2), found=asdict(found))
        return found

    def _pace(self) -> Pace:
        evidence = self._evidence()
        config, data = self.bench.job.config, self.bench.data
        batches = (length(data.training(0)), length(data.batches("validation")))
        training, validation = (None if n is None else n * config.data.batch_size for n in batches)
        counts = training, validation, config.calibration.samples
        return Pace.of(self.attempts[0], evidence, self.bench.judge.share_of_test(), counts)

    def so_far(self, resume_by: str) -> str:
        """Write the best artifact so far, and return what a user who stopped the search is told."""
        if not any(a.figures is not None for a in self.attempts):
            return f"no step had ended; {resume_by} begins again where the search stands"
        best, (artifact, _) = self.best, write_chosen(self.bench.job, self.best)
        return f"the best so far is {best.step}, {best.said} on the validation data: {artifact}; {resume_by} goes on"

    def result(self) -> Automatic:
        """Compare the best artifact on the test data, write everything, and return it."""
        return finished(self.bench, self.attempts, self.best, self.journal.evidence, self.clock)


def _unfinished(journal: Journal, job: Job) -> float:
    """Return the seconds that killed processes worked at a step, by the last sign of life that they left."""
    begun = next((line for line in reversed(journal.lines) if line["event"] in ("begin", "step")), None)
    if begun is None or begun["event"] == "step":
        return 0.0
    files = [*(job.checkpoints / begun["step"]).rglob("*"), *folder_of(job, begun["step"]).rglob("*")]
    return max(0.0, max((path.stat().st_mtime for path in files), default=0.0) - begun["at"])
