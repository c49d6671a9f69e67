"""Float models of either framework: the seed that they are made with, their weights in a file, their copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

from qat.errors import ConfigError, reason_of
from qat.runtimes import FORMATS, open_session
from qat.system.atomic_files import replace_with
from qat.typing import Layout

from .config import RunConfig, expand

Framework = Literal["torch", "keras"]

#: How the files end that hold the weights of a float model.
SUFFIXES: dict[Framework, str] = {"torch": ".safetensors", "keras": ".weights.h5"}

#: How many channels images have.
CHANNELS = (1, 3, 4)

#: Files of ``torch.save``.
PICKLED = (".pth", ".pt")

#: Where training scripts put a model's weights into such a file.
_STATES = ("state_dict", "model_state_dict", "model")


def artifact_of(config: RunConfig, base: Path) -> Path | None:
    """Return the ``.onnx`` or ``.tflite`` that a configuration's model is read from; None of any other model.

    Raises:
        ConfigError: there is no such file, or the configuration's framework does not read it.
    """
    file = config.model.file
    if file is None or Path(file).suffix not in FORMATS:
        return None
    path = expand(file, base)
    if config.framework != "torch":
        raise ConfigError(f"model.file: {path.name} becomes a PyTorch module: set framework to torch")
    if not path.is_file():
        raise ConfigError(f"model.file: no such file: {path}")
    return path


def layout_of(config: RunConfig, base: Path) -> Layout:
    """Return how a configuration's model takes images: as its framework does, and a file as its first input says."""
    path = artifact_of(config, base)
    if path is None:
        return "NCHW" if config.framework == "torch" else "NHWC"
    shape = image_shape(path)
    return "NHWC" if len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS else "NCHW"


def image_shape(path: Path) -> tuple[int | None, ...]:
    """Return the shape of a file's first input; None for a free size."""
    return tuple(open_session(path).inputs[0].shape)


def seed(framework: Framework, value: int) -> None:
    """Seed the framework's random generators."""
    if framework == "torch":
        import torch

        torch.manual_seed(value)
    else:
        import keras

        keras.utils.set_random_seed(value)


def load(framework: Framework, model: Any, path: Path) -> Any:
    """Load the weights of a file into a float model, and return the model.

    Raises:
        ConfigError, DataError: the file is missing, damaged, or of another model.
    """
    if framework == "torch":
        from qat.trainers.torch import load_weights

        return _load_pickled(model, path) if path.suffix in PICKLED else load_weights(model, path)
    if not path.is_file():
        raise ConfigError(f"no such weights file: {path}")
    if path.suffix == ".keras":
        check_whole(path)
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} does not hold this model's weights: {reason_of(error)}") from error
    return model


def check_whole(path: Path, where: str = "") -> None:
    """Raise ConfigError, which begins with ``where``, unless a ``.keras`` file is a whole archive."""
    if not is_zipfile(path):
        raise ConfigError(
            f"{where}{path} is not a whole .keras file, which is a zip archive: copy it again, or save the model again"
        )


def is_checkpoint(path: Path) -> bool:
    """Whether a file of weights is PyTorch's checkpoint of a prepared model: it holds ranges besides."""
    if path.suffix != SUFFIXES["torch"] or not path.is_file():
        return False
    from safetensors import SafetensorError, safe_open

    from qat.adapters.torch.prepared_model import SCOPE

    try:
        with safe_open(path, "pt") as file:
            return any(name.startswith(f"{SCOPE}.") for name in file.keys())  # noqa: SIM118
    except SafetensorError:
        return False  # loading it says what is wrong with it


def _load_pickled(model: Any, path: Path) -> Any:
    """Load the tensors of a file that ``torch.save`` wrote; nothing else in it is unpickled."""
    import pickle

    import torch

    if not path.is_file():
        raise ConfigError(f"no such weights file: {path}")
    remedy = "save the weights alone: torch.save(model.state_dict(), path)"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{path} holds more than tensors, and unpickling that could run foreign code: {remedy}") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(f"{path} is not a whole file of torch.save: {reason_of(error)}") from error
    state = next((found[key] for key in _STATES if key in found), found) if isinstance(found, dict) else found
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{path} holds no state_dict: {remedy}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not hold this model's weights: {reason_of(error)}") from error
    return model


def save(framework: Framework, model: Any, path: Path) -> None:
    """Write the weights of a float model, in one piece or not at all."""
    if framework == "torch":
        from qat.trainers.torch.weights import save_weights

        save_weights(model, path)
    else:
        replace_with(path, model.save_weights)


def clone(framework: Framework, model: Any) -> Any:
    """Return a copy of a float model that shares nothing with it."""
    if framework == "torch":
        from qat.adapters.torch.capture.float_copy import copy_of

        return copy_of(model)
    import keras

    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    return made
