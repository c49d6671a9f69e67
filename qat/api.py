"""The calls: prepare, calibrate, correct_biases, adaround, finetune, export, compare, ptq_baselines, plan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.baselines import ptq_baselines
from qat.calibration.adaround import adaround
from qat.calibration.bias_correction import correct_biases
from qat.calibration.calibrate import calibrate
from qat.exporters import export
from qat.graph.decompose import for_target
from qat.graph.equalization import equalize as equalized
from qat.graph.equalization import upper_ends
from qat.graph.fold_batch_norm import fold_batch_norm
from qat.planning.plan import Plan
from qat.planning.planner import plan as make_plan
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import Target, load_target
from qat.report.compare import compare
from qat.trainers import evaluate, finetune, load_weights

from .errors import CaptureError, ConfigError, ExportError
from .frameworks import adapter_for, framework_of, is_prepared

__all__ = [
    "adaround",
    "calibrate",
    "compare",
    "correct_biases",
    "evaluate",
    "export",
    "finetune",
    "load_prepared",
    "plan",
    "prepare",
    "ptq_baselines",
]

log = logging.getLogger("qat")


def prepare(
    model: Any,
    example_inputs: Any = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    dynamic: Sequence[str] = (),
    equalize: bool = False,
) -> Any:
    """Return a copy of a trained float model on the integer grid; the model itself is left as it is.

    The result is an ordinary ``nn.Module`` or ``keras.Model``. Parameters keep their names and float units; BatchNorm is
    folded into them. It computes in float until :func:`calibrate` is called.

    Args:
        model: a PyTorch module, or a Functional or Sequential Keras 3 model. One of ``tf_keras`` is prepared by
            tensorflow-model-optimization.
        example_inputs: PyTorch: a batch, or a tuple of batches, one for each argument of ``forward``. Keras: not needed.
        recipe: a built-in name (``qat recipes`` lists them), the path of a YAML file, or a Recipe.
        target: ``onnxruntime`` (PyTorch's default), ``litert`` (Keras' default), ... (see :data:`qat.planning.targets.TARGETS`).
        dynamic: axes of the inputs that the artifact takes in any size, beside the batch: ``("height", "width")`` of images,
            ``("length",)`` of signals. For PyTorch models that fix no size (convolutional, or pooled to one), in ``.onnx``.
        equalize: whether consecutive layers share the ranges of their channels first, for recipes of one scale a weight tensor;
            see :mod:`qat.graph.equalization`.

    Raises:
        CaptureError: the model's graph cannot be captured.
        ConfigError: the recipe or the target is unknown or invalid, or would quantize nothing.
    """
    if is_prepared(model):
        raise ExportError("this model is prepared already: pass the float model")
    framework = framework_of(model)
    adapter = adapter_for(framework)
    spec, chosen = load_recipe(recipe), _target_for(adapter, target)
    if framework == "tf_keras":
        if equalize:
            raise ConfigError(
                "a tf_keras model is prepared by tensorflow-model-optimization: leave out equalize, or load it with Keras 3"
            )
        return adapter.prepare(model, spec, chosen)
    traced, made, params = _trace_and_plan(adapter, model, example_inputs, spec, chosen, dynamic, equalize)
    floats = made.floats()
    if floats:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(floats.items())[:3])
        more = f" and {len(floats) - 3} more" if len(floats) > 3 else ""
        log.warning("%d of %d operators stay float (%s%s)", len(floats), len(made.ops), shown, more)
    return adapter.insert(traced, made, params)


def plan(
    model: Any,
    example_inputs: Any = None,
    recipe: str | Path | Recipe = "static_wi8_ai8",
    target: str | Target | None = None,
    dynamic: Sequence[str] = (),
) -> Plan:
    """Return what :func:`prepare` would do, without doing it: ``plan(...).table()`` has one row an operator."""
    adapter = adapter_for(framework_of(model))
    if framework_of(model) == "tf_keras":
        raise CaptureError("tensorflow-model-optimization places the nodes of a tf_keras model: load it with Keras 3 for a plan")
    if is_prepared(model):
        prepared_plan: Plan = model.plan
        return prepared_plan
    return _trace_and_plan(adapter, model, example_inputs, load_recipe(recipe), _target_for(adapter, target), dynamic)[1]


def _target_for(adapter: Any, target: str | Target | None) -> Target:
    return load_target(adapter.DEFAULT_TARGET if target is None else target)


def _trace_and_plan(
    adapter: Any,
    model: Any,
    example_inputs: Any,
    recipe: Recipe,
    target: Target,
    dynamic: Sequence[str],
    equalize: bool = False,
) -> tuple[Any, Plan, Any]:
    if dynamic and (framework_of(model) != "torch" or target.suffix != ".onnx"):
        raise ConfigError("dynamic sizes are for PyTorch models in .onnx: leave out dynamic")
    if example_inputs is not None:
        example_inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        example_inputs = adapter.inputs_of((example_inputs,))
    traced = adapter.trace(model, example_inputs, dynamic) if dynamic else adapter.trace(model, example_inputs)
    graph, params = fold_batch_norm(traced.graph, traced.params)
    if equalize:
        params = equalized(graph, params, upper_ends(traced.graph, traced.params))
    return traced, make_plan(for_target(graph, target.kinds), recipe, target), params


def load_prepared(model: Any, path: str | Path) -> Any:
    """Load the weights and ranges of a checkpoint (``.safetensors``) into a prepared model and return it."""
    return load_weights(model, Path(path))
