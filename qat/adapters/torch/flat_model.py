"""A float model whose inputs are nested, as one that takes their tensors alone: for tools that know no other."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import Tensor, nn

from .signature import Call, call_of


def flattened(model: nn.Module, inputs: Any) -> tuple[nn.Module, tuple[np.ndarray, ...]]:
    """Return a model that takes the tensors of a batch, each as an argument, and those tensors.

    It is the model itself where its arguments are tensors; else one around it, in which what is no tensor is as in this batch.
    """
    call = call_of(model, inputs)
    settings = [leaf for leaf in call.signature().settings.values() if leaf is not None]
    is_flat = not settings and all(len(path) == 1 for path in call.tensors)
    arrays = tuple(x.detach().cpu().numpy() for x in call.tensors.values())
    return model if is_flat else _around(model, call), arrays


def _around(model: nn.Module, call: Call) -> nn.Module:
    def forward(self: nn.Module, *tensors: Tensor) -> Any:
        args, kwargs = call.with_tensors(tensors).split()
        return self.get_submodule("model")(*args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ("self", *call.signature().inputs.values())
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    made: nn.Module = type("FlatModel", (nn.Module,), {"forward": forward})()
    made.add_module("model", model)
    return made.train(model.training)
