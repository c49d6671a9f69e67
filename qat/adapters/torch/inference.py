"""Inference: running a prepared model for calibration, verification and comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qat.adapters.torch.nodes.activation_grid import Grid
from qat.errors import DataError
from qat.program.build import grid_value_name
from qat.system.nests import mapped
from qat.system.samples import check_fit, first_of_pair

from .nests import opened
from .prepared_model import PreparedModel


def inputs_of(sample: Any, device: torch.device | None = None) -> tuple[torch.Tensor, ...]:
    """Return the model inputs of a sample: a tensor, an array, a tuple of them, or a pair ``(inputs, labels)``.

    Raises:
        DataError: the sample holds something else.
    """
    inputs = first_of_pair(sample)
    values = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    return tuple(mapped(lambda x: _tensor(x, device), value) for value in values)


def _tensor(value: Any, device: torch.device | None) -> Any:
    """Return an array as a tensor on a device; an argument that is none stays."""
    if isinstance(value, (bool, str)):
        return value
    if not isinstance(value, (torch.Tensor, np.ndarray)) and hasattr(value, "__array__"):  # of NumPy, or a tensor of TensorFlow
        value = np.array(value)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.asarray(value, order="C"))
    if not isinstance(value, torch.Tensor):
        raise DataError(
            f"a sample holds a {type(value).__name__}: yield tensors, arrays, nests of them, or (inputs, labels) pairs"
        )
    return value if device is None else value.to(device)


def on_device(nest: Any, device: torch.device) -> Any:
    """Return a nest with its tensors on a device."""
    return mapped(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, nest)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's tensors, the CPU where it has none."""
    return next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def grids(model: PreparedModel) -> dict[str, Grid]:
    """Return the activation scales by group name."""
    return model.grids


def fitting(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the inputs in the types that a prepared model takes; those of a float model as they are.

    Raises:
        DataError: their number or shapes do not fit.
    """
    if not isinstance(model, PreparedModel):
        return inputs
    check_fit(model.plan.graph.input_shapes, inputs)
    tensors = model.plan.graph.tensors
    types = (getattr(torch, tensors[name].dtype) for name in model.plan.graph.inputs)
    return tuple(x.to(dtype) for x, dtype in zip(inputs, types, strict=True))


def forward(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
    """Run the model in eval mode without gradients and return its outputs, flattened, as arrays.

    A tensor that the model returns twice is one output, as in an artifact.
    """
    inputs = fitting(model, inputs)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _, outputs = opened(model(*on_device(inputs, device_of(model))))
    finally:
        model.train(training)
    distinct = {id(o): o for o in outputs if isinstance(o, torch.Tensor)}
    return tuple(o.detach().cpu().numpy() for o in distinct.values())


def predict(model: nn.Module, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the model's eval-mode outputs for arrays."""
    return forward(model, inputs_of((tuple(arrays),)))


def grid_values(model: PreparedModel, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Return every value on the grid, by the name it has in the lowered program."""
    by_node = {node: tensor for tensor, node in model.prepared.forms.items()}
    found: dict[str, np.ndarray] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in by_node:
                found[grid_value_name(model.plan, by_node[n.name])] = result.detach().cpu().numpy()
            return result

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            Recorder(model).run(*fitting(model, inputs_of((tuple(arrays),), device_of(model))))
    finally:
        model.train(training)
    return found
