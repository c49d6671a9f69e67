"""A network reduced to the steps that compute: what tools fold, split or move stands within or between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .network import AFFINE, FUSED, HOLDS, LINEAR, MOVES, Grid, Network, Operator, Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight, output channels first.

    Attributes:
        real: its values, ``[channels, ...]``; of integers whose scale stands elsewhere in the file these integers.
        stored: its integers less their zero points; None of a float weight.
        scale: one, or one a channel; None where the file holds none beside the weight.
        bits: of the integers; 32 of a float weight.
    """

    real: np.ndarray
    stored: np.ndarray | None = None
    scale: np.ndarray | None = None
    bits: int = 32


@dataclass(frozen=True, eq=False)
class Step:
    """An operator with the activations, constants and BatchNorm that follow it alone.

    Attributes:
        kind: of its operator; ``input`` of an input of the file.
        name: of its operator.
        held: the tensor that holds its result: integers wherever the file has them.
        names: all names of the result.
        inputs: the names of the tensors that hold its inputs, each a ``held`` of another step.
        weight: where it has a constant one.
        bias: its real values.
        stored_bias: its integers; None of a float bias.
        feeds: the kinds of the operators that read the result.
        is_output: whether the result is an output of the file, moved at most.
        attributes: of a convolution in an ``.onnx``.
    """

    kind: str
    name: str
    held: Tensor
    names: frozenset[str]
    inputs: tuple[str, ...] = ()
    weight: Weight | None = None
    bias: np.ndarray | None = None
    stored_bias: np.ndarray | None = None
    feeds: frozenset[str] = frozenset()
    is_output: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid | None:
        """The integers of the result; None where the file holds it in float."""
        return self.held.grid


class _Reader:
    """Follows the values of a network through the operators that only hold, fold or move them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.numbers = self._numbers()
        self.value: dict[str, str] = {}
        self.members: dict[str, list[str]] = defaultdict(list)
        self.readers: dict[str, list[Operator]] = defaultdict(list)
        for name in network.inputs:
            self._join(name, name)
        for op in network.operators:
            acts = self.activations(op)
            if op.kind in HOLDS and acts:
                self._join(op.outputs[0], acts[0])
            elif any(out not in self.numbers for out in op.outputs):
                for act in acts:
                    self.readers[act].append(op)
                for out in op.outputs:
                    self._join(out, out)
        self.ends = {self.value.get(name, name) for name in network.outputs}

    def _numbers(self) -> set[str]:
        """Return the tensors that follow from constants alone, or from sizes."""
        known = {name for name, tensor in self.network.tensors.items() if tensor.data is not None} | set(self.network.numbers)
        for op in self.network.operators:
            if op.kind in ("Shape", "SHAPE", "Size") or (op.inputs and all(name in known for name in op.inputs if name)):
                known.update(op.outputs)
        return known

    def _join(self, name: str, value: str) -> None:
        self.value[name] = value
        self.members[value].append(name)

    def activations(self, op: Operator) -> list[str]:
        """Return the values that an operator reads, without constants."""
        return [self.value.get(name, name) for name in op.inputs if name and name not in self.numbers]

    def end(self, value: str, folds: bool) -> tuple[str, list[str]]:
        """Return where a step ends that begins with a value, and the values on the way there.

        ``folds`` says whether products with constants may be part of it, as of a layer with a weight.
        """
        end, here, passed, way = value, value, [value], [value]
        while here not in self.ends and len(self.readers[here]) == 1:
            (op,) = self.readers[here]
            if len(self.activations(op)) != 1 or len(op.outputs) != 1:
                break
            if op.kind == "cast" and self.network.tensor(op.inputs[0]).grid is not None:
                break  # the integers themselves are computed with
            here = op.outputs[0]
            passed.append(here)
            if op.kind in FUSED or (folds and op.kind in AFFINE and len(op.inputs) > 1):
                end, way = here, list(passed)
            elif op.kind not in MOVES:
                break
        return end, way

    def held(self, value: str) -> Tensor:
        """Return the tensor that holds a value: its integers wherever there are some."""
        found = [self.network.tensor(name) for name in self.members[value]]
        return next((tensor for tensor in found if tensor.grid is not None), found[0])


def steps_of(network: Network) -> tuple[Step, ...]:
    """Return the steps of a network, each behind those that it reads, in an order that does not depend on the file's."""
    reader = _Reader(network)
    owner: dict[str, str] = {}
    found: dict[str, Step] = {}
    for name in network.inputs:
        held = reader.held(name)
        owner[name] = held.name
        kinds = frozenset(op.kind for op in reader.readers[name])
        found[held.name] = Step("input", name, held, frozenset(reader.members[name]), feeds=kinds)
    for op in network.operators:
        acts = reader.activations(op)
        if op.kind in HOLDS or not acts or all(out in reader.numbers for out in op.outputs):
            continue
        first = op.outputs[0]
        if first in owner:
            continue  # within a step
        if op.kind in MOVES:
            owner.update(dict.fromkeys(op.outputs, owner.get(acts[0], acts[0])))
            continue
        end, way = reader.end(first, op.kind in LINEAR)
        held = reader.held(end)
        owner.update(dict.fromkeys((*way, *op.outputs), held.name))
        weight, bias, stored = _parameters(network, op) if op.kind in LINEAR else (None, None, None)
        kinds = frozenset(o.kind for o in reader.readers[end])
        inputs = tuple(owner.get(act, act) for act in acts)
        names = frozenset(reader.members[end])
        found[held.name] = Step(
            op.kind, op.name, held, names, inputs, weight, bias, stored, kinds, attributes=op.attributes
        )  # fmt: skip
    outputs = [owner.get(reader.value.get(name, name), name) for name in network.outputs]
    return tuple(replace(step, is_output=step.held.name in outputs) for step in _ordered(found, outputs))


def _ordered(steps: Mapping[str, Step], outputs: list[str]) -> Iterator[Step]:
    """Yield the steps on which outputs depend, depth first."""
    done: set[str] = set()
    stack = [(name, False) for name in reversed(outputs)]
    while stack:
        name, is_ready = stack.pop()
        if name in done or name not in steps:
            continue
        if is_ready:
            done.add(name)
            yield steps[name]
        else:
            stack.append((name, True))
            stack += [(other, False) for other in reversed(steps[name].inputs)]


def _parameters(network: Network, op: Operator) -> tuple[Weight | None, np.ndarray | None, np.ndarray | None]:
    makers = {out: maker for maker in network.operators for out in maker.outputs}

    def constant(name: str) -> Tensor | None:
        tensor = network.tensor(name)
        if tensor.data is None and name in makers and makers[name].kind in ("dequantize", "identity", "cast", "reshape"):
            return constant(makers[name].inputs[0])
        return tensor if tensor.data is not None else None

    stored = constant(op.inputs[1]) if len(op.inputs) > 1 else None
    bias = constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] else None
    weight = None if stored is None else _weight(stored, op.channels)
    if bias is None or bias.data is None:
        return weight, None, None
    if bias.grid is not None:
        return weight, bias.grid.real(bias.data).reshape(-1), bias.data.reshape(-1)
    return weight, bias.data.astype(np.float32).reshape(-1), bias.data.reshape(-1) if bias.data.dtype.kind == "i" else None


def _weight(tensor: Tensor, axis: int) -> Weight | None:
    data = tensor.data
    if data is None or data.ndim < 2:
        return None
    if tensor.grid is None:
        values = np.moveaxis(data, axis, 0)
        return Weight(values.astype(np.float32), values if data.dtype.kind in "iu" else None)
    grid = tensor.grid
    real, integers = grid.real(data), data.astype(np.int64) - grid.along(grid.zero_point, data.ndim).astype(np.int64)
    bits = int(np.log2(grid.high - grid.low + 1))
    return Weight(np.moveaxis(real, axis, 0), np.moveaxis(integers, axis, 0), grid.scale, bits)
