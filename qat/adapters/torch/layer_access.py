"""A prepared model layer by layer: a layer's input, scale and parameters, for :mod:`qat.calibration.layerwise`."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from qat.adapters.torch.nodes.linear import Conv2d
from qat.adapters.torch.nodes.stored_weight import StoredWeight

from .inference import forward
from .prepared_model import SCOPE, PreparedModel


class _Reached(Exception):
    """Ends a pass when it reaches a layer: the rest need not be computed."""


def twin_of(model: PreparedModel) -> PreparedModel:
    """Return a copy of a model that shares no tensor with it."""
    return copy.deepcopy(model)


def layer_input(model: PreparedModel, name: str, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    """Return the real values that a layer reads when the model gets ``inputs``."""
    node = _node(model, name)
    seen: list[torch.Tensor] = []

    def keep(_: Any, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0])
        raise _Reached

    handle = node.register_forward_pre_hook(keep)
    with handle, suppress(_Reached):
        forward(model, inputs)
    x = seen[0].detach()
    on_grid = isinstance(node, Conv2d) and node.inputs[0].on_grid
    return (x * node.inputs[0].scale if on_grid else x).cpu().numpy()


def layer_scale(model: PreparedModel, name: str, weight: str, bias: str | None) -> np.ndarray:
    """Return the scale of each output channel of a layer's weight, float32 of shape (channels,)."""
    node = _node(model, name)
    with torch.no_grad():
        laid = node.program_layout(model.tensor(weight))
        scale = node.weight_scale(laid, None if bias is None else model.tensor(bias))
    return np.asarray(scale.cpu().numpy(), np.float32)


def parameter(model: PreparedModel, name: str) -> np.ndarray:
    """Return a copy of a parameter, or of the buffer in its place."""
    return np.array(model.tensor(name).detach().cpu().numpy())


def set_parameter(model: PreparedModel, name: str, value: np.ndarray) -> None:
    """Overwrite a parameter."""
    model.set_tensor(name, torch.from_numpy(value))


def first_not_finite(model: PreparedModel) -> str | None:
    """Return the first parameter or range that holds NaN or infinite values, or the first buffer with NaN; None without one."""
    held = [(name, tensor.isfinite()) for name, tensor in model.named_parameters()]
    # A mask of attention may well hold infinite values.
    held += [(name, ~tensor.isnan()) for name, tensor in model.named_buffers() if not name.startswith(SCOPE)]
    held += [(f"{name} (range)", grid.range.isfinite()) for name, grid in model.grids.items() if grid.calibrated]
    return next((name for name, finite in held if not finite.all()), None)


def _node(model: PreparedModel, name: str) -> Conv2d | StoredWeight:
    node = model.get_submodule(f"{SCOPE}.nodes.{name}")
    assert isinstance(node, (Conv2d, StoredWeight))
    return node
