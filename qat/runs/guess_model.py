"""Looking at a model for `qat init`: its framework, what it takes and returns, and how a configuration names it."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.errors import ConfigError, MissingDependencyError
from qat.frameworks import framework_of
from qat.runtimes import FORMATS
from qat.sources.load import load
from qat.system.import_object import find_modules_in, import_object

from . import float_files, float_model
from .guess import Guess

#: How files end that hold weights without the model that they belong to.
_WEIGHTS = (*float_files.PICKLED, ".safetensors", ".h5")
#: What factories call the number of classes.
_CLASSES = ("num_classes", "classes", "n_classes", "num_labels")


@dataclass(frozen=True)
class ModelLook:
    """A model, and the keys that name it.

    Attributes:
        model: without weights of its own unless ``weighted``.
        framework: ``torch`` or ``keras``.
        size: height and width of its images, as far as the model fixes them.
        channels: of its images, as far as the model says.
        weighted: whether it comes with trained weights.
        guesses: the keys ``framework`` and ``model.*``.
    """

    model: Any
    framework: float_files.Framework
    size: tuple[int, int] | None
    channels: int | None
    weighted: bool
    guesses: tuple[Guess, ...]


def look_at_model(spec: str, weights: Path | None, classes: int | None, folder: Path) -> ModelLook:
    """Make or load a model, and look at it.

    Args:
        spec: ``model.py:make``, ``package.module:make``, or the path of a ``.keras``, ``.onnx`` or ``.tflite`` file.
        weights: of a factory's model.
        classes: of the data, which a factory with a parameter for them is given.
        folder: where the configuration will lie.

    Raises:
        ConfigError: the spec is none of these, or the model cannot be made.
    """
    path = Path(spec)
    whole = path.suffix in (".keras", *FORMATS)
    if whole:
        if weights is not None:
            raise ConfigError(f"{spec} is a whole model: leave --weights out")
        model = float_model.of_file(path) if path.suffix == ".keras" else load(path)
        named = [Guess("model.file", path_from(folder, path))]
    elif spec.endswith(_WEIGHTS):
        raise ConfigError(
            f"{spec} holds weights alone, not the model that they belong to: qat init --from model.py:make --weights {spec}, "
            "where make() returns the model; a whole Keras model is a .keras file"
        )
    else:
        model, named = _of_factory(spec, classes, folder)
        if weights is not None:
            framework = _framework(model)
            model = float_files.load(framework, model, weights)
            named.append(Guess("model.weights", path_from(folder, weights)))
    framework = _framework(model)
    why = f"the model is a {type(model).__module__}.{type(model).__name__}"
    if path.suffix in FORMATS:
        size, channels = _image_size(float_files.image_shape(path))
        why = f"{path.name} becomes a PyTorch module"
    else:
        size, channels = _keras_size(model) if framework == "keras" else (None, _torch_channels(model))
    return ModelLook(model, framework, size, channels, whole or weights is not None, (Guess("framework", framework, why), *named))


def _of_factory(spec: str, classes: int | None, folder: Path) -> tuple[Any, list[Guess]]:
    find_modules_in(folder)
    factory = _dotted(spec, folder)
    parameters = inspect.signature(import_object(factory, "--from")).parameters
    name = next((name for name in _CLASSES if name in parameters), None)
    guesses, kwargs = [Guess("model.factory", factory)], {}
    if name is not None and classes is not None and parameters[name].default != classes:
        kwargs = {name: classes}
        guesses.append(Guess("model.kwargs", kwargs, f"the data have {classes} classes, and the factory takes {name}"))
    return float_model.made_by(factory, kwargs, "--from"), guesses


def _dotted(spec: str, folder: Path) -> str:
    """Return ``model.py:make`` as ``model:make``, as seen from the configuration's folder."""
    module, _, name = spec.rpartition(":")
    if not module or not name.isidentifier():
        raise ConfigError(
            f"--from '{spec}': write model.py:make, package.module:make, or the path of a .keras, .onnx or .tflite file"
        )
    if not module.endswith(".py"):
        return spec
    path = Path(module)
    if not path.is_file():
        raise ConfigError(f"--from '{spec}': no such file: {path}")
    for root in (folder, Path()):  # where a run looks for modules
        if root.resolve() in path.resolve().parents:
            return ".".join(path.resolve().relative_to(root.resolve()).with_suffix("").parts) + f":{name}"
    raise ConfigError(
        f"--from '{spec}': a run looks for modules beside its configuration and in the working folder: write it to "
        f"--out {path.parent / 'qat.yaml'}"
    )


def path_from(folder: Path, path: Path) -> str:
    """Return a path as a configuration in a folder writes it: relative to it where the path lies in it."""
    whole = path.expanduser().resolve()
    return os.path.relpath(whole, folder.resolve()) if folder.resolve() in whole.parents else str(whole)


def _framework(model: Any) -> float_files.Framework:
    framework = framework_of(model)
    if framework == "tf_keras":
        raise ConfigError("the model is one of tf_keras: save it, and load it with Keras 3 (import keras)")
    return framework


def _keras_size(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1:
        return None, None
    return _image_size(shapes[0])


def _image_size(shape: tuple[int | None, ...]) -> tuple[tuple[int, int] | None, int | None]:
    """Return height and width of a model's images, and their channels; None for what is free, or where it takes no images."""
    if len(shape) != 4:
        return None, None
    first = shape[1] in float_files.CHANNELS and shape[3] not in float_files.CHANNELS
    channels, height, width = (shape[1], *shape[2:]) if first else (shape[3], *shape[1:3])
    return (None if height is None or width is None else (height, width)), channels


def _torch_channels(model: Any) -> int | None:
    """Return the channels of the first convolution, which a PyTorch model of images most often begins with."""
    return next((m.in_channels for m in model.modules() if type(m).__name__ == "Conv2d"), None)


def default_framework() -> float_files.Framework:
    """Return the framework that is installed, PyTorch first.

    Raises:
        MissingDependencyError: none is.
    """
    from importlib.util import find_spec

    if find_spec("torch") is not None:
        return "torch"
    if find_spec("keras") is not None:
        return "keras"
    raise MissingDependencyError("neither PyTorch nor Keras is installed: pip install 'qat-toolkit[torch,onnx]'")
