"""The shapes of common operators' results, told without taking the operators apart.

Where the batch is a symbol, PyTorch finds the shape of ``relu`` or ``batch_norm`` by running a decomposition into a dozen
operators on tensors without values: half of a capture of MobileNet. PyTorch has a shorter way for sums and products; for the
time of a capture it has one for the operators here. Where an operand is not of the plain kind, the decomposition runs as before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._prims_common import is_contiguous_for_memory_format_or_false
from torch._subclasses.fake_impls import FAST_OP_IMPLEMENTATIONS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

aten = torch.ops.aten

#: What finds the result of an operator's arguments, or None.
Way = Callable[..., Any]

#: Functions of each element, whose other arguments are numbers.
_ELEMENTWISE = (
    aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.leaky_relu.default, aten.elu.default, aten.gelu.default,
    aten.silu.default, aten.mish.default, aten.hardswish.default, aten.hardsigmoid.default, aten.sigmoid.default,
    aten.tanh.default, aten.softplus.default, aten.exp.default, aten.log.default, aten.sqrt.default, aten.rsqrt.default,
    aten.neg.default, aten.abs.default,
)  # fmt: skip


@contextlib.contextmanager
def quick_shapes() -> Iterator[None]:
    """Let captures within it tell the shapes of the operators here at once."""
    known = dict(FAST_OP_IMPLEMENTATIONS)
    FAST_OP_IMPLEMENTATIONS.update({op: functools.partial(_found, op, way) for op, way in _WAYS.items() if op not in known})
    try:
        yield
    finally:
        FAST_OP_IMPLEMENTATIONS.clear()
        FAST_OP_IMPLEMENTATIONS.update(known)


def _found(op: torch._ops.OpOverload, way: Way, mode: FakeTensorMode, *args: Any, **kwargs: Any) -> Any:
    found = way(mode, *args, **kwargs)
    if found is None:
        with mode:
            return decomposition_table[op](*args, **kwargs)
    return found


def _elementwise(mode: FakeTensorMode, x: FakeTensor, *_: Any, **__: Any) -> FakeTensor | None:
    layout = _layout(x)
    return None if layout is None else _empty(mode, x, x.shape, layout)


def _batch_norm(mode: FakeTensorMode, x: FakeTensor, *args: Any) -> tuple[FakeTensor, ...] | None:
    layout = _layout(x)
    channels = [t for t in args if isinstance(t, Tensor)]  # weight, bias, running mean and variance
    if layout is None or x.device.type != "cpu" or x.ndim < 2 or not _are(channels, x, x.shape[1:2]):
        return None
    return _empty(mode, x, x.shape, layout), _empty(mode, x, (0,)), _empty(mode, x, (0,))


def _addmm(mode: FakeTensorMode, bias: FakeTensor, x: FakeTensor, weight: FakeTensor, **numbers: Any) -> FakeTensor | None:
    fits = _layout(x) is torch.contiguous_format and weight.dtype == x.dtype and _fixed(x.shape[1:]) == _fixed(weight.shape[:1])
    if numbers or not fits or not _are([bias], x, weight.shape[1:]):
        return None
    return _empty(mode, x, (x.shape[0], weight.shape[1]))


def _layout(x: FakeTensor) -> torch.memory_format | None:
    """Return how a tensor of real numbers lies in memory; None where that is not one of the two usual ways beyond doubt."""
    if not x.dtype.is_floating_point:
        return None
    layouts = (torch.contiguous_format, torch.channels_last)
    return next((layout for layout in layouts if is_contiguous_for_memory_format_or_false(x, memory_format=layout)), None)


def _are(tensors: Sequence[Tensor], x: FakeTensor, shape: Sequence[int]) -> bool:
    """Whether tensors are of a shape without symbols, of a tensor's type and on its device."""
    wanted = _fixed(shape)
    return wanted is not None and all((t.dtype, t.device, _fixed(t.shape)) == (x.dtype, x.device, wanted) for t in tensors)


def _fixed(shape: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(shape) if all(isinstance(size, int) for size in shape) else None


def _empty(
    mode: FakeTensorMode, x: FakeTensor, shape: Sequence[int], layout: torch.memory_format = torch.contiguous_format
) -> FakeTensor:
    return FakeTensor(mode, torch.empty(shape, dtype=x.dtype, device="meta", memory_format=layout), x.device)


_WAYS: dict[torch._ops.OpOverload, Way] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.addmm.default: _addmm,
}
