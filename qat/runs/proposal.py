"""A configuration proposed for a model and its data: each key below the reason for it. `qat init` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat import api
from qat.captured import captured
from qat.errors import ConfigError, QatError, reason_of
from qat.frameworks import adapter_for
from qat.system.atomic_files import write_atomically

from . import guess_data, shipped
from .config import RunConfig, load_run
from .data import RunData
from .guess import Guess, as_config, as_yaml
from .guess_model import ModelLook, default_framework, look_at_model, path_from
from .scaling import scaling_of

#: How pixels are commonly handed to a trained model: mean and std after the division by 255, and a factor where there is none.
_NORMALIZATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("0 to 1", {}),
    ("-1 to 1", {"mean": 0.5, "std": 0.5}),
    ("ImageNet's mean and std", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ("0 to 255", {"scale": 1.0}),
)
#: Test samples by which they are told apart, and how many percent the best must be ahead of the worst.
_TRIED, _AHEAD = 256, 5.0


@dataclass(frozen=True)
class Proposal:
    """A configuration that was written.

    Attributes:
        path: of the file.
        config: what it says.
        about: the data, in one sentence; empty where there are none yet.
        guesses: its keys, each with the reason.
    """

    path: Path
    config: RunConfig
    about: str
    guesses: tuple[Guess, ...]


def propose(model: str | None, data: Path | None, weights: Path | None, out: Path, force: bool = False) -> Proposal:
    """Look at a model and its data, and write a configuration that runs.

    Args:
        model: ``model.py:make``, ``package.module:make``, or the path of a ``.keras``, ``.onnx`` or ``.tflite`` file; None: the
            example on digits.
        data: a folder or an ``.npz``; None: the digits.
        weights: of the model that a factory makes.
        out: the file to write.
        force: whether an existing file may be replaced.

    Raises:
        QatError: the model or the data cannot be read or do not fit each other, or the file exists.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out} exists already: --out names another file, --force replaces it")
    if model is None:
        if data is not None or weights is not None:
            raise ConfigError("name the model too: --from model.py:make, package.module:make, or a .keras, .onnx or .tflite file")
        return _example(out)
    folder = out.parent
    # A look at the labels tells a factory how many classes there are, and one at the model how large its images are.
    first = look_at_model(model, weights if data is None else None, None, folder)
    keys = [Guess("data.source", "digits", "no --data was given")]
    if data is not None:
        keys = guess_data.data_source(data, path_from(folder, data), first.size, first.channels)
    read = RunData(_config(out, first.guesses, keys), folder)
    look = first if data is None else look_at_model(model, weights, read.images.classes, folder)
    if read.images.train_y is None and not look.weighted:
        raise ConfigError(
            "data without labels cannot train a float model: name its weights (--weights), or a file that holds both"
        )
    keys += _task(look, read, "" if data is not None else "; --data names yours")
    keys += _scaling(out, look, keys, read)
    read = RunData(_config(out, look.guesses, keys), folder)
    guesses = (Guess("name", out.stem, "results go to runs/<name>"), *look.guesses, *keys, *_rest(look, read))
    about = guess_data.about(read.images)
    commands = f"`qat auto {out}` finds the cheapest that is good enough; `qat run {out}` does everything."
    title = f"Written by qat init: {about}.\n{commands}\n"
    return _written(out, guesses, title, about)


def _written(out: Path, guesses: Sequence[Guess], title: str, about: str) -> Proposal:
    RunConfig.model_validate(as_config(guesses))
    write_atomically(out, as_yaml(guesses, title), overwrite=True)
    return Proposal(out, load_run(out), about, tuple(guesses))


def _config(out: Path, *parts: Iterable[Guess]) -> RunConfig:
    return RunConfig.model_validate(as_config([Guess("name", out.stem), *(guess for part in parts for guess in part)]))


def _example(out: Path) -> Proposal:
    """Write the example that ships, for the framework that is installed."""
    framework = default_framework()
    path = shipped.shipped()[f"digits_{framework}"]
    text = (
        f"# Written by qat init without --from: an example that runs, for your own model and data to replace.\n{path.read_text()}"
    )
    write_atomically(out, text, overwrite=True)
    return Proposal(out, load_run(out), "", (Guess("framework", framework, "is installed"),))


def _task(look: ModelLook, data: RunData, hint: str) -> list[Guess]:
    """Run the model, and return the loss that its outputs and the labels ask for.

    Raises:
        ConfigError: the model does not take the data, or has fewer outputs than there are classes.
    """
    example, adapter = data.example(), adapter_for(look.framework)
    try:
        (outputs, *_) = adapter.forward(look.model, adapter.inputs_of((example,)))
    except Exception as error:  # whatever the user's model raises
        raise ConfigError(
            f"the model does not take the data, {example.shape[1:]} ({data.layout}): {reason_of(error)}{hint}"
        ) from error
    classes = data.images.classes
    if classes is not None and outputs.ndim == 2 and outputs.shape[-1] < classes:
        raise ConfigError(f"the model has {outputs.shape[-1]} outputs, and the data {classes} classes{hint}")
    labels = data.images.train_y
    if labels is None or not np.issubdtype(labels.dtype, np.integer):
        return []  # the look at the data has said it
    kind = "classification" if labels.ndim == 1 else "a class for each place, as in segmentation"
    shown = "x".join(map(str, outputs.shape[1:]))
    return [Guess("training.loss", "cross_entropy", f"{kind}: {shown} outputs, and labels that are class numbers")]


def _scaling(out: Path, look: ModelLook, keys: Sequence[Guess], data: RunData) -> list[Guess]:
    """Return how pixels are scaled: once, by the model or by the run."""
    if data.config.data.source == "digits":
        return []
    if data.images.train_x.dtype != np.uint8:
        low, high = (float(f(data.example())) for f in (np.min, np.max))
        return [Guess("data.scale", data.images.scale, f"values lie about {low:.3g} to {high:.3g}: they are taken as they are")]
    scaling = scaling_of(captured(look.model, data.example()).traced)
    if scaling is not None and float(np.abs(scaling.factor).max()) < 0.1:
        why = f"the model scales pixels from 0 to 255 itself ('{scaling.layer}' multiplies by {np.abs(scaling.factor).max():.3g})"
        return [Guess("data.scale", 1.0, why)]
    found = _tried(out, look, keys, data) if look.weighted else None
    if found is not None:
        return found
    why = "a pixel becomes (x / 255 - mean) / std; give those that the model was trained with"
    return [Guess("data.mean", 0.0, why), Guess("data.std", 1.0)]


def _tried(out: Path, look: ModelLook, keys: Sequence[Guess], data: RunData) -> list[Guess] | None:
    """Return the normalization with which a trained model knows the classes best; None where all are alike."""
    if data.images.classes is None:
        return None
    scores: list[tuple[float, str, dict[str, Any]]] = []
    for name, values in _NORMALIZATIONS:
        if isinstance(values.get("mean"), list) and data.images.train_x.shape[-1] != len(values["mean"]):
            continue
        changed = [Guess(f"data.{key}", value) for key, value in values.items()]
        batches = RunData(_config(out, look.guesses, keys, changed), out.parent).batches("test", _TRIED)
        try:
            scores.append((api.evaluate(look.model, batches, metrics=["top1"])["top1"], name, values))
        except QatError:  # outputs that are no scores of classes
            return None
    scores.sort(key=lambda score: -score[0])
    if scores[0][0] < scores[-1][0] + _AHEAD:
        return None
    tried = ", ".join(f"{name}: {score:.0f} %" for score, name, _ in scores)
    why = f"top-1 of the trained model on {min(_TRIED, len(data.images.test_x))} test images, by their normalization: {tried}"
    values = scores[0][2] or {"mean": 0.0, "std": 1.0}
    return [Guess(f"data.{key}", value, why if n == 0 else "") for n, (key, value) in enumerate(values.items())]


def _rest(look: ModelLook, data: RunData) -> list[Guess]:
    """Return the keys of training and of the artifact."""
    c, samples = data.config, len(data.images.part("train")[2])
    size = guess_data.batch_size(samples)
    guesses = [Guess("data.batch_size", size, f"{-(-samples // size)} batches an epoch")]
    if not look.weighted:
        why = "the model comes without weights: it is trained here first, once (model.weights names a file of them)"
        guesses.append(Guess("float_training.epochs", 10, why))
    onnx = look.framework == "torch" and Path(c.model.file or "").suffix != ".tflite"
    target = "onnxruntime" if onnx else "litert"
    other = "litert for a .tflite" if onnx else "onnxruntime for an .onnx"
    guesses += [
        Guess("recipe", c.recipe, "8 bits everywhere; `qat recipes` lists the others"),
        Guess("target", target, f"the framework's default; {other}; arm, x86, any choose by the processor"),
    ]
    guesses.append(Guess("calibration.samples", min(512, samples), f"of {samples} training samples"))
    guesses.append(Guess("training.epochs", 3, "often enough; --resume takes more of them later"))
    if c.training.metrics is None:
        guesses += guess_data.balance(data.images)
    return guesses
