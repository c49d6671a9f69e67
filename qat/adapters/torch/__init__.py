"""The PyTorch adapter: ``torch.nn.Module`` in, an ``nn.Module`` of integer-grid nodes out."""

from qat.adapters.torch.capture.core_operators import unheld
from qat.adapters.torch.capture.trace import trace

from .blocks import block_gradients, block_outputs, output_gradients
from .inference import forward, grid_values, grids, inputs_of, predict
from .insert import insert
from .layer_access import first_not_finite, layer_input, layer_scale, parameter, set_parameter, twin_of
from .lower import lower
from .prepared_model import set_range_tracking
from .simulation import first_order, float_values, simulate

#: The target of a PyTorch model where the user names none.
DEFAULT_TARGET = "onnxruntime"

__all__ = [
    "DEFAULT_TARGET",
    "block_gradients",
    "block_outputs",
    "first_not_finite",
    "first_order",
    "float_values",
    "forward",
    "grid_values",
    "grids",
    "inputs_of",
    "insert",
    "layer_input",
    "layer_scale",
    "lower",
    "output_gradients",
    "parameter",
    "predict",
    "set_parameter",
    "set_range_tracking",
    "simulate",
    "trace",
    "twin_of",
    "unheld",
]
