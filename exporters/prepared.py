"""Exporting a prepared model: lowered by its adapter, written in its target's format, verified against itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import CalibrationError, ExportError
from qat.frameworks import adapter_for, framework_of, is_prepared
from qat.planning.targets import TARGETS, Target
from qat.system.samples import batches_of, first_of_pair

from .artifact import Artifact
from .export import export_converted, export_lowered


def export(
    model: Any,
    path: str | Path,
    verify: Any = None,
    io_dtype: str = "int8",
    overwrite: bool = False,
    layout: str | None = None,
) -> Artifact:
    """Write the trained model as an integer artifact and return an :class:`Artifact`.

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
    path = Path(path)
    data = None if verify is None else (first_of_pair(batch, _inputs(model)) for batch in batches_of(verify, "verify"))

    def predict(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs: tuple[np.ndarray, ...] = adapter.predict(model, *arrays)
        return outputs

    def locate(*arrays: np.ndarray) -> Mapping[str, np.ndarray]:
        values: Mapping[str, np.ndarray] = adapter.grid_values(model, *arrays)
        return values

    if framework == "tf_keras":
        if layout not in (None, "NHWC"):
            raise ExportError("a tf_keras model is exported by TensorFlow's converter in its own layout: leave out layout")
        return export_converted(
            lambda: adapter.convert(model, path, io_dtype),
            path,
            io_dtype=io_dtype,
            overwrite=overwrite,
            predict=predict,
            data=data,
        )
    _check_suffix(model.plan.target, path)
    return export_lowered(
        adapter.lower(model),
        path,
        framework=framework,
        io_dtype=io_dtype,
        overwrite=overwrite,
        predict=predict,
        locate=locate,
        data=data,
        layout=layout,
    )


def _inputs(model: Any) -> int:
    plan = getattr(model, "plan", None)
    return 1 if plan is None else len(plan.graph.inputs)


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
