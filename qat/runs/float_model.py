"""The float model of a job: of its factory or file, with its weights, or trained here once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qat import api
from qat.captured import Captured, captured
from qat.errors import CaptureError, ConfigError, DataError, ExportError, reason_of
from qat.frameworks import adapter_for, framework_of, in_order
from qat.graph.graph import Graph
from qat.system.atomic_files import make_folder
from qat.system.import_object import import_object

from . import float_files
from .calibration_data import warn_of_calibration_data
from .config import TRAINING_KEYS, expand
from .data import RunData
from .dataset import Dataset
from .job import Job
from .metadata import check_labels, metadata_of
from .scaling import warn_of_double_scaling

log = logging.getLogger("qat")

#: The validation samples by which metrics are tried before training.
_MEASURED = 256


@dataclass(frozen=True)
class FloatModel:
    """The float model of a job, which is captured once, where that is first asked for.

    Attributes:
        job, data: whose model it is, and on what.
        model: with its weights, which do not change any more.
    """

    job: Job
    data: RunData
    model: Any

    @cached_property
    def captured(self) -> Captured:
        """The model's capture. Raises CaptureError where there is none."""
        c = self.job.config
        return captured(self.model, self.data.example(), c.target, c.model.dynamic, c.dropout)


def untrained(job: Job) -> Any:
    """Return the model as its factory makes it, or as its file holds it.

    Raises:
        ConfigError: the factory fails, or makes a model of the other framework; the file is missing or damaged.
    """
    c, framework = job.config.model, job.config.framework
    if c.factory is None:
        assert c.file is not None
        artifact = float_files.artifact_of(job.config, job.base)
        if artifact is not None:
            return api.load(artifact)
        path = expand(c.file, job.base)
        if framework != "keras" or path.suffix != ".keras":
            raise ConfigError(
                f"model.file is a .keras file of a keras run, or an .onnx or .tflite of a torch run, not {path.name}; use "
                "model.factory"
            )
        return of_file(path, "model.file: ")
    float_files.seed(framework, job.config.float_training.seed)
    model = made_by(c.factory, c.kwargs, "model.factory")
    found = framework_of(model)
    if found.removeprefix("tf_") != framework:
        raise ConfigError(f"the configuration's framework is {framework}, its model is one of {found}")
    return model


def is_factory(text: str) -> bool:
    """Whether a text is written as ``package.module:function``."""
    module, _, name = text.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def made_by(factory: str, kwargs: Mapping[str, Any], key: str) -> Any:
    """Return what a factory makes, ``package.module:function``. Raises ConfigError where it fails."""
    make = import_object(factory, key)
    try:
        made = make(**kwargs)
    except Exception as error:  # whatever the user's factory raises
        kind = "" if isinstance(error, TypeError) else f"{type(error).__name__}: "
        raise ConfigError(f"{key} '{factory}' with model.kwargs {dict(kwargs)}: {kind}{error}") from error
    if made is None:
        raise ConfigError(f"{key} '{factory}' returned None, not a model: it has to end in return")
    try:
        framework_of(made)
    except CaptureError as error:
        raise ConfigError(f"{key} '{factory}' returned no model: {error}") from error
    return made


def of_file(path: Path, where: str = "") -> Any:
    """Return the model of a ``.keras`` file. Raises ConfigError, which begins with ``where``, unless it is a whole one."""
    if not path.is_file():
        raise ConfigError(f"{where}no such file: {path}")
    float_files.check_whole(path, where)
    adapter_for("keras")  # a prepared model's classes are known from then on
    import keras

    try:
        return keras.models.load_model(path)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(f"{where}{path} is not a whole .keras model: {reason_of(error)}") from error


def trained(job: Job, data: RunData) -> FloatModel:
    """Return the float model with its weights; without any, it is trained here and kept, and captured anew.

    The steps that would fail later are tried first: a mistake should come to light before hours of training.

    Raises:
        ConfigError, DataError, CaptureError, ExportError: the model, its weights, the data or the folder do not fit.
    """
    c, framework = job.config.model, job.config.framework
    make_folder(job.folder)
    for training in (job.config.float_training, job.config.training):
        if (logs := job.training_options(training)["tensorboard"]) is not None:
            make_folder(logs)
    model = untrained(job)
    _check(model, data, job.base)
    model = with_weights(job, model)
    found = FloatModel(job, data, model)
    plan = found.captured.plan(job.recipe)
    _check_metrics(job, data, model)
    if isinstance(data.dataset, Dataset):
        warn_of_double_scaling(found.captured.traced, data.example(), job.config.data)
    warn_of_calibration_data(data, model)
    if c.file is not None or c.weights is not None:
        return found
    content = data.content()
    cached = None if content is None else _cache_file(job, content, plan.graph)
    if cached is not None and cached.is_file():
        job.console.print(f"  float model from {cached}", style="dim")
        return FloatModel(job, data, float_files.load(framework, model, cached))
    if not data.labelled:
        raise ConfigError("data without labels cannot train a float model: give model.weights")
    training = job.config.float_training
    options: dict[str, Any] = job.training_options(training) | job.checkpoint_options("float")
    validation = None if training.patience is None else data.batches("validation")
    api.finetune(model, data.training(training.seed), validation, **options)
    try:
        if cached is not None:
            float_files.save(framework, model, cached)
    except ExportError as error:
        log.warning(
            "the float model is not kept, and the next run trains it again: %s; XDG_CACHE_HOME names another folder", error
        )
    return FloatModel(job, data, model)


def with_weights(job: Job, model: Any) -> Any:
    """Return a model with the weights that the configuration names; without any, the model itself.

    Raises:
        ConfigError: the weights are missing, damaged, or of another model.
    """
    c = job.config
    if c.model.weights is None:
        return model
    try:
        return float_files.load(c.framework, model, expand(c.model.weights, job.base))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"model.weights: {error}") from error


def _check(model: Any, data: RunData, base: Path) -> None:
    """Run one batch, so that a shape that does not fit is found before anything is trained."""
    adapter, example, classes = adapter_for(framework_of(model)), data.example(), data.dataset.classes
    try:
        (logits, *others) = adapter.forward(model, adapter.inputs_of((in_order(model, example),)))
    except Exception as error:  # whatever the user's model raises
        shape = f"images of shape {example.shape[1:]} ({data.layout})" if hasattr(example, "shape") else "the data's inputs"
        raise ConfigError(f"the model does not take {shape}: {reason_of(error)}") from error
    check_labels(metadata_of(data, base), tuple(x.shape[-1] if x.ndim else 1 for x in (logits, *others)))
    if classes is not None and logits.ndim == 2 and logits.shape[-1] < classes:
        one, outputs = logits.shape[-1] == 1, logits.shape[-1]
        remedy = "; for a regression name its loss: float_training.loss and training.loss, mse for one" if one else ""
        raise DataError(
            f"label {classes - 1} is out of range: the model has {outputs} output{'' if one else 's'}, the data {classes} "
            f"classes{remedy}"
        )


def _check_metrics(job: Job, data: RunData, model: Any) -> None:
    """Measure a few samples, so that metrics that do not fit outputs and labels are found before anything is trained."""
    c = job.config.training
    if c.metrics is None and not c.labelled:
        return  # training chooses a distance by the outputs
    teacher = model if c.labels == "none" else None
    api.evaluate(model, data.batches("validation", limit=_MEASURED), metrics=c.metrics, labels=c.labels, teacher=teacher)


def _cache_file(job: Job, content: str, graph: Graph) -> Path:
    """Return where the trained float model is kept: a name for the data's content, the model's graph and the options."""
    from importlib.metadata import version

    from platformdirs import user_cache_dir

    c = job.config
    training = {name: str(getattr(c.float_training, name)) for name in TRAINING_KEYS}
    key = json.dumps(
        [
            version("qat-toolkit"), c.framework, c.model.model_dump(), c.data.model_dump(exclude={"workers"}), training,
            content, graph.to_dict(),
        ],
        sort_keys=True,
    )  # fmt: skip
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(user_cache_dir("qat")) / "float" / f"{digest}{float_files.SUFFIXES[c.framework]}"
