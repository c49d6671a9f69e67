"""The table of operators: one row for each builtin of TFLite, and for each custom operator, that becomes calls of PyTorch.

The rows stand by kind in the modules that are joined here; each names the kernel that it follows.
"""

from __future__ import annotations

from . import elementwise, linear, lookups, reductions, shapes, windows
from .importer import Row

ROWS: dict[str, Row] = {
    **linear.ROWS,
    **elementwise.ROWS,
    **reductions.ROWS,
    **windows.ROWS,
    **shapes.ROWS,
    **lookups.ROWS,
}
