"""Images that are cut into patches, and patches that become an image again, with the channels last.

``reshape, transpose, reshape`` of the axes behind the channels keeps the layout of ONNX Runtime's integer convolutions apart from
what follows, as in :mod:`qat.exporters.onnx.token_images`. With the channels last it is the same three steps between two
transposes, which the transposes of the convolutions undo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qat.graph.kinds import KINDS
from qat.program.program import Instruction, Program, Value

#: The three steps, in order.
_KINDS = ("reshape", "transpose", "reshape")


def turn_patches(program: Program) -> Program:
    """Return a program in NCHW that cuts and joins the images next to convolutions with their channels last."""
    values = dict(program.values)
    kept, readers = program.read_outside, program.readers()
    writers = {name: step for step in program.instructions for name in step.outputs}
    made: dict[str, list[Instruction]] = {}
    for last in program.instructions:
        steps = _steps_to(last, writers)
        inside = [step.outputs[0] for step in steps[:-1]]
        alone = all(len(readers[name]) == 1 and name not in kept for name in inside)
        if alone and _is_cut(steps, values) and _beside_a_convolution(steps, writers, readers):
            made |= {step.name: [] for step in steps[:-1]} | {last.name: _channels_last(steps, values)}
            for name in inside:
                del values[name]
    instructions = (new for step in program.instructions for new in made.get(step.name, [step]))
    return replace(program, values=values, instructions=tuple(instructions))


def _steps_to(last: Instruction, writers: Mapping[str, Instruction]) -> list[Instruction]:
    """Return the steps of :data:`_KINDS` that end in one; none where it ends no such steps."""
    found: list[Instruction] = []
    step: Instruction | None = last
    for kind in reversed(_KINDS):
        if step is None or step.kind != kind or step.attrs.get("folds"):
            return []
        found.insert(0, step)
        step = writers.get(step.inputs[0])
    return found


def _is_cut(steps: Sequence[Instruction], values: Mapping[str, Value]) -> bool:
    """Whether steps take an image of integers and make one, both of fixed sizes, and leave its channels where they are."""
    if not steps:
        return False
    ends = values[steps[0].inputs[0]], *(values[step.outputs[0]] for step in steps)
    first, last = ends[0].shape, ends[-1].shape
    fixed = all(value.encoding is not None and None not in value.shape[1:] for value in ends)
    whole = all(value.shape[:2] == first[:2] for value in ends) and tuple(steps[1].attrs["axes"][:2]) == (0, 1)
    return fixed and whole and len(first) == len(last) == 4


def _beside_a_convolution(
    steps: Sequence[Instruction], writers: Mapping[str, Instruction], readers: Mapping[str, Sequence[Instruction]]
) -> bool:
    before = writers.get(steps[0].inputs[0])
    beside = [*([before] if before is not None else []), *readers.get(steps[-1].outputs[0], [])]
    return any(KINDS[step.kind].linear and KINDS[step.kind].spatial for step in beside if step.kind in KINDS)


def _channels_last(steps: Sequence[Instruction], values: dict[str, Value]) -> list[Instruction]:
    """Return the steps with the channels last, between a transpose that brings them there and one that brings them back."""
    cut, turn, join = steps
    source, name = cut.inputs[0], join.outputs[0]
    chain = [values[step.outputs[0]] for step in steps]
    axes = (0, *(a - 1 for a in turn.attrs["axes"][2:]), len(turn.attrs["axes"]) - 1)
    made = [
        (replace(turn, name=f"{cut.name}_turn", attrs={"axes": (0, 2, 3, 1)}), values[source]),
        (replace(cut, attrs={}), chain[0]),
        (replace(turn, attrs={"axes": axes}), chain[1]),
        (replace(join, attrs={}), chain[2]),
    ]
    result, before = [], source
    for step, value in made:
        after = f"{step.name}_channels_last"
        last = (0, *range(2, len(value.shape)), 1)
        shape, example = (tuple(sizes[a] for a in last) if sizes else () for sizes in (value.shape, value.example))
        values[after] = replace(value, name=after, shape=shape, example=example, axes=None)
        result.append(replace(step, inputs=(before,), outputs=(after,)))
        before = after
    back = replace(turn, name=f"{join.name}_back", inputs=(before,), outputs=(name,), attrs={"axes": (0, 3, 1, 2)})
    return [*result, back]
