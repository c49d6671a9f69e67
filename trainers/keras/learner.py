"""The Keras learner, for Keras 3 and for ``tf_keras``: a step, an evaluation, and the state that a run continues from."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from qat.adapters.keras import set_range_tracking
from qat.adapters.keras.dampening import distance
from qat.adapters.keras.freezing import Freezing
from qat.adapters.keras.prepared_model import PreparedModel
from qat.calibration.clear_borders import clear_borders
from qat.errors import ConfigError, DataError
from qat.frameworks import framework_of, has_plan, in_order
from qat.system.samples import check_fit
from qat.trainers import randomness
from qat.trainers.data_checks import NO_GRADIENT, check_labels, of_batch
from qat.trainers.detection_labels import check_boxes, limits_of
from qat.trainers.history import History
from qat.trainers.learner import LogWriter, Loss, Step, part
from qat.trainers.loop import run
from qat.trainers.options import TrainingOptions
from qat.trainers.output_losses import OutputLosses
from qat.trainers.sample_weights import unweighted
from qat.typing import Batches

from . import losses, optimizers
from .distributed import all_sum
from .evaluation import Evaluator, listed
from .losses import Tensor
from .weights import arrays_of, put, save_weights


def finetune(model: Any, train_data: Batches, eval_data: Batches | None, options: TrainingOptions) -> History:
    """Fine-tune a model in place and leave the best epoch's weights in it; see :func:`qat.finetune`."""
    keras = importlib.import_module(framework_of(model))
    keras.utils.set_random_seed(options.seed)
    return run(_Learner(model, options, keras), train_data, eval_data, options)


class _Learner(Evaluator):
    """A :class:`qat.trainers.learner.Learner` of Keras; ``keras`` is the module that the model comes from."""

    late = False

    def __init__(self, model: Any, options: TrainingOptions, keras: Any) -> None:
        super().__init__(model, options)
        self.keras = keras
        self.variables = list(model.trainable_variables)
        if not self.variables:
            raise ConfigError("the model has no trainable variable: unfreeze some layers before fine-tuning")
        if (
            options.loss is None and options.labelled and len(getattr(model, "output_names", ())) > 1
        ):  # a Sequential has one output
            raise ConfigError("the model has several outputs: give loss=, a function of (outputs, labels)")
        if options.precision != "float32":
            raise ConfigError(
                "precision: a prepared Keras model computes in float32, whatever its float model's policy: leave it 'float32'"
            )
        if options.gradients == "bf16":
            raise ConfigError("gradients: TensorFlow's kernels compute them in float32; give 'float32' or 'auto'")
        self.writes = self.replicas.first
        with self.replicas.strategy.scope():
            self.optimizer = optimizers.optimizer(keras, self.variables, options, self.replicas.size)
        self.label_loss, self.teacher_loss = losses.label_loss(options), losses.teacher_loss(options)
        self.probabilities = options.classifies and not _gives_logits(model)
        self.on_grid = has_plan(model)
        self.tracking: bool | None = None
        self.dampening = tf.Variable(0.0)
        self.sums: dict[int, Tensor] | None = None
        self.limits: tuple[int, int, int] | None = None
        self.freezing = self._freezing()
        run_in_each = self.replicas.run
        self._forward = tf.function(lambda *args: run_in_each(self._loss_and_gradients, *args), reduce_retracing=True)
        self._add = tf.function(lambda a, b: run_in_each(_added, a, b))
        self._apply = tf.function(lambda gradients: run_in_each(self._update, gradients))
        self._freeze = None if self.freezing is None else tf.function(self.freezing.update)

    def learn_from_teacher(self, found: OutputLosses) -> None:
        self.teacher_loss = losses.output_losses(found, self.options.temperature)

    def agreed(self, flag: bool) -> bool:
        return self.replicas.any(flag)

    def mean_of(self, values: dict[str, float]) -> dict[str, float]:
        return self.replicas.mean_of(values)

    # --- a step ---

    def step(self, inputs: Any, labels: Tensor, step: Step) -> Loss:
        self._track(step.tracking)
        self.dampening.assign(step.dampening)
        ordered = in_order(self.model, inputs)
        arrays = ordered if isinstance(ordered, (tuple, list)) else (ordered,)
        if self.on_grid:
            check_fit(self.model.plan.graph.input_shapes, arrays)
        if self.options.classifies and self.options.labelled:
            *pixels, classes = _output_sizes(self.model)
            classes_of, _ = unweighted(labels)
            expected = (len(arrays[0]), *(n or m for n, m in zip(pixels, classes_of.shape[1:], strict=False)))
            check_labels(classes_of, expected, classes, f"step {step.number}")
        if self.options.detects:
            self.limits = self.limits or limits_of(self.answers(inputs))
            check_boxes(unweighted(labels)[0], *self.limits, f"step {step.number}")
        samples, replicas = len(arrays[0]), self.replicas
        parts, shares = replicas.split((listed(inputs), labels), samples), replicas.shares(samples, step.share)
        with of_batch(f"step {step.number}", self.model, inputs, "the model or the loss"):
            loss, gradients = self._forward(*parts, shares)
        if not gradients:
            raise DataError(NO_GRADIENT)
        value = replicas.value(loss) / step.share
        if not math.isfinite(value):
            return lambda: value
        self.sums = gradients if self.sums is None else self._add(self.sums, gradients)
        if step.update:
            self.optimizer.learning_rate = step.rate
            self._apply(self.sums)
            if self._freeze is not None:
                self._freeze()
            self.sums = None
        return lambda: value

    def _loss_and_gradients(self, inputs: Any, labels: Tensor, share: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the loss of all replicas and this one's gradients, by the variables' numbers."""
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            loss = self._loss(inputs, outputs, labels)
            if self.options.dampening and self.on_grid:
                loss += self._dampened()
            loss = (loss + sum(self.model.losses)) * share  # of the layers' own regularizers
        gradients = tape.gradient(loss, self.variables)
        return all_sum(loss), {i: tf.convert_to_tensor(g) for i, g in enumerate(gradients) if g is not None}

    def _loss(self, inputs: Any, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.probabilities:
            outputs = losses.logarithms(outputs)
        labels, weights = unweighted(labels)
        return self.options.combined_loss(
            lambda: losses.of_batch(self.label_loss, outputs, labels, weights), self._distance(inputs, outputs)
        )

    def _dampened(self) -> Tensor:
        return self.dampening * distance(self.model)

    def _freezing(self) -> Freezing | None:
        if self.options.freezing is None or not self.on_grid:
            return None
        with self.replicas.strategy.scope():
            return Freezing(self.model, self.options.freezing)

    def _distance(self, inputs: Any, outputs: Tensor) -> Tensor | None:
        if self.options.teacher is None:
            return None
        taught = tf.nest.map_structure(tf.stop_gradient, self.options.teacher(inputs, training=False))
        return self.teacher_loss(outputs, losses.logarithms(taught) if self.probabilities else taught)

    def _update(self, gradients: dict[int, Tensor]) -> None:
        summed = all_sum([gradients[i] for i in sorted(gradients)])
        pairs = zip(summed, (self.variables[i] for i in sorted(gradients)), strict=True)
        self.optimizer.apply_gradients(list(pairs))

    def _track(self, tracking: bool) -> None:
        if self.on_grid and tracking is not self.tracking:
            set_range_tracking(self.model, tracking)
            self.tracking = tracking

    def freeze(self) -> None:
        self._track(False)

    def zero_output_loss(self, inputs: Any, labels: Tensor) -> float:
        zeros = tf.nest.map_structure(lambda a: tf.zeros(a.shape, a.dtype), self.answers(inputs))
        value = float(self._loss(listed(inputs), zeros, labels))
        return self.replicas.mean_of({"loss": value})["loss"]

    def first_not_finite(self, inputs: Any) -> str | None:
        for name, values in _outputs_of_layers(self.model, inputs, self.keras.Model):
            arrays = (np.asarray(v) for v in tf.nest.flatten(values))
            if not all(np.isfinite(a).all() for a in arrays if np.issubdtype(a.dtype, np.floating)):
                return name
        return None

    def log_writer(self, folder: str) -> LogWriter:
        importlib.import_module("tensorboard")  # without it tf.summary can write no scalars

        return _Writer(tf.summary.create_file_writer(folder))

    # --- state ---

    def weights(self) -> dict[str, np.ndarray]:
        return arrays_of(self.model)

    def finish(self, weights: dict[str, np.ndarray]) -> None:
        put(self.model, weights)
        self.tracking = None  # the flag is among the weights
        self._track(False)
        if self.on_grid:
            clear_borders(self.model)

    def save(self, name: str) -> Path | None:
        if self.options.checkpoint_dir is None or not self.writes:
            return None
        return save_weights(self.model, Path(self.options.checkpoint_dir), name)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"model/{name}": array for name, array in arrays_of(self.model).items()}
        arrays |= {f"optimizer/{name}": array for name, array in optimizers.state(self.optimizer).items()}
        if self.freezing is not None:
            arrays |= {f"freezing/{name}": array for name, array in self.freezing.state().items()}
        return arrays, {}

    def restore(self, arrays: dict[str, np.ndarray], values: Mapping[str, Any]) -> None:
        put(self.model, part(arrays, "model/"))
        optimizers.restore(self.optimizer, part(arrays, "optimizer/"))
        if self.freezing is not None:
            self.freezing.restore(part(arrays, "freezing/"))
        # The flag is among the weights, and a scale as the graph derived it is kept until observing ends.
        self.tracking = bool(self.model.tracking > 0.5) if self.on_grid else None

    def random_state(self, data: Batches) -> dict[str, np.ndarray]:
        return randomness.state()

    def restore_random(self, data: Batches, arrays: dict[str, np.ndarray]) -> None:
        randomness.restore(arrays)


class _Writer:
    """TensorBoard's logs."""

    def __init__(self, writer: Any) -> None:
        self.writer, self.close = writer, writer.close

    def scalar(self, name: str, value: float, step: int) -> None:
        with self.writer.as_default():
            tf.summary.scalar(name, value, step)


def _outputs_of_layers(model: Any, inputs: Any, functional: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers' outputs for a batch, in the order in which they are computed, by the layers' names."""
    if isinstance(model, PreparedModel):
        real, grid = model.run(listed(inputs), training=True)
        for p in model.plan.ops:
            found = [forms[name] for name in p.op.outputs for forms in (grid, real) if name in forms]
            yield p.op.layer, found
    else:
        layers = [layer for layer in model.layers if hasattr(layer, "output") and type(layer).__name__ != "InputLayer"]
        outputs = functional(model.inputs, [layer.output for layer in layers])(inputs, training=True)
        yield from zip((layer.name for layer in layers), outputs if len(layers) > 1 else [outputs], strict=True)


def _added(sums: dict[int, Tensor], gradients: dict[int, Tensor]) -> dict[int, Tensor]:
    return {i: sums[i] + gradient for i, gradient in gradients.items()}


def _output_sizes(model: Any) -> tuple[int, ...]:
    """Return the sizes of the first output's axes but the batch; the last one counts the classes."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        return tuple(plan.graph.tensors[plan.graph.outputs[0]].shape[1:])
    shape = model.output_shape
    return tuple((shape[0] if isinstance(shape, list) else shape)[1:])


def _gives_logits(model: Any) -> bool:
    """Whether the model ends without a softmax."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        last = plan.graph.producers().get(plan.graph.outputs[0])
        return last is None or (last.kind != "softmax" and str(last.attrs.get("target", "")).lower() != "softmax")
    last_layer = getattr(model.layers[-1], "layer", model.layers[-1])  # tfmot wraps layers
    activation = getattr(last_layer, "activation", None)
    return type(last_layer).__name__ != "Softmax" and getattr(activation, "__name__", "") != "softmax"
