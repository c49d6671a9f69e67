"""PTQ baselines: what people would otherwise use, from the same float weights and the same calibration samples."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from qat.errors import DataError, reason_of
from qat.frameworks import Framework, adapter_for, framework_of
from qat.runtimes.model_file import FileKind
from qat.system.atomic_files import write_atomically
from qat.typing import Batches, Inputs, Model

from .baseline import Baseline, Maker


def ptq_baselines(
    float_model: Model,
    samples: Batches,
    out_dir: str | Path,
    *,
    example_inputs: Inputs | None = None,
    per_channel: bool = True,
    overwrite: bool = False,
) -> list[Baseline]:
    """Quantize a float model with every post-training tool for its framework.

    PyTorch: ONNX Runtime, dynamic and static (MinMax, Entropy, Percentile). Keras: the TFLite converter (dynamic range,
    float16, full int8 with int8 and with uint8 I/O) and AI Edge Quantizer.

    Args:
        float_model: as given to :func:`qat.prepare`.
        samples: calibration batches of inputs, or ``(inputs, labels)`` pairs; read into memory.
        out_dir: where the files go.
        example_inputs: PyTorch: an input batch; None takes the first sample.
        per_channel: whether weights get one scale per channel, where the tool offers the choice.
        overwrite: whether existing files may be replaced.

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
    framework = framework_of(float_model)
    inputs_of = adapter_for(framework).inputs_of
    batches = [tuple(np.asarray(x) for x in inputs_of(sample)) for sample in samples]
    if not batches:
        raise DataError("PTQ got no calibration samples: pass at least one batch")
    example = batches[0] if example_inputs is None else tuple(np.asarray(x) for x in inputs_of((example_inputs,)))
    module, suffix = _tools(framework)
    makers = module.makers(float_model, example, batches, per_channel)
    return [_make(maker, framework, Path(out_dir), suffix, overwrite) for maker in makers]


def float_baseline(
    model: Model, example_inputs: Inputs, out_dir: str | Path, name: str = "float", kind: FileKind = "float"
) -> Baseline:
    """Write a float model as an artifact of its framework's format, an existing file replaced."""
    framework = framework_of(model)
    module, suffix = _tools(framework)
    example = tuple(np.asarray(x) for x in adapter_for(framework).inputs_of((example_inputs,)))
    tool = "torch.onnx" if framework == "torch" else "TFLite converter"
    maker: Maker = (name, tool, "float32", lambda: module.float_bytes(model, example))
    return _make(maker, framework, Path(out_dir), suffix, overwrite=True, kind=kind)


def _tools(framework: Framework) -> tuple[ModuleType, str]:
    if framework == "torch":
        from . import onnxruntime

        return onnxruntime, ".onnx"
    from . import tflite

    return tflite, ".tflite"


def _make(maker: Maker, framework: str, folder: Path, suffix: str, overwrite: bool, kind: FileKind | None = None) -> Baseline:
    name, tool, recipe, make = maker
    kind = kind or ("float" if name == "float" else "ptq")
    try:
        raw = make()
    except Exception as error:  # any tool may fail in any way; the comparison goes on and says so
        failed = f"{type(error).__name__}: {reason_of(error)}"
        return Baseline(name=name, kind=kind, path=None, framework=framework, tool=tool, recipe=recipe, error=failed)
    path = write_atomically(folder / f"{framework}_{name}{suffix}", raw, overwrite)
    return Baseline(name=name, kind=kind, path=path, bytes=len(raw), framework=framework, tool=tool, recipe=recipe)
