"""Tokens that become images, and images that become tokens, without a turn of their own.

ONNX Runtime's integer convolutions hold images with the channels last, as tokens hold them, and put a transpose before and behind
themselves. It takes away two transposes that undo each other where they meet. A reshape between the two keeps them apart, so that
it moves: ``transpose, reshape`` into an image becomes ``reshape, transpose``, and the other way behind a convolution.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

from qat.program.program import Instruction, Program, Value

#: The axes of a transpose between ``[batch, tokens, channels]`` and ``[batch, channels, tokens]``.
_SWAPPED = (0, 2, 1)


def turn_images(program: Program) -> Program:
    """Return a program in NCHW that turns whole images where it turned their tokens, with one transpose for one."""
    values = dict(program.values)
    kept, readers = program.read_outside, program.readers()
    steps: list[Instruction] = []
    moved: dict[str, Instruction] = {}
    for step in program.instructions:
        before = moved.get(step.inputs[0]) if step.inputs else None
        if before is not None:
            steps += _exchanged(before, step, values)
        elif step.kind in ("transpose", "reshape") and step.outputs[0] not in kept and _move(step, readers, values):
            moved[step.outputs[0]] = step
        else:
            steps.append(step)
    for name in moved:
        del values[name]
    return replace(program, values=values, instructions=tuple(steps))


def _move(step: Instruction, readers: MutableMapping[str, list[Instruction]], values: MutableMapping[str, Value]) -> bool:
    """Return whether a step can be exchanged with each that reads it."""
    found = readers.get(step.outputs[0], [])
    if step.kind == "transpose":
        return _swaps(step) and bool(found) and all(r.kind == "reshape" and _is_image(*_ends(r), r, values) for r in found)
    image, tokens = _ends(step)
    return _is_image(tokens, image, step, values) and bool(found) and all(map(_swaps, found))


def _ends(step: Instruction) -> tuple[str, str]:
    return step.inputs[0], step.outputs[0]


def _swaps(step: Instruction) -> bool:
    return step.kind == "transpose" and tuple(step.attrs["axes"]) == _SWAPPED


def _is_image(tokens: str, image: str, reshape: Instruction, values: MutableMapping[str, Value]) -> bool:
    """Return whether a reshape lies between channels of tokens and the same channels of an image."""
    flat, laid = values[tokens].shape, values[image].shape
    return len(flat) == 3 and len(laid) > 3 and flat[:2] == laid[:2] and not reshape.attrs.get("folds")


def _exchanged(first: Instruction, second: Instruction, values: MutableMapping[str, Value]) -> list[Instruction]:
    """Return two steps in the other order. The value between them is the image with its channels last."""
    image = values[first.inputs[0] if first.kind == "reshape" else second.outputs[0]]
    rank = len(image.shape)
    last, first_again = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
    name = f"{second.outputs[0]}_channels_last"
    shape, example = (tuple(sizes[a] for a in last) if sizes else () for sizes in (image.shape, image.example))
    values[name] = replace(image, name=name, shape=shape, example=example, axes=None)
    axes = last if first.kind == "reshape" else first_again
    turn = replace(first, name=f"{second.name}_turn", kind="transpose", attrs={"axes": axes})
    reshape = replace(first, name=f"{second.name}_reshape", kind="reshape", attrs={})
    before, after = (turn, reshape) if first.kind == "reshape" else (reshape, turn)
    return [replace(before, inputs=first.inputs, outputs=(name,)), replace(after, inputs=(name,), outputs=second.outputs)]
