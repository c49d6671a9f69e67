"""Float layers that a runtime computes in another order than TensorFlow: the functions that take their place in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tensorflow import Tensor

from .float_functions import activation
from .float_resizing import resized_by_onnxruntime, resized_by_xnnpack

_RESIZING = {"mlas": resized_by_onnxruntime, "xnnpack": resized_by_xnnpack}

#: By a target's arithmetic: the function in the place of a layer or an operation, by the name of its class.
IN_ORDER: Mapping[str, Mapping[str, Callable[[Any, Tensor], Tensor | None]]] = MappingProxyType(
    {
        kernels: dict.fromkeys(("Resize", "Resizing", "UpSampling2D"), function) | {"Activation": activation(kernels)}
        for kernels, function in _RESIZING.items()
    }
)
