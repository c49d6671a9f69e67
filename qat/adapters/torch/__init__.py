"""The PyTorch adapter: ``torch.nn.Module`` in, an ``nn.Module`` of integer-grid nodes out."""

from qat.adapters.torch.insert import insert, set_observing
from qat.adapters.torch.layers import layer_input, layer_scale, parameter, set_parameter, twin_of
from qat.adapters.torch.lower import lower
from qat.adapters.torch.run import forward, grid_values, grids, inputs_of, predict
from qat.adapters.torch.trace import trace

#: The target of a PyTorch model where the user names none.
DEFAULT_TARGET = "onnxruntime"

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
