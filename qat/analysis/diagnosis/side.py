"""One of two files: its copies, and the samples in its form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from qat.errors import DataError
from qat.system.sample_axes import samples_along

from .layouts import as_input
from .network import Network
from .probes_of import probes_of

#: Arrays by the names of tensors.
Named: TypeAlias = dict[str, np.ndarray]


class Side:
    """A file and the samples that both files read.

    Args:
        path: of the file.
        arrays: ``[samples, ...]`` in the order of the file's inputs, images with channels first or last.

    Raises:
        DataError: the file is damaged, or takes another number of inputs.
    """

    def __init__(self, path: Path, arrays: Sequence[np.ndarray]) -> None:
        self.path, self._arrays = path, arrays
        self._probes = probes_of(path)
        if len(self.network.inputs) != len(arrays):
            raise DataError(
                f"{path} has {len(self.network.inputs)} inputs, the data {len(arrays)}: the files are not of one model, or the "
                "data are of another"
            )

    @property
    def network(self) -> Network:
        """The file's graph."""
        return self._probes.network

    def tap(self, names: Sequence[str]) -> None:
        """Make tensors visible to :meth:`run`."""
        self._tapped = self._probes.tapped(names)
        self.axes, self.batch = self._tapped.axes, self._tapped.batch

    def cut(self, names: Sequence[str]) -> None:
        """Cut the steps that write tensors from each other, for :meth:`alone`."""
        self._cut = self._probes.cut(self._written(names))

    def let_in_errors(self, names: Sequence[str]) -> None:
        """Let errors be added to tensors, for :meth:`disturbed`."""
        self._disturbed = self._probes.disturbed(self._written(names))

    def inputs(self, samples: slice) -> Named:
        """Return samples in the types and forms of the file's inputs."""
        found = {}
        for name, array, axis in zip(self.network.inputs, self._arrays, self.axes, strict=True):
            given, shape = samples_along(array[samples], axis), self._tapped.shapes[name]
            tensor, value = self.network.tensor(name), as_input(given, shape, name, self.path)
            found[name] = value.astype(tensor.dtype) if tensor.grid is None else tensor.grid.integers(value, tensor.dtype)
        return found

    def run(self, samples: slice) -> Named:
        """Return the inputs, the tapped tensors and the outputs, in the file's types."""
        inputs = self.inputs(samples)
        return inputs | self._tapped.run(inputs)

    def alone(self, given: Named) -> Named:
        """Return what each step makes of given tensors, as ``<name>/own``."""
        return self._cut.run({name: given[name] for name in self._cut.inputs})

    def disturbed(self, inputs: Named, errors: Named) -> Named:
        """Return the outputs with errors added to tensors, ``<name>/error``; no error is added where none is named."""
        return self._disturbed.run({name: errors[name] if name in errors else inputs[name] for name in self._disturbed.inputs})

    def _written(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.network.inputs]
