"""Run configurations, which ``qat run CONFIG`` reads, with defaults that a newcomer need not touch."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, field_validator, model_validator

from qat.errors import ConfigError, OptionError, nearest
from qat.system.yaml_files import load_yaml
from qat.trainers import TrainingOptions
from qat.typing import Estimator, IoDtype, Layout

from .image_files import Color, Interpolation, Resize


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """The float model: ``factory`` (``package.module:function``) with ``kwargs`` and ``weights``, or a ``file``.

    A ``.keras`` file is a model of Keras; a float ``.onnx`` or ``.tflite`` becomes one of PyTorch, see :func:`qat.load`.
    ``dynamic`` names the axes that the artifact leaves free, see :func:`qat.api.prepare`.
    """

    factory: str | None = None
    kwargs: dict[str, Any] = {}
    weights: str | None = None
    file: str | None = None
    dynamic: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> ModelConfig:
        if (self.factory is None) == (self.file is None):
            raise ValueError("give either 'factory' (package.module:function) or 'file' (.keras, .onnx, .tflite)")
        if self.file is not None and self.weights is not None:
            raise ValueError("'file' is a whole model: leave 'weights' out, or give the factory that they belong to")
        return self


_Positive = Annotated[float, Field(gt=0)]
_Size = Annotated[int, Field(ge=1)]


def _square(size: object) -> object:
    """Return one number as the height and the width."""
    return (size, size) if isinstance(size, int) else size


class DataConfig(_Strict):
    """The data set. ``path`` is the folder or file of idx, npz, npy and folder; ``size`` is (height, width) of a folder's images.

    ``scenes`` are ``count`` images for a detector, of digits or of the idx files in ``path``; ``size`` is theirs, 64 by default.
    ``workers`` make batches ahead; None: as many as decoding needs, none for arrays.
    """

    source: Literal["digits", "idx", "npz", "npy", "folder", "factory", "scenes"] = "digits"
    path: str | None = None
    factory: str | None = None
    kwargs: dict[str, Any] = {}
    name: str | None = None
    mean: float | tuple[float, ...] = 0.0
    std: _Positive | tuple[_Positive, ...] = 1.0
    size: Annotated[tuple[_Size, _Size], BeforeValidator(_square)] = (224, 224)
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    color: Color = "rgb"
    flip: bool = False
    workers: int | None = Field(default=None, ge=0)
    layout: Layout = "NHWC"
    scale: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=128, ge=1)
    seed: int = Field(default=0, ge=0)
    count: int = Field(default=2500, ge=10)

    @model_validator(mode="before")
    @classmethod
    def _of_scenes(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("source") != "scenes":
            if isinstance(values, dict) and "count" in values:
                raise ValueError("count is for the source scenes, which are drawn: leave it out")
            return values
        return {"size": 64, **values}

    @model_validator(mode="after")
    def _layout_of_arrays(self) -> DataConfig:
        if self.layout != "NHWC" and self.source not in ("npz", "npy"):
            raise ValueError(f"layout is for arrays of an .npz: leave it out for the source {self.source}")
        return self

    @model_validator(mode="after")
    def _of_image_folder(self) -> DataConfig:
        for name in ("size", "resize", "interpolation", "color"):
            of_scenes = name == "size" and self.source == "scenes"
            if name in self.model_fields_set and self.source not in ("folder", "factory") and not of_scenes:
                raise ValueError(f"{name} is for images in files: leave it out for the source {self.source}")
        return self


class OwnFloatModel:
    """The teacher that a configuration writes as ``float``: the run's own float model, which there is not yet."""

    def __call__(self, *inputs: object) -> None:
        """Raise TypeError: the run puts its model here before it trains."""
        raise TypeError("the run's float model was not put in the place of teacher: float")


#: The training options that a configuration may set. The run itself sets the others.
TRAINING_KEYS = tuple(
    field.name for field in fields(TrainingOptions) if field.name not in ("checkpoint_dir", "resume", "on_epoch", "progress")
)


def _options(values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError("expected 'option: value' lines")
    for name in values:
        if name not in TRAINING_KEYS:
            valid = ", ".join(TRAINING_KEYS)
            raise OptionError(str(name), f"unknown key '{name}'{nearest(str(name), TRAINING_KEYS)}; valid here: {valid}")
    return values


def _training(values: object) -> TrainingOptions:
    if isinstance(values, TrainingOptions):
        return values
    options = _options(values)
    teacher = options.get("teacher")
    if teacher not in (None, "float"):
        raise OptionError("teacher", f"teacher is 'float', the run's own float model, or left out, not {teacher!r}")
    return TrainingOptions.of(**options | {"teacher": None if teacher is None else OwnFloatModel()})


def _float_training(values: object) -> TrainingOptions:
    """Return how the float model is trained where it comes without weights: ten epochs at the optimizer's usual rate."""
    if isinstance(values, TrainingOptions):
        return values
    options = _options(values)
    if options.get("teacher") is not None:
        raise OptionError("teacher", "a float model that is trained here has no teacher: leave it out")
    chosen = TrainingOptions.of(**{"epochs": 10, "gradient_clip": None} | options)
    return chosen if chosen.learning_rate is not None else replace(chosen, learning_rate=100 * chosen.peak)


class CalibrationConfig(_Strict):
    """Calibration: how many images of the training split are its samples, its estimator, and the methods that follow it.

    ``bias_correction`` and ``reconstruction`` change the model before training.
    """

    samples: int = Field(default=512, ge=1)
    estimator: Estimator | None = None
    bias_correction: bool = False
    reconstruction: bool = False


class MetadataConfig(_Strict):
    """What the artifacts say of themselves: the fields of :class:`qat.Metadata`; ``labels`` may be a text file, one a line.

    What is left out follows from the run: its name, the names of class folders, the normalization of pixels.
    """

    name: str = ""
    description: str = ""
    labels: str | tuple[str, ...] | None = None
    mean: float | tuple[float, ...] | None = None
    std: _Positive | tuple[_Positive, ...] | None = None
    version: str = ""
    author: str = ""
    license: str = ""


class RunConfig(_Strict):
    """One run: a model, a data set, a recipe."""

    name: str
    framework: Literal["torch", "keras"]
    model: ModelConfig
    data: DataConfig = DataConfig()
    float_training: Annotated[TrainingOptions, PlainValidator(_float_training)] = _float_training({})
    recipe: str = "static_wi8_ai8"
    target: str | None = None
    equalize: bool = False
    replace: dict[str, str] = {}
    keep_zeros: bool = False
    dropout: bool = True
    calibration: CalibrationConfig = CalibrationConfig()
    training: Annotated[TrainingOptions, PlainValidator(_training)] = TrainingOptions()
    control: bool = True
    ptq: bool = True
    adaround: bool = False
    brecq: bool = False
    per_channel: bool = True
    io_dtype: IoDtype = "int8"
    outputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    metadata: MetadataConfig | None = None
    latency_runs: int = Field(default=50, ge=0)
    output: str | None = None

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
            raise ValueError("the name is that of a folder in runs/: leave out / and \\ and '..'; output chooses any folder")
        return name


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def load_run(path: str | Path) -> RunConfig:
    """Read a run configuration.

    Raises:
        ConfigError: the file is missing or invalid; the message names the key and its line.
    """
    return load_yaml(path, RunConfig)


def expand(text: str, base: Path) -> Path:
    """Return a path with ``${NAME}`` and ``${NAME:-default}`` replaced, relative to ``base``.

    Raises:
        ConfigError: a variable is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"'{text}' needs the environment variable {match[1]}: set it, or write the path into the config")
        return found

    path = Path(_VARIABLE.sub(value, text)).expanduser()
    return path if path.is_absolute() else base / path
