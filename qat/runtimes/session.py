"""The calls that the sessions of all runtimes share."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import numpy as np

from .tensors import TensorInfo


class Session(Protocol):
    """An artifact that is ready to run: it takes float32 arrays of any batch size.

    Attributes:
        inputs: the inputs of the file, in its order.
        outputs: the outputs of the file, in its order.
        input_names, output_names: the names by which a caller knows them: in a ``.tflite`` those of its signature.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the float32 outputs for float32 inputs.

        Raises:
            DataError: the arrays do not fit the inputs.
            QatError: the runtime refuses to run; the message holds its reason.
        """

    def run_named(self, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name, as integers where the file's are integers, for float32 inputs."""

    def in_file_types(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return float32 inputs in the types of the file's inputs, quantized where those are integers."""

    def invoke(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs in the file's types for inputs in the file's types: the runtime's own work and nothing else."""

    def ops(self) -> Counter[str]:
        """Count the operators that really run, by name."""

    def runs(self) -> dict[str, Counter[str]]:
        """Count the operators by the library that runs them, then by name."""
