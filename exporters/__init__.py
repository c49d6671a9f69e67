"""Exporters: an integer program becomes an artifact, and is proved equal to the model it came from."""

from qat.runtimes.model_file import Parity

from .artifact import Artifact
from .export import encodings_path, export_converted, export_lowered, export_program
from .metadata import Metadata
from .prepared import export, refuse_unwritable

__all__ = [
    "Artifact",
    "Metadata",
    "Parity",
    "encodings_path",
    "export",
    "export_converted",
    "export_lowered",
    "export_program",
    "refuse_unwritable",
]
