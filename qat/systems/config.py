"""The configuration of a system: its models, and what feeds what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qat.errors import ConfigError, at
from qat.system.import_object import find_modules_in, import_object
from qat.system.yaml_files import load_yaml
from qat.typing import Estimator

from .wiring import Step, System, check


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartConfig(_Strict):
    """One model of a system: a ``file`` (``.onnx``, ``.tflite``, ``.keras``), or a ``factory`` (``package.module:function``).

    ``train`` is the number of steps in which the model learns its own float outputs; 0: it is calibrated alone. ``keep_float``
    leaves it as it is.
    """

    file: str | None = None
    factory: str | None = None
    kwargs: dict[str, Any] = {}
    target: str | None = None
    recipe: str = "static_wi8_ai8"
    estimator: Estimator | None = None
    dynamic: tuple[str, ...] = ()
    train: int = Field(default=0, ge=0)
    keep_float: bool = False

    @model_validator(mode="after")
    def _one(self) -> PartConfig:
        if (self.file is None) == (self.factory is None):
            raise ValueError("give either 'file' (.onnx, .tflite, .keras) or 'factory' (package.module:function)")
        if self.file is not None and self.kwargs:
            raise ValueError("kwargs are those of a factory: leave them out beside 'file'")
        return self


class StepConfig(_Strict):
    """One step: a ``model``, or a ``function`` (``package.module:function``) that may call ``models``, and what it reads."""

    model: str | None = None
    function: str | None = None
    models: tuple[str, ...] = ()
    reads: tuple[str, ...]

    @model_validator(mode="after")
    def _one(self) -> StepConfig:
        if (self.model is None) == (self.function is None):
            raise ValueError("give either 'model' (a name in models) or 'function' (package.module:function)")
        if self.model is not None and self.models:
            raise ValueError("models are those that a function calls: leave them out beside 'model'")
        return self


class SystemConfig(_Strict):
    """A system.

    ``data`` returns the samples: each an array, or a tuple of arrays, one for each of ``inputs``. The first ``calibration`` of
    them calibrate and train, the next ``held_out`` judge. ``metric`` takes the float and the int8 system's outputs of a sample,
    as dicts by step, and returns a number, or a dict of numbers by name.
    """

    name: str
    data: str
    kwargs: dict[str, Any] = {}
    inputs: tuple[str, ...] = ("input",)
    models: dict[str, PartConfig] = Field(min_length=1)
    steps: dict[str, StepConfig] = Field(min_length=1)
    outputs: tuple[str, ...] = ()
    metric: str | None = None
    calibration: int = Field(default=128, ge=1)
    held_out: int = Field(default=64, ge=1)
    batch_size: int = Field(default=16, ge=1)
    output: str | None = None

    @model_validator(mode="after")
    def _file_name(self) -> SystemConfig:
        if self.name in ("", ".", "..") or any(c in self.name for c in "/\\\0"):
            raise ValueError("the name is that of a folder in runs/: leave out / and \\ and '..'; output chooses any folder")
        return self


def load_system(path: str | Path) -> tuple[SystemConfig, System]:
    """Read a configuration and its steps; functions are looked for beside the file first.

    Raises:
        ConfigError: the file is missing or invalid, a function cannot be imported, or the steps do not fit together.
    """
    config = load_yaml(path, SystemConfig)
    find_modules_in(Path(path).parent)
    steps = tuple(
        Step(
            name,
            step.reads,
            None if step.function is None else import_object(step.function, f"steps.{name}.function"),
            step.models if step.model is None else (step.model,),
        )
        for name, step in config.steps.items()
    )
    system = System(config.inputs, steps, config.outputs or (steps[-1].name,))
    try:
        check(system, tuple(config.models))
    except ConfigError as error:
        raise at(str(path), error) from error
    return config, system
