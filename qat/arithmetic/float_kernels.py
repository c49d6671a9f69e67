"""Float functions as a target's runtime computes them on this processor: which are known, bit for bit.

Most classifiers end in a softmax or in a sigmoid, see :mod:`.float_softmax` and :mod:`.float_sigmoid`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qat.system.machine import processor

from . import float_sigmoid, float_softmax

#: The most numbers of a sample: they add a tenth to the evaluation of a small network of segmentation.
_LARGEST = 2**17
#: Numbers that a function takes at a time: a quarter of the time of all at once, of rows of 197.
_BLOCK = 2**16


def as_runtime(kind: str, kernels: str, sizes: Sequence[int | None]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a function of float32 numbers as a runtime computes it; None where that is not known, or takes too long.

    Args:
        kind: the operator; a softmax is over the last axis.
        kernels: the runtime's arithmetic.
        sizes: those of a sample; None for one that is not known.
    """
    form = _forms(kernels).get(kind)
    known = [n for n in sizes if n is not None]
    if form is None or len(known) < len(sizes) or not 0 < math.prod(known) <= _LARGEST:
        return None
    return functools.partial(_by_blocks, form)


def _by_blocks(form: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return a function of rows, as many at a time as the processor's cache holds."""
    rows = x.reshape(-1, x.shape[-1])
    count = max(1, _BLOCK // x.shape[-1])
    y = np.empty(rows.shape, x.dtype)
    for start in range(0, len(rows), count):
        y[start : start + count] = form(rows[start : start + count])
    return y.reshape(x.shape)


@functools.cache
def _forms(kernels: str) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the functions by kind that a runtime's kernels for this processor's widest vectors compute; none where unknown."""
    vectors = next((name for name in ("AVX512", "AVX2") if processor().features.get(name)), None)
    if vectors is None or kernels not in float_softmax.FUNCTIONS:
        return {}
    return {"softmax": float_softmax.FUNCTIONS[kernels][vectors], **float_sigmoid.FUNCTIONS[kernels][vectors]}
