"""The ``.tflite`` exporter, with the calls of :class:`qat.exporters.exporter.Exporter`."""

from .metadata import describe, read_metadata
from .model import legalize, write
from .reader import read_encodings, read_weights

__all__ = ["describe", "legalize", "read_encodings", "read_metadata", "read_weights", "write"]
