"""The writer of each kind of operator that LiteRT has an integer kernel for."""

from __future__ import annotations

from qat.graph.kinds import FUNCTIONS

from .attention import write_embedding, write_matmul, write_softmax
from .averages import write_avg_pool, write_mean
from .conv_transpose import write_conv_transpose
from .data_movement import write_concat, write_max_pool, write_pad, write_reshape, write_transpose
from .elementwise import write_add, write_maximum, write_minimum, write_mul, write_relu, write_relu6
from .layer_norm import write_group_norm, write_layer_norm, write_rms_norm
from .linear import write_conv, write_dense
from .lookup import write_function
from .quantize import write_constant, write_dequantize, write_quantize
from .upsampling import write_upsampling
from .writer import WriteOperator

#: By kind: those of :mod:`qat.graph.kinds`.
WRITERS: dict[str, WriteOperator] = {
    "quantize": write_quantize,
    "dequantize": write_dequantize,
    "constant": write_constant,
    "conv2d": write_conv,
    "depthwise_conv2d": write_conv,
    "conv_transpose2d": write_conv_transpose,
    "dense": write_dense,
    "add": write_add,
    "mul": write_mul,
    "minimum": write_minimum,
    "mask": write_minimum,
    "maximum": write_maximum,
    "relu": write_relu,
    "relu6": write_relu6,
    "mean": write_mean,
    "avg_pool2d": write_avg_pool,
    "concat": write_concat,
    "max_pool2d": write_max_pool,
    "upsample_bilinear2d": write_upsampling,
    "reshape": write_reshape,
    "pad": write_pad,
    "transpose": write_transpose,
    "matmul": write_matmul,
    "softmax": write_softmax,
    "embedding": write_embedding,
    "layer_norm": write_layer_norm,
    "group_norm": write_group_norm,
    "rms_norm": write_rms_norm,
    **dict.fromkeys(FUNCTIONS, write_function),
}
