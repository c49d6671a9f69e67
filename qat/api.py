"""The public names: the calls, and the types that they take and return. ``qat`` itself looks them up here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args, overload

from qat.baselines import Baseline, ptq_baselines
from qat.calibration.adaround import adaround
from qat.calibration.bias_correction import correct_biases
from qat.calibration.calibrate import calibrate
from qat.calibration.clear_borders import clear_borders
from qat.calibration.range_tracking import freeze_ranges, track_ranges
from qat.calibration.reconstruction import reconstruct
from qat.exporters import Artifact, Metadata, Parity, export
from qat.graph.custom_layers import Handled, register_handler
from qat.planning.plan import Plan
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import Target
from qat.report.compare import compare
from qat.report.entry import Entry
from qat.report.report import Report
from qat.sources.load import example_of, load
from qat.trainers import Epoch, History, TrainingOptions, evaluate, finetune, load_weights

from .captured import captured, target_for
from .errors import CaptureError, ConfigError, ConversionError, ExportError, QatError
from .frameworks import adapter_for, framework_of, is_prepared
from .typing import ConverterAdapter, Engine, Inputs, Model, P, PreparedModel

if TYPE_CHECKING:
    from torch import nn

    from qat.adapters.torch.prepared_model import PreparedModel as PreparedModule

__all__ = [
    "Artifact",
    "Baseline",
    "Entry",
    "Epoch",
    "Handled",
    "History",
    "Metadata",
    "Parity",
    "Plan",
    "PreparedModel",
    "QatError",
    "Report",
    "TrainingOptions",
    "adaround",
    "calibrate",
    "compare",
    "correct_biases",
    "evaluate",
    "export",
    "finetune",
    "freeze_ranges",
    "load",
    "load_prepared",
    "plan",
    "prepare",
    "ptq_baselines",
    "reconstruct",
    "register_handler",
    "track_ranges",
]

log = logging.getLogger("qat")


@overload
def prepare(
    model: nn.Module,
    example_inputs: Inputs,
    recipe: str | Path | Recipe = ...,
    target: str | Target | None = ...,
    dynamic: Sequence[str] = ...,
    equalize: bool = ...,
    replace: Mapping[str, str] | None = ...,
    keep_zeros: bool = ...,
    dropout: bool = ...,
    engine: Engine = ...,
) -> PreparedModule: ...
@overload
def prepare(
    model: str | Path,
    example_inputs: Inputs | None = ...,
    recipe: str | Path | Recipe = ...,
    target: str | Target | None = ...,
    dynamic: Sequence[str] = ...,
    equalize: bool = ...,
    replace: Mapping[str, str] | None = ...,
    keep_zeros: bool = ...,
    dropout: bool = ...,
    engine: Engine = ...,
) -> PreparedModule: ...
@overload
def prepare(
    model: Model,
    example_inputs: Inputs | None = ...,
    recipe: str | Path | Recipe = ...,
    target: str | Target | None = ...,
    dynamic: Sequence[str] = ...,
    equalize: bool = ...,
    replace: Mapping[str, str] | None = ...,
    keep_zeros: bool = ...,
    dropout: bool = ...,
    engine: Engine = ...,
) -> PreparedModel: ...
def prepare(
    model: Model | str | Path,
    example_inputs: Inputs | None = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    dynamic: Sequence[str] = (),
    equalize: bool = False,
    replace: Mapping[str, str] | None = None,
    keep_zeros: bool = False,
    dropout: bool = True,
    engine: Engine = "grid",
) -> PreparedModel:
    """Return a copy of a trained float model on the integer grid; the float model is not changed.

    The result is an ordinary ``nn.Module`` or ``keras.Model``. Parameters keep their names and float units; BatchNorm is
    folded into them. The prepared model computes in float until :func:`calibrate` is called.

    Args:
        model: a PyTorch module, or a Functional or Sequential Keras 3 model. A ``tf_keras`` model becomes a Keras 3 model by its
            layers and weights, and both are compared on a random batch; where a layer has no like in Keras 3, tfmot prepares it
            as ``engine="tfmot"`` does, and the logger ``qat`` names the layer. The path of a float ``.onnx`` or ``.tflite`` is
            loaded by :func:`load`.
        example_inputs: PyTorch: the inputs of a batch as the model takes them: a tensor, a tuple of the arguments of ``forward``
            in their order, or a mapping of them by name. Arguments may be nested (tuples, dictionaries, dataclasses), and those
            that are no tensors become part of the prepared model. Keras: not needed. A file: needed where it leaves sizes free
            besides the batch.
        recipe: a built-in name (``qat recipes`` lists them), the path of a YAML file, or a Recipe.
        target: the runtime that the artifact is for: ``onnxruntime`` (the default for PyTorch), ``litert`` (the default for
            Keras and for a ``.tflite``), or another name of :data:`qat.planning.targets.TARGETS`. ``arm``, ``x86`` and ``any``
            name ONNX Runtime's target by the processor.
        dynamic: axes of the inputs that the artifact takes in any size, besides the batch: ``("height", "width")`` of images,
            ``("length",)`` of signals, ``("tokens",)`` of texts: each axis that has the size of the example's tokens. Only for
            PyTorch models in ``.onnx`` whose layers fix no size (convolutions, attention, pooling to one value a channel). A
            file's own free axes stay free without a word, where the target writes an ``.onnx``.
        equalize: whether consecutive layers first share the ranges of their channels. This helps recipes that give a weight
            tensor one scale; see :mod:`qat.graph.equalization`.
        replace: activations that another stands for, such as ``{"silu": "hard_swish"}`` or ``{"gelu": "relu"}``, for devices
            without a quick kernel for the trained one; a recipe may have the same key. Fine-tuning has to follow, best with
            ``teacher=`` the float model.
        keep_zeros: whether training keeps the zeros of pruned weights, wherever a layer's weight is zero now. Masks of
            ``torch.nn.utils.prune`` are kept in any case.
        dropout: whether dropout, stochastic depth, noise and augmentation layers act in training as the float model's do. The
            plan names them; evaluation and the artifact never have them.
        engine: ``grid``, or for a ``tf_keras`` model ``tfmot``: tensorflow-model-optimization's fake quantization, whose parity
            with the artifact is measured and not promised.

    Returns:
        The prepared model. Its ``plan`` says how each operator runs, its ``grids`` hold the activation scales.

    Raises:
        CaptureError: the model's graph cannot be captured.
        ConfigError: the recipe or the target is unknown or invalid, or would quantize nothing.
        ExportError: the model is prepared already, or the target's format cannot hold one of its operators.

    Examples:
        >>> import qat, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> model = qat.prepare(net, torch.zeros(2, 4))
        >>> sorted(model.grids)
        ['input', 'linear_1', 'relu']
    """
    model, example_inputs = _loaded(model, example_inputs)
    if is_prepared(model):
        raise ExportError("this model is prepared already: pass the float model")
    framework = framework_of(model)
    spec = load_recipe(recipe).replacing(replace or {})
    if engine not in get_args(Engine) or (engine == "tfmot" and framework != "tf_keras"):
        raise ConfigError(f"engine '{engine}' is not for {framework} models: leave it out (tfmot is for models of tf_keras)")
    if framework == "tf_keras":
        converter = adapter_for(framework)
        if engine == "tfmot":
            return _by_tfmot(converter, model, spec, target, {"equalize": equalize, "keep_zeros": keep_zeros}, "engine='tfmot'")
        try:
            model = converter.as_keras3(model)
        except ConversionError as error:
            prepared = _by_tfmot(converter, model, spec, target, {"equalize": equalize, "keep_zeros": keep_zeros}, str(error))
            log.warning("tensorflow-model-optimization prepares the model, so that parity with its artifact is measured and not "
                        "promised: %s", error)  # fmt: skip
            return prepared
    return captured(model, example_inputs, target, dynamic, dropout).prepare(spec, equalize, keep_zeros)


def _by_tfmot(
    converter: ConverterAdapter, model: Model, recipe: Recipe, target: str | Target | None, options: Mapping[str, bool], why: str
) -> PreparedModel:
    """Return a model of tensorflow-model-optimization, without ``options``. ``why`` it prepares the model, for its errors."""
    if given := " and ".join(name for name, value in {**options, "replace": recipe.replace}.items() if value):
        raise ConfigError(f"tensorflow-model-optimization prepares this model ({why}): leave out {given}")
    try:
        prepared: PreparedModel = converter.prepare(model, recipe, target_for(converter, model, target))
    except (CaptureError, ConfigError) as error:
        raise type(error)(f"{error} ({why})") from error
    return prepared


def plan(
    model: Model | str | Path,
    example_inputs: Inputs | None = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    dynamic: Sequence[str] = (),
) -> Plan:
    """Return the plan by which :func:`prepare` would build a model, without building it.

    Args:
        model: a float model, the path of a file as for :func:`prepare`, or a prepared model, whose own plan is returned.
        example_inputs: as for :func:`prepare`.
        recipe: as for :func:`prepare`.
        target: as for :func:`prepare`.
        dynamic: as for :func:`prepare`.

    Raises:
        CaptureError: the model's graph cannot be captured, or a layer of a ``tf_keras`` model has no like in Keras 3.
        ConfigError: the recipe or the target is unknown or invalid, or would quantize nothing.

    Examples:
        >>> import qat, torch
        >>> plan = qat.plan(torch.nn.Linear(4, 3), torch.zeros(2, 4))
        >>> [(row["op"], row["runs"]) for row in plan.table()]
        [('dense', 'integer')]
    """
    model, example_inputs = _loaded(model, example_inputs)
    if is_prepared(model):
        if framework_of(model) == "tf_keras":
            raise CaptureError("tensorflow-model-optimization prepared this model, and placed its nodes: there is no plan")
        return model.plan
    spec = load_recipe(recipe)
    return captured(model, example_inputs, target, dynamic).plan(spec)


def _loaded(model: Model | str | Path, example_inputs: Inputs | None) -> tuple[Model, Inputs | None]:
    """Return a model, that of a file loaded, and its example inputs: those of the file where none are given."""
    if not isinstance(model, (str, Path)):
        return model, example_inputs
    loaded = load(model, example_inputs)
    return loaded, example_of(loaded) if example_inputs is None else example_inputs


def load_prepared(model: P, path: str | Path) -> P:
    """Load the weights and ranges of a checkpoint into a prepared model, and return the model that holds them.

    Args:
        model: prepared as the checkpoint's model was: from the same float model, recipe and target.
        path: a ``.safetensors`` (PyTorch) or ``.keras`` (Keras 3) file, which :func:`finetune` writes into ``checkpoint_dir``
            as ``best`` and ``last``.

    Returns:
        PyTorch: ``model`` itself. Keras: another model.

    Raises:
        DataError: the file is missing, truncated, or of another model.

    Examples:
        >>> import numpy as np, qat, torch
        >>> net, x = torch.nn.Linear(4, 3), np.ones((8, 4), np.float32)
        >>> model = qat.calibrate(qat.prepare(net, x), [x])
        >>> history = qat.finetune(model, [(x, np.zeros(8, np.int64))], checkpoint_dir="checkpoints", progress=False)
        >>> model = qat.load_prepared(qat.prepare(net, x), "checkpoints/best.safetensors")
        >>> all(grid.calibrated for grid in model.grids.values())
        True
    """
    loaded = load_weights(model, Path(path))
    if is_prepared(loaded) and framework_of(loaded) != "tf_keras" and all(grid.calibrated for grid in loaded.grids.values()):
        clear_borders(loaded)  # a checkpoint may be of a step at which the ranges still moved
    return loaded
