"""A prepared model layer by layer: a layer's input, scale and parameters, for :mod:`qat.calibration.layerwise`."""

from __future__ import annotations

import numpy as np

from qat.adapters.keras.nodes.linear import Linear
from qat.system.samples import check_fit

from .prepared_model import PreparedModel


def twin_of(model: PreparedModel) -> PreparedModel:
    """Return a copy of a model that shares nothing with it."""
    twin = PreparedModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    return twin


def layer_input(model: PreparedModel, name: str, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the real values that a layer reads when the model gets ``inputs``, on the grid or in float as the model is."""
    check_fit(model.plan.graph.input_shapes, inputs)
    real, grid = model.run(list(inputs), training=False, until=name)
    node = _node(model, name)
    tensor = node.planned.op.inputs[0]
    if not node.planned.integer:
        return np.asarray(real[tensor])
    return np.asarray(grid[tensor] * node.inputs[0].scale if model.on_grid else grid[tensor])


def layer_scale(model: PreparedModel, name: str, weight: str, bias: str | None) -> np.ndarray:
    """Return the scale of each output channel of a layer's weight, float32 of shape (channels,)."""
    node = _node(model, name)
    params = model.params_of(node.planned.op)
    return np.asarray(node.weight_scale(params["weight"], params.get("bias")), np.float32)


def parameter(model: PreparedModel, name: str) -> np.ndarray:
    """Return a parameter, a copy."""
    return np.array(model.tensor(name))


def set_parameter(model: PreparedModel, name: str, value: np.ndarray) -> None:
    """Overwrite a parameter."""
    model.set_tensor(name, value)


def first_not_finite(model: PreparedModel) -> str | None:
    """Return the first parameter or range that holds NaN or infinite values, or the first buffer with NaN; None without one."""
    held = [(name, np.isfinite(variable)) for name, variable in model.parameters.items()]
    kept = [variable for layer in model.float_layers for variable in getattr(layer, "weights", ())]
    # A mask of attention may well hold infinite values.
    held += [(v.path, np.isfinite(v) if v.trainable else ~np.isnan(v)) for v in kept if "float" in v.dtype]
    held += [(f"{name} (range)", np.isfinite(grid.range)) for name, grid in model.grids.items() if grid.calibrated]
    return next((name for name, finite in held if not np.all(finite)), None)


def _node(model: PreparedModel, name: str) -> Linear:
    node = model.nodes[name]
    assert isinstance(node, Linear)
    return node
