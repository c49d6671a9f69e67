"""The table of nodes: the operators with integer kernels, and those that compute in float beside them."""

from __future__ import annotations

from qat.planning.plan import PlannedOp

from .activation_grid import Grid
from .attention import Embedding, MatMul, Softmax
from .averages import AvgPool2d, Mean
from .base import Node
from .conv3d import Conv3d
from .conv_transpose import ConvTranspose2d
from .data_movement import Concat, MaxPool2d, Pad, Relu, Reshape, Transpose
from .elementwise import Add, Maximum, Minimum, Mul, Relu6
from .int16 import Int16Add, Int16Conv2d, Int16Dense, Int16Mean, Int16Mul
from .layer_norm import GroupNorm, LayerNorm, RmsNorm
from .learned_scales import LearnedConv2d, LearnedDense
from .linear import BatchNorm, Conv2d, Dense
from .lookup import FUNCTIONS, Constant, Function
from .masks import Mask
from .stored_weight import StoredWeight
from .upsampling import ResizeBilinear2d, UpsampleBilinear2d

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
    "maximum": Maximum,
    "constant": Constant,
    "layer_norm": LayerNorm,
    "group_norm": GroupNorm,
    "rms_norm": RmsNorm,
    "matmul": MatMul,
    "softmax": Softmax,
    "mask": Mask,
    "embedding": Embedding,
    "mean": Mean,
    "concat": Concat,
    "relu": Relu,
    "relu6": Relu6,
    "max_pool2d": MaxPool2d,
    "avg_pool2d": AvgPool2d,
    "upsample_bilinear2d": UpsampleBilinear2d,
    "reshape": Reshape,
    "transpose": Transpose,
    "pad": Pad,
    **dict.fromkeys(FUNCTIONS, Function),
}

#: The nodes of 16-bit activations; any other node of :data:`NODES` is of any width.
INT16: dict[str, type[Node]] = {
    **NODES,
    "conv2d": Int16Conv2d,
    "depthwise_conv2d": Int16Conv2d,
    "dense": Int16Dense,
    "add": Int16Add,
    "mul": Int16Mul,
    "mean": Int16Mean,
}

#: The nodes of operators with a weight, where its scale or the output's range is learned.
LEARNED: dict[str, type[LearnedConv2d]] = {
    "conv2d": LearnedConv2d,
    "depthwise_conv2d": LearnedConv2d,
    "dense": LearnedDense,
}


#: The nodes of operators that LiteRT's delegate computes by another formula than ONNX Runtime.
XNNPACK: dict[str, type[Node]] = {"upsample_bilinear2d": ResizeBilinear2d}


def node_type(planned: PlannedOp, learned: bool, kernels_name: str = "mlas") -> type[Node] | None:
    """Return the type of a planned operator's node; None for one that keeps PyTorch's implementation as it was captured.

    ``learned`` says whether the output's range is; ``kernels_name`` is the target's arithmetic.
    """
    kind, spec = planned.op.kind, planned.weight
    if kind in LEARNED and spec is not None and (spec.learned or learned):
        return LEARNED[kind]
    table = INT16 if planned.kernels == "int16" else NODES | XNNPACK if kernels_name == "xnnpack" else NODES
    return table.get(kind)


def make_node(planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> Node | None:
    """Return the node of a planned operator, of :func:`node_type`."""
    if planned.stored and not planned.tied and planned.op.kind in NODES:
        return StoredWeight(planned, NODES[planned.op.kind](planned, (), planned.kernels))
    made = node_type(planned, bool(grids) and grids[-1].group.learned, kernels_name)
    return None if made is None else made(planned, grids, kernels_name)
