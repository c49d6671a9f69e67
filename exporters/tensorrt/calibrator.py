"""A calibrator with the interface of TensorRT's ``IInt8EntropyCalibrator2``: it feeds batches, and keeps the cache.

Source: https://docs.nvidia.com/deeplearning/tensorrt/api/python_api/infer/Int8/EntropyCalibrator2.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from qat.display.progress import tracked
from qat.errors import DataError, MissingDependencyError
from qat.system.atomic_files import write_atomically
from qat.system.samples import batches_of, check_finite, first_of_pair
from qat.typing import Samples


class OnDevice(Protocol):
    """An array on the GPU, as PyTorch's tensors are: TensorRT reads it at its address."""

    def data_ptr(self) -> int:
        """Return the address of its first value."""


def to_cuda(array: np.ndarray) -> OnDevice:
    """Copy an array to the GPU by PyTorch.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("feeding TensorRT needs PyTorch: pip install 'qat-toolkit[torch]'") from error
    return torch.from_numpy(array).cuda()


class EntropyCalibrator:
    """The methods that TensorRT calls while it calibrates; :func:`calibrator_for` makes a TensorRT object of them.

    Args:
        samples: batches of inputs, or ``(inputs, labels)`` pairs. All batches have the size of the first; a last, smaller one is
            left out.
        names: of the network's inputs, in the order of ``samples``' inputs.
        cache: the path of the calibration cache. Where the file exists TensorRT reads it and asks for no batch.
        to_device: copies an array to the GPU.
    """

    def __init__(
        self, samples: Samples, names: Sequence[str], cache: str | Path, to_device: Callable[[np.ndarray], OnDevice] = to_cuda
    ) -> None:
        self._names, self._cache, self._to_device = tuple(names), Path(cache), to_device
        self._batches = self._read(samples)
        self._next = next(self._batches, None)
        if self._next is None and not self._cache.is_file():
            raise DataError("calibration got no samples: pass at least one batch (a generator that was used up yields none)")
        self._size = 1 if self._next is None else len(next(iter(self._next.values())))
        self._held: list[OnDevice] = []

    def _read(self, samples: Samples) -> Iterator[Mapping[str, np.ndarray]]:
        for index, sample in enumerate(tracked(batches_of(samples, "calibration"), "calibration")):
            inputs = first_of_pair(sample, len(self._names))
            arrays = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
            if len(arrays) != len(self._names):
                raise DataError(f"calibration batch {index} has {len(arrays)} inputs, the network {len(self._names)}")
            for array in arrays:
                check_finite(np.asarray(array), f"calibration batch {index}")
            yield {n: np.ascontiguousarray(a, np.float32) for n, a in zip(self._names, arrays, strict=True)}

    def get_batch_size(self) -> int:
        """Return how many samples a batch has."""
        return self._size

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """Return the addresses of the next batch's inputs on the GPU, in the order of ``names``; None after the last batch.

        Raises:
            DataError: TensorRT asks for an input that the samples do not have.
        """
        batch, self._next = self._next, None
        if batch is None or any(len(array) != self._size for array in batch.values()):
            return None
        unknown = [name for name in names if name not in batch]
        if unknown:
            raise DataError(f"the network's input '{unknown[0]}' is none of {', '.join(batch)}: pass names in its order")
        self._next = next(self._batches, None)
        self._held = [self._to_device(batch[name]) for name in names]  # TensorRT reads them until it asks again
        return [array.data_ptr() for array in self._held]

    def read_calibration_cache(self) -> bytes | None:
        """Return the cache's bytes; None where there is none yet."""
        return self._cache.read_bytes() if self._cache.is_file() else None

    def write_calibration_cache(self, cache: bytes) -> None:
        """Keep the cache that TensorRT has made."""
        write_atomically(self._cache, bytes(cache), overwrite=True)


def calibrator_for(
    tensorrt: ModuleType, samples: Samples, names: Sequence[str], cache: str | Path,
    to_device: Callable[[np.ndarray], OnDevice] = to_cuda,
) -> EntropyCalibrator:  # fmt: skip
    """Return an :class:`EntropyCalibrator` that is an ``IInt8EntropyCalibrator2`` of the ``tensorrt`` module.

    Assign it to ``config.int8_calibrator`` of a builder; examples/tensorrt_build.py does.
    """
    base = tensorrt.IInt8EntropyCalibrator2

    def begin(self: EntropyCalibrator) -> None:
        base.__init__(self)  # TensorRT's binding demands the call by name
        EntropyCalibrator.__init__(self, samples, names, cache, to_device)

    made: EntropyCalibrator = type("Calibrator", (EntropyCalibrator, base), {"__init__": begin})()
    return made
