"""The writer of each kind of operator that ONNX Runtime has an integer kernel for, and the rewrites of the other kinds."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from qat.graph.kinds import FUNCTIONS
from qat.program.program import Instruction, Value

from .attention import write_embedding, write_mask, write_matmul, write_softmax
from .averages import write_avg_pool, write_mean
from .conv_transpose import conv_transpose_as_conv
from .data_movement import (
    write_concat,
    write_crop,
    write_max_pool,
    write_pad,
    write_reshape,
    write_transpose,
)
from .depth_to_space import write_depth_to_space
from .elementwise import write_add, write_maximum, write_minimum, write_mul, write_relu, write_relu6
from .kept_integers import KEPT, write_kept
from .layer_norm import write_group_norm, write_layer_norm, write_rms_norm
from .linear import write_conv, write_dense
from .lookup import write_function
from .quantize import write_constant, write_dequantize, write_quantize
from .upsampling import upsample_as_conv
from .writer import WriteOperator

#: By kind: those of :mod:`qat.graph.kinds`, and those into which the rewrites put an operator.
WRITERS: dict[str, WriteOperator] = {
    "quantize": write_quantize,
    "dequantize": write_dequantize,
    "constant": write_constant,
    "conv2d": write_conv,
    "depthwise_conv2d": write_conv,
    "conv3d": write_conv,
    "dense": write_dense,
    "add": write_add,
    "mul": write_mul,
    "minimum": write_minimum,
    "maximum": write_maximum,
    "relu": write_relu,
    "relu6": write_relu6,
    "mean": write_mean,
    "avg_pool2d": write_avg_pool,
    "concat": write_concat,
    "max_pool2d": write_max_pool,
    "reshape": write_reshape,
    "pad": write_pad,
    "transpose": write_transpose,
    "depth_to_space": write_depth_to_space,
    "crop": write_crop,
    KEPT: write_kept,
    "matmul": write_matmul,
    "softmax": write_softmax,
    "mask": write_mask,
    "embedding": write_embedding,
    "layer_norm": write_layer_norm,
    "group_norm": write_group_norm,
    "rms_norm": write_rms_norm,
    **dict.fromkeys(FUNCTIONS, write_function),
}

#: The rewrites of kinds without an integer kernel. Each returns other instructions, and adds the values between them.
REWRITES: dict[str, Callable[[Instruction, MutableMapping[str, Value]], list[Instruction]]] = {
    "conv_transpose2d": conv_transpose_as_conv,
    "upsample_bilinear2d": upsample_as_conv,
}
