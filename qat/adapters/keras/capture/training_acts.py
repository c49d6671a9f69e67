"""What training adds to a captured model: dropout, noise and augmentation layers, on the tensors that they change."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import keras

from qat.graph.graph import Op
from qat.graph.training_acts import OUTPUT, TrainingAct

log = logging.getLogger("qat")


class Acts:
    """Notes which operators read tensors that layers change in training.

    Attributes:
        layers: the layers of each act, in order, by its name.
    """

    def __init__(self, wanted: bool) -> None:
        self.layers: dict[str, tuple[keras.layers.Layer, ...]] = {}
        self._wanted = wanted
        self._tensors: dict[str, str] = {}
        self._of: dict[int, str] = {}
        self._readers: dict[str, list[str]] = defaultdict(list)

    def add(self, layer: keras.layers.Layer, tensor: str, output: keras.KerasTensor) -> None:
        """Add a layer that changes a tensor, after those that have changed it already."""
        if self._wanted:
            before = self.layers.get(self._of.get(id(output), ""), ())
            name = f"act_{len(self.layers)}"
            self.layers[name], self._tensors[name] = (*before, layer), tensor
            self._of[id(output)] = name

    def changes(self, tensor: keras.KerasTensor) -> bool:
        """Return whether a layer changes a tensor in training."""
        return id(tensor) in self._of

    def same(self, tensor: keras.KerasTensor, other: keras.KerasTensor) -> None:
        """Note that a tensor is another one, with what changes it."""
        if id(tensor) in self._of:
            self._of[id(other)] = self._of[id(tensor)]

    def read(self, tensors: Sequence[keras.KerasTensor], names: Mapping[int, str], ops: Sequence[Op]) -> None:
        """Note those operators of a call that read changed tensors; ``names`` are those of the tensors, by their ids."""
        for tensor in tensors:
            act = self._of.get(id(tensor))
            if act is None:
                continue
            name = self._tensors[act]
            if any(names[id(t)] == name and self._of.get(id(t)) != act for t in tensors):
                log.warning("'%s' reads a tensor both as it is and as training changes it, and gets it as it is", ops[-1].layer)
                continue
            self._readers[act] += [op.name for op in ops if name in op.inputs]

    def found(self, ops: Sequence[Op], names: Mapping[int, str], outputs: Sequence[keras.KerasTensor]) -> tuple[TrainingAct, ...]:
        """Return the acts whose results something reads."""
        for tensor in outputs:
            if (act := self._of.get(id(tensor))) is not None:
                self._readers[act].append(OUTPUT)
        acts = []
        for name, readers in self._readers.items():
            tensor = self._tensors[name]
            all_readers = {op.name for op in ops if tensor in op.inputs}
            all_readers |= {OUTPUT} if any(names[id(t)] == tensor for t in outputs) else set()
            what = ", ".join(_what(layer) for layer in self.layers[name])
            acts.append(TrainingAct(name, what, tensor, () if set(readers) == all_readers else tuple(dict.fromkeys(readers))))
        return tuple(acts)


def _what(layer: keras.layers.Layer) -> str:
    rate = getattr(layer, "rate", None)
    return type(layer).__name__ + (f", p={rate:g}" if isinstance(rate, float) else "")
