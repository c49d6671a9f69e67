"""The sums of one step in both files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .layouts import LAYOUTS
from .matching import Pair
from .measured import StepFacts
from .network import Network
from .saturation import saturation_of
from .sums import Channels, Noise, Values
from .weights import weight_facts


class StepSums:
    """What is summed up of a step.

    Args:
        pair: the step in both files.
        layout: by which a float value takes the form of the quantized file's.
        axis: of the channels, in that form.
        network: of the quantized file.
    """

    def __init__(self, pair: Pair, layout: str, axis: int, network: Network) -> None:
        self.pair = pair
        self.name, self.quantized_name = pair.float.held.name, pair.quantized.held.name
        self._layout = LAYOUTS[layout]
        self._values, self._channels = Values(pair.quantized.grid, axis), Channels(axis)
        self._whole, self._own = Noise(), Noise()
        self._input = network.tensor(pair.quantized.inputs[0]) if pair.quantized.inputs else None
        grid = None if self._input is None else self._input.grid
        self._weight = weight_facts(pair, None if grid is None else float(np.max(grid.scale)))
        #: The energy of the outputs' error that the step alone makes.
        self.reached = 0.0

    def add(self, real: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add both files' values; return the float ones on the grid, in the float file's form and in the quantized one's."""
        value = self._layout.to(real, stored)
        self._values.add(value)
        self._whole.add(value, self._real(stored))
        grid = self.pair.quantized.grid
        rounded = value.astype(stored.dtype) if grid is None else grid.integers(value, stored.dtype.name)
        return self._layout.back(self._real(rounded), real).astype(np.float32), rounded

    def add_alone(self, exact: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """Add what both steps make of the same inputs; return the difference in the float file's form."""
        found = self._real(stored)
        value = self._layout.to(exact, found)
        self._own.add(value, found)
        self._channels.add(value, found)
        return self._layout.back(found - value, exact).astype(np.float32)

    def saturate(self, given: Mapping[str, np.ndarray]) -> None:
        """Compute what a processor without VNNI would make of the step's inputs."""
        if self._weight is None or self._input is None or self._input.grid is None or self._input.name not in given:
            return
        found = saturation_of(self.pair.quantized, given[self._input.name], int(self._input.grid.zero_point[0]))
        if found is not None:
            self._weight = replace(self._weight, saturated=found[0], saturation_sqnr=found[1])

    def facts(self, measured: set[str], whole: float) -> StepFacts:
        """Return what the sums say.

        Args:
            measured: the names of all steps.
            whole: the error that all steps make, each alone.
        """
        dead, correlation, gain = self._channels.compared()
        step = self.pair.float
        return StepFacts(
            name=self.name, quantized_name=self.quantized_name, kind=step.kind,
            inputs=tuple(name for name in step.inputs if name in measured), feeds=tuple(sorted(step.feeds)),
            is_output=step.is_output, sqnr=self._whole.sqnr, own_sqnr=self._own.sqnr,
            share=self.reached / whole if whole else 0.0, channels=self._channels.sums.shape[1], dead=dead,
            correlation=correlation, gain=gain, values=self._values.facts(), weight=self._weight,
        )  # fmt: skip

    def _real(self, stored: np.ndarray) -> np.ndarray:
        grid = self.pair.quantized.grid
        return stored.astype(np.float32) if grid is None else grid.real(stored)
