"""The whole job of one configuration: float model, PTQ baselines, QAT, control, export, proof, comparison."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from qat import api
from qat.errors import ConfigError, DataError, reason_of
from qat.exporters import Artifact
from qat.frameworks import adapter_for, framework_of
from qat.graph.graph import Graph
from qat.planning.recipe import load_recipe
from qat.planning.targets import load_target
from qat.runtimes.model_file import FileKind, ModelFile
from qat.system import ctrl_c
from qat.system.atomic_files import make_folder
from qat.system.import_object import import_object
from qat.trainers import Epoch
from qat.trainers.metrics import shown
from qat.typing import Layout, PreparedModel

from .config import TRAINING_KEYS, DataConfig, OwnFloatModel, RunConfig, expand
from .dataset import Batches, Dataset

#: Those of the adapters, which are not imported before they are needed.
_DEFAULT_TARGETS = {"torch": "onnxruntime", "keras": "litert"}


class Run:
    """One configuration being carried out.

    ``folder`` receives summary.json, summary.md, the plots, artifacts/ and checkpoints/ (or ``checkpoints``, another folder);
    ``resume`` continues from the last.
    """

    def __init__(
        self, config: RunConfig, base: Path, folder: Path, console: Console, resume: bool = False, checkpoints: Path | None = None
    ) -> None:
        self.config, self.base, self.folder, self.console, self.resume = config, base, folder, console, resume
        self.checkpoints = checkpoints or folder / "checkpoints"
        self.layout = "NCHW" if config.framework == "torch" else "NHWC"
        self.suffix = load_target(config.target or _DEFAULT_TARGETS[config.framework]).suffix
        self.artifacts = folder / "artifacts"
        is_file = Path(config.recipe).suffix in (".yaml", ".yml")
        self.recipe = load_recipe(expand(config.recipe, base) if is_file else config.recipe)

    def step(self, title: str, work: Callable[[], Any]) -> Any:
        """Do one stage and say how long it took."""
        started = time.perf_counter()
        result = work()
        ctrl_c.stop_if_asked()
        self.console.print(f"  [green]done[/] {title} [dim]{time.perf_counter() - started:.1f} s[/]")
        return result

    def data(self) -> Dataset:
        """Return the data set. Raises an error that names the configuration's key where it cannot be read."""
        c = self.config.data
        key = {"factory": "data.factory", "digits": "data.source"}.get(c.source, "data.path")
        try:
            return self._loaded(c)
        except OSError as error:
            raise DataError(f"{key}: {error.filename or c.path} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{key}: {error}") from error

    def _loaded(self, c: DataConfig) -> Dataset:
        from . import datasets as load

        if c.source == "digits":
            return load.digits()
        if c.source == "factory":
            if c.factory is None:
                raise ConfigError("data.source is 'factory': give data.factory (package.module:function)")
            return load.factory(import_object(c.factory, "data.factory"), **c.kwargs)
        if c.path is None:
            raise ConfigError(f"data.source is '{c.source}': give data.path")
        path = expand(c.path, self.base)
        if c.source == "idx":
            return load.idx(path, c.name or "idx", c.mean, c.std)
        return load.npz(path, c.mean, c.std) if c.source == "npz" else load.image_folder(path, c.size, c.mean, c.std)

    def batches(self, data: Dataset, split: Any, **options: Any) -> Batches:
        """Return batches of a split in the framework's layout."""
        return data.batches(split, self.config.data.batch_size, self.layout, **options)

    def training(self, data: Dataset, seed: int) -> Batches:
        """Return shuffled training batches."""
        return self.batches(data, "train", shuffle=seed, flip=self.config.data.flip)

    # --- the float model ---

    def float_model(self, data: Dataset) -> Any:
        """Return the float model: loaded, or trained here once and cached.

        Whatever would fail later is tried first: a mistake should not come to light after hours of training.
        """
        c = self.config.model
        make_folder(self.folder)
        model = self.untrained()
        self._check(model, data)
        plan = api.plan(model, self.example(data), self.recipe, self.config.target, self.config.model.dynamic)
        if c.file is not None:
            return model
        if c.weights is not None:
            path = expand(c.weights, self.base)
            try:
                return self._load(model, path)
            except (ConfigError, DataError) as error:
                raise ConfigError(f"model.weights: {error}") from error
        cached = self._cache_file(data, plan.graph)
        if cached.is_file():
            self.console.print(f"  [dim]float model from {cached}[/]", soft_wrap=True)
            return self._load(model, cached)
        options = self.config.float_training
        api.finetune(
            model, self.training(data, options.seed), epochs=options.epochs, learning_rate=options.learning_rate,
            weight_decay=options.weight_decay, gradient_clip=None, seed=options.seed, **self._checkpoints("float"),
        )  # fmt: skip
        self._save(model, cached)
        return model

    def untrained(self) -> Any:
        """Return the model as its factory makes it, or as its file holds it."""
        c = self.config.model
        if c.factory is not None:
            self._seed(self.config.float_training.seed)
            make = import_object(c.factory, "model.factory")
            try:
                model = make(**c.kwargs)
            except Exception as error:
                kind = "" if isinstance(error, TypeError) else f"{type(error).__name__}: "
                raise ConfigError(f"model.factory '{c.factory}' with model.kwargs {c.kwargs}: {kind}{error}") from error
            framework = framework_of(model)
            if framework.removeprefix("tf_") != self.config.framework:
                raise ConfigError(f"the configuration's framework is {self.config.framework}, its model is one of {framework}")
            return model
        assert c.file is not None
        path = expand(c.file, self.base)
        if self.config.framework != "keras" or path.suffix != ".keras":
            raise ConfigError(f"model.file is a .keras file of a keras run, not {path.name}; use model.factory")
        if not path.is_file():
            raise ConfigError(f"model.file: no such file: {path}")
        import keras

        try:
            return keras.models.load_model(path)
        except (ValueError, OSError, KeyError) as error:
            raise ConfigError(f"model.file: {path} is not a whole .keras model: {reason_of(error)}") from error

    def _seed(self, seed: int) -> None:
        if self.config.framework == "torch":
            import torch

            torch.manual_seed(seed)
        else:
            import keras

            keras.utils.set_random_seed(seed)

    def _check(self, model: Any, data: Dataset) -> None:
        """Run one batch, so that a shape that does not fit is found before anything is trained."""
        adapter = adapter_for(framework_of(model))
        images, _ = next(iter(self.batches(data, "test", limit=2)))
        try:
            (logits, *_) = adapter.forward(model, adapter.inputs_of((images,)))
        except Exception as error:
            raise ConfigError(
                f"the model does not take images of shape {images.shape[1:]} ({self.layout}): {reason_of(error)}"
            ) from error
        if logits.shape[-1] < data.classes:
            raise DataError(
                f"label {data.classes - 1} is out of range: the model has {logits.shape[-1]} outputs, the data {data.classes}"
            )

    def _load(self, model: Any, path: Path) -> Any:
        if self.config.framework == "torch":
            from qat.trainers.torch import load_weights

            return load_weights(model, path)
        if not path.is_file():
            raise ConfigError(f"no such weights file: {path}")
        try:
            model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{path} does not hold this model's weights: {reason_of(error)}") from error
        return model

    def _save(self, model: Any, path: Path) -> None:
        from qat.system.atomic_files import replace_with, write_atomically

        if self.config.framework == "torch":
            from safetensors.torch import save

            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
            write_atomically(path, save(tensors), overwrite=True)
        else:
            replace_with(path, model.save_weights)

    def _cache_file(self, data: Dataset, graph: Graph) -> Path:
        """Return where the trained float model is kept: a name for the data's content, the model's graph and the options."""
        from platformdirs import user_cache_dir

        from qat import __version__

        c = self.config
        content = hashlib.sha256(data.train_x.tobytes())
        content.update(data.train_y.tobytes())
        key = json.dumps(
            [
                __version__, c.framework, c.model.model_dump(), c.data.model_dump(), c.float_training.model_dump(),
                content.hexdigest(), str(data.train_x.shape), graph.to_dict(),
            ],
            sort_keys=True,
        )  # fmt: skip
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        suffix = ".safetensors" if c.framework == "torch" else ".weights.h5"
        return Path(user_cache_dir("qat")) / "float" / f"{digest}{suffix}"

    # --- the run ---

    def calibration(self, data: Dataset) -> list[Any]:
        """Return the calibration batches: inputs only."""
        taken = data.batches("train", 64, self.layout, limit=self.config.calibration.samples)
        return [x for x, _ in taken]

    def example(self, data: Dataset) -> Any:
        """Return an example input."""
        return next(iter(self.batches(data, "test", limit=2)))[0]

    def prepare(self, model: Any, data: Dataset) -> Any:
        """Return the calibrated prepared model."""
        c = self.config
        prepared = api.prepare(model, self.example(data), self.recipe, c.target, c.model.dynamic, c.equalize)
        samples = self.calibration(data)
        api.calibrate(prepared, samples, c.calibration.estimator)
        return api.correct_biases(prepared, samples) if c.calibration.bias_correction else prepared

    def carry_out(self) -> Any:
        """Do everything and return the comparison's report."""
        c = self.config
        if not self.suffix:
            raise ConfigError(
                f"target: '{c.target}' has no runtime, and a run ends in artifacts that are compared: use qat train, or another "
                "target"
            )
        self.console.print(f"[bold]{c.name}[/]: {c.framework}, recipe {c.recipe}")
        data = self.step("data", self.data)
        model = self.step("float model", lambda: self.float_model(data))
        entries: list[Any] = []
        if c.ptq:
            entries += self.step("PTQ baselines", lambda: self.baselines(model, data))
        prepared = self.step("prepare and calibrate", lambda: self.prepare(model, data))
        if c.ptq:
            entries.append(self.step("calibrate-only artifact", lambda: self.artifact(prepared, data, "calibrated", "ptq")))
        self.step("QAT", lambda: self.finetune(prepared, data, model, "qat"))
        entries.append(self.step("export and verify", lambda: self.artifact(prepared, data, "qat", "qat")))
        if c.control:
            entries.append(self.step("float control, the same extra steps", lambda: self.control(model, data)))
        report = self.step(
            "comparison",
            lambda: api.compare(
                entries, self.batches(data, "test"), dataset=data.name, framework=c.framework, latency_runs=c.latency_runs
            ),
        )
        return report

    def baselines(self, model: Any, data: Dataset) -> list[ModelFile]:
        """Return the PTQ baselines, the float artifact first, this toolkit's own AdaRound last where it is asked for."""
        made = api.ptq_baselines(
            model, self.calibration(data), self.artifacts, example_inputs=self.example(data),
            per_channel=self.config.per_channel, overwrite=True,
        )  # fmt: skip
        entries: list[ModelFile] = [*made]
        if self.config.adaround:
            rounded = api.adaround(self.prepare(model, data), self.calibration(data))
            entries.append(self.artifact(rounded, data, "adaround", "ptq"))
        return entries

    def train(self) -> Path:
        """Train only; returns the best checkpoint's path."""
        data = self.step("data", self.data)
        model = self.step("float model", lambda: self.float_model(data))
        prepared = self.step("prepare and calibrate", lambda: self.prepare(model, data))
        before = {"float": self.evaluate(model, data, model), "calibrated": self.evaluate(prepared, data, model)}
        history = self.step("QAT", lambda: self.finetune(prepared, data, model, "qat"))
        for name, values in before.items():
            self.console.print(f"  {name}: {shown(values)} on the validation data", highlight=False)
        best = history.epochs[history.best_epoch - 1]
        epoch = f"trained, epoch {best.number} of {len(history.epochs)}"
        self.console.print(f"  [bold]{epoch}: {shown(best.metrics)}[/] on the validation data", highlight=False)
        return self.checkpoints / ("best.safetensors" if self.config.framework == "torch" else "best.keras")

    def evaluate(self, model: Any, data: Dataset, float_model: Any) -> dict[str, float]:
        """Return a model's metrics on the validation data, as training measures them."""
        c = self.config.training
        return api.evaluate(
            model,
            self.batches(data, "validation"),
            metrics=c.metrics,
            labels=c.labels,
            teacher=float_model if isinstance(c.teacher, OwnFloatModel) else None,
        )

    def finetune(self, model: Any, data: Dataset, float_model: Any, kind: str) -> Any:
        """Fine-tune by the configuration's options; ``kind`` is ``qat`` or ``control``."""
        options = {name: getattr(self.config.training, name) for name in TRAINING_KEYS} | self._checkpoints(kind)
        options["teacher"] = float_model if isinstance(options["teacher"], OwnFloatModel) else None
        options |= {"on_epoch": self._say} if kind == "qat" else {"tensorboard": None, "artifact_every": None}
        return api.finetune(model, self.training(data, options["seed"]), self.batches(data, "validation"), **options)

    def _say(self, epoch: Epoch) -> None:
        """Say what an epoch came to."""
        parts = [f"epoch {epoch.number}/{self.config.training.epochs}: loss {epoch.loss:.4g}", shown(epoch.metrics)]
        parts += [f"the artifact in its runtime: {shown(epoch.artifact)}"] if epoch.artifact else []
        self.console.print(f"  [dim]{'; '.join(parts)}[/]", highlight=False, soft_wrap=True)

    def _checkpoints(self, kind: str) -> dict[str, Any]:
        """Return the options that place a training's checkpoints: those of QAT lie in checkpoints/ itself."""
        folder = self.checkpoints if kind == "qat" else self.checkpoints / kind
        return {"checkpoint_dir": folder, "resume": self.resume}

    def export_checkpoint(self, checkpoint: Path, path: Path, overwrite: bool, layout: Layout | None = None) -> Any:
        """Export what :meth:`train` wrote."""
        data = self.data()
        prepared = api.prepare(self.untrained(), self.example(data), self.recipe, self.config.target, self.config.model.dynamic)
        prepared = api.load_prepared(prepared, checkpoint)
        held_out = (x for x, _ in self.batches(data, "test"))
        return api.export(prepared, path, held_out, self.config.io_dtype, overwrite, layout)

    def artifact(self, prepared: PreparedModel, data: Dataset, name: str, kind: FileKind) -> Artifact:
        """Export and verify on the whole test split."""
        from dataclasses import replace

        held_out = (x for x, _ in self.batches(data, "test"))
        path = self.artifacts / f"{self.config.framework}_{name}{self.suffix}"
        artifact = api.export(prepared, path, verify=held_out, io_dtype=self.config.io_dtype, overwrite=True)
        return replace(artifact, kind=kind)

    def control(self, model: Any, data: Dataset) -> Any:
        """Return the float model fine-tuned for the same steps on the same data."""
        from qat.baselines import float_baseline

        control = self._clone(model)
        self.finetune(control, data, model, "control")
        return float_baseline(control, self.example(data), self.artifacts, name="float_control", kind="control")

    def _clone(self, model: Any) -> Any:
        if self.config.framework == "torch":
            import copy

            return copy.deepcopy(model)
        import keras

        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        return clone


def run(
    config: RunConfig, base: Path, folder: Path, console: Console, resume: bool = False, checkpoints: Path | None = None
) -> Any:
    """Carry out one configuration; artifacts go to ``folder``/artifacts. Returns the comparison's report."""
    return Run(config, base, folder, console, resume, checkpoints).carry_out()
