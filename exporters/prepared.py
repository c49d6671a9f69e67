"""Exporting a prepared model: lowered by its adapter, written in its target's format, verified against itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qat.calibration.evidence import Beyond
from qat.display.progress import bar, shown, tracked
from qat.errors import CalibrationError, ConfigError, ExportError
from qat.frameworks import adapter_for, framework_of, has_plan, in_order, is_prepared
from qat.graph.kinds import STEPS
from qat.planning.targets import TARGETS, Target
from qat.program.program import Program
from qat.program.rename import names_in_file, renamed
from qat.runtimes import TFLITE
from qat.system.samples import batches_of, first_of_pair
from qat.typing import Adapter, IoDtype, Layout, PreparedModel, Samples

from .artifact import Artifact
from .divergence import ADVICE
from .export import export_converted, export_lowered
from .metadata import Metadata

log = logging.getLogger("qat")


def export(
    model: PreparedModel,
    path: str | Path,
    verify: Samples | None = None,
    io_dtype: IoDtype = "int8",
    overwrite: bool = False,
    layout: Layout | None = None,
    metadata: Metadata | None = None,
    *,
    outputs: Sequence[str] | None = None,
    progress: bool = True,
) -> Artifact:
    """Write a calibrated (and trained) model as an integer artifact, and its encodings as JSON beside it.

    Args:
        model: from :func:`qat.prepare` and :func:`qat.calibrate`.
        path: of the artifact. It ends in ``.onnx`` or ``.tflite``, as the model's target demands.
        verify: held-out inputs, batches of them or ``(inputs, labels)`` pairs. The artifact runs on these inputs in its
            runtime, and ``artifact.parity`` compares its outputs with the model's. None skips this proof.
        io_dtype: the type of a ``.tflite``'s inputs and outputs: ``int8``, ``uint8`` or ``float32``. Those of an ``.onnx`` are
            float32.
        overwrite: whether an existing file may be replaced.
        layout: how the images lie that the artifact takes and returns, ``NCHW`` or ``NHWC``. None: NHWC in a ``.tflite`` of a
            model with convolutions or pooling, else as in the model; a log line says where this is not the model's layout.
            Inside the artifact images lie as the format's kernels demand; a transpose stands where the two differ.
        metadata: labels, the normalization of pixels, a description, for the libraries that read them from the file: in a
            ``.tflite`` as TFLite's metadata, in an ``.onnx`` as ``metadata_props``.
        outputs: the names of the outputs that the artifact has, and with it the operators that compute these: without heads
            that training alone needs. None: all. The names are the keys of a dictionary, else ``output_0``, ``output_1``, ...
            of PyTorch and those of the output layers of Keras.
        progress: as for :func:`qat.calibrate`.

    Returns:
        The file's path, size, encodings and parity.

    Raises:
        CalibrationError: the model is not prepared, or not calibrated.
        ConfigError: a label is no line of text, a number of the normalization is missing or wrong, or there is no such output.
        ExportError: the path cannot be written, or exists, or has another suffix than the target's; or the metadata do not fit.
        RuntimeMismatchError: a scale in the artifact is not the trained one.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), x), [x])
        >>> artifact = qat.export(model, "linear.onnx", verify=[x])
        >>> artifact.parity.exact
        1.0
    """
    if not is_prepared(model):
        raise CalibrationError("export needs a prepared model: call qat.prepare and qat.calibrate first")
    with shown(progress), bar(f"export of {Path(path).name}"):
        return _export(model, Path(path), verify, io_dtype, overwrite, layout, metadata, outputs)


def refuse_unwritable(
    model: PreparedModel, suffix: str, io_dtype: IoDtype = "int8", outputs: Sequence[str] | None = None
) -> None:
    """Raise now, before training, what :func:`export` would raise after it.

    Args:
        model: calibrated.
        suffix: of the artifact.
        io_dtype, outputs: as for :func:`export`.

    Raises:
        ConfigError: there is no such output.
        ExportError: the format cannot hold the model.
    """
    with TemporaryDirectory() as folder:
        export(model, Path(folder) / f"tried{suffix}", io_dtype=io_dtype, outputs=outputs, progress=False)


def _export(
    model: PreparedModel,
    path: Path,
    verify: Samples | None,
    io_dtype: IoDtype,
    overwrite: bool,
    layout: Layout | None,
    metadata: Metadata | None,
    chosen: Sequence[str] | None,
) -> Artifact:
    framework = framework_of(model)
    inputs = len(model.plan.graph.inputs) if has_plan(model) else 1
    batches = None if verify is None else tracked(batches_of(verify, "verify"), "verification")
    data = None if batches is None else (in_order(model, first_of_pair(batch, inputs)) for batch in batches)
    if framework == "tf_keras":
        if layout not in (None, "NHWC"):
            raise ExportError("a tf_keras model is exported by TensorFlow's converter in its own layout: leave out layout")
        if chosen is not None:
            raise ExportError("a tf_keras model is exported by TensorFlow's converter, with all its outputs: leave out outputs")
        converter = adapter_for(framework)
        return export_converted(
            partial(converter.convert, model, path, io_dtype),
            path,
            io_dtype=io_dtype,
            overwrite=overwrite,
            predict=partial(converter.predict, model),
            data=data,
            metadata=metadata,
        )
    _check_suffix(model.plan.target, path)
    adapter = adapter_for(framework)
    if (found := adapter.first_not_finite(model)) is not None:
        raise ExportError(f"'{found}' holds NaN or infinite values: the weights have diverged: {ADVICE}")
    places, lowered = _lowered(adapter, model, chosen)
    names = names_in_file(lowered, signature=path.suffix == TFLITE.suffix, chosen=chosen is not None)
    program = renamed(lowered, names)

    def locate(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {names.get(name, name): value for name, value in adapter.grid_values(model, *inputs).items()}

    def predict(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        found = adapter.predict(model, *inputs)
        return tuple(found[place] for place in places)

    beyond = Beyond(model)
    made = export_lowered(
        program,
        path,
        framework=framework,
        io_dtype=io_dtype,
        overwrite=overwrite,
        predict=predict,
        locate=locate,
        data=None if data is None else beyond.counted(data),
        layout=layout or _default_layout(program, path),
        metadata=metadata,
    )
    beyond.log()
    return made


def _lowered(adapter: Adapter, model: PreparedModel, chosen: Sequence[str] | None) -> tuple[Sequence[int], Program]:
    """Return the places of the chosen outputs among the model's, and the program that computes them."""
    program = adapter.lower(model)
    if chosen is None:
        return range(len(program.outputs)), program
    names = program.output_names
    if isinstance(chosen, str) or not chosen or (unknown := [name for name in chosen if name not in names]):
        said = "outputs is a list of names" if isinstance(chosen, str) or not chosen else f"there is no output '{unknown[0]}'"
        raise ConfigError(f"{said}: the model's outputs are {', '.join(names)}")
    places = [place for place, name in enumerate(names) if name in chosen]
    return places, adapter.lower(model, [model.plan.graph.outputs[place] for place in places])


def _default_layout(program: Program, path: Path) -> Layout | None:
    """Return the layout of the artifact's images where the user names none; None for the model's own.

    TFLite's tools and phones hand images over as NHWC. A model without an operator of images keeps its layout: its tensors of
    four axes may be the heads of an attention. A model that was read from a file takes and returns what the file does.
    """
    if program.origin is not None:
        return None
    of_images = any(STEPS[step.kind].layout == "kernel" for step in program.instructions)
    border = [name for name in (*program.inputs, *program.outputs) if len(program.values[name].shape) in (4, 5)]
    if path.suffix != TFLITE.suffix or program.layout == TFLITE.layout or not of_images or not border:
        return None
    log.warning(
        "%s takes and returns images as NHWC (batch, height, width, channels), as TFLite does; the model's are %s: "
        "layout='%s' keeps them so (%s)", path, program.layout, program.layout, ", ".join(border),
    )  # fmt: skip
    return "NHWC"


def _check_suffix(target: Target, path: Path) -> None:
    if not target.suffix:
        others = ", ".join(f"'{t.name}'" for t in TARGETS.values() if t.suffix)
        raise ExportError(
            f"{path}: target '{target.name}' has no runtime, so that there is nothing to export: the prepared model is all there "
            f"is; for an artifact prepare with a recipe of 8-bit activations for target {others}"
        )
    if path.suffix == target.suffix:
        return
    others = ", ".join(f"'{t.name}'" for t in TARGETS.values() if path.suffix and t.suffix == path.suffix)
    hint = f"; to write a {path.suffix}, prepare the model for target {others}" if others else ""
    raise ExportError(
        f"{path}: the model was prepared for target '{target.name}', which runs {target.suffix} files: end the path in "
        f"{target.suffix}{hint}"
    )
