"""A layer of a program as a file of its own, which its runtime opens: its weights have their bytes there, its kernel its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qat.exporters.exporter import exporter_of
from qat.program.layout import to_layout
from qat.program.program import Instruction, Program, Value
from qat.runtimes import FORMATS, ONNX, Format, Weight

#: The bits of a weight, by the type that a file names.
_BITS = {"int2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "float16": 16, "float32": 32, "float64": 64}


@dataclass(frozen=True)
class SingleFile:
    """The bytes of a file with one layer, or with a conversion alone.

    Attributes:
        raw: of the file.
        kernels: the arithmetic of the program that it comes from.
        shapes: of the inputs, for one sample.
        file_format: of the file.
    """

    raw: bytes
    kernels: str
    shapes: tuple[tuple[int, ...], ...]
    file_format: Format

    def weight_bytes(self) -> int:
        """Return the bytes of the weights in the file: integers without their scales, two of 4 bits to a byte."""
        return weight_bytes(exporter_of(self.file_format).read_weights(self.raw))


def weight_bytes(weights: Iterable[Weight]) -> int:
    """Return the bytes of weights as a file holds them. Scales that are laid out for a product are not among them."""
    return sum((int(np.prod(w.shape)) * _BITS[w.dtype] + 7) // 8 for w in weights if not w.name.endswith(".scale"))


def layer_file(program: Program, instructions: Sequence[Instruction], suffix: str) -> SingleFile:
    """Return instructions that follow each other as a file, without conversions at its ends: these may be integers.

    Args:
        program: that holds the instructions, as an adapter's ``lower`` returns it.
        instructions: that follow each other.
        suffix: of the format.
    """
    written = {name for i in instructions for name in i.outputs}
    inputs = tuple(dict.fromkeys(name for i in instructions for name in i.inputs if name not in written))
    return _file(program, inputs, instructions, instructions[-1].outputs, FORMATS[suffix])


def conversion_file(program: Program, value: Value, suffix: str, back: bool) -> SingleFile:
    """Return the conversion of a float tensor to integers as a file, and, where wanted, the one back to float.

    Args:
        program: that holds the value.
        value: of integers.
        suffix: of the format.
        back: whether the file returns float values again; else it returns integers.
    """
    source, again = (replace(value, name=f"{value.name}_{end}", encoding=None) for end in ("real", "again"))
    steps = [Instruction("into", "quantize", (source.name,), (value.name,))]
    if back:
        steps.append(Instruction("back", "dequantize", (value.name,), (again.name,)))
    held = replace(program, values={v.name: v for v in (source, value, again)})
    return _written(held, (source.name,), steps, steps[-1].outputs, FORMATS[suffix], "float32")


def _file(
    program: Program, inputs: tuple[str, ...], steps: Sequence[Instruction], outputs: tuple[str, ...], file_format: Format
) -> SingleFile:
    if file_format is ONNX:  # takes and returns integers as they are
        return _written(program, inputs, steps, outputs, file_format, "int8")
    # A .tflite takes and returns integers in place of the float values around a conversion.
    values = dict(program.values)
    ends: dict[str, str] = {}
    for name in (*inputs, *outputs):
        if values[name].encoding is not None:
            ends[name] = f"{name}_real"
            values[ends[name]] = replace(values[name], name=ends[name], encoding=None)
    before = [Instruction(f"into_{n}", "quantize", (ends[n],), (n,)) for n in inputs if n in ends]
    after = [Instruction(f"back_{n}", "dequantize", (n,), (ends[n],)) for n in outputs if n in ends]
    named = [tuple(ends.get(name, name) for name in names) for names in (inputs, outputs)]
    return _written(replace(program, values=values), named[0], [*before, *steps, *after], named[1], file_format, "int8")


def _written(
    program: Program, inputs: tuple[str, ...], steps: Sequence[Instruction], outputs: tuple[str, ...], file_format: Format,
    io_dtype: str,
) -> SingleFile:  # fmt: skip
    alone = replace(
        program, inputs=inputs, outputs=outputs, instructions=tuple(steps), block=None, input_names=(), output_names=(),
        origin=None, scopes={},
    )  # fmt: skip
    exporter = exporter_of(file_format)
    laid = exporter.legalize(to_layout(alone, file_format.layout, file_format.layout))
    shapes = tuple(_of_one(laid.values[name]) for name in laid.inputs)
    return SingleFile(exporter.write(laid, io_dtype), program.kernels, shapes, file_format)


def _of_one(value: Value) -> tuple[int, ...]:
    """Return the shape of a value for one sample."""
    shape = value.example_shape
    return (1, *shape[1:]) if value.shape and value.shape[0] is None else shape
