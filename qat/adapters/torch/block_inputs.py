"""Example inputs of a float block, with which ``torch.export`` captures the block again for any batch."""

from __future__ import annotations

import torch

from qat.program.program import FrameworkBlock, Program

#: Of each axis of an input whose size is not fixed; None where all sizes are fixed.
DynamicAxes = dict[int, object] | None


def example_inputs(program: Program, block: FrameworkBlock) -> tuple[tuple[torch.Tensor, ...], tuple[DynamicAxes, ...]]:
    """Return zeros for the inputs of a block and the dynamic axes of each input, as ``torch.export`` takes both.

    The batch need not be the first axis, and windows or heads may be folded into it. The zeros therefore have the sizes that the
    capture of the model found: the shapes that are constants inside the block hold for no other size.
    """
    tensors: list[torch.Tensor] = []
    dynamic: list[DynamicAxes] = []
    for name in block.inputs:
        value = program.values[name]
        dtype = value.dtype if value.encoding is None else value.encoding.dtype
        tensors.append(torch.zeros(value.example_shape, dtype=getattr(torch, dtype)))
        axes: dict[int, object] = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(value.shape) if size is None}
        dynamic.append(axes or None)
    return tuple(tensors), tuple(dynamic)
