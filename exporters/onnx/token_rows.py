"""Tokens as rows: what works on the last axis alone reads ``[batch * tokens, channels]``.

A QGemm is of rank 2, so that a dense layer of tokens has a reshape before and behind it. Norms, functions, sums and products of
two such tensors are the same on rows: over a chain of them one reshape is enough before the first and one behind the last, and
none where a reshape stands there already. A reshape takes a call, and calls are most of the time of small networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from qat.graph.kinds import FUNCTIONS
from qat.program.program import Instruction, Program, Value

from .kept_integers import KEPT

_OF_ONE = frozenset({"dense", "layer_norm", "rms_norm", "relu", "relu6", KEPT, *FUNCTIONS})
_OF_TWO = frozenset({"add", "mul", "minimum", "maximum"})


def merge_rows(program: Program) -> Program:
    """Return a program whose chains of operators on tokens work on rows, where that leaves fewer reshapes."""
    graph = _Graph.of(program)
    for chain in graph.chains():
        if graph.reshapes(chain) < graph.reshapes_now(chain):
            graph.merge(chain)
    return replace(program, values=graph.values, instructions=tuple(graph.steps()))


@dataclass
class _Graph:
    """The program while chains are merged.

    Attributes:
        instructions: by name, in order.
        values: by name.
        readers: the names of the instructions that read each value.
        outside: the values that are read by something else than instructions.
        before: reshapes to be put before an instruction, by its name.
        behind: likewise behind it.
    """

    instructions: dict[str, Instruction]
    values: dict[str, Value]
    readers: dict[str, list[str]]
    outside: frozenset[str]
    before: dict[str, list[Instruction]] = field(default_factory=lambda: defaultdict(list))
    behind: dict[str, list[Instruction]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, program: Program) -> _Graph:
        """Return the graph of a program."""
        readers = {name: [i.name for i in found] for name, found in program.readers().items()}
        return cls({i.name: i for i in program.instructions}, dict(program.values), readers, program.read_outside)

    def __post_init__(self) -> None:
        self.writers = {name: i.name for i in self.instructions.values() for name in i.outputs}

    def chains(self) -> Iterable[list[str]]:
        """Yield the names of operators on rows that read each other's results, in order."""
        chain_of: dict[str, list[str]] = {}
        for i in self.instructions.values():
            if not self._is_on_rows(i):
                continue
            found = [chain_of[self.writers[name]] for name in i.inputs if self.writers.get(name) in chain_of]
            # Operators that read the same tokens share the reshape before them.
            found += [chain_of[other] for name in i.inputs for other in self.readers[name] if other in chain_of]
            joined = [*dict.fromkeys(name for chain in found for name in chain), i.name]
            chain_of |= dict.fromkeys(joined, joined)
        for chain in {id(chain): chain for chain in chain_of.values()}.values():
            members = set(chain)
            yield [name for name in self.instructions if name in members]

    def _is_on_rows(self, i: Instruction) -> bool:
        """Return whether an operator computes each row of tokens by itself, and can have them merged."""
        if i.mode != "static" or not (i.kind in _OF_ONE or i.kind in _OF_TWO):
            return False
        tensors = [self.values[name] for name in (*i.inputs, *i.outputs)]
        alike = len({value.shape[:-1] for value in tensors}) == 1 and (i.kind == "dense" or len({v.shape for v in tensors}) == 1)
        return alike and all(map(self._can_merge, tensors))

    def _can_merge(self, value: Value) -> bool:
        tokens = len(value.shape) > 2 and value.shape[0] is None and None not in value.shape[1:]
        return tokens and value.encoding is not None and value.axes is None

    def _entries(self, chain: Sequence[str]) -> list[str]:
        """Return the values that a chain reads from outside it."""
        inside = set(chain)
        read = dict.fromkeys(name for member in chain for name in self.instructions[member].inputs)
        return [name for name in read if self.writers.get(name) not in inside]

    def _exits(self, chain: Sequence[str]) -> list[str]:
        """Return the values of a chain that something else than it and reshapes reads."""
        inside = set(chain)
        made = (name for member in chain for name in self.instructions[member].outputs)
        others = {name: [r for r in self.readers.get(name, ()) if r not in inside] for name in made}
        return [name for name, found in others.items() if name in self.outside or not all(map(self._is_reshape, found))]

    def _is_reshape(self, name: str) -> bool:
        """Return whether an instruction is a reshape that can have rows before it."""
        i = self.instructions[name]
        return i.kind == "reshape" and None not in self.values[i.outputs[0]].shape[1:]

    def _can_make_rows(self, name: str, inside: set[str]) -> bool:
        """Return whether a value comes from a reshape, which makes rows at once where nothing else reads it."""
        writer = self.instructions.get(self.writers.get(name, ""))
        alone = name not in self.outside and inside.issuperset(self.readers[name])
        return writer is not None and writer.kind == "reshape" and alone

    def reshapes_now(self, chain: list[str]) -> int:
        """Return how many reshapes the dense layers of a chain have."""
        layers = [self.instructions[name] for name in chain if self.instructions[name].kind == "dense"]
        return len(layers) + len({i.inputs[0] for i in layers})

    def reshapes(self, chain: list[str]) -> int:
        """Return how many a chain on rows has."""
        inside = set(chain)
        return sum(not self._can_make_rows(name, inside) for name in self._entries(chain)) + len(self._exits(chain))

    def merge(self, chain: list[str]) -> None:
        """Let a chain work on rows."""
        inside = set(chain)
        exits = self._exits(chain)
        for name in self._entries(chain):
            tokens = self.values[name]
            if self._can_make_rows(name, inside):
                self._fold(self.writers[name])
                self.values[name] = _rows(tokens, name)
                continue
            rows = self.values[f"{name}_rows"] = _rows(tokens, f"{name}_rows")
            readers = [member for member in chain if name in self.instructions[member].inputs]
            self.before[readers[0]].append(_reshape(name, rows.name, self.instructions[readers[0]]))
            for member in readers:
                self._read(member, name, rows.name)
        for member in chain:
            (name,) = self.instructions[member].outputs
            if name not in exits:
                self.values[name] = _rows(self.values[name], name)
                for reader in self.readers.get(name, ()):
                    if reader not in inside:
                        self._fold(reader)
                continue
            rows = self.values[f"{name}_rows"] = _rows(self.values[name], f"{name}_rows")
            self.instructions[member] = replace(self.instructions[member], outputs=(rows.name,))
            self.behind[member].append(_reshape(rows.name, name, self.instructions[member]))
            for reader in inside.intersection(self.readers.get(name, ())):
                self._read(reader, name, rows.name)

    def _fold(self, name: str) -> None:
        reshape = self.instructions[name]
        self.instructions[name] = replace(reshape, attrs={**reshape.attrs, "folds": True})

    def _read(self, reader: str, name: str, other: str) -> None:
        i = self.instructions[reader]
        self.instructions[reader] = replace(i, inputs=tuple(other if n == name else n for n in i.inputs))

    def steps(self) -> Iterable[Instruction]:
        """Yield the instructions in order."""
        for name, i in self.instructions.items():
            yield from (*self.before.get(name, ()), i, *self.behind.get(name, ()))


def _rows(tokens: Value, name: str) -> Value:
    example = (prod(tokens.example[:-1]), tokens.example[-1]) if tokens.example else ()
    return replace(tokens, name=name, shape=(None, tokens.shape[-1]), example=example)


def _reshape(source: str, output: str, like: Instruction) -> Instruction:
    return Instruction(f"{output}_reshape", "reshape", (source,), (output,), {"folds": True}, scope=like.scope)
