"""Where a float file computes a model's operators: found by their values, whatever the file calls them.

A float file of a model computes the same tensors, in another layout perhaps, and an operator perhaps in pieces, or together with
its activation. A tensor of the file is the model's where both have the same values for the same samples, in any order; the
operators between an operator's inputs and its output are those that compute it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qat.analysis.diagnosis.layouts import as_input
from qat.analysis.diagnosis.network import LINEAR, Network, Operator
from qat.analysis.diagnosis.probes_of import probes_of
from qat.analysis.sensitivity.pinning import Pin
from qat.errors import DataError
from qat.frameworks import adapter_for, framework_of
from qat.planning.plan import PlannedOp
from qat.typing import PreparedModel

#: The samples that values are compared on, and how far equal ones may be apart, as a share of their spread.
_SAMPLES, _NEAR = 4, 1e-3


@dataclass(frozen=True)
class Place:
    """Where a file computes what is pinned: its operators, in the file's order; none where the file's values do not show them."""

    pin: Pin
    operators: tuple[Operator, ...]


def places_of(model: PreparedModel, pins: Sequence[Pin], path: Path, inputs: Sequence[np.ndarray]) -> tuple[Place, ...]:
    """Return where a float file computes pinned operators.

    Args:
        model: from :func:`qat.prepare`; it need not be calibrated.
        pins: operators of the model, by scope and kind.
        path: of a float ``.onnx`` or ``.tflite`` of the same model.
        inputs: a batch, an array for each input of the model, in its order.

    Raises:
        DataError: the file takes other inputs, or is damaged.
    """
    framework = framework_of(model)
    assert framework != "tf_keras"
    adapter = adapter_for(framework)
    batch = tuple(np.asarray(x)[:_SAMPLES] for x in inputs)
    own = adapter.float_values(model, adapter.inputs_of((batch,)))
    network, values = _values_in(path, batch)
    found = _Found(network, {name: _sorted(value) for name, value in values.items()})
    known = {name: _sorted(value) for name, value in own.items()}
    return tuple(
        Place(pin, found.operators(known, [p for p in model.plan.ops if Pin(p.op.layer, p.op.kind) == pin])) for pin in pins
    )


def _values_in(path: Path, batch: Sequence[np.ndarray]) -> tuple[Network, Mapping[str, np.ndarray]]:
    """Return a file's network, and the values of its tensors for a batch."""
    probes = probes_of(path)
    network = probes.network
    if len(network.inputs) != len(batch):
        raise DataError(f"{path} takes {len(network.inputs)} inputs, and the model {len(batch)}: the file is of another model")
    wanted = [name for op in network.operators for name in op.outputs if name and network.tensor(name).data is None]
    probe = probes.tapped(wanted)
    feeds = {
        name: as_input(x, probe.shapes[name], name, path).astype(network.tensor(name).dtype)
        for name, x in zip(network.inputs, batch, strict=True)
    }
    return network, feeds | probe.run(feeds)


def _sorted(value: np.ndarray) -> np.ndarray:
    return np.sort(value.reshape(-1).astype(np.float64))


@dataclass(frozen=True)
class _Found:
    """A file's network, and the sorted values of its tensors."""

    network: Network
    values: Mapping[str, np.ndarray]

    def operators(self, known: Mapping[str, np.ndarray], planned: Iterable[PlannedOp]) -> tuple[Operator, ...]:
        """Return the file's operators that compute those of the model, from the sorted values of the model's tensors."""
        chosen: set[str] = set()
        for p in planned:
            end = next((t for t in self._equal(known.get(p.op.output))), None)
            if end is not None:
                chosen |= self._between({t for name in p.op.inputs for t in self._equal(known.get(name))}, end)
        return tuple(op for op in self.network.operators if op.name in chosen)

    def _equal(self, value: np.ndarray | None) -> list[str]:
        """Return the tensors with the same values, in any order of them; the first that the file computes first."""
        if value is None:
            return []
        allowed = _NEAR * max(float(value.std()), 1e-9)
        return [
            name for name, other in self.values.items() if other.shape == value.shape and np.abs(other - value).max() <= allowed
        ]

    def _between(self, begins: set[str], end: str) -> set[str]:
        """Return the names of the operators from some tensors to one; where none of those is met, back to the next weight."""
        writers = {name: op for op in self.network.operators for name in op.outputs}
        chosen, waiting = set[str](), [end]
        while waiting:
            op = writers.get(waiting.pop())
            if op is None or op.name in chosen:
                continue
            chosen.add(op.name)
            if begins or op.kind not in LINEAR:
                waiting += [name for name in op.inputs if name not in begins]
        return chosen
