"""The table from the kinds of the neutral graph to the nodes that compute them."""

from __future__ import annotations

from qat.adapters.torch.attention import Embedding, MatMul, Softmax
from qat.adapters.torch.averages import AvgPool2d, Mean
from qat.adapters.torch.borders import Constant
from qat.adapters.torch.convolutions import Conv3d, ConvTranspose2d
from qat.adapters.torch.elementwise import FUNCTIONS, Add, Function, Mul, Relu6
from qat.adapters.torch.linear import BatchNorm, Conv2d, Dense
from qat.adapters.torch.moving import Concat, MaxPool2d, Pad, Relu, Reshape
from qat.adapters.torch.node import Node
from qat.adapters.torch.normalization import LayerNorm
from qat.adapters.torch.upsampling import UpsampleBilinear2d

NODES: dict[str, type[Node]] = {
    "conv2d": Conv2d,
    "depthwise_conv2d": Conv2d,
    "conv3d": Conv3d,
    "conv_transpose2d": ConvTranspose2d,
    "dense": Dense,
    "batch_norm": BatchNorm,
    "add": Add,
    "mul": Mul,
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
