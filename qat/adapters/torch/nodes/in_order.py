"""Operators that a runtime computes in another order than PyTorch: the functions that take their place in a prepared model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from qat.adapters.torch.autograd.moves import CARRYING

from .equal_values import SORT, TOPK, first_of_equal_sorted, first_of_equal_topk
from .float_functions import RUNNING_SUM, SOFTMAX, running_sum, softmax_of_onnxruntime, softmax_of_xnnpack
from .float_resizing import BILINEAR, resized_by_onnxruntime, resized_by_xnnpack

_OF_ALL: Mapping[Any, Callable[..., Any]] = {TOPK: first_of_equal_topk, SORT: first_of_equal_sorted, RUNNING_SUM: running_sum}

#: By a target's arithmetic: the function in the place of an operator.
IN_ORDER: Mapping[str, Mapping[Any, Callable[..., Any]]] = MappingProxyType(
    {
        "mlas": {BILINEAR: resized_by_onnxruntime, SOFTMAX: softmax_of_onnxruntime, **_OF_ALL},
        "xnnpack": {BILINEAR: resized_by_xnnpack, SOFTMAX: softmax_of_xnnpack, **_OF_ALL},
    }
)
#: The operator that each of these functions, and each that carries bytes along, stands for: the exporters write it.
STANDS_FOR: Mapping[Any, Any] = MappingProxyType(
    {function: operator for forms in (*IN_ORDER.values(), CARRYING) for operator, function in forms.items()}
)
