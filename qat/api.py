"""The calls: prepare, calibrate, correct_biases, adaround, finetune, export, compare, ptq_baselines, plan."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qat.calibration.adaround import adaround
from qat.calibration.bias_correction import correct_biases
from qat.calibration.calibrate import calibrate
from qat.graph.decompose import for_target
from qat.graph.equalization import equalize as equalized
from qat.graph.equalization import upper_ends
from qat.graph.fold_batch_norm import fold_batch_norm
from qat.planning.planner import Plan
from qat.planning.planner import plan as make_plan
from qat.planning.recipe import Recipe, load_recipe
from qat.planning.targets import TARGETS, Target, load_target

from .errors import CalibrationError, CaptureError, ConfigError, ExportError
from .frameworks import adapter_for, batches_of, first_of_pair, framework_of, is_prepared

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


def _check_suffix(target: Target, path: Path) -> None:
    if not target.suffix:
        others = ", ".join(f"'{t.name}'" for t in TARGETS.values() if t.suffix)
        raise ExportError(
            f"{path}: target '{target.name}' has no runtime, so that there is nothing to export: the prepared model is all there "
            f"is; for an artifact prepare with a recipe of 8-bit activations for target {others}"
        )
    if path.suffix == target.suffix:
        return
    others = ", ".join(f"'{t.name}'" for t in TARGETS.values() if t.suffix == path.suffix)
    hint = f"; to write a {path.suffix}, prepare the model for target {others}" if others else ""
    raise ExportError(
        f"{path}: the model was prepared for target '{target.name}', which runs {target.suffix} files: end the path in "
        f"{target.suffix}{hint}"
    )


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
    return traced, make_plan(for_target(graph, target), recipe, target), params


def finetune(model: Any, train_data: Iterable[Any], eval_data: Iterable[Any] | None = None, **options: Any) -> Any:
    """Fine-tune a prepared (or float) model; returns the :class:`qat.trainers.History`.

    The best weights by the evaluation metric are left in the model. Options are the fields of
    :class:`qat.trainers.TrainingOptions`, which says what each does and what it is by default.

    Args:
        model: from :func:`prepare` and :func:`calibrate`, or a float model (the control).
        train_data: batches of ``(inputs, labels)``; iterated once an epoch.
        eval_data: the same for validation, after each epoch.

    Raises:
        CalibrationError: a prepared model was not calibrated.
        DataError: no batches, or NaN in the data; the message names the batch.
    """
    return _part("trainers").finetune(model, train_data, eval_data, **options)


def evaluate(model: Any, data: Iterable[Any], **options: Any) -> dict[str, float]:
    """Return a model's metrics on ``(inputs, labels)`` batches, as training measures them; see :func:`qat.trainers.evaluate`."""
    found: dict[str, float] = _part("trainers").evaluate(model, data, **options)
    return found


def export(
    model: Any,
    path: str | Path,
    verify: Any = None,
    io_dtype: str = "int8",
    overwrite: bool = False,
    layout: str | None = None,
) -> Any:
    """Write the trained model as an integer artifact and return an :class:`qat.exporters.Artifact`.

    Args:
        model: a calibrated (and trained) prepared model.
        path: ending in ``.onnx`` or ``.tflite``, as the target that the model was prepared for runs it.
        verify: held-out inputs, batches of them or ``(inputs, labels)`` pairs: the artifact runs on them in its runtime and
            ``artifact.parity`` says how it compares with the model. None skips that.
        io_dtype: of a ``.tflite``'s inputs and outputs: ``int8``, ``uint8`` or ``float32``. An ``.onnx`` has float32.
        overwrite: whether an existing file may be replaced.
        layout: of the images that the artifact takes and returns, ``NCHW`` or ``NHWC``; None: as the model does. Inside, they
            lie as the format's kernels want them; a transpose stands where the two differ.

    Raises:
        CalibrationError: the model was not calibrated.
        ExportError: the path cannot be written, or exists, or has another suffix.
        RuntimeMismatchError: a scale in the artifact is not the trained one.
    """
    if not is_prepared(model):
        raise CalibrationError("export needs a prepared model: call qat.prepare and qat.calibrate first")
    framework = framework_of(model)
    adapter = adapter_for(framework)
    options = {
        "io_dtype": io_dtype,
        "overwrite": overwrite,
        "predict": lambda *arrays: adapter.predict(model, *arrays),
        "data": None if verify is None else (first_of_pair(batch, _inputs(model)) for batch in batches_of(verify, "verify")),
    }
    if framework == "tf_keras":
        if layout not in (None, "NHWC"):
            raise ExportError("a tf_keras model is exported by TensorFlow's converter in its own layout: leave out layout")
        return _part("exporters").export_converted(lambda: adapter.convert(model, Path(path), io_dtype), Path(path), **options)
    _check_suffix(model.plan.target, Path(path))
    program = adapter.lower(model)
    options["layout"] = layout
    locate = lambda *arrays: adapter.grid_values(model, *arrays)  # noqa: E731
    return _part("exporters").export(program, Path(path), framework=framework, locate=locate, **options)


def _inputs(model: Any) -> int:
    plan = getattr(model, "plan", None)
    return 1 if plan is None else len(plan.graph.inputs)


def load_prepared(model: Any, path: str | Path) -> Any:
    """Load the weights and ranges of a checkpoint (``.safetensors``) into a prepared model and return it."""
    return _part("trainers").load_weights(model, Path(path))


def ptq_baselines(float_model: Any, samples: Iterable[Any], out_dir: str | Path, **options: Any) -> list[Any]:
    """Quantize a float model with the tools people would otherwise use; see :func:`qat.baselines.ptq_baselines`."""
    from . import baselines as ptq

    return ptq.ptq_baselines(float_model, samples, out_dir, **options)


def compare(entries: Sequence[Any], data: Any, **options: Any) -> Any:
    """Run artifacts in their runtimes on the same data; see :func:`qat.report.compare.compare`."""
    return _part("comparison").compare(entries, data, **options)


def _part(name: str) -> Any:
    """Import a part of the toolkit when it is needed: it may bring a runtime or a framework with it."""
    return importlib.import_module(f"qat.{name}")
