"""The table of operators: the parameters and attributes of each kind, and every property that code asks of a kind.

Code asks for a property (``KINDS[op.kind].linear``), never for one name among several. A new operator is one row here, one row
in a target's table (:mod:`qat.planning.targets`), its arithmetic, a node in each adapter and a writer in each exporter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qat.arithmetic.lookup import ARGUMENTS

#: The layout that an operator wants its images in: ``kernel``, that of the runtime's kernels; ``model``, that of the model;
#: ``axes``, the kernels' where its axes are the spatial ones, else the model's; ``readers``, that of the operators that read it.
Layout = Literal["either", "kernel", "model", "axes", "readers"]


@dataclass(frozen=True)
class Kind:
    """One kind of operator.

    Attributes:
        name: of the kind, the same in graphs, programs, recipes and tables.
        params: the roles of its parameters; ``*`` stands for any.
        attrs: the names of its attributes.
        linear: whether its output is a weighted sum of its input, with the parameters ``weight`` and ``bias``.
        spatial: the number of spatial axes of the images that it works on; 0 where it does not know images.
        depthwise: of a linear one: each input channel has outputs of its own.
        transposed: of a linear one: the weight is that of a transposed convolution.
        layout: the layout that it wants its images in.
        bounds: the lowest and the highest value that it clips its input to; None where it clips nothing. Only a kind with bounds
            can be fused into the operator before it.
        homogeneous: whether ``f(s x) = s f(x)`` for each positive ``s``, within the bounds.
        function: whether it is a function of one tensor, element by element, which a table of 256 integers holds.
        framework: whether its framework's implementation runs it, in float (``float``) or on integers (``move``).
        carries: whether its output has its inputs' values, moved to other places or averaged.
        normalizes: whether it makes the values of one axis even: mean and deviation, or the root of the mean square.
        indices: whether its inputs are indices, not activations.
        output_grid: the role of the parameter that is quantized with the output's encoding; empty where there is none.
        learnable_weight: whether the scale of its weight can be learned.
        learnable_output: whether the range of its output can be learned: its node knows the unrounded values, or it only
            moves integers.
        stored_weight: whether its weight alone can be stored in another form, in the modes of :data:`qat.planning.modes.STORED`.
        int16: whether there are kernels for activations of 16 bits, see :mod:`qat.arithmetic.int16`.
        reason: why it stays float where a target has no row for it; empty for the general sentence.
    """

    name: str
    params: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()
    linear: bool = False
    spatial: int = 0
    depthwise: bool = False
    transposed: bool = False
    layout: Layout = "either"
    bounds: tuple[float | None, float | None] | None = None
    homogeneous: bool = False
    function: bool = False
    framework: bool = False
    carries: bool = False
    normalizes: bool = False
    indices: bool = False
    output_grid: str = ""
    learnable_weight: bool = False
    learnable_output: bool = False
    stored_weight: bool = False
    int16: bool = False
    reason: str = ""


def _layer(name: str, spatial: int, *, common: bool = False, depthwise: bool = False, transposed: bool = False) -> Kind:
    """Return a linear kind. A ``common`` one has a node and a kernel in every mode and width."""
    return Kind(
        name, ("weight", "bias"), ("strides", "padding", "dilations", "groups") if spatial else (), linear=True, spatial=spatial,
        depthwise=depthwise, transposed=transposed, layout="kernel" if spatial else "model", learnable_weight=common,
        learnable_output=common, stored_weight=common, int16=common,
    )  # fmt: skip


def _pool(name: str) -> Kind:
    attrs = ("kernel", "strides", "padding")
    return Kind(name, (), attrs, spatial=2, layout="kernel", homogeneous=True, carries=True, learnable_output=True, int16=True)


#: Every operator of a graph, by name.
#:
#: ``padding`` is ``((top, bottom), (left, right))``; ``strides``, ``dilations``, ``kernel`` and ``factors`` are
#: ``(height, width)``, of a conv3d ``(depth, height, width)``, and ``(length,)`` of the signals of rank 3 that
#: :mod:`qat.graph.decompose.conv1d` writes as images. The padding of a conv_transpose2d is cut off each side of the full
#: result, and is negative where an output padding adds to it. ``axes``, ``axis`` and ``shape`` are in the graph's own layout. A
#: linear operator also has ``channel_axis``: the axis (or axes) of the output channels in the weight as the framework stores it,
#: negative from the last.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _layer("conv2d", 2, common=True),
        _layer("depthwise_conv2d", 2, common=True, depthwise=True),
        _layer("conv3d", 3),
        _layer("conv_transpose2d", 2, transposed=True),
        _layer("dense", 0, common=True),
        Kind("matmul", (), ("transpose_b",), layout="model"),  # the product of two activations, over their last two axes
        Kind("softmax", (), ("beta",), layout="model"),  # of beta times the input, over the last axis
        # Of the scores where the second input is positive, and of the least number elsewhere. ``reach`` is how far below the
        # greatest score of a row a softmax makes nothing of a score. ``hidden`` is what stands for the least number in float.
        Kind("mask", (), ("reach", "hidden"), layout="model", learnable_output=True),
        # Lines of the weight, by indices. Where it ``wraps``, negative ones count from the end.
        Kind("embedding", ("weight",), ("wraps",), layout="model", indices=True, output_grid="weight"),
        # A parameter on the grid, in a shape that may be another than the user's. It has no inputs.
        Kind("constant", ("value",), ("shape",), layout="model", output_grid="value"),
        # Over the last axis. One with ``uncentered`` only divides by the deviation.
        Kind("layer_norm", ("gamma", "beta"), ("epsilon", "uncentered"), layout="model", normalizes=True),
        # Over all axes but the batch, in groups of the channels, which lie along ``axis``.
        Kind("group_norm", ("gamma", "beta"), ("epsilon", "groups", "axis"), normalizes=True),
        # Over the last axis; the root is ``least`` at least.
        Kind("rms_norm", ("gamma",), ("epsilon", "least"), layout="model", normalizes=True),
        Kind(
            "batch_norm", ("gamma", "beta", "mean", "variance"), ("epsilon", "axis"),
            reason="a BatchNorm that does not directly follow a convolution or dense layer of its own",
        ),
        Kind("add", learnable_output=True, int16=True),  # broadcasts, as mul does
        Kind("mul", learnable_output=True, int16=True),
        Kind("minimum", learnable_output=True),  # of two tensors of one scale; broadcasts
        Kind("maximum", learnable_output=True),
        Kind("concat", (), ("axis",), carries=True, learnable_output=True, int16=True),
        Kind("relu", bounds=(0.0, None), homogeneous=True, learnable_output=True, int16=True),
        Kind("relu6", bounds=(0.0, 6.0), homogeneous=True, learnable_output=True, int16=True),
        _pool("max_pool2d"),
        _pool("avg_pool2d"),
        # By whole factors, between the centres of pixels.
        Kind("upsample_bilinear2d", (), ("factors",), spatial=2, layout="kernel", homogeneous=True),
        Kind("mean", (), ("axes", "keepdims"), layout="axes", carries=True, learnable_output=True, int16=True),
        # -1 in the first place of the shape stands for the batch, in another one for a length that is free. One that ``folds``
        # puts the batch and other axes into the first one, or takes them out of it.
        Kind("reshape", (), ("shape", "folds"), layout="model", carries=True, learnable_output=True, int16=True),
        # The batch stays first.
        Kind("transpose", (), ("axes",), layout="model", carries=True, learnable_output=True, int16=True),
        # With zeros, along the spatial axes.
        Kind(
            "pad", (), ("padding",), spatial=2, layout="kernel", homogeneous=True, carries=True, learnable_output=True, int16=True
        ),
        *(Kind(name, (), attrs, function=True, homogeneous=name in ("leaky_relu", "abs")) for name, attrs in ARGUMENTS.items()),
        # Any other data movement (slice, gather, pixel shuffle, maximum over an axis, ...): inputs and outputs share one scale.
        Kind("move", (), ("target",), layout="model", framework=True, carries=True, learnable_output=True, int16=True),
        # Any other operator. The adapter gives a reason where it knows more than the target's table.
        Kind("float", ("*",), ("target", "reason"), layout="model", framework=True),
    )
}  # fmt: skip

#: Every instruction of a program: the operators, and the borders between float values and integers.
STEPS: dict[str, Kind] = KINDS | {
    "quantize": Kind("quantize"),
    "dequantize": Kind("dequantize", layout="readers"),
}

#: The names of the functions of one tensor.
FUNCTIONS: tuple[str, ...] = tuple(kind.name for kind in KINDS.values() if kind.function)


def bounds(activation: str | None) -> tuple[float | None, float | None]:
    """Return the lowest and the highest value that a fused activation leaves; None for an end that it leaves open."""
    return (KINDS[activation].bounds if activation else None) or (None, None)
