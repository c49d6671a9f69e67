"""The Keras fine-tuning loop: ``compile`` and ``fit`` with callbacks."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from qat.adapters import is_prepared
from qat.errors import ConfigError, DataError, QatError
from qat.trainers.options import Epoch, History, TrainingOptions


def finetune(model: Any, train_data: Iterable[Any], eval_data: Iterable[Any] | None, options: TrainingOptions) -> History:
    """Fine-tune a model in place and leave the best epoch's weights in it; see :func:`qat.finetune`."""
    keras.utils.set_random_seed(options.seed)
    if not model.trainable_variables:
        raise ConfigError("the model has no trainable variable: unfreeze some layers before fine-tuning")
    data = _Batches(train_data, "the training data")
    held_out = None if eval_data is None else _Batches(eval_data, "the evaluation data")
    steps = len(data)
    total = min(steps * options.epochs, options.max_steps or steps * options.epochs)
    loss = options.loss or keras.losses.SparseCategoricalCrossentropy(from_logits=_gives_logits(model))
    model.compile(_optimizer(options), loss, metrics=["accuracy"], jit_compile=False)
    follow = _Follow(options, total, held_out)
    started = time.perf_counter()
    # A PyDataset is iterated once an epoch, in order: shuffling is the data's own business, as in PyTorch.
    epochs = -(-total // steps)
    model.fit(data, epochs=epochs, callbacks=[follow], verbose=0, shuffle=False)
    follow.restore()
    return History(tuple(follow.epochs), follow.step, time.perf_counter() - started, follow.best_epoch, options)


class _Batches(keras.utils.PyDataset):
    """An iterable of ``(inputs, labels)`` pairs for ``fit``; iterated anew each epoch."""

    def __init__(self, data: Iterable[Any], what: str) -> None:
        super().__init__()
        try:
            self._count = len(data)  # type: ignore[arg-type]
        except TypeError as error:
            raise DataError(
                f"{what} has no length: pass a tf.data pipeline of known cardinality or a list of batches, since the schedule "
                "needs the number of steps"
            ) from error
        if self._count == 0:
            raise DataError(f"{what} is empty: no batches")
        self._data, self._iterator, self._what = data, iter(data), what

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            self._iterator = iter(self._data)
        batch = next(self._iterator)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {index} of {self._what} is not an (inputs, labels) pair")
        for x in keras.tree.flatten(batch[0]):
            if not np.isfinite(np.asarray(x)).all():
                raise DataError(f"batch {index} of {self._what} holds NaN or infinite values: clean it before training")
        return batch[0], batch[1]


class _Follow(keras.callbacks.Callback):
    """Schedule, range observation, progress, evaluation and the best weights."""

    def __init__(self, options: TrainingOptions, total: int, held_out: _Batches | None) -> None:
        super().__init__()
        self.options, self.total, self.held_out = options, total, held_out
        self.step, self.best_epoch = 0, 0
        self.epochs: list[Epoch] = []
        self._best: tuple[float, Any] | None = None
        self._observing: bool | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.options.rate(self.step, self.total)
        self._observe(self.step < self.options.observe_fraction * self.total)

    def _observe(self, observing: bool) -> None:
        if is_prepared(self.model) and observing is not self._observing:
            from qat.adapters.keras import set_observing

            set_observing(self.model, observing)
            self._observing = observing

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        title = f"epoch {epoch + 1}/{self.options.epochs}"
        self._bar = tqdm(total=self.params["steps"], desc=title, disable=None if self.options.progress else True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise QatError(
                f"the loss is {loss} at step {self.step}: lower learning_rate (now {self.options.peak:g}) or gradient_clip, and "
                "check the data"
            )
        self.step += 1
        self._bar.update()
        self._bar.set_postfix(loss=f"{loss:.4f}")
        if self.step >= self.total:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._bar.close()
        accuracy = None if self.held_out is None else evaluate(self.model, self.held_out)
        self.epochs.append(Epoch(epoch + 1, float((logs or {}).get("loss", 0.0)), accuracy))
        score = accuracy if accuracy is not None else float(epoch)
        if self._best is None or score > self._best[0]:
            self._best, self.best_epoch = (score, self.model.get_weights()), epoch + 1
            self._save("best")
        self._save("last")

    def _save(self, name: str) -> None:
        if self.options.checkpoint_dir is None:
            return
        from qat.files import replace_with

        replace_with(Path(self.options.checkpoint_dir) / f"{name}.keras", self.model.save)

    def restore(self) -> None:
        """Put the best weights back, with their ranges frozen."""
        if self._best is not None:
            self.model.set_weights(self._best[1])
        self._observing = None
        self._observe(False)


def evaluate(model: Any, data: Iterable[Any]) -> float:
    """Return the top-1 accuracy in percent."""
    right = seen = 0
    batches = (data[i] for i in range(len(data))) if isinstance(data, _Batches) else iter(data)
    for inputs, labels in batches:
        predicted = np.asarray(model.predict_on_batch(inputs)).argmax(-1)
        right += int((predicted == np.asarray(labels)).sum())
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
    try:
        loaded = keras.models.load_model(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole .keras file: use the checkpoint before it") from error
    if [v.shape for v in loaded.weights] != [v.shape for v in model.weights]:
        raise DataError(f"{path} holds the weights of another model")
    return loaded


def _gives_logits(model: Any) -> bool:
    """Whether the model ends without a softmax."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        last = plan.graph.producers().get(plan.graph.outputs[0])
        return last is None or str(last.attrs.get("target", "")).lower() != "softmax"
    last_layer = model.layers[-1]
    activation = getattr(last_layer, "activation", None)
    return type(last_layer).__name__ != "Softmax" and getattr(activation, "__name__", "") != "softmax"


def _optimizer(options: TrainingOptions) -> Any:
    clip = {"global_clipnorm": options.gradient_clip} if options.gradient_clip is not None else {}
    if options.optimizer == "sgd":
        return keras.optimizers.SGD(options.peak, momentum=0.9, nesterov=True, **clip)
    kind = keras.optimizers.Adam if options.optimizer == "adam" else keras.optimizers.AdamW
    return kind(options.peak, **clip)
