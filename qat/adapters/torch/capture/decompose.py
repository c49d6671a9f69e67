"""PyTorch's own decompositions of captured operators.

``run_decompositions`` lists the 900 composite operators that PyTorch has once for each of 25 namespaces, twice: 80 ms, more than
the rest of it takes for a small model. Here they are listed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._export import utils

aten = torch.ops.aten

#: What PyTorch would take apart into many operators.
_WHOLE = (aten.upsample_bicubic2d.vec,)

_list_composites = utils._materialize_cpp_cia_ops


def functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a captured model without in-place operators. Composite operators, BatchNorm too, are taken apart."""
    with composites_listed_once():
        return exported.run_decompositions({})


def in_core_operators(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a captured model in core ATen operators, as :mod:`qat.planning.held_in_tflite` knows them."""
    with composites_listed_once():
        table = torch.export.default_decompositions()
        return exported.run_decompositions({op: table[op] for op in table if op not in _WHOLE})


@contextlib.contextmanager
def composites_listed_once() -> Iterator[None]:
    """Let ``run_decompositions`` within it, ``torch.onnx.export``'s too, list the composite operators once."""
    listed = False

    def once() -> None:
        nonlocal listed
        if not listed:
            _list_composites()
            listed = True

    utils._materialize_cpp_cia_ops = once
    try:
        yield
    finally:
        utils._materialize_cpp_cia_ops = _list_composites
