"""One model of a system: how it is called in float, and how it becomes an int8 artifact that is called likewise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat import api
from qat.errors import ConfigError, DataError
from qat.exporters import Artifact, refuse_unwritable
from qat.frameworks import adapter_for, framework_of
from qat.runs.float_model import made_by, of_file
from qat.runtimes import Session, open_session
from qat.trainers import finetune
from qat.typing import Model

from .config import PartConfig
from .wiring import CallModel

_FILES = (".onnx", ".tflite")


@dataclass(frozen=True)
class Part:
    """A float model of a system.

    Attributes:
        name: in the configuration.
        config: of the model.
        model: what is prepared; None of a file that stays float.
        call: runs it in float: a file in its own runtime.
        bytes: of its file; None of a model that a factory made.
    """

    name: str
    config: PartConfig
    model: Model | None
    call: CallModel
    bytes: int | None

    @classmethod
    def of(cls, name: str, config: PartConfig, base: Path) -> Part:
        """Load a model.

        Raises:
            ConfigError: the factory cannot be imported, or fails.
            QatError: the file is missing, damaged, or of an unknown kind.
        """
        if config.factory is not None:
            model = made_by(config.factory, config.kwargs, f"models.{name}.factory")
            return cls(name, config, model, _in_float(model), None)
        path = base / Path(str(config.file)).expanduser()
        if path.suffix in _FILES:
            model = None if config.keep_float else api.load(path)
            return cls(name, config, model, of_session(open_session(path)), path.stat().st_size)
        if path.suffix != ".keras":
            raise ConfigError(f"models.{name}.file: '{path}' is none of .onnx, .tflite, .keras")
        model = of_file(path, f"models.{name}.file: ")
        return cls(name, config, model, _in_float(model), path.stat().st_size)

    def quantize(
        self, batches: Sequence[tuple[np.ndarray, ...]], held_out: Sequence[tuple[np.ndarray, ...]], folder: Path
    ) -> tuple[Artifact, CallModel]:
        """Prepare, calibrate, train and export the model; return the artifact, and how it is called.

        Args:
            batches: the inputs that it had in the float system, for calibration and training.
            held_out: the inputs that it had on held-out samples, for verification.
            folder: that receives the artifact.

        Raises:
            DataError: the model was never called.
        """
        if not batches:
            raise DataError(f"the model '{self.name}' was never called with anything: the samples hold nothing for it")
        assert self.model is not None  # what stays float is not quantized
        c = self.config
        example = batches[0] if len(batches[0]) > 1 else batches[0][0]
        prepared = api.prepare(self.model, example, c.recipe, c.target, c.dynamic)
        api.calibrate(prepared, list(batches), c.estimator)
        suffix = prepared.plan.target.suffix
        if c.train:
            refuse_unwritable(prepared, suffix, "float32")
            finetune(prepared, list(batches), labels="none", steps=c.train)
        path = folder / f"{self.name}_int8{suffix}"
        artifact = api.export(prepared, path, list(held_out) or None, "float32", overwrite=True)
        return artifact, of_session(open_session(path))


def _in_float(model: Model) -> CallModel:
    """Return a call of a PyTorch or Keras model in eval mode."""
    adapter = adapter_for(framework_of(model))

    return _one_or_all(lambda *inputs: adapter.predict(model, *inputs))


def of_session(session: Session) -> CallModel:
    """Return a call of a file in its runtime."""
    return _one_or_all(session.run)


def _one_or_all(run: Callable[..., tuple[np.ndarray, ...]]) -> CallModel:
    """Return a call that takes any arrays, and returns one output as an array."""

    def call(*inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        arrays = map(np.asarray, inputs)
        outputs = run(*(array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays))
        return outputs[0] if len(outputs) == 1 else outputs

    return call
