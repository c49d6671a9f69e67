"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

if TYPE_CHECKING:
    from qat.runs.job import Job
    from qat.typing import Layout

    from .frameworks import Framework

log = logging.getLogger("qat")
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Quantization-aware training.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in <output>/checkpoints.")]
Config = Annotated[Path, typer.Argument(help="A run configuration, for example configs/runs/digits_torch.yaml.")]


def _console(*, progress: bool = False) -> Any:
    """Return a console for results, or for ``progress``, which -q hides."""
    from rich.console import Console

    # Without markup: "[torch]" in a package's name, a path or a tensor's name is text.
    return Console(
        width=None if sys.stdout.isatty() else 120, markup=False, quiet=progress and not log.isEnabledFor(logging.WARNING)
    )


def _print_version(asked: bool) -> None:
    if asked:
        from . import __version__

        print(f"qat {__version__}")
        raise typer.Exit


Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, metavar="", help="Say more; -vv for debugging.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results alone, without notices and progress.")]
Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Verbose = 0, quiet: Quiet = False, version: Version = False,
) -> None:  # fmt: skip
    """Train on the integer grid: the artifact equals the trained model, bit for bit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(format="notice: %(message)s", level=logging.ERROR)
    log.setLevel(logging.WARNING)
    _set_level(verbose, quiet)


def _set_level(verbose: int = 0, quiet: bool = False, version: bool = False) -> None:
    """Let the log say more or less; without an option it stays as it is."""
    if verbose:
        log.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    if quiet:
        log.setLevel(logging.ERROR)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command, which takes -v, -q and --version behind its name as `qat` takes them before it."""
    shared = {name: p for name, p in signature(_options, eval_str=True).parameters.items() if name != "debug"}

    @wraps(function)
    def command(**values: Any) -> None:
        _set_level(**{name: values.pop(name) for name in shared})
        function(**values)

    own = signature(function, eval_str=True)
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*own.parameters.values(), *shared.values())]
    vars(command)["__signature__"] = own.replace(parameters=parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command()(command)
    return function


@_command
def demo(output: Annotated[Path, typer.Option(help="Where the results go.")] = Path("runs/demo")) -> None:
    """Run the main job on the embedded digits, in both frameworks."""
    from importlib.resources import files

    folder = Path(str(files("qat.configs"))) / "runs"
    _run_all([folder / "digits_torch.yaml", folder / "digits_keras.yaml"], output)


@_command
def run(
    config: Config, output: Annotated[Path | None, typer.Option(help="Default: runs/<name>.")] = None, resume: Resume = False
) -> None:
    """Do everything, by a configuration: float model, PTQ baselines, QAT, export, proof and comparison."""
    _run_all([config], output, resume)


def _run_all(configs: list[Path], output: Path | None, resume: bool = False) -> None:
    from qat.report.render import print_report, write_report
    from qat.runs.config import load_run
    from qat.runs.job import Job, results_folder
    from qat.runs.run import execute

    console = _console()
    loaded = [(load_run(path), path.parent) for path in configs]
    _import_frameworks(config.framework for config, _ in loaded)
    folder = output or results_folder(*loaded[0])
    reports = []
    for config, base in loaded:
        # Several share a folder, but not their checkpoints.
        checkpoints = folder / "checkpoints" / config.framework if len(loaded) > 1 else None
        report = execute(Job.of(config, base, folder, _console(progress=True), resume, checkpoints))
        print_report(report, console)
        reports.append(report)
    console.print(f"written: {write_report(reports, folder)}", soft_wrap=True)


def _import_frameworks(names: Iterable[Framework]) -> None:
    """Import the frameworks that are needed, without the notices that TensorFlow's import prints."""
    from qat.system.ctrl_c import deferred
    from qat.system.silence import quiet

    from .frameworks import adapter_for

    for name in names:
        with deferred(), quiet() if name == "keras" else nullcontext():
            adapter_for(name)


def _open(config: Path, output: Path | None, resume: bool = False) -> Job:
    from qat.runs.config import load_run
    from qat.runs.job import Job

    loaded = load_run(config)
    _import_frameworks([loaded.framework])
    return Job.of(loaded, config.parent, output, _console(progress=True), resume)


@_command
def ptq(config: Config, output: Annotated[Path | None, typer.Option(help="Default: runs/<name>.")] = None) -> None:
    """Make and compare the PTQ baselines of a configuration alone."""
    from qat.report.render import print_report, write_report
    from qat.runs.run import compare_baselines

    job = _open(config, output)
    report = compare_baselines(job)
    console = _console()
    print_report(report, console)
    console.print(f"written: {write_report([report], job.folder)}", soft_wrap=True)


@_command
def train(
    config: Config, output: Annotated[Path | None, typer.Option(help="Default: runs/<name>.")] = None, resume: Resume = False
) -> None:
    """Train alone, by a configuration: checkpoints go to <output>/checkpoints."""
    from qat.runs import run

    job = _open(config, output, resume)
    best = run.train(job)
    console = _console()
    console.print(f"the best weights: {best}\n  qat export {config} {best} ARTIFACT makes an artifact of them", soft_wrap=True)
    console.print(f"checkpoints: {job.checkpoints}; --resume continues a run that was stopped", soft_wrap=True)


@_command
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

    job = _open(config, None)
    written = export_checkpoint(job, checkpoint, artifact, overwrite, cast("Layout | None", layout))
    parity = written.parity
    assert parity is not None
    _console().print(
        f"written: {written.path} ({written.bytes:,} bytes), {100 * parity.exact:.2f} % of outputs exactly equal", soft_wrap=True
    )


@_command
def compare(
    config: Config,
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts; a float one is the reference, else the first.")],
) -> None:
    """Compare artifacts on the test split of a configuration's data."""
    from qat.report.records import record_of
    from qat.report.render import print_report
    from qat.runs import stages
    from qat.runs.data import RunData

    job = _open(config, None)
    entries = [record_of(path) for path in artifacts]
    print_report(stages.compare(job, RunData(job.config, job.base), entries), _console())


@_command
def plan(config: Config) -> None:
    """List the operators of the model: which are quantized, how, and why the others stay float."""
    from rich.table import Table

    from qat.runs.data import RunData
    from qat.runs.float_model import untrained

    from . import api

    job = _open(config, None)
    example = RunData(job.config, job.base).example()
    made = api.plan(untrained(job), example, job.recipe, job.config.target, job.config.model.dynamic)
    table = Table(title=f"{job.config.name}: recipe {made.recipe.name} for {made.target.name}", title_justify="left")
    for column in ("scope", "op", "runs", "how / why"):
        table.add_column(column)
    for row in made.table():
        table.add_row(row["scope"], row["op"], row["runs"], row["reason"] or row["how"])
    _console().print(table)


@_command
def recipes() -> None:
    """List the built-in recipes, each with the targets that have kernels for it, and the targets."""
    from rich.text import Text

    from qat.planning.recipe import builtin_recipes
    from qat.planning.recipe_support import able_targets
    from qat.planning.targets import SHORT_FORMS, TARGETS

    console = _console()
    for recipe in builtin_recipes().values():
        able = f" ({', '.join(able_targets(recipe))})"
        console.print(Text.assemble((recipe.name, "bold"), f": {recipe.description}", (able, "dim")))
    console.print("targets:")
    for target in TARGETS.values():
        console.print(Text.assemble("  ", (target.name, "bold"), f" ({target.suffix or 'no artifact'}): {target.description}"))
    console.print("by where the .onnx will run: " + ", ".join(f"{form} is {name}" for form, name in SHORT_FORMS.items()))


@_command
def inspect(artifact: Annotated[Path, typer.Argument(help="A .onnx or .tflite file.")]) -> None:
    """Show an artifact: inputs and outputs, the operators that really run, the bits of each weight, and every scale."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from qat.exporters.inspection import inspect as read
    from qat.exporters.inspection import layout_of

    def scales(values: Any) -> str:
        flat = np.ravel(values)
        return f"{flat[0]:.6g}" if len(flat) == 1 else f"{len(flat)}: {flat.min():.3g} .. {flat.max():.3g}"

    console = _console()
    found = read(artifact)
    for title, infos in (("input", found.inputs), ("output", found.outputs)):
        for info in infos:
            shape = "x".join("batch" if i == 0 and n is None else str(n or "?") for i, n in enumerate(info.shape))
            grid = "" if info.scale is None else f"scale {info.scale:.6g}, zero point {info.zero_point}"
            facts = [Text(title), Text(info.name, "bold"), *map(Text, (info.dtype, shape, layout_of(info), grid))]
            console.print(Text("  ").join(fact for fact in facts if fact))
    for runner, counts in found.runs.items():
        if counts:
            console.print(f"run by {runner}: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    console.print("weights: " + (", ".join(f"{n} {dtype}" for dtype, n in found.bits().most_common()) or "none"))
    table = Table("weight", "shape", "stored as", "scales")
    for weight in found.weights:
        shown = "" if weight.scale is None else scales(weight.scale)
        table.add_row(weight.name, "x".join(map(str, weight.shape)), weight.dtype, shown)
    console.print(table)
    table = Table("tensor", "type", "scale", "zero point")
    for name, encoding in found.activations.items():
        table.add_row(name, encoding.dtype, scales(encoding.scale), str(encoding.zero_point))
    console.print(table)


@_command
def doctor() -> None:
    """List the packages that are installed and missing, and the CPU's features that matter."""
    from importlib.metadata import PackageNotFoundError, version

    from rich.text import Text

    console = _console()
    names = {"torch": "torch", "keras": "tensorflow keras", "onnx": "onnx onnxruntime", "litert": "ai-edge-litert flatbuffers"}
    missing = False
    for extra, packages in names.items():
        for package in packages.split():
            try:
                console.print(Text.assemble(("  yes", "green"), f" {package} {version(package)}"))
            except PackageNotFoundError:
                missing = True
                console.print(Text.assemble(("  no", "red"), f"  {package}: pip install 'qat-toolkit[{extra}]'"))
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        vnni = "vnni" in flags.read_text()
        console.print(f"  CPU: {'with' if vnni else 'without'} VNNI; target onnxruntime is exact on both")
    raise typer.Exit(1 if missing else 0)


def main() -> None:
    """Run the command line; an error that a user can act on is one sentence and exit code 2, Ctrl-C one and 130."""
    from qat.system import ctrl_c

    from .errors import QatError

    ctrl_c.listen()
    try:
        app()
    except SystemExit as done:
        if done.code != 130:  # typer's code for Ctrl-C
            raise
        _interrupted()
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if ctrl_c.asked() and code != 130:  # what a library makes of a swallowed KeyboardInterrupt
            _interrupted()
        if not isinstance(error, QatError) or "--debug" in sys.argv:
            raise
        print(f"{'interrupted' if code == 130 else 'error'}: {error}", file=sys.stderr)
        raise SystemExit(code) from None


def _interrupted() -> NoReturn:
    print(
        "interrupted: no file is half written; start the command again (--overwrite replaces those that are whole)",
        file=sys.stderr,
    )
    # Not by SystemExit: where KeyboardInterrupt passed through an exec() on its way, CPython ends by the signal instead (-2).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
