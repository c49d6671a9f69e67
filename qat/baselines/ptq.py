"""PTQ baselines: the tools without training, on the same float weights and the same calibration samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from qat.display.progress import bar, shown
from qat.errors import DataError, reason_of
from qat.frameworks import Framework, flattened, framework_of, input_count
from qat.planning.targets import Target, load_target
from qat.runtimes import ONNX, TFLITE
from qat.runtimes.model_file import FileKind
from qat.system.atomic_files import write_atomically
from qat.system.samples import batches_of, first_of_pair
from qat.typing import Batches, Inputs, Model

from .baseline import Baseline, Maker, Tools


def ptq_baselines(
    float_model: Model | str | Path,
    samples: Batches,
    out_dir: str | Path,
    *,
    example_inputs: Inputs | None = None,
    per_channel: bool = True,
    overwrite: bool = False,
    target: str | Target | None = None,
    progress: bool = True,
) -> list[Baseline]:
    """Quantize a float model with every post-training tool for its framework and the target's format.

    PyTorch: ONNX Runtime, dynamic and static (MinMax, Entropy, Percentile); for a target that runs ``.tflite``, AI Edge
    Quantizer on this toolkit's own float file. Keras: the TFLite converter (dynamic range, float16, full int8 with int8 and
    with uint8 I/O) and AI Edge Quantizer; for a target that runs ``.onnx``, ONNX Runtime's on tf2onnx's float file. A file:
    ONNX Runtime on an ``.onnx``; AI Edge Quantizer on a ``.tflite``, whose float16 or sparse weights become constants first,
    since the tool would leave them as they are.

    Args:
        float_model: as given to :func:`qat.prepare`, or the path of a float ``.onnx`` or ``.tflite``.
        samples: calibration batches of inputs, or ``(inputs, labels)`` pairs; read into memory. Several inputs are a tuple:
            ``(a, b)``, or with labels ``((a, b), labels)``.
        out_dir: where the files go.
        example_inputs: PyTorch: an input batch; None takes the first sample.
        per_channel: whether weights get one scale per channel, where the tool offers the choice.
        overwrite: whether existing files may be replaced.
        target: that the model is prepared for, so that files of one kind are compared; None: ``onnxruntime`` for PyTorch,
            ``litert`` for Keras.
        progress: as for :func:`qat.calibrate`.

    Returns:
        One baseline a tool, the float model's file first. Where a tool fails, its baseline has no path, and ``error`` says why.

    Raises:
        DataError: there are no samples.
        ExportError: a file cannot be written.

    Examples:
        >>> import numpy as np, qat, torch
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> baselines = qat.ptq_baselines(torch.nn.Linear(4, 3), [x], "baselines")
        >>> [baseline.name for baseline in baselines][:2]
        ['float', 'onnxruntime_dynamic']
    """
    if isinstance(float_model, (str, Path)):
        return _of_file(Path(float_model), samples, Path(out_dir), per_channel, overwrite)
    framework = framework_of(float_model)
    count = len(example_inputs) if isinstance(example_inputs, (tuple, list)) else input_count(float_model)
    found = [first_of_pair(sample, count) for sample in batches_of(samples, "the calibration samples")]
    batches = [flattened(float_model, inputs)[1] for inputs in found]
    if not batches:
        raise DataError("PTQ got no calibration samples: pass at least one batch")
    float_model, example = flattened(float_model, found[0] if example_inputs is None else example_inputs)
    tools = _tools(framework, target)
    makers = tools.makers(float_model, example, batches, per_channel)
    made = []
    with shown(progress), bar("PTQ baselines", len(makers)) as tools_done:
        for maker in makers:
            tools_done.note = maker.name
            made.append(_make(maker, framework, _path(tools, framework, out_dir, maker), overwrite))
            tools_done.advance()
    return made


def _of_file(path: Path, samples: Batches, folder: Path, per_channel: bool, overwrite: bool) -> list[Baseline]:
    from .of_file import input_names, makers

    names = input_names(path)
    batches = [_as_tuple(first_of_pair(sample, len(names))) for sample in batches_of(samples, "the calibration samples")]
    if not batches:
        raise DataError("PTQ got no calibration samples: pass at least one batch")
    made = makers(path, batches, per_channel)
    return [_make(maker, "", folder / f"{path.stem}_{maker.name}{path.suffix}", overwrite) for maker in made]


def _as_tuple(inputs: object) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))


def float_baseline(
    model: Model,
    example_inputs: Inputs,
    out_dir: str | Path,
    name: str = "float",
    kind: FileKind = "float",
    target: str | Target | None = None,
) -> Baseline:
    """Write a float model in its framework's format. An existing file is replaced.

    Args:
        model: as given to :func:`qat.prepare`.
        example_inputs: a batch of inputs.
        out_dir: where the file goes.
        name: of the baseline.
        kind: of the baseline: ``float``, or ``control``.
        target: as for :func:`ptq_baselines`.

    Returns:
        The baseline. Where the export fails, it has no path, and ``error`` says why.
    """
    framework = framework_of(model)
    tools = _tools(framework, target)
    model, example = flattened(model, example_inputs)
    maker = Maker(name, tools.FLOAT_TOOL, "float32", lambda: tools.float_bytes(model, example), kind)
    return _make(maker, framework, _path(tools, framework, out_dir, maker), overwrite=True)


def _tools(framework: Framework, target: str | Target | None) -> Tools:
    suffix = None if target is None else load_target(target).suffix
    if framework == "torch" and suffix == TFLITE.suffix:
        from . import torch_tflite

        return torch_tflite
    if framework == "keras" and suffix == ONNX.suffix:
        from . import keras_onnx

        return keras_onnx
    if framework == "torch":
        from . import onnxruntime

        return onnxruntime
    from . import tflite

    return tflite


def _path(tools: Tools, framework: str, folder: str | Path, maker: Maker) -> Path:
    return Path(folder) / f"{framework}_{maker.name}{tools.FORMAT.suffix}"


def _make(maker: Maker, framework: str, path: Path, overwrite: bool) -> Baseline:
    try:
        raw = maker.make()
    except Exception as error:  # any tool may fail in any way; the comparison goes on and reports the failure
        made = Baseline(name=maker.name, kind=maker.kind, path=None, error=f"{type(error).__name__}: {reason_of(error)}")
    else:
        path = write_atomically(path, raw, overwrite)
        made = Baseline(name=maker.name, kind=maker.kind, path=path, bytes=len(raw))
    return replace(made, framework=framework, tool=maker.tool, recipe=maker.recipe)
