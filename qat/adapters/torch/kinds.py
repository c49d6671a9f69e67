"""The table from the kinds of the neutral graph to the nodes that compute them."""

from __future__ import annotations

from qat.adapters.torch.nodes import (
    FUNCTIONS,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Constant,
    Conv2d,
    Dense,
    Function,
    MaxPool2d,
    Mean,
    Mul,
    Node,
    Pad,
    Relu,
    Relu6,
    Reshape,
)

NODES: dict[str, type[Node]] = {
    "conv2d": Conv2d,
    "depthwise_conv2d": Conv2d,
    "dense": Dense,
    "batch_norm": BatchNorm,
    "add": Add,
    "mul": Mul,
    "constant": Constant,
    "mean": Mean,
    "concat": Concat,
    "relu": Relu,
    "relu6": Relu6,
    "max_pool2d": MaxPool2d,
    "avg_pool2d": AvgPool2d,
    "reshape": Reshape,
    "pad": Pad,
    **dict.fromkeys(FUNCTIONS, Function),
}
