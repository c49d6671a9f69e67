"""Baselines of a float file: what other tools make of the file itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from qat.errors import DataError
from qat.runtimes import FORMATS, ONNX, open_session

from .baseline import Maker, Sample

#: The opset from which ONNX Runtime's quantizer writes one scale a channel.
_OPSET = 13


def makers(path: Path, batches: list[Sample], per_channel: bool) -> list[Maker]:
    """Return a maker for each baseline of a file, that of the file itself first.

    Of an ``.onnx`` they are ONNX Runtime's, of a ``.tflite`` AI Edge Quantizer's, once the file's stored weights are constants.

    Raises:
        DataError: the path is of no such file.
    """
    if path.suffix not in FORMATS:
        raise DataError(f"{path} is no file that other tools quantize: give {' or '.join(FORMATS)}")
    own = Maker("float", "", "float32", path.read_bytes, "float")
    if path.suffix == ONNX.suffix:
        from .onnxruntime import quantizers

        return [own, *quantizers(cache(lambda: upgraded(path)), batches, per_channel)]
    from . import ai_edge
    from .expanded import expanded

    return [own, *ai_edge.makers(cache(lambda: expanded(path)), lambda: batches, input_names(path))]


def input_names(path: Path) -> Sequence[str]:
    """Return the names of a file's inputs, in its order."""
    return [info.name for info in open_session(path).inputs]


def upgraded(path: Path) -> bytes:
    """Return an ``.onnx`` in an opset for which ONNX Runtime quantizes weights by channels; a newer one as it is."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(path))
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), _OPSET)
    return (version_converter.convert_version(model, _OPSET) if opset < _OPSET else model).SerializeToString()
