"""The ``.onnx`` exporter, with the calls of :class:`qat.exporters.exporter.Exporter`."""

from .model import legalize, write
from .reader import read_encodings, read_weights

__all__ = ["legalize", "read_encodings", "read_weights", "write"]
