"""Operators that change a scale and no integer: they take no time in an ``.onnx``.

What reads such a value has the other scale; the integers are those of the input. A sum over an axis, which is a mean times the
number of its elements, ends in such a product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.kernels import KERNELS
from qat.program.program import Instruction, Program

from .writer import Writer

#: The kind of an instruction whose output has its input's integers.
KEPT = "kept"


def keep_products(program: Program) -> Program:
    """Return a program whose products by a number that change no integer are of the kind :data:`KEPT`, without the number."""
    numbers = _numbers(program)
    made = {i.name: kept for i in program.instructions if i.kind == "mul" and (kept := _kept(program, i, numbers))}
    read = set(program.read_outside)
    instructions: list[Instruction] = []
    for instruction in reversed(program.instructions):
        name = instruction.outputs[0] if instruction.outputs else ""
        if not made or name not in numbers or name in read:
            instructions.insert(0, made.get(instruction.name, instruction))
            read.update(instructions[0].inputs)
    written = {name for i in instructions for name in i.outputs}
    values = {name: value for name, value in program.values.items() if name not in numbers or name in written}
    return replace(program, values=values, instructions=tuple(instructions))


def _numbers(program: Program) -> dict[str, Instruction]:
    """Return the constants of one number, by each tensor that holds one: images in NHWC have them turned."""
    found: dict[str, Instruction] = {}
    for instruction in program.instructions:
        held = found.get(instruction.inputs[0]) if instruction.kind in ("transpose", "reshape") else None
        if instruction.kind == "constant" and instruction.weight is not None and instruction.weight.size == 1:
            held = instruction
        if held is not None:
            found[instruction.outputs[0]] = held
    return found


def keeps_integers(found: np.ndarray, x: Encoding, y: Encoding) -> bool:
    """Return whether the result of each integer of ``x`` is the same stored integer of ``y``.

    Args:
        found: the result of each integer, from the lowest, without ``y``'s zero point.
        x: the encoding of the input.
        y: the encoding of the output.
    """
    return x.dtype == y.dtype and np.array_equal(found + y.zero_point, np.arange(x.qmin, x.qmax + 1))


def write_kept(writer: Writer, instruction: Instruction) -> None:
    """Write a node that gives the input's integers another name. ONNX Runtime takes it away."""
    writer.node("Identity", instruction.inputs, instruction.outputs[0], instruction.name)


def _kept(program: Program, product: Instruction, numbers: Mapping[str, Instruction]) -> Instruction | None:
    """Return a product as an instruction of the kind :data:`KEPT`; None where it is another's, or changes an integer."""
    sources, output = [name for name in product.inputs if name not in numbers], product.outputs[0]
    if len(sources) != 1 or product.kernels or program.values[sources[0]].shape != program.values[output].shape:
        return None
    (by,) = (name for name in product.inputs if name in numbers)
    x, factor, y = (program.encoding_of(name) for name in (sources[0], by, output))
    weight = numbers[by].weight
    assert weight is not None
    low, high = product.clamp or (y.qmin, y.qmax)
    found = KERNELS[program.kernels].mul(
        np.arange(x.qmin, x.qmax + 1) - x.zero_point,
        weight.reshape(()).astype(np.int64) - factor.zero_point,
        x,
        factor,
        y,
        low - y.zero_point,
        high - y.zero_point,
    )
    return replace(product, kind=KEPT, inputs=(sources[0],), clamp=None) if keeps_integers(found, x, y) else None
