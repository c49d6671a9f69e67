"""The table of operators: domain and name in the specification, and the row that writes it as calls of PyTorch.

Lay it beside https://onnx.ai/onnx/operators/ and, for ``com.microsoft``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. A row reads the forms of all opsets from 7 on.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import elementwise, indexing, linear, microsoft, normalization, quantized, recurrent, reductions, resizing, shapes, windows
from .operator import Row

#: Every row by domain (empty for ONNX's own) and name.
OPERATORS: Mapping[tuple[str, str], Row] = {
    ("", name): row
    for table in (elementwise, indexing, linear, normalization, quantized, recurrent, reductions, resizing, shapes, windows)
    for name, row in table.ROWS.items()
} | {("com.microsoft", name): row for name, row in microsoft.ROWS.items()}
