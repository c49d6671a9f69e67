"""A job: one configuration, and where its results go."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from rich.console import Console
from rich.text import Text

from qat.display.progress import bar
from qat.errors import ConfigError
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import Target, load_target
from qat.system import ctrl_c
from qat.system.import_object import find_modules_in, import_object
from qat.system.run_lock import only_run_in
from qat.trainers import TrainingOptions

from .config import TRAINING_KEYS, RunConfig, expand

T = TypeVar("T")

#: The adapters' defaults. An adapter imports its framework, which a job does not need before it makes a model.
_DEFAULT_TARGETS = {"torch": "onnxruntime", "keras": "litert"}


def results_folder(config: RunConfig, base: Path) -> Path:
    """Return where a configuration's results go: ``output``, else ``runs/<name>``, relative to the configuration's folder.

    Those of a configuration that ships with the toolkit go to the working folder.
    """
    shipped = Path(str(files("qat.configs"))).resolve() in base.resolve().parents
    return expand(config.output or f"runs/{config.name}", Path() if shipped else base)


class CheckpointOptions(TypedDict):
    """The training options that say where checkpoints lie."""

    checkpoint_dir: Path
    resume: bool


@dataclass(frozen=True)
class Job:
    """One configuration, and where its results go.

    Attributes:
        config: the configuration.
        base: the folder that the configuration's paths are relative to.
        folder: receives summary.json, summary.md, the plots, artifacts/ and checkpoints/.
        console: where progress is printed, without markup: names and paths may hold brackets.
        resume: whether training continues from the last checkpoint.
        checkpoints: the folder of the checkpoints.
    """

    config: RunConfig
    base: Path
    folder: Path
    console: Console
    resume: bool
    checkpoints: Path

    @classmethod
    def of(
        cls,
        config: RunConfig,
        base: Path,
        folder: Path | None,
        console: Console,
        resume: bool = False,
        checkpoints: Path | None = None,
    ) -> Job:
        """Return a job. Functions that the configuration names are looked for in ``base``, then in the working folder.

        Args:
            config: the configuration.
            base: its folder.
            folder: of the results; None: see :func:`results_folder`.
            console: where progress is printed.
            resume: whether training continues from the last checkpoint.
            checkpoints: their folder; None: ``checkpoints`` in the folder of the results.

        Raises:
            ConfigError: see :meth:`check`.
        """
        find_modules_in(base)
        folder = folder or results_folder(config, base)
        job = cls(config, base, folder, console, resume, checkpoints or folder / "checkpoints")
        job.check()
        return job

    def check(self) -> None:
        """Look up what the configuration names, so that a mistake comes to light before anything is trained.

        Raises:
            ConfigError: there is no such recipe, target, metric or loss.
        """
        _ = self.recipe, self.target
        for name in ("float_training", "training"):
            options = getattr(self.config, name)
            try:
                _ = options.chosen_metrics
                if isinstance(options.loss, str) and ":" in options.loss:
                    import_object(options.loss, "loss")
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe: built in, or of a file."""
        is_file = Path(self.config.recipe).suffix in (".yaml", ".yml")
        recipe = load_recipe(expand(self.config.recipe, self.base) if is_file else self.config.recipe)
        return recipe.replacing(self.config.replace)

    @cached_property
    def target(self) -> Target:
        """The target that models are prepared for."""
        is_tflite = Path(self.config.model.file or "").suffix == ".tflite"
        return load_target(self.config.target or ("litert" if is_tflite else _DEFAULT_TARGETS[self.config.framework]))

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts."""
        return self.folder / "artifacts"

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best epoch of QAT."""
        return self.checkpoints / ("best.safetensors" if self.config.framework == "torch" else "best.keras")

    def checkpoint_options(self, kind: str) -> CheckpointOptions:
        """Return the options that place a training's checkpoints: those of ``qat`` lie in the folder itself."""
        return {"checkpoint_dir": self.checkpoints if kind == "qat" else self.checkpoints / kind, "resume": self.resume}

    def training_options(self, training: TrainingOptions) -> dict[str, Any]:
        """Return the options of a training as the configuration has them, the folder of its logs as a path."""
        options = {name: getattr(training, name) for name in TRAINING_KEYS}
        logs = training.tensorboard
        return options | {"tensorboard": None if logs is None else expand(str(logs), self.base)}

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder of the results for this process.

        Raises:
            ConfigError: another process holds it.
            ExportError: the folder cannot be written to.
        """
        return only_run_in(self.folder)

    def keep_earlier_run(self) -> None:
        """Move the checkpoints of an earlier run aside, unless this one continues it: its best weights are not overwritten."""
        if self.resume or not any(self.checkpoints.rglob("best.*")):
            return
        aside = next(p for n in count(1) if not (p := self.checkpoints.with_name(f"{self.checkpoints.name}.{n}")).exists())
        self.checkpoints.rename(aside)
        self.console.print(f"  the checkpoints of an earlier run are kept in {aside}; --resume would have continued it")

    def stage(self, title: str, work: Callable[[], T]) -> T:
        """Do one stage and print how long it took."""
        started = time.perf_counter()
        with bar(title):
            result = work()
        ctrl_c.stop_if_asked()
        taken = f"{time.perf_counter() - started:.1f} s"
        self.console.print(Text.assemble(("  done", "green"), f" {title} ", (taken, "dim")))
        return result
