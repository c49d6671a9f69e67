"""The table from the kinds of the neutral graph to the nodes that compute them."""

from __future__ import annotations

from .attention import Embedding, MatMul, Softmax
from .averages import AvgPool2d, Mean
from .base import Node
from .conv3d import Conv3d
from .conv_transpose import ConvTranspose2d
from .data_movement import Concat, MaxPool2d, Pad, Reshape
from .elementwise import Add, Minimum, Mul, Relu, Relu6
from .layer_norm import LayerNorm
from .linear import BatchNorm, Conv2d, Dense
from .lookup import FUNCTIONS, Constant, Function
from .upsampling import UpsampleBilinear2d

NODES: dict[str, type[Node]] = {
    "conv2d": Conv2d,
    "depthwise_conv2d": Conv2d,
    "conv3d": Conv3d,
    "conv_transpose2d": ConvTranspose2d,
    "dense": Dense,
    "batch_norm": BatchNorm,
    "add": Add,
    "mul": Mul,
    "minimum": Minimum,
    "constant": Constant,
    "layer_norm": LayerNorm,
    "matmul": MatMul,
    "softmax": Softmax,
    "embedding": Embedding,
    "mean": Mean,
    "concat": Concat,
    "relu": Relu,
    "relu6": Relu6,
    "max_pool2d": MaxPool2d,
    "avg_pool2d": AvgPool2d,
    "upsample_bilinear2d": UpsampleBilinear2d,
    "reshape": Reshape,
    "pad": Pad,
    **dict.fromkeys(FUNCTIONS, Function),
}
