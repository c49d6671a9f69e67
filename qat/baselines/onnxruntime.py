"""ONNX Runtime's quantization: dynamic, and static with each of its calibrators; of a PyTorch model, or of any float file."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_dynamic
from onnxruntime.quantization import quantize_static as ort_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from qat.program.caller_names import caller_names, paths_of
from qat.runtimes import ONNX
from qat.system.sample_axes import axes_of_batch
from qat.system.silence import quiet

from .baseline import Maker, Sample

if TYPE_CHECKING:
    import torch

FORMAT = ONNX
FLOAT_TOOL = "torch.onnx"
_TOOL = "ONNX Runtime"


def makers(model: torch.nn.Module, example: Sample, batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each baseline, the float model's first. The float model is exported once."""

    @cache
    def exported() -> bytes:
        return float_bytes(model, example)

    return [Maker("float", FLOAT_TOOL, "float32", exported, "float"), *quantizers(exported, batches, per_channel)]


def quantizers(exported: Callable[[], bytes], batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each of the tool's ways to quantize the bytes of a float file."""

    def static(method: CalibrationMethod) -> Callable[[], bytes]:
        return lambda: _static(exported(), batches, method, per_channel)

    weights = "per channel" if per_channel else "per tensor"
    return [
        Maker("onnxruntime_dynamic", _TOOL, f"dynamic, {weights}", lambda: _dynamic(exported(), per_channel)),
        *(
            Maker(f"onnxruntime_static_{method.name.lower()}", _TOOL, f"static {method.name}, {weights}", static(method))
            for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile)
        ),
    ]


def float_bytes(model: torch.nn.Module, example: Sample) -> bytes:
    """Return a float model as the bytes of an ``.onnx``, with a dynamic batch."""
    import torch
    from torch.onnx.errors import OnnxExporterError

    from qat.adapters.torch.capture.decompose import composites_listed_once
    from qat.adapters.torch.capture.export import plain
    from qat.adapters.torch.capture.quick_shapes import quick_shapes
    from qat.adapters.torch.onnx_library import library_read_once
    from qat.adapters.torch.signature import call_of

    axes = axes_of_batch([x.shape for x in example])
    two = (x if axis is None else x.take(np.arange(2) % x.shape[axis], axis) for x, axis in zip(example, axes, strict=True))
    tensors = tuple(torch.from_numpy(np.array(x)) for x in two)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    try:
        with quiet(), torch.no_grad(), library_read_once(), composites_listed_once(), quick_shapes():
            placed = tuple(t.to(device) for t in tensors)
            options: dict[str, Any] = {
                "dynamo": True, "verbose": False, "opset_version": 18, "output_names": _output_names(model.eval()(*placed)),
            }  # fmt: skip
            try:
                free = tuple(None if axis is None else {axis: torch.export.Dim.DYNAMIC} for axis in axes)
                program = torch.onnx.export(model, placed, dynamic_shapes=free, **options)
            except OnnxExporterError:
                # Models that count their samples, such as YOLO's heads: this toolkit's own capture takes them for any batch.
                program = torch.onnx.export(plain(model, call_of(model, tensors)), **options)
    finally:
        model.train(training)
    assert program is not None
    return program.model_proto.SerializeToString()


def _output_names(outputs: object) -> list[str] | None:
    """Return the names of several outputs, as this toolkit's own artifacts have them; None for a single one."""
    paths = [*paths_of(outputs)]
    return [*caller_names(paths, [f"output_{i}" for i in range(len(paths))])] if len(paths) > 1 else None


class _Reader(CalibrationDataReader):
    """Gives the calibrators one batch after another."""

    def __init__(self, names: list[str], batches: list[Sample]) -> None:
        self._names, self._batches = names, iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(zip(self._names, batch, strict=True))


def _dynamic(raw: bytes, per_channel: bool) -> bytes:
    with _files(raw) as (source, target):
        ort_dynamic(source, target, per_channel=per_channel, weight_type=QuantType.QInt8)
        return Path(target).read_bytes()


def _static(raw: bytes, batches: list[Sample], method: CalibrationMethod, per_channel: bool) -> bytes:
    names = [i.name for i in onnx.load_from_string(raw).graph.input]
    # Histogram calibrators need batches of one size.
    equal = [b for b in batches if len(b[0]) == len(batches[0][0])]
    with _files(raw) as (source, target):
        ort_static(
            source, target, _Reader(names, equal), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            # Without VNNI, 8-bit U8S8 products saturate: ONNX Runtime's own advice for x86 is 7 bits.
            reduce_range=platform.machine().lower() in ("x86_64", "amd64"),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=method,
        )  # fmt: skip
        return Path(target).read_bytes()


@contextlib.contextmanager
def _files(raw: bytes) -> Iterator[tuple[str, str]]:
    """Give the paths of the preprocessed float model and of the quantized one, and silence the tool meanwhile."""
    # The tool leaves files of its own in the working folder.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet():
        source = f"{folder}/float.onnx"
        Path(f"{folder}/raw.onnx").write_bytes(raw)
        _preprocess(f"{folder}/raw.onnx", source)
        yield source, f"{folder}/quantized.onnx"


def _preprocess(raw: str, source: str) -> None:
    """Preprocess a float model as the tool's documentation asks; without its symbolic shapes where it cannot infer them all."""
    try:
        quant_pre_process(raw, source)
    except Exception:  # whatever its inference of shapes raises: an operator or a size that it does not know
        quant_pre_process(raw, source, skip_symbolic_shape=True)
