"""One model of a system: how it is called in float, and how it becomes an int8 artifact that is called likewise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat import api
from qat.errors import ConfigError, DataError
from qat.exporters import Artifact
from qat.frameworks import adapter_for, framework_of
from qat.runs.float_model import of_file
from qat.runtimes import Session, open_session
from qat.system.import_object import import_object
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
        model: what is prepared.
        call: runs it in float: a file in its own runtime.
        suffix: of its artifact.
        bytes: of its file; None of a model that a factory made.
    """

    name: str
    config: PartConfig
    model: Model
    call: CallModel
    suffix: str
    bytes: int | None

    @classmethod
    def of(cls, name: str, config: PartConfig, base: Path) -> Part:
        """Load a model.

        Raises:
            ConfigError: the factory cannot be imported, or fails.
            QatError: the file is missing, damaged, or of an unknown kind.
        """
        if config.factory is not None:
            model = import_object(config.factory, f"models.{name}.factory")(**config.kwargs)
            return cls(name, config, model, _in_float(model), _suffix(config, model), None)
        path = base / Path(str(config.file)).expanduser()
        if path.suffix in _FILES:
            model = api.load(path)
            return cls(name, config, model, of_session(open_session(path)), path.suffix, path.stat().st_size)
        if path.suffix != ".keras":
            raise ConfigError(f"models.{name}.file: '{path}' is none of .onnx, .tflite, .keras")
        model = of_file(path, f"models.{name}.file: ")
        return cls(name, config, model, _in_float(model), _suffix(config, model), path.stat().st_size)

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
        c = self.config
        target = c.target or ("litert" if self.suffix == ".tflite" else None)
        example = batches[0] if len(batches[0]) > 1 else batches[0][0]
        prepared = api.prepare(self.model, example, c.recipe, target, c.dynamic)
        api.calibrate(prepared, list(batches), c.estimator)
        if c.train:
            finetune(prepared, list(batches), teacher=self.model, labels="none", steps=c.train)
        path = folder / f"{self.name}_int8{self.suffix}"
        artifact = api.export(prepared, path, list(held_out) or None, "float32", overwrite=True)
        return artifact, of_session(open_session(path))


def _suffix(config: PartConfig, model: Model) -> str:
    """Return the suffix of the artifact of a model that no artifact's format was read from."""
    from qat.planning.targets import load_target

    default = "onnxruntime" if framework_of(model) == "torch" else "litert"
    return load_target(config.target or default).suffix


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
        outputs = run(*(np.ascontiguousarray(array, np.float32) for array in inputs))
        return outputs[0] if len(outputs) == 1 else outputs

    return call
