"""What ``qat compare`` is given, by its text: an artifact, a model's file, weights of the configuration's model, or a factory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qat import api
from qat.errors import ConfigError
from qat.report.compare import Comparable
from qat.report.records import distinct_names, record_of
from qat.runtimes.model_file import ModelFile
from qat.typing import Model

from . import float_files, float_model
from .data import RunData
from .job import Job

_ARTIFACTS = (".onnx", ".tflite")
_WEIGHTS = (*float_files.PICKLED, *float_files.SUFFIXES.values(), ".h5")


def entries_of(job: Job, data: RunData, given: Sequence[str]) -> dict[str, Comparable]:
    """Return what the texts name, by the names that a report calls them.

    Args:
        job: whose model weights are loaded into.
        data: of the job; a model of a checkpoint is prepared by it.
        given: paths of artifacts (``.onnx``, ``.tflite``), of Keras models (``.keras``) and of weights (``.pth``, ``.pt``,
            ``.safetensors``, ``.weights.h5``), and factories (``package.module:function``).

    Raises:
        ConfigError, DataError: a text names none of these, a file is damaged, or it is one of another model.
    """
    entries: list[Comparable] = [_entry(job, data, text) for text in given]
    names = [e.name if isinstance(e, ModelFile) else _name(text) for e, text in zip(entries, given, strict=True)]
    paths = [None if float_model.is_factory(text) else Path(text) for text in given]
    return dict(zip(distinct_names(names, paths), entries, strict=True))


def _name(text: str) -> str:
    return text.rpartition(":")[2] if float_model.is_factory(text) else Path(text).name.partition(".")[0]


def _entry(job: Job, data: RunData, text: str) -> ModelFile | Model:
    path = Path(text)
    if path.suffix in _ARTIFACTS:
        return record_of(path)
    if float_model.is_factory(text):
        made: Model = float_model.made_by(
            text, job.config.model.kwargs if text == job.config.model.factory else {}, "the factory"
        )
        return made
    if path.suffix == ".keras":
        return float_model.of_file(path)
    if path.suffix in _WEIGHTS:
        return _of_weights(job, data, path)
    raise ConfigError(
        f"'{text}' is nothing that can be compared: give an artifact ({', '.join(_ARTIFACTS)}), a model (.keras), weights of the "
        f"configuration's model ({', '.join(_WEIGHTS)}), or a factory (package.module:function)"
    )


def _of_weights(job: Job, data: RunData, path: Path) -> Model:
    """Return the configuration's model with the weights of a file; the prepared one where the file is a checkpoint of it."""
    model, framework = float_model.untrained(job), job.config.framework
    if not float_files.is_checkpoint(path):
        return float_files.load(framework, model, path)
    c = job.config
    prepared = api.prepare(
        model, data.example(), job.recipe, c.target, c.model.dynamic, c.equalize, keep_zeros=c.keep_zeros, dropout=c.dropout
    )
    return api.load_prepared(prepared, path)
