"""The Keras fine-tuning loop, for Keras 3 and for ``tf_keras`` models."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qat.adapters import check_fit, framework_of, is_prepared
from qat.errors import ConfigError, DataError
from qat.files import replace_with
from qat.trainers.loop import run
from qat.trainers.options import History, TrainingOptions, check_labels


def finetune(model: Any, train_data: Iterable[Any], eval_data: Iterable[Any] | None, options: TrainingOptions) -> History:
    """Fine-tune a model in place and leave the best epoch's weights in it; see :func:`qat.finetune`."""
    keras = importlib.import_module(framework_of(model))
    keras.utils.set_random_seed(options.seed)
    return run(_Learner(model, options, keras), train_data, eval_data, options)


class _Learner:
    """A :class:`qat.trainers.loop.Learner` of Keras; ``keras`` is the module that the model comes from."""

    def __init__(self, model: Any, options: TrainingOptions, keras: Any) -> None:
        self.model, self.options = model, options
        if not model.trainable_variables:
            raise ConfigError("the model has no trainable variable: unfreeze some layers before fine-tuning")
        if options.loss is None and len(model.output_names) > 1:
            raise ConfigError("the model has several outputs: give loss=, a function of (outputs, labels)")
        loss = _keras_order(options.loss) or keras.losses.SparseCategoricalCrossentropy(from_logits=_gives_logits(model))
        model.compile(_optimizer(keras, options), loss, jit_compile=False)
        self.on_grid = is_prepared(model) and keras.__name__ == "keras"
        self.classes = _classes(model)
        self.observing: bool | None = None

    def pairs(self, data: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        return _pairs(data)

    def step(self, inputs: Any, labels: Any, number: int, rate: float, observing: bool) -> float:
        self._observe(observing)
        arrays = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        if self.on_grid:
            check_fit(self.model.plan, arrays)
        if self.options.loss is None:
            check_labels(labels, len(arrays[0]), self.classes, f"step {number}")
        self.model.optimizer.learning_rate = rate
        self.model.reset_metrics()
        return float(np.mean(self.model.train_on_batch(inputs, labels)))

    def _observe(self, observing: bool) -> None:
        if self.on_grid and observing is not self.observing:
            from qat.adapters.keras import set_observing

            set_observing(self.model, observing)
            self.observing = observing

    def evaluate(self, data: Iterable[Any]) -> float:
        return evaluate(self.model, data)

    def weights(self) -> list[np.ndarray]:
        weights: list[np.ndarray] = self.model.get_weights()
        return weights

    def finish(self, weights: list[np.ndarray]) -> None:
        self.model.set_weights(weights)
        self.observing = None  # the flags are among the weights
        self._observe(False)

    def save(self, name: str) -> None:
        _save(self.model, self.options, name)


def _keras_order(loss: Any) -> Any:
    """Return a loss of ``(outputs, labels)`` as Keras calls it, ``(labels, outputs)``; Keras' own losses as they are."""
    if loss is None or type(loss).__module__.partition(".")[0] in ("keras", "tf_keras"):
        return loss
    return lambda labels, outputs: loss(outputs, labels)


def _pairs(data: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for index, batch in enumerate(data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {index} is not an (inputs, labels) pair")
        inputs, labels = batch
        for x in inputs if isinstance(inputs, (tuple, list)) else (inputs,):
            if not np.isfinite(np.asarray(x)).all():
                raise DataError(f"batch {index} of the data holds NaN or infinite values: clean it before training")
        yield inputs, np.asarray(labels)


def _save(model: Any, options: TrainingOptions, name: str) -> None:
    if options.checkpoint_dir is None:
        return
    folder = Path(options.checkpoint_dir)
    if framework_of(model) == "keras":
        replace_with(folder / f"{name}.keras", model.save)
    else:
        replace_with(folder / f"{name}.weights.h5", model.save_weights)


def evaluate(model: Any, data: Iterable[Any]) -> float:
    """Return the top-1 accuracy in percent."""
    right = seen = 0
    for inputs, labels in _pairs(data):
        predicted = np.asarray(model.predict_on_batch(inputs)).argmax(-1)
        right += int((predicted == labels).sum())
        seen += len(predicted)
    if seen == 0:
        raise DataError("the evaluation data yields no batches")
    return 100.0 * right / seen


def load_weights(model: Any, path: Path) -> Any:
    """Return the prepared model of a ``.keras`` checkpoint.

    Raises:
        DataError: the file is missing, truncated, or of another model.
    """
    if not path.is_file():
        raise DataError(f"no such checkpoint: {path}")
    if framework_of(model) == "tf_keras":
        return _load_tf_keras(model, path)
    import keras

    try:
        loaded = keras.models.load_model(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole .keras file: use the checkpoint before it") from error
    if [v.shape for v in loaded.weights] != [v.shape for v in model.weights]:
        raise DataError(f"{path} holds the weights of another model")
    return loaded


def _load_tf_keras(model: Any, path: Path) -> Any:
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{path} does not hold this model's weights: {str(error).splitlines()[0][:200]}") from error
    if is_prepared(model):
        model.qat_calibrated = True  # the ranges are among the weights
    return model


def _classes(model: Any) -> int:
    """Return the size of the first output."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        return int(plan.graph.tensors[plan.graph.outputs[0]].shape[-1])
    shape = model.output_shape
    return int((shape[0] if isinstance(shape, list) else shape)[-1])


def _gives_logits(model: Any) -> bool:
    """Whether the model ends without a softmax."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        last = plan.graph.producers().get(plan.graph.outputs[0])
        return last is None or str(last.attrs.get("target", "")).lower() != "softmax"
    last_layer = getattr(model.layers[-1], "layer", model.layers[-1])  # tfmot wraps layers
    activation = getattr(last_layer, "activation", None)
    return type(last_layer).__name__ != "Softmax" and getattr(activation, "__name__", "") != "softmax"


def _optimizer(k: Any, options: TrainingOptions) -> Any:
    extra: dict[str, Any] = {"weight_decay": options.weight_decay or None}
    if options.gradient_clip is not None:
        extra["global_clipnorm"] = options.gradient_clip
    if options.optimizer == "sgd":
        return k.optimizers.SGD(options.peak, momentum=0.9, nesterov=True, **extra)
    kind = k.optimizers.Adam if options.optimizer == "adam" else k.optimizers.AdamW
    return kind(options.peak, **extra)
