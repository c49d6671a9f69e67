"""ONNX Runtime's quantization of a PyTorch model: dynamic, and static with each of its calibrators."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization import quantize_dynamic as ort_dynamic
from onnxruntime.quantization import quantize_static as ort_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from qat.system.silence import quiet

from .baseline import Maker

Batches = list[tuple[np.ndarray, ...]]


def makers(model: torch.nn.Module, example: tuple[np.ndarray, ...], batches: Batches, per_channel: bool) -> list[Maker]:
    """Return every baseline of this tool; the float model is exported once."""

    @cache
    def exported() -> bytes:
        return float_bytes(model, example)

    weights = "per channel" if per_channel else "per tensor"
    out: list[Maker] = [
        ("float", "torch.onnx", "float32", exported),
        ("onnxruntime_dynamic", "ONNX Runtime", f"dynamic, {weights}", lambda: _dynamic(exported(), per_channel)),
    ]
    for name in ("MinMax", "Entropy", "Percentile"):
        method = getattr(CalibrationMethod, name)

        def static(method: CalibrationMethod = method) -> bytes:
            return _static(exported(), batches, method, per_channel)

        out.append((f"onnxruntime_static_{name.lower()}", "ONNX Runtime", f"static {name}, {weights}", static))
    return out


def float_bytes(model: torch.nn.Module, example: tuple[np.ndarray, ...]) -> bytes:
    """Export the float model with a dynamic batch."""
    tensors = tuple(torch.from_numpy(np.array(x[:2] if len(x) > 1 else np.repeat(x, 2, 0))) for x in example)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    try:
        with quiet():
            program = torch.onnx.export(
                model.eval(), tuple(t.to(device) for t in tensors), dynamo=True, verbose=False, opset_version=18,
                dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in tensors),
            )  # fmt: skip
    finally:
        model.train(training)
    assert program is not None
    raw: bytes = program.model_proto.SerializeToString()
    return raw


class _Reader(CalibrationDataReader):
    """Feeds the samples in batches."""

    def __init__(self, names: list[str], batches: Batches) -> None:
        self._names, self._batches = names, iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(zip(self._names, batch, strict=True))


def _dynamic(raw: bytes, per_channel: bool) -> bytes:
    with _files(raw) as (source, target), quiet():
        ort_dynamic(source, target, per_channel=per_channel, weight_type=QuantType.QInt8)
        return Path(target).read_bytes()


def _static(raw: bytes, batches: Batches, method: CalibrationMethod, per_channel: bool) -> bytes:
    names = [i.name for i in onnx.load_from_string(raw).graph.input]
    # Histogram calibrators need batches of one size.
    equal = [b for b in batches if len(b[0]) == len(batches[0][0])]
    with _files(raw) as (source, target), quiet():
        ort_static(
            source, target, _Reader(names, equal), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            # Without VNNI, 8-bit U8S8 products saturate: ONNX Runtime's own advice for x86 is 7 bits.
            reduce_range=platform.machine().lower() in ("x86_64", "amd64"),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=method,
        )  # fmt: skip
        return Path(target).read_bytes()


@contextlib.contextmanager
def _files(raw: bytes) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder, quiet():
        source = f"{folder}/float.onnx"
        Path(f"{folder}/raw.onnx").write_bytes(raw)
        quant_pre_process(f"{folder}/raw.onnx", source)
        yield source, f"{folder}/quantized.onnx"
