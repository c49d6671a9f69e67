"""The ``.onnx`` exporter, with the calls of :class:`qat.exporters.exporter.Exporter`."""

from .conv_transpose import without_conv_transpose as legalize
from .model import write
from .reader import read_encodings, read_weights

__all__ = ["legalize", "read_encodings", "read_weights", "write"]
