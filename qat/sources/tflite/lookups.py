"""Operators that choose elements by indices: tensorflow/lite/kernels/{gather,gather_nd,embedding_lookup,topk_v2,one_hot}.cc."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qat.errors import CaptureError

from .flatbuffer import Operator
from .importer import Importer, Row, torch_type
from .laid import Laid, in_file_order


def gather(b: Importer, op: Operator) -> Laid:
    """GATHER, along an axis. Rows of a constant table are an embedding."""
    o = op.options
    if o is not None and o.batchDims:
        raise CaptureError(f"{op} has {o.batchDims} batch dimensions: only 0 is read")
    axis = o.axis if o is not None else 0
    if b.is_known(op, 0) and not b.is_known(op, 1) and axis == 0 and b.known(op, 0).ndim == 2:
        return in_file_order(b.call(F.embedding, b.plain(op, 1), b.weight(op, 0)))
    x = b.plain(op, 0)
    rank = len(x.shape)
    if b.is_known(op, 1):
        indices = b.known(op, 1).astype("int64")
        if indices.ndim == 0:
            return in_file_order(b.call(torch.select, x, axis % rank, int(indices)))
        if indices.ndim == 1:
            return in_file_order(b.call(torch.index_select, x, axis % rank, b.constant(indices, f"{op.scope}.indices")))
        at = b.constant(indices, f"{op.scope}.indices")
    else:
        at = b.plain(op, 1)
    return in_file_order(b.call(torch.ops.aten.index.Tensor, x, [*[None] * (axis % rank), at]))


def embedding_lookup(b: Importer, op: Operator) -> Laid:
    """EMBEDDING_LOOKUP: the indices, then the table."""
    return in_file_order(b.call(F.embedding, b.plain(op, 0), b.weight(op, 1)))


def top_k(b: Importer, op: Operator) -> list[Laid]:
    """TOPK_V2: the largest of the last axis, and their places."""
    (count,) = b.integers(op, 1)
    values, places = b.writer.calls(torch.topk, b.plain(op, 0), count)
    return [in_file_order(values), in_file_order(b.call(torch.Tensor.to, places, torch_type(b.graph.tensors[op.outputs[1]])))]


def one_hot(b: Importer, op: Operator) -> Laid:
    """ONE_HOT: indices, depth, and the numbers on and off."""
    (depth,), on, off = b.integers(op, 1), b.known(op, 2).item(), b.known(op, 3).item()
    hot = b.call(F.one_hot, b.call(torch.Tensor.to, b.plain(op, 0), torch.int64), depth)
    value = b.call(torch.where, b.call(torch.Tensor.to, hot, torch.bool), on, off)
    last = len(value.shape) - 1
    axis = op.options.axis % len(value.shape)
    return in_file_order(value if axis == last else b.call(torch.movedim, value, last, axis))


ROWS: dict[str, Row] = {
    "GATHER": gather,
    "EMBEDDING_LOOKUP": embedding_lookup,
    "TOPK_V2": top_k,
    "ONE_HOT": one_hot,
}
