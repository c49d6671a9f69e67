"""The table of nodes: the operators with integer kernels, and those that compute in float beside them."""

from __future__ import annotations

import keras

from qat.graph.kinds import KINDS
from qat.planning.plan import PlannedOp

from .activation_grid import Grid
from .attention import Embedding, MatMul, Softmax
from .averages import AvgPool2d, Mean
from .base import Node
from .conv_transpose import ConvTranspose2d
from .data_movement import Concat, MaxPool2d, Pad, Reshape, Transpose
from .elementwise import Add, Maximum, Minimum, Mul, Relu, Relu6
from .int16 import Int16Add, Int16Linear, Int16Mean, Int16Mul
from .layer_norm import GroupNorm, LayerNorm, RmsNorm
from .learned_scales import LearnedLinear
from .linear import BatchNorm, Linear
from .lookup import FUNCTIONS, Constant, Function
from .masks import Mask
from .stored_weight import StoredWeight

NODES: dict[str, type[Node]] = {
    "conv2d": Linear,
    "depthwise_conv2d": Linear,
    "conv_transpose2d": ConvTranspose2d,
    "dense": Linear,
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
    "reshape": Reshape,
    "transpose": Transpose,
    "pad": Pad,
    **dict.fromkeys(FUNCTIONS, Function),
}

#: The nodes of 16-bit activations; any other node of :data:`NODES` is of any width.
INT16: dict[str, type[Node]] = {
    **NODES,
    "conv2d": Int16Linear,
    "depthwise_conv2d": Int16Linear,
    "dense": Int16Linear,
    "add": Int16Add,
    "mul": Int16Mul,
    "mean": Int16Mean,
}


def make_node(planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str, qmax: keras.Variable | None) -> Node | None:
    """Return the node of a planned operator; None for one that keeps its layer.

    ``kernels_name`` is the target's arithmetic, ``qmax`` the largest magnitude of the integer weight.
    """
    kind, spec = planned.op.kind, planned.weight
    if planned.stored and not planned.tied:
        return StoredWeight(planned, (), planned.kernels, qmax)
    if kind not in NODES:
        return None
    nodes = INT16 if planned.kernels == "int16" else NODES
    if KINDS[kind].learnable_weight and spec is not None and (spec.learned or (grids and grids[-1].group.learned)):
        return LearnedLinear(planned, grids, kernels_name, qmax)
    return nodes[kind](planned, grids, kernels_name, qmax)
