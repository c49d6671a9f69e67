"""The parameters that an operation of ``keras.ops`` reads as arguments, where a layer has variables."""

from __future__ import annotations

import inspect

import keras
import numpy as np

from .builder import Builder
from .layer_calls import Call


def weights_of(b: Builder, c: Call, *roles: str) -> dict[str, str] | None:
    """Return the parameters behind the tensor that an operation works on, by role; None where one is an activation.

    Args:
        b: the graph under construction.
        c: the call of the operation.
        roles: of its arguments behind the first, in order; one that is None, or was not given, is left out.
    """
    signature = inspect.signature(c.layer.call)
    bound = signature.bind(*c.arguments.args, **c.arguments.kwargs).arguments
    names = {id(tensor): name for tensor, name in zip(c.arguments.keras_tensors, c.inputs, strict=True)}
    first, *others = (bound.get(argument) for argument in signature.parameters)
    if not isinstance(first, keras.KerasTensor) or b.is_parameter(names[id(first)]):
        return None
    found = {}
    for role, value in zip(roles, others, strict=False):
        if isinstance(value, keras.KerasTensor):
            parameter = b.parameter(names[id(value)])
            if parameter is None or b.params[parameter].shape != tuple(value.shape):
                return None
            found[role] = parameter
        elif value is not None:
            found[role] = b.array(np.asarray(keras.ops.convert_to_numpy(value)), f"{c.path}/{role}")
    return found
