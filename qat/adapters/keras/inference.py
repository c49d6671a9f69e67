"""Running a prepared model: what calibration, verification and comparison need."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from qat.adapters.keras.nodes.activation_grid import Grid
from qat.errors import DataError
from qat.program.build import grid_value_name
from qat.system.samples import check_fit, first_of_pair

from .many_batches import called
from .prepared_model import PreparedModel


def inputs_of(sample: Any) -> tuple[np.ndarray, ...]:
    """Return the model inputs of a sample: an array, a tensor, a tuple of them, or a pair ``(inputs, labels)``.

    Raises:
        DataError: the sample holds something else.
    """
    inputs = first_of_pair(sample)
    values = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    out = []
    for value in values:
        array = np.asarray(value)
        if array.dtype == object:
            raise DataError(
                f"a sample holds a {type(value).__name__}: yield tensors, arrays, tuples of them, or (inputs, labels) pairs"
            )
        out.append(array.astype(np.float32) if array.dtype == np.float64 else array)
    return tuple(out)


def grids(model: PreparedModel) -> dict[str, Grid]:
    """Return the activation scales by group name."""
    return model.grids


def forward(model: keras.Model, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Run the model in inference mode and return its outputs, flattened, as arrays."""
    if isinstance(model, PreparedModel):
        check_fit(model.plan.graph.input_shapes, inputs)
    many = isinstance(model, PreparedModel) and model.on_grid
    outputs = model.many_batches.outputs(inputs) if many else called(model, inputs)
    return tuple(np.asarray(o) for o in keras.tree.flatten(outputs))


def predict(model: keras.Model, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the model's inference outputs for arrays."""
    return forward(model, inputs_of((tuple(arrays),)))


def grid_values(model: PreparedModel, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Return every value on the grid, by the name it has in the lowered program."""
    _, grid = model.run(list(inputs_of((tuple(arrays),))), training=False)
    return {grid_value_name(model.plan, name): np.asarray(value) for name, value in grid.items()}
