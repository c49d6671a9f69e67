"""Sparse constants: the values that are not zero, in the traversal order of TFLite's format, become a dense array.

tensorflow/compiler/mlir/lite/kernels/internal/utils/sparsity_format_converter.cc, ``FormatConverter::Populate``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

#: What a constant may become in memory, when it is expanded or computed: no weight of a file is as large.
MOST_ELEMENTS = 2**28


def densify(values: np.ndarray, shape: list[int], sparsity: Any) -> np.ndarray:
    """Return the dense array of a sparse constant.

    Each dimension of the traversal, blocks last, is dense or compressed (CSR): a compressed one lists, for each place of the
    dimensions before it, the indices that hold values.

    Args:
        values: in traversal order.
        shape: of the dense array.
        sparsity: the schema's ``SparsityParameters``.
    """
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"a sparse constant of shape {shape} is larger than {MOST_ELEMENTS} elements")
    order = [int(n) for n in sparsity.traversalOrder]
    blocks = [int(n) for n in (sparsity.blockMap if sparsity.blockMap is not None else ())]
    sizes = [1] * len(blocks)
    positions = np.zeros((1, 0), np.int64)  # of the places so far, in traversal order: one column a dimension
    for level, dimension in enumerate(sparsity.dimMetadata):
        if dimension.format == schema.DimensionType.DENSE:
            size = int(dimension.denseSize)
            indices = np.tile(np.arange(size), len(positions))
            counts = np.full(len(positions), size)
        else:
            segments, indices = np.asarray(dimension.arraySegments.values), np.asarray(dimension.arrayIndices.values)
            counts = np.diff(segments.astype(np.int64))
        positions = np.column_stack([np.repeat(positions, counts, axis=0), indices.astype(np.int64)])
        if order[level] >= len(shape):
            sizes[order[level] - len(shape)] = int(dimension.denseSize)
    place = np.zeros((len(positions), len(shape)), np.int64)
    for level, dimension in enumerate(order):
        if dimension < len(shape):
            inner = sizes[blocks.index(dimension)] if dimension in blocks else 1
            place[:, dimension] += positions[:, level] * inner
        else:
            place[:, blocks[dimension - len(shape)]] += positions[:, level]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(place.T)] = values[: len(place)]
    return dense
