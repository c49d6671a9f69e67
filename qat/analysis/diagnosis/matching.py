"""Which step of a quantized file is which of the float one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from .steps import Step

#: What tools append to the names of tensors.
_APPENDED = re.compile(r"(_QuantizeLinear_(Output|Input)|_DequantizeLinear_Output|_quantized|_dequantized|/real|:0)+$")


@dataclass(frozen=True)
class Pair:
    """A step that both files have."""

    float: Step
    quantized: Step

    @property
    def name(self) -> str:
        """The float file's name of the step's result."""
        return self.float.held.name


def pairs_of(float_steps: Sequence[Step], quantized_steps: Sequence[Step]) -> tuple[Pair, ...]:
    """Match steps by the names of their results; those without a common name by their order, kind and number of channels."""
    named = _by_name(float_steps, quantized_steps)
    tokens = {id(q): number for number, q in named.items()}
    left = [("name", number) if number in named else _key(step) for number, step in enumerate(float_steps)]
    right = [("name", tokens[id(step)]) if id(step) in tokens else _key(step) for step in quantized_steps]
    found = dict(named)
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        found |= {block.a + i: quantized_steps[block.b + i] for i in range(block.size)}
    return tuple(Pair(float_steps[number], found[number]) for number in sorted(found))


def _by_name(float_steps: Sequence[Step], quantized_steps: Sequence[Step]) -> dict[int, Step]:
    """Return the quantized step of each number of a float step with a name and a key in common, where there is one alone."""
    counts = Counter(name for step in quantized_steps for name in _clean(step))
    by_name = {name: step for step in quantized_steps for name in _clean(step) if counts[name] == 1}
    found: dict[int, Step] = {}
    for number, step in enumerate(float_steps):
        others = {id(by_name[n]): by_name[n] for n in _clean(step) if n in by_name and _key(by_name[n]) == _key(step)}
        if len(others) == 1:
            found[number] = next(iter(others.values()))
    taken = Counter(id(step) for step in found.values())
    return {number: step for number, step in found.items() if taken[id(step)] == 1}


def _clean(step: Step) -> set[str]:
    return {_APPENDED.sub("", name) for name in step.names}


def _key(step: Step) -> tuple[str, int]:
    """Return what two forms of one step share; a product over one pixel may be written as a dense layer."""
    if step.weight is not None:
        return "linear", len(step.weight.real)
    return ("clip" if step.kind in ("relu6", "clip") else step.kind), 0
