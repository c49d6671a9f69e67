"""The library of ONNX forms by which ``torch.onnx`` translates operators, read once.

``torch.onnx.export`` parses the source of its 500 functions at each call, which takes 0.4 s: more than the rest of a float
block's translation.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from qat.system.silence import quiet

_reading = vars(ONNXRegistry)["from_torchlib"]


@functools.cache
def _library(opset: int, operators: int) -> ONNXRegistry:
    with quiet():
        return _reading.__get__(None, ONNXRegistry)(opset)


def onnx_library(opset_version: int = ONNXRegistry().opset_version) -> ONNXRegistry:
    """Return a copy of the library for an opset; one read anew where PyTorch has got operators since."""
    kept = _library(opset_version, len(torch._C._dispatch_get_all_op_names()))
    copied = ONNXRegistry()
    copied._opset_version = kept.opset_version
    copied.functions = {operator: list(forms) for operator, forms in kept.functions.items()}
    return copied


@contextlib.contextmanager
def library_read_once() -> Iterator[None]:
    """Let ``torch.onnx.export`` within it take :func:`onnx_library` instead of reading the library itself."""
    ONNXRegistry.from_torchlib = staticmethod(onnx_library)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = _reading  # type: ignore[method-assign]
