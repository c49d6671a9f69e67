"""What each kind of operator takes, in integers and in float: the facts by which ``prefer: speed`` decides.

Measured by ``python benchmarks/operator_times.py`` on one thread of an x86 server, batch 1: ``onnxruntime``, the target for
processors without VNNI, on one with AVX2 alone (Zen 3), the others on one with AVX512-VNNI, where products of integers are four
times as quick as those of floats, and not less than twice. On another processor the figures differ; which of two forms is
quicker differs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from qat.graph.graph import EXAMPLE_BATCH, Graph, TensorSpec
from qat.graph.kinds import KINDS

from .plan import PlannedOp

#: Microseconds of a call, nanoseconds of a value that is read or written, nanoseconds of a multiply-accumulate.
Rates = tuple[float, float, float]


@dataclass(frozen=True)
class Work:
    """What an operator does for one sample: the values that it reads and writes, and its multiply-accumulates."""

    values: int
    macs: int

    def microseconds(self, rates: Rates) -> float:
        """Return the time that it takes."""
        call, value, mac = rates
        return call + 1e-3 * (value * self.values + mac * self.macs)


@dataclass(frozen=True)
class OperatorCost:
    """The rates of a kind in integers and in float; of :data:`BORDER` those into integers and back."""

    integer: Rates
    real: Rates


#: The row of the conversions between float values and integers.
BORDER = "border"
#: The row of depthwise convolutions of more weights a channel than XNNPACK has kernels for, or of several outputs a channel.
LARGE_DEPTHWISE = "depthwise_conv2d beyond 5x5"

# What `python benchmarks/operator_times.py` prints, by target.
COSTS: dict[str, dict[str, OperatorCost]] = {
    "onnxruntime": {
        "sigmoid": OperatorCost((1.01, 0.14, 0.0), (0.5, 0.15, 0.0)),
        BORDER: OperatorCost((0.0, 0.25, 0.0), (1.0, 0.16, 0.0)),
        "tanh": OperatorCost((2.41, 0.38, 0.0), (0.8, 0.17, 0.0)),
        "silu": OperatorCost((2.01, 0.46, 0.0), (0.2, 0.25, 0.0)),
        "gelu": OperatorCost((2.91, 0.78, 0.0), (4.1, 0.82, 0.0)),
        "hard_sigmoid": OperatorCost((1.31, 0.037, 0.0), (1.0, 0.07, 0.0)),
        "hard_swish": OperatorCost((2.91, 0.099, 0.0), (1.5, 0.24, 0.0)),
        "leaky_relu": OperatorCost((1.21, 0.17, 0.0), (4.7, 0.063, 0.0)),
        "elu": OperatorCost((2.11, 1.5, 0.0), (0.1, 1.2, 0.0)),
        "selu": OperatorCost((2.11, 1.5, 0.0), (0.2, 1.2, 0.0)),
        "softplus": OperatorCost((6.81, 2.6, 0.0), (3.5, 8.3, 0.0)),
        "mish": OperatorCost((7.51, 1.2, 0.0), (3.1, 6.6, 0.0)),
        "exp": OperatorCost((2.31, 0.42, 0.0), (0.4, 0.19, 0.0)),
        "sqrt": OperatorCost((2.91, 0.46, 0.0), (1.6, 0.27, 0.0)),
        "abs": OperatorCost((1.91, 0.28, 0.0), (0.2, 0.078, 0.0)),
        "square": OperatorCost((0.81, 0.12, 0.0), (0.6, 0.21, 0.0)),
        "clamp": OperatorCost((2.31, 0.28, 0.0), (0.3, 0.084, 0.0)),
        "erf": OperatorCost((2.01, 0.63, 0.0), (0.2, 0.4, 0.0)),
        "mean": OperatorCost((0.61, 0.032, 0.0), (1.1, 0.092, 0.0)),
        "max_pool2d": OperatorCost((0.0, 0.0, 0.0), (2.7, 0.3, 0.0)),
        "avg_pool2d": OperatorCost((5.31, 0.2, 0.0), (2.2, 0.3, 0.0)),
        "transpose": OperatorCost((0.71, 0.19, 0.0), (1.7, 0.21, 0.0)),
        "reshape": OperatorCost((0.0, 0.019, 0.0), (0.0, 0.12, 0.0)),
        "pad": OperatorCost((3.31, 0.29, 0.0), (2.9, 0.35, 0.0)),
        "upsample_bilinear2d": OperatorCost((15.51, 3.2, 0.0), (2.4, 2.0, 0.0)),
        "add": OperatorCost((2.58, 0.053, 0.0), (0.0, 0.078, 0.0)),
        "mul": OperatorCost((6.28, 0.098, 0.0), (4.5, 0.1, 0.0)),
        "minimum": OperatorCost((0.0, 0.038, 0.0), (0.0, 0.11, 0.0)),
        "maximum": OperatorCost((3.58, 0.036, 0.0), (1.7, 0.15, 0.0)),
        "concat": OperatorCost((3.58, 0.023, 0.0), (2.3, 0.081, 0.0)),
        "conv2d": OperatorCost((5.21, 0.11, 0.017), (4.2, 0.27, 0.028)),
        "depthwise_conv2d": OperatorCost((5.61, 0.17, 0.096), (3.2, 0.39, 0.051)),
        "conv_transpose2d": OperatorCost((5.21, 2.5, 0.0), (2.4, 0.9, 0.031)),
        "group_norm": OperatorCost((20.51, 1.1, 0.0), (6.4, 0.57, 0.0)),
        "dense": OperatorCost((5.81, 0.11, 0.016), (4.0, 0.21, 0.03)),
        "matmul": OperatorCost((9.28, 0.0037, 0.019), (1.8, 0.0, 0.028)),
        "softmax": OperatorCost((1.11, 1.6, 0.0), (1.1, 0.31, 0.0)),
        "layer_norm": OperatorCost((12.51, 1.1, 0.0), (2.7, 0.4, 0.0)),
        "rms_norm": OperatorCost((13.51, 0.75, 0.0), (15.4, 0.69, 0.0)),
    },
    "onnxruntime_vnni": {
        "sigmoid": OperatorCost((0.0, 0.12, 0.0), (0.0, 0.14, 0.0)),
        BORDER: OperatorCost((0.03, 0.12, 0.0), (0.13, 0.11, 0.0)),
        "tanh": OperatorCost((0.78, 0.24, 0.0), (0.0, 0.13, 0.0)),
        "silu": OperatorCost((0.59, 0.25, 0.0), (0.0, 0.14, 0.0)),
        "gelu": OperatorCost((0.8, 0.42, 0.0), (1.8, 0.51, 0.0)),
        "hard_sigmoid": OperatorCost((0.15, 0.043, 0.0), (0.1, 0.067, 0.0)),
        "hard_swish": OperatorCost((1.16, 0.087, 0.0), (0.7, 0.15, 0.0)),
        "leaky_relu": OperatorCost((0.02, 0.12, 0.0), (0.2, 0.074, 0.0)),
        "elu": OperatorCost((0.74, 1.0, 0.0), (0.0, 0.9, 0.0)),
        "selu": OperatorCost((0.76, 1.0, 0.0), (0.0, 0.92, 0.0)),
        "softplus": OperatorCost((2.96, 1.5, 0.0), (1.8, 6.3, 0.0)),
        "mish": OperatorCost((4.46, 0.69, 0.0), (2.6, 5.7, 0.0)),
        "exp": OperatorCost((0.7, 0.2, 0.0), (0.0, 0.084, 0.0)),
        "sqrt": OperatorCost((0.91, 0.33, 0.0), (0.5, 0.22, 0.0)),
        "abs": OperatorCost((0.61, 0.16, 0.0), (0.0, 0.042, 0.0)),
        "square": OperatorCost((0.17, 0.1, 0.0), (0.2, 0.16, 0.0)),
        "clamp": OperatorCost((0.91, 0.16, 0.0), (0.2, 0.043, 0.0)),
        "erf": OperatorCost((0.6, 0.37, 0.0), (0.0, 0.25, 0.0)),
        "mean": OperatorCost((0.07, 0.022, 0.0), (0.4, 0.069, 0.0)),
        "max_pool2d": OperatorCost((0.0, 0.06, 0.0), (1.1, 0.15, 0.0)),
        "avg_pool2d": OperatorCost((1.76, 0.12, 0.0), (1.0, 0.13, 0.0)),
        "transpose": OperatorCost((0.0, 0.12, 0.0), (0.8, 0.16, 0.0)),
        "reshape": OperatorCost((0.0, 0.0058, 0.0), (0.0, 0.04, 0.0)),
        "pad": OperatorCost((1.35, 0.17, 0.0), (1.5, 0.18, 0.0)),
        "upsample_bilinear2d": OperatorCost((7.55, 1.4, 0.0), (1.2, 1.1, 0.0)),
        "add": OperatorCost((0.12, 0.047, 0.0), (0.0, 0.05, 0.0)),
        "mul": OperatorCost((0.18, 0.073, 0.0), (0.0, 0.048, 0.0)),
        "minimum": OperatorCost((0.0, 0.012, 0.0), (0.0, 0.05, 0.0)),
        "maximum": OperatorCost((0.0, 0.013, 0.0), (0.0, 0.05, 0.0)),
        "concat": OperatorCost((0.22, 0.014, 0.0), (0.3, 0.05, 0.0)),
        "conv2d": OperatorCost((1.35, 0.12, 0.0047), (1.4, 0.13, 0.019)),
        "depthwise_conv2d": OperatorCost((1.96, 0.14, 0.039), (1.2, 0.13, 0.021)),
        "conv_transpose2d": OperatorCost((1.96, 0.88, 0.0044), (1.0, 0.2, 0.017)),
        "dense": OperatorCost((2.06, 0.14, 0.0059), (1.5, 0.045, 0.021)),
        "matmul": OperatorCost((3.02, 0.0, 0.017), (1.6, 0.0, 0.022)),
        "softmax": OperatorCost((0.3, 1.4, 0.0), (0.5, 0.18, 0.0)),
        "layer_norm": OperatorCost((7.56, 0.62, 0.0), (1.3, 0.28, 0.0)),
        "group_norm": OperatorCost((11.95, 0.5, 0.0), (2.8, 0.26, 0.0)),
        "rms_norm": OperatorCost((3.76, 0.42, 0.0), (4.2, 0.45, 0.0)),
    },
    "litert": {
        "sigmoid": OperatorCost((0.0, 0.076, 0.0), (0.0, 0.19, 0.0)),
        BORDER: OperatorCost((0.01, 0.17, 0.0), (0.04, 0.12, 0.0)),
        "tanh": OperatorCost((0.0, 0.074, 0.0), (0.0, 0.21, 0.0)),
        "gelu": OperatorCost((0.0, 0.18, 0.0), (0.0, 0.25, 0.0)),
        "hard_sigmoid": OperatorCost((0.0, 0.066, 0.0), (0.0, 0.2, 0.0)),
        "hard_swish": OperatorCost((0.64, 0.057, 0.0), (0.0, 0.15, 0.0)),
        "leaky_relu": OperatorCost((0.0, 0.051, 0.0), (0.0, 0.27, 0.0)),
        "elu": OperatorCost((0.0, 0.079, 0.0), (4.6, 0.29, 0.0)),
        "selu": OperatorCost((0.02, 2.3, 0.0), (0.0, 0.51, 0.0)),
        "softplus": OperatorCost((0.08, 2.4, 0.0), (0.0, 0.79, 0.0)),
        "mish": OperatorCost((0.26, 1.9, 0.0), (0.2, 0.8, 0.0)),
        "exp": OperatorCost((0.0, 0.13, 0.0), (0.0, 0.2, 0.0)),
        "sqrt": OperatorCost((0.25, 1.9, 0.0), (0.0, 0.22, 0.0)),
        "abs": OperatorCost((0.19, 1.9, 0.0), (0.0, 0.14, 0.0)),
        "square": OperatorCost((0.25, 1.9, 0.0), (0.0, 0.16, 0.0)),
        "clamp": OperatorCost((0.19, 1.9, 0.0), (0.0, 0.15, 0.0)),
        "erf": OperatorCost((0.24, 2.0, 0.0), (0.4, 1.0, 0.0)),
        "mean": OperatorCost((0.0, 0.035, 0.0), (0.1, 0.14, 0.0)),
        "max_pool2d": OperatorCost((0.0, 0.055, 0.0), (0.5, 0.32, 0.0)),
        "avg_pool2d": OperatorCost((0.0, 0.76, 0.0), (0.0, 0.34, 0.0)),
        "transpose": OperatorCost((0.0, 0.15, 0.0), (0.0, 0.15, 0.0)),
        "reshape": OperatorCost((0.0, 0.087, 0.0), (0.0, 0.15, 0.0)),
        "pad": OperatorCost((0.1, 0.096, 0.0), (0.6, 0.29, 0.0)),
        "upsample_bilinear2d": OperatorCost((0.0, 0.29, 0.0), (0.0, 0.52, 0.0)),
        "add": OperatorCost((0.0, 0.076, 0.0), (0.0, 0.15, 0.0)),
        "mul": OperatorCost((0.0, 0.094, 0.0), (0.0, 0.15, 0.0)),
        "minimum": OperatorCost((0.0, 0.043, 0.0), (0.0, 0.15, 0.0)),
        "maximum": OperatorCost((0.1, 0.039, 0.0), (0.0, 0.15, 0.0)),
        "concat": OperatorCost((0.4, 0.046, 0.0), (0.7, 0.16, 0.0)),
        "conv2d": OperatorCost((0.0, 0.079, 0.0053), (0.2, 0.17, 0.018)),
        "depthwise_conv2d": OperatorCost((0.0, 0.05, 0.052), (0.0, 0.052, 0.058)),
        LARGE_DEPTHWISE: OperatorCost((0.0, 0.0, 3.5), (2.5, 0.0, 0.57)),
        "conv_transpose2d": OperatorCost((0.12, 0.82, 0.0), (1.0, 1.7, 0.046)),
        "dense": OperatorCost((0.0, 0.24, 0.0047), (0.3, 0.0065, 0.021)),
        "matmul": OperatorCost((0.7, 0.19, 0.0069), (1.7, 0.0, 0.034)),
        "softmax": OperatorCost((0.18, 2.6, 0.0), (0.4, 0.37, 0.0)),
        "layer_norm": OperatorCost((1.33, 0.96, 0.0), (0.4, 0.43, 0.0)),
        "group_norm": OperatorCost((1.33, 0.55, 0.0), (0.4, 0.35, 0.0)),
        "rms_norm": OperatorCost((0.8, 0.72, 0.0), (0.0, 0.28, 0.0)),
    },
}


def cost_of(planned: PlannedOp, graph: Graph, target: str) -> OperatorCost | None:
    """Return the rates of an operator for a target, by its name; None of a kind that moves values, or is rare."""
    table, kind, op = COSTS[target], planned.op.kind, planned.op
    if kind in ("conv2d", "depthwise_conv2d"):
        axis = 1 if graph.layout == "NCHW" else -1
        read, written = (graph.tensors[name] for name in (op.inputs[0], op.output))
        if 1 < int(op.attrs["groups"]) == read.shape[axis]:  # of Keras' Conv2D too
            large = _macs(planned, graph) > 25 * size_of(written) or written.shape[axis] != read.shape[axis]
            kind = LARGE_DEPTHWISE if large and LARGE_DEPTHWISE in table else "depthwise_conv2d"
    return table.get(kind)


def work_of(planned: PlannedOp, graph: Graph) -> Work:
    """Return the work of an operator, its sizes those of the graph."""
    op, tensors = planned.op, graph.tensors
    sizes = [size_of(tensors[name]) for name in (*planned.grid_inputs, *op.outputs) if name in tensors]
    return Work(sum(sizes), _macs(planned, graph))


def size_of(tensor: TensorSpec) -> int:
    """Return the values of a tensor for one sample. A size that is free and has no example counts as 1."""
    return prod(tensor.example) // EXAMPLE_BATCH if tensor.example else prod(n or 1 for n in tensor.shape)


def _macs(planned: PlannedOp, graph: Graph) -> int:
    """Return the multiply-accumulates of a product for one sample; 0 for an operator that is none."""
    op, kind = planned.op, KINDS[planned.op.kind]
    if not (kind.linear or op.kind == "matmul"):
        return 0
    source, result = graph.tensors[op.inputs[0]], graph.tensors[op.output]
    if not kind.spatial:
        return size_of(result) * (source.shape[-1] or 1)
    channels = 1 if graph.layout == "NCHW" else -1
    few, many = (result, source) if kind.transposed else (source, result)
    window = prod(_window(planned, graph, axis) for axis in range(kind.spatial))
    return size_of(many) * ((few.shape[channels] or 1) // int(op.attrs["groups"]) or 1) * window


def _window(planned: PlannedOp, graph: Graph, axis: int) -> int:
    """Return the length of a convolution's window along a spatial axis, as its sizes tell; 3 where they are free."""
    op, transposed = planned.op, KINDS[planned.op.kind].transposed
    place = axis + (2 if graph.layout == "NCHW" else 1)
    read, written = (graph.tensors[name].shape[place] for name in (op.inputs[0], op.output))
    if read is None or written is None:
        return 3
    large, small = (written, read) if transposed else (read, written)
    span = large + sum(op.attrs["padding"][axis]) - (small - 1) * op.attrs["strides"][axis]
    return max((span - 1) // int(op.attrs["dilations"][axis]) + 1, 1)
