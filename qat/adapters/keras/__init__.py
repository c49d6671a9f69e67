"""The Keras 3 adapter (TensorFlow backend): a Functional or Sequential model in, a ``keras.Model`` of integer-grid nodes out."""

from qat.adapters.keras.insert import insert, set_observing
from qat.adapters.keras.layers import layer_input, layer_scale, parameter, set_parameter, twin_of
from qat.adapters.keras.lower import lower
from qat.adapters.keras.run import forward, grid_values, grids, inputs_of, predict
from qat.adapters.keras.trace import trace

#: The target of a Keras model where the user names none.
DEFAULT_TARGET = "litert"

__all__ = [
    "DEFAULT_TARGET",
    "forward",
    "grid_values",
    "grids",
    "inputs_of",
    "insert",
    "layer_input",
    "layer_scale",
    "lower",
    "parameter",
    "predict",
    "set_observing",
    "set_parameter",
    "trace",
    "twin_of",
]
