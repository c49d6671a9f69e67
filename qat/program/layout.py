"""Layouts: a program whose images lie ``NCHW`` (PyTorch, ONNX) becomes one whose images lie ``NHWC`` (Keras, TFLite), or back.

An image is a value of rank 4 or 5. A convolution or pooling wants its images in the layout of the kernels; an operator that
merges axes or keeps its framework's implementation wants those of the model; the rest takes either. A value is written in one
layout and transposed for the first reader that wants the other one: where there are integers, as integers, and never twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qat.errors import ConfigError, nearest
from qat.graph.kinds import STEPS

from .program import Instruction, Program, Value

LAYOUTS = ("NCHW", "NHWC")


def permutation(rank: int, source: str, target: str) -> tuple[int, ...] | None:
    """Return the axes that turn an image in layout ``source`` into one in ``target``; None where there is nothing to turn."""
    if rank not in (4, 5) or source == target:
        return None
    return (0, *range(2, rank), 1) if source == "NCHW" else (0, rank - 1, *range(1, rank - 1))


def to_layout(program: Program, layout: str, border: str | None = None) -> Program:
    """Return a program that computes the same with its kernels' images in another layout.

    A value keeps its name in the layout that it is written in; :attr:`qat.program.program.Value.axes` says how it lies. Its copy
    in the other layout is named ``<name>_nchw`` or ``<name>_nhwc``.

    Args:
        program: in any layout.
        layout: of the images that the kernels see, ``NCHW`` or ``NHWC``.
        border: of the images among the program's inputs and outputs; None: as they are.

    Raises:
        ConfigError: there is no such layout.
    """
    for name in (layout, *([border] if border else [])):
        if name not in LAYOUTS:
            raise ConfigError(f"layout '{name}' is none of {', '.join(LAYOUTS)}{nearest(name.upper(), LAYOUTS)}")
    if layout == program.layout == (border or layout):
        return program
    return _Rewriter(program, layout, border or program.layout).rewritten()


class _Rewriter:
    """Writes the new program's instructions. ``forms`` maps a value to its names by layout, as far as they exist."""

    def __init__(self, program: Program, layout: str, border: str) -> None:
        self.program, self.layout, self.border = program, layout, border
        self.values: dict[str, Value] = {}
        self.steps: list[Instruction] = []
        self.forms: dict[str, dict[str, str]] = {}
        self.readers: dict[str, list[Instruction]] = {}
        for step in program.instructions:
            for name in step.inputs:
                self.readers.setdefault(name, []).append(step)
        #: Flattened images that only dense layers read: the new name, and the element of the model's row at each place.
        self.reordered: dict[str, tuple[str, np.ndarray]] = {}

    def rewritten(self) -> Program:
        program = self.program
        inputs = tuple(self.write(name, self.border) for name in program.inputs)
        for step in program.instructions:
            if step.kind == "reshape":
                self.reshape(step)
            elif step.kind == "dense" and step.inputs[0] in self.reordered:
                self.dense(step)
            elif step.kind == "transpose" and (there := self.lies_there(step)) is not None:
                self.forms[step.outputs[0]] = there
            else:
                self.plain(step, self.layout_of(step))
        block = program.block
        if block is not None:
            block = replace(block, inputs=tuple(self.read(name, program.layout) for name in block.inputs))
        outputs = tuple(self.read(name, self.border) for name in program.outputs)
        return replace(
            program, layout=self.layout, inputs=inputs, outputs=outputs, values=self.values, instructions=tuple(self.steps),
            block=block,
        )  # fmt: skip

    # --- values ---

    def rank(self, name: str) -> int:
        return len(self.program.values[name].shape)

    def is_image(self, name: str) -> bool:
        return self.rank(name) in (4, 5)

    def write(self, name: str, layout: str) -> str:
        """Declare a value in a layout, under its own name."""
        self.values[name] = self.laid(name, layout)
        self.forms[name] = {layout: name}
        return name

    def laid(self, name: str, layout: str) -> Value:
        """Return a value as it lies in a layout."""
        value = self.program.values[name]
        axes = permutation(len(value.shape), self.program.layout, layout)
        if axes is None:
            return value
        example = tuple(value.example[a] for a in axes) if value.example else ()
        return replace(value, shape=tuple(value.shape[a] for a in axes), axes=axes, example=example)

    def read(self, name: str, layout: str) -> str:
        """Return the name of a value in a layout, transposing it where nobody has yet."""
        forms = self.forms[name]
        if layout in forms or not self.is_image(name):
            return forms.get(layout) or next(iter(forms.values()))
        ((source, own),) = forms.items()
        axes = permutation(self.rank(name), source, layout)
        forms[layout] = made = self.unused(f"{name}_{layout.lower()}")
        self.values[made] = replace(self.laid(name, layout), name=made)
        self.steps.append(Instruction(f"{own}_to_{layout.lower()}", "transpose", (own,), (made,), {"axes": axes}))
        return made

    def unused(self, name: str) -> str:
        while name in self.program.values or name in self.values:
            name += "_"
        return name

    # --- instructions ---

    def layout_of(self, step: Instruction) -> str:
        """Return the layout that an instruction's images are to lie in."""
        own, images = self.program.layout, [name for name in step.inputs if self.is_image(name)]
        wanted = STEPS[step.kind].layout
        if wanted == "model":
            return own
        if wanted == "kernel" or (wanted == "axes" and self.is_spatial(step)):
            return self.layout
        if wanted == "readers":  # of the real values, so that integers are transposed
            (output,) = step.outputs
            if any(STEPS[reader.kind].layout == "model" for reader in self.readers.get(output, ())):
                return own
            if output in self.program.outputs:
                return self.border
        if wanted == "axes" or any(self.broadcasts(name, step) for name in step.inputs):
            return own
        there = [layout for name in images for layout in self.forms[name]]
        return self.layout if self.layout in there or not there else there[0]

    def is_spatial(self, step: Instruction) -> bool:
        rank = self.rank(step.inputs[0])
        first = 2 if self.program.layout == "NCHW" else 1
        return rank in (4, 5) and sorted(a % rank for a in step.attrs["axes"]) == list(range(first, first + rank - 2))

    def broadcasts(self, name: str, step: Instruction) -> bool:
        """Whether an input of a lower rank lies along the last axes of the output, which are others in another layout."""
        shape = self.program.values[name].shape
        return len(shape) < self.rank(step.outputs[0]) and any(n != 1 for n in shape)

    def plain(self, step: Instruction, layout: str) -> None:
        """Write an instruction with its images in a layout."""
        inputs = tuple(self.read(name, layout) for name in step.inputs)
        rank = max([self.rank(name) for name in step.inputs], default=0)
        axes = permutation(rank, self.program.layout, layout)
        attrs = dict(step.attrs) if axes is None or STEPS[step.kind].layout == "model" else _turned(step.attrs, axes)
        outputs = tuple(self.write(name, layout) for name in step.outputs)
        self.steps.append(replace(step, inputs=inputs, outputs=outputs, attrs=attrs))

    def lies_there(self, step: Instruction) -> dict[str, str] | None:
        """Return a form of a transpose's output that its input has already, in another layout; None where there is none.

        So a model that takes images in the kernels' layout, and turns them into that of its framework, turns nothing.
        """
        (source,), (output,), own = step.inputs, step.outputs, self.program.layout
        if output in self.program.outputs and self.program.values[output].encoding is None:
            return None  # the caller knows the value by its own name
        rank = self.rank(source)
        same = tuple(range(rank))
        for written, name in self.forms[source].items():
            lies = permutation(rank, own, written) or same
            for layout in LAYOUTS:
                wanted = permutation(rank, own, layout) or same
                if tuple(step.attrs["axes"][a] for a in wanted) == lies:
                    return {layout: name}
        return None

    def reshape(self, step: Instruction) -> None:
        """Write a reshape. Of an image whose elements lie in the same order in both layouts it takes either."""
        (source,), (output,) = step.inputs, step.outputs
        own, forms = self.program.layout, self.forms[source]
        if (
            own not in forms
            and not self.keeps_order(source)
            and self.flattened_for_dense(source, output, bool(step.attrs.get("folds")))
        ):
            self.flatten(step)
            return
        read = next(iter(forms.values())) if self.keeps_order(source) else self.read(source, own)
        written = self.layout if self.keeps_order(output) else own
        axes = permutation(self.rank(output), own, written)
        shape = step.attrs["shape"] if axes is None else tuple(step.attrs["shape"][a] for a in axes)
        self.steps.append(
            replace(step, inputs=(read,), outputs=(self.write(output, written),), attrs={**step.attrs, "shape": shape})
        )

    def keeps_order(self, name: str) -> bool:
        """Whether a value is an image whose elements lie in the same order in both layouts: of one channel, or one pixel."""
        shape = self.program.values[name].shape
        if not self.is_image(name):
            return False
        channels, pixels = (shape[1], shape[2:]) if self.program.layout == "NCHW" else (shape[-1], shape[1:-1])
        return channels == 1 or all(n == 1 for n in pixels)

    def flattened_for_dense(self, source: str, output: str, folds: bool) -> bool:
        """Whether a reshape makes a row of each image, of fixed size, that dense layers alone read."""
        sizes, readers = self.program.values[source].shape[1:], self.readers.get(output, ())
        row = self.is_image(source) and None not in sizes and self.rank(output) == 2 and not folds
        return row and output not in self.program.outputs and all(reader.kind == "dense" for reader in readers)

    def flatten(self, step: Instruction) -> None:
        """Flatten an image as it lies; the dense layers that follow take their weights in its order."""
        (source,), (output,) = step.inputs, step.outputs
        shape = [n or 0 for n in self.program.values[source].shape[1:]]
        axes = permutation(len(shape) + 1, self.program.layout, self.layout)
        assert axes is not None
        made = self.unused(f"{output}_{self.layout.lower()}")
        self.values[made] = replace(self.program.values[output], name=made)
        places = np.arange(int(np.prod(shape))).reshape(shape)
        self.reordered[output] = made, places.transpose([a - 1 for a in axes[1:]]).ravel()
        self.steps.append(replace(step, inputs=(self.read(source, self.layout),), outputs=(made,)))

    def dense(self, step: Instruction) -> None:
        """Write a dense layer that reads a flattened image: its weight follows the order of the elements."""
        made, order = self.reordered[step.inputs[0]]
        assert step.weight is not None
        self.write(step.outputs[0], self.program.layout)
        self.steps.append(replace(step, inputs=(made,), weight=np.ascontiguousarray(step.weight[:, order])))


def _turned(attrs: Mapping[str, Any], axes: tuple[int, ...]) -> dict[str, Any]:
    """Return attributes whose axes follow the images': axis ``a`` is where ``axes`` has it."""
    out, rank = dict(attrs), len(axes)
    if "axis" in out:
        out["axis"] = axes.index(out["axis"] % rank)
    if "axes" in out:
        out["axes"] = tuple(sorted(axes.index(a % rank) for a in out["axes"]))
    return out
