"""The calls that the exporters of all formats share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from qat.arithmetic.encoding import Encoding
from qat.errors import MissingDependencyError
from qat.program.program import Program
from qat.runtimes import ONNX, Format, Weight

from .metadata import Metadata


class Exporter(Protocol):
    """The package of a format: :mod:`qat.exporters.onnx` or :mod:`qat.exporters.tflite`."""

    def legalize(self, program: Program) -> Program:
        """Return a program in the operators that the format's runtime has kernels for."""

    def write(self, program: Program, io_dtype: str, extra_outputs: Sequence[str] = ()) -> bytes:
        """Return the bytes of a file.

        Args:
            program: in the format's layout and operators. Tensors keep its names.
            io_dtype: of the inputs and outputs, where the format leaves the choice.
            extra_outputs: the names of quantized values that the file returns too, as integers.

        Raises:
            ExportError: the format cannot express the program.
        """

    def read_encodings(self, raw: bytes) -> dict[str, Encoding]:
        """Return the encodings in a file: those of activations by tensor name, those of weights as ``<instruction>.weight``."""

    def read_weights(self, raw: bytes) -> Iterator[Weight]:
        """Yield the weights of a file, in its order."""

    def describe(self, raw: bytes, metadata: Metadata) -> bytes:
        """Return a file's bytes with a description, which replaces the one that it has."""

    def read_metadata(self, raw: bytes) -> Metadata | None:
        """Return the description in a file, or None."""


def exporter_of(file_format: Format) -> Exporter:
    """Return the exporter of a format.

    Raises:
        MissingDependencyError: the packages that write the format are not installed.
    """
    try:
        if file_format is ONNX:
            from . import onnx

            return onnx
        from . import tflite

        return tflite
    except ImportError as error:
        raise MissingDependencyError(
            f"writing {file_format.suffix} needs {error.name}: pip install 'qat-toolkit[{file_format.extra}]'"
        ) from error
