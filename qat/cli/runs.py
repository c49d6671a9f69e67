"""The commands that do a job by a configuration: whole, or one part of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import Config, Output, Resume
from .terminal import console

if TYPE_CHECKING:
    from qat.frameworks import Framework
    from qat.runs.job import Job
    from qat.typing import Layout


def demo(output: Annotated[Path, typer.Option(help="Where the results go.")] = Path("runs/demo")) -> None:
    """Run the main job on the embedded digits, in both frameworks."""
    _run_all([Path("digits_torch"), Path("digits_keras")], output)


def run(config: Config, output: Output = None, resume: Resume = False) -> None:
    """Do everything, by a configuration: float model, PTQ baselines, QAT, export, proof and comparison."""
    _run_all([config], output, resume)


def _run_all(configs: list[Path], output: Path | None, resume: bool = False) -> None:
    from qat.display.terminal import show
    from qat.report.render import write_report
    from qat.runs.config import load_run
    from qat.runs.job import Job, results_folder
    from qat.runs.run import execute
    from qat.runs.shipped import find

    out = console()
    loaded = [(load_run(path), path.parent) for path in map(find, configs)]
    _import_frameworks(config.framework for config, _ in loaded)
    folder = output or results_folder(*loaded[0])
    reports = []
    for config, base in loaded:
        # Several share a folder, but not their checkpoints.
        checkpoints = folder / "checkpoints" / config.framework if len(loaded) > 1 else None
        report = execute(Job.of(config, base, folder, console(progress=True), resume, checkpoints))
        show(report.page(), out)
        reports.append(report)
    out.print(f"written: {write_report(reports, folder)}")


def _import_frameworks(names: Iterable[Framework]) -> None:
    """Import the frameworks that are needed, without the notices that TensorFlow's import prints."""
    from qat.frameworks import adapter_for
    from qat.system.ctrl_c import deferred
    from qat.system.silence import quiet

    for name in names:
        with deferred(), quiet() if name == "keras" else nullcontext():
            adapter_for(name)


def open_job(config: Path, output: Path | None, resume: bool = False) -> Job:
    """Return the job of a configuration, its framework imported."""
    from qat.runs.config import load_run
    from qat.runs.job import Job
    from qat.runs.shipped import find

    path = find(config)
    loaded = load_run(path)
    _import_frameworks([loaded.framework])
    return Job.of(loaded, path.parent, output, console(progress=True), resume)


def ptq(config: Config, output: Output = None) -> None:
    """Make and compare the PTQ baselines of a configuration alone."""
    from qat.display.terminal import show
    from qat.report.render import write_report
    from qat.runs.run import compare_baselines

    job = open_job(config, output)
    report = compare_baselines(job)
    out = console()
    show(report.page(), out)
    out.print(f"written: {write_report([report], job.folder)}")


def train(config: Config, output: Output = None, resume: Resume = False) -> None:
    """Train alone, by a configuration: checkpoints go to <output>/checkpoints."""
    from qat.runs import run

    job = open_job(config, output, resume)
    best = run.train(job)
    out = console()
    out.print(f"the best weights: {best}\n  qat export {config} {best} ARTIFACT makes an artifact of them")
    out.print(f"checkpoints: {job.checkpoints}; --resume continues a run that was stopped")


def export(
    config: Config,
    checkpoint: Annotated[Path, typer.Argument(help="Written by qat train: best.safetensors or best.keras.")],
    artifact: Annotated[Path, typer.Argument(help="The .onnx or .tflite to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    layout: Annotated[
        str | None, typer.Option(help="Of images in and out, NCHW or NHWC; default: NHWC in a .tflite, else as the model's.")
    ] = None,
) -> None:
    """Export a trained checkpoint and verify it on the test split."""
    from qat.runs.run import export_checkpoint

    job = open_job(config, None)
    written = export_checkpoint(job, checkpoint, artifact, overwrite, cast("Layout | None", layout))
    parity = written.parity
    assert parity is not None
    console().print(f"written: {written.path} ({written.bytes:,} bytes), {100 * parity.exact:.2f} % of outputs exactly equal")
