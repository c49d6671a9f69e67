"""Example inputs of a block of PyTorch's operators, with which ``torch.export`` captures it again for any batch."""

from __future__ import annotations

from typing import Any

from qat.program.program import FrameworkBlock, Program


def example_inputs(program: Program, block: FrameworkBlock) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return zeros for a block's inputs, and which of their axes are dynamic, as ``torch.export`` takes both.

    Windows or heads may be folded into the batch, and the batch need not be the first axis: the sizes are those that the capture
    found, or the shapes that the block's operators were given would not hold.
    """
    import torch

    tensors, dynamic = [], []
    for name in block.inputs:
        value = program.values[name]
        dtype = value.dtype if value.encoding is None else value.encoding.dtype
        tensors.append(torch.zeros(value.example_shape, dtype=getattr(torch, dtype)))
        axes = [axis for axis, size in enumerate(value.shape) if size is None]
        dynamic.append(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None)
    return tuple(tensors), tuple(dynamic)
