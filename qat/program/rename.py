"""Values get other names: those of the file that a model was read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .program import Program


def names_in_file(program: Program, signature: bool, chosen: bool = False) -> dict[str, str]:
    """Return the new names of the values that do not keep theirs: inputs and outputs are called as in the program's origin.

    Without an origin several outputs, and one that was ``chosen`` by its name, get the model's own names of them, by which
    callers tell them apart, unless the file has a ``signature`` that holds these. A value that has such a name already gets
    another one.
    """
    if program.origin is not None:
        border = (*program.inputs, *program.outputs)
        names = dict(zip(border, (*program.input_names, *program.output_names), strict=True))
    elif signature or not (chosen or len(program.output_names) > 1):
        return {}
    else:
        pairs = zip(program.outputs, program.output_names, strict=True)
        names = {output: name for output, name in pairs if output not in program.inputs}
    taken = {*names.values(), *(name for name in program.values if name not in names)}
    for value in program.values:
        if value not in names and value in names.values():
            new, number = f"{value}_1", 1
            while new in taken:
                number += 1
                new = f"{value}_{number}"
            names[value] = new
            taken.add(new)
    return {old: new for old, new in names.items() if old != new}


def renamed(program: Program, names: Mapping[str, str]) -> Program:
    """Return a program whose values have other names, by their old ones; the others keep theirs."""
    if not names:
        return program

    def new(old: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    values = {names.get(name, name): replace(value, name=names.get(name, name)) for name, value in program.values.items()}
    steps = tuple(replace(step, inputs=new(step.inputs), outputs=new(step.outputs)) for step in program.instructions)
    block = program.block
    if block is not None:
        block = replace(block, inputs=new(block.inputs), outputs=new(block.outputs))
    scopes = {names.get(name, name): scope for name, scope in program.scopes.items()}
    return replace(
        program, inputs=new(program.inputs), outputs=new(program.outputs), values=values, instructions=steps, block=block,
        scopes=scopes,
    )  # fmt: skip
