"""The commands that do a job by a configuration: whole, or one part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import Config, Output, Recipe, Resume
from .result import Result
from .terminal import console

if TYPE_CHECKING:
    from qat.display.page import Page
    from qat.frameworks import Framework
    from qat.report.report import Report
    from qat.runs.config import RunConfig
    from qat.runs.job import Job
    from qat.typing import Layout


def demo(output: Annotated[Path, typer.Option(help="Where the results go.")] = Path("runs/demo")) -> Result:
    """Run the main job on the embedded digits, in both frameworks."""
    return _run_all([Path("digits_torch"), Path("digits_keras")], output)


def run(config: Config, output: Output = None, recipe: Recipe = None, resume: Resume = False) -> Result:
    """Do everything, by a configuration: float model, PTQ baselines, QAT, export, proof and comparison."""
    return _run_all([config], output, resume, recipe)


def _run_all(configs: list[Path], output: Path | None, resume: bool = False, recipe: str | None = None) -> Result:
    from qat.runs.config import load_run
    from qat.runs.job import Job, results_folder
    from qat.runs.run import execute
    from qat.runs.shipped import find

    loaded = [(_with_recipe(load_run(path), recipe), path.parent) for path in map(find, configs)]
    _import_frameworks(config.framework for config, _ in loaded)
    folder = output or results_folder(*loaded[0])
    reports = []
    for config, base in loaded:
        # Several share a folder, but not their checkpoints.
        checkpoints = folder / "checkpoints" / config.framework if len(loaded) > 1 else None
        reports.append(execute(Job.of(config, base, folder, console(progress=True), resume, checkpoints)))
    return _written(reports, folder)


def _with_recipe(config: RunConfig, recipe: str | None) -> RunConfig:
    """Return a configuration with another recipe: a name, or a file of the working folder."""
    if recipe is None:
        return config
    is_file = Path(recipe).suffix in (".yaml", ".yml")
    return config.model_copy(update={"recipe": str(Path(recipe).absolute()) if is_file else recipe})


def _written(reports: Sequence[Report], folder: Path) -> Result:
    """Write the reports of a run into its folder, and return them."""
    from qat.display.page import Page
    from qat.report.render import document_of, write_report

    summary = write_report(reports, folder)
    pages = Page(tuple(block for report in reports for block in (*report.page().blocks, "")))
    files = {"summary": str(summary), "report": str(folder / "report.html")}
    return Result(document_of(reports, folder) | files, written_below(pages, summary))


def written_below(page: Page, summary: Path) -> Page:
    """Return a page that ends in the files that were written."""
    from qat.display.page import Page, Whole

    return Page((*page.blocks, Whole(f"written: {summary}"), Whole(f"to look at: {summary.with_name('report.html')}")))


def _import_frameworks(names: Iterable[Framework]) -> None:
    """Import the frameworks that are needed, without the notices that TensorFlow's import prints."""
    from qat.frameworks import adapter_for
    from qat.system.ctrl_c import deferred
    from qat.system.silence import quiet

    for name in names:
        with deferred(), quiet() if name == "keras" else nullcontext():
            adapter_for(name)


def open_job(config: Path, output: Path | None, resume: bool = False, subfolder: str = "", recipe: str | None = None) -> Job:
    """Return the job of a configuration, its framework imported; ``recipe`` takes the place of its own.

    Without an output it has a subfolder of the run's.
    """
    from qat.runs.config import load_run
    from qat.runs.job import Job, results_folder
    from qat.runs.shipped import find

    path = find(config)
    loaded = _with_recipe(load_run(path), recipe)
    _import_frameworks([loaded.framework])
    folder = output or results_folder(loaded, path.parent) / subfolder
    return Job.of(loaded, path.parent, folder, console(progress=True), resume)


def ptq(config: Config, output: Output = None) -> Result:
    """Make and compare the PTQ baselines of a configuration alone."""
    from qat.runs.run import compare_baselines

    job = open_job(config, output)
    return _written([compare_baselines(job)], job.folder)


def train(config: Config, output: Output = None, recipe: Recipe = None, resume: Resume = False) -> Result:
    """Train alone, by a configuration: checkpoints go to <output>/checkpoints."""
    from shlex import quote

    from qat.display.page import Page, Whole
    from qat.runs import run

    job = open_job(config, output, resume, recipe=recipe)
    trained = run.train(job)
    lines = (
        f"the best weights: {trained.best}",
        f"  qat export {quote(str(config))} {quote(str(trained.best))} ARTIFACT makes an artifact of them",
        f"checkpoints: {job.checkpoints}; --resume continues a run that was stopped",
    )
    return Result(trained.to_dict() | {"checkpoints": str(job.checkpoints)}, Page(tuple(map(Whole, lines))))


def export(
    config: Config,
    checkpoint: Annotated[Path, typer.Argument(help="Written by qat train: best.safetensors or best.keras.")],
    artifact: Annotated[Path, typer.Argument(help="The .onnx or .tflite to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    layout: Annotated[
        str | None, typer.Option(help="Of images in and out, NCHW or NHWC; default: NHWC in a .tflite, else as the model's.")
    ] = None,
    recipe: Recipe = None,
    outputs: Annotated[
        list[str] | None, typer.Option(help="The name of an output that the artifact keeps, once for each; default: all outputs.")
    ] = None,
) -> Result:
    """Export a trained checkpoint and verify it on the test split."""
    from qat.display.page import Page, Whole
    from qat.runs.run import export_checkpoint

    job = open_job(config, None, recipe=recipe)
    written = export_checkpoint(job, checkpoint, artifact, overwrite, cast("Layout | None", layout), outputs or None)
    parity = written.parity
    assert parity is not None
    line = f"written: {written.path} ({written.bytes:,} bytes), {parity.line()}"
    return Result(written.to_dict(), Page((Whole(line),)))
