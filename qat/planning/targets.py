"""Targets: the demands of each runtime's integer kernels, as tables to lay beside the runtime's specification.

An operator without a row in a target stays float there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from qat.errors import ConfigError, nearest
from qat.graph.graph import Op, as_tuples
from qat.graph.kinds import FUNCTIONS, KINDS
from qat.graph.padding import within_half

from .modes import LITERT, ONNXRUNTIME, STATIC_ONLY, Modes


@dataclass(frozen=True)
class Fixed:
    """A scale and zero point that the kernel prescribes for its output."""

    scale: float
    zero_point: int


#: ``own``: the output has a scale of its own. ``as_input``: output and inputs share one scale. ``probabilities``: a scale of its
#: own that the kernel can hold, see :func:`qat.arithmetic.encoding.of_probabilities`.
Output = Literal["own", "as_input", "probabilities"] | Fixed


@dataclass(frozen=True)
class Row:
    """One operator of a target. An operator beyond the limits of its row stays float.

    Attributes:
        kind: a name in :data:`qat.graph.kinds.KINDS`.
        output: the scale of its output.
        fuses: the activations that its kernel absorbs.
        starts: whether it starts a region: its float inputs are worth quantizing. Any other operator runs in integers only where
            one of its inputs is on the grid already.
        ranks: the ranks of the input that its kernel takes; empty for any.
        padding: whether its kernel is exact with padding.
        half_padding: whether it takes no more padding than half a window on each side.
        groups: whether its kernel takes groups.
        sized: whether it needs tensors whose sizes are known, but for the batch.
        symmetric: the indices of the inputs whose zero point must be 0.
        readers: the kinds of which one must read its output, through data movement; empty for any.
        second: the scale of the second input, where it has none of its own and does not share that of the first one.
        leaves: whether it joins several tensors in integers where the result only leaves the model.
        of_one: the function that its kernel computes where both inputs are one tensor; empty where it stays what it is.
        holds: of a composed function, the operators of which one must be in it for its table to be worth more than their kernels.
        note: the form in which the artifact holds it, where the operator's name does not say it.
    """

    kind: str
    output: Output
    fuses: tuple[str, ...] = ()
    starts: bool = False
    ranks: tuple[int, ...] = ()
    padding: bool = True
    half_padding: bool = False
    groups: bool = True
    sized: bool = False
    symmetric: tuple[int, ...] = ()
    readers: tuple[str, ...] = ()
    second: Fixed | None = None
    leaves: bool = True
    of_one: str = ""
    holds: tuple[str, ...] = ()
    note: str = ""

    def missing(self, op: Op, rank: int) -> str:
        """Return the kernel that an operator with an input of this rank needs and the target lacks; empty where it has one."""
        if self.ranks and rank not in self.ranks:
            return f"integer kernel for {op.label} on {rank} axes"
        if not self.padding and any(n for side in op.attrs["padding"] for n in side):
            return f"exact integer kernel for {op.label} with padding"
        if self.half_padding and not within_half(op.attrs["kernel"], op.attrs["padding"]):
            return f"integer kernel for {op.label} whose windows lie by more than a half in the padding"
        if not self.groups and op.attrs["groups"] > 1:
            return f"integer kernel for {op.label} with groups"
        return ""


@dataclass(frozen=True)
class Target:
    """A runtime: the integers it computes with, the arithmetic of its kernels and its operator table.

    Attributes:
        kernels: the requantization arithmetic, see :mod:`qat.arithmetic.kernels`.
        suffix: of the artifact, ``.onnx`` or ``.tflite``; empty where no runtime has these kernels.
        activation: ``(qmin, qmax)`` of an activation in 8 bits.
        symmetric_activations: whether the zero point must be 0.
        weight_qmax: the largest magnitude of an 8-bit weight.
        bias: how a bias is stored.
        strict_qdq: whether integers may stand only between a QuantizeLinear and a DequantizeLinear in the artifact.
        source: the specification that the rows follow.
        modes: its kernels besides static ones of 8 bits.
        activation_bits: the widths of its activations, besides the 16 bits of ``modes``.
    """

    name: str
    kernels: Literal["mlas", "xnnpack", "reference"]
    suffix: str
    activation: tuple[int, int]
    symmetric_activations: bool
    weight_qmax: int
    rows: tuple[Row, ...]
    source: str
    bias: Literal["int32", "float32"] = "int32"
    strict_qdq: bool = False
    description: str = ""
    modes: Modes = STATIC_ONLY
    activation_bits: tuple[int, ...] = (8,)

    def limits(self, bits: int) -> tuple[int, int]:
        """Return ``(qmin, qmax)`` of an activation of 2 to 8 bits."""
        qmin, qmax = self.activation
        return (qmin, qmax) if bits == 8 else (0, 2**bits - 1) if qmin == 0 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @property
    def kinds(self) -> frozenset[str]:
        """The operators that the target has integer kernels for."""
        return frozenset(row.kind for row in self.rows)

    def row(self, kind: str) -> Row | None:
        """Return the row of an operator, or None where the target has no integer kernel for it."""
        return next((row for row in self.rows if row.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-ready values; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Target:
        """Read what :meth:`to_dict` wrote."""
        fields = as_tuples(data)
        rows = tuple(
            Row(**{**row, "output": _fixed(row["output"]), "second": _fixed(row.get("second"))}) for row in fields["rows"]
        )
        return cls(**{**fields, "rows": rows, "modes": Modes.from_dict(fields["modes"])})


def _fixed(value: Any) -> Any:
    return Fixed(**value) if isinstance(value, Mapping) else value


#: The activations that clip, which a kernel absorbs as limits of its output.
_CLIPS = tuple(kind.name for kind in KINDS.values() if kind.bounds is not None)

# LiteRT 8-bit quantization specification, https://ai.google.dev/edge/litert/models/quantization_spec
_LITERT_ROWS = (
    Row("conv2d", output="own", fuses=_CLIPS, starts=True),
    Row("depthwise_conv2d", output="own", fuses=_CLIPS, starts=True),
    Row("dense", output="own", fuses=_CLIPS, starts=True),
    Row("add", output="own", fuses=_CLIPS),
    # XNNPACK turns x * x into a square, a table of 256 integers, which rounds half a step in other places than a product does.
    Row("mul", output="own", fuses=_CLIPS, of_one="square"),
    Row("mean", output="own"),
    Row("concat", output="as_input"),
    Row("max_pool2d", output="as_input"),
    Row("avg_pool2d", output="as_input", half_padding=True),
    Row("relu", output="as_input"),
    Row("relu6", output="as_input"),
    Row("reshape", output="as_input"),
    Row("pad", output="as_input"),
)

_CONSTANT = Row("constant", output="own", starts=True, note="a parameter, or a number beside activations")
_TRANSPOSE = Row("transpose", output="as_input")
_EXTREMES = tuple(Row(kind, output="as_input", note="of integers") for kind in ("minimum", "maximum"))
_MOVE = Row(
    "move",
    output="as_input",
    note="a data movement: slice, split, index, roll, shuffle, nearest up-sampling, maximum or minimum over axes, ...",
)

# In another form in ONNX Runtime's table, and absent from TensorRT's.
_LITERT_OWN_ROWS = (
    Row(
        "upsample_bilinear2d", output="as_input", note="RESIZE_BILINEAR, by whole factors up to 5, between the centres of pixels"
    ),
    Row("conv_transpose2d", output="own", fuses=_CLIPS, starts=True, groups=False, sized=True),
    _CONSTANT,
    *_EXTREMES,
    replace(_TRANSPOSE, ranks=(2, 3, 4, 5, 6)),
    _MOVE,
)

# Functions: a kernel of LiteRT's own, or a GATHER from the table of integers (exporters/tflite/lookup.py). The scales of
# sigmoid and tanh are the specification's. x * sigmoid(x) is faster than a GATHER: qat/graph/decompose/for_target.py.
_LITERT_FUNCTION_ROWS = (
    Row("sigmoid", output=Fixed(1 / 256, -128)),
    Row("tanh", output=Fixed(1 / 128, 0)),
    *(
        Row(kind, output="own", note="a kernel or a table of 256 integers")
        for kind in FUNCTIONS
        if kind not in ("sigmoid", "tanh", "silu", "composed")
    ),
    Row(
        "composed", output="own", note="a function without a name, as one table of 256 integers",
        # The kernels of the others, and of sums and products, are faster than a GATHER.
        holds=tuple(sorted(set(FUNCTIONS) - {"sigmoid", "tanh", "silu", "gelu", "elu", "exp", "hard_swish", "leaky_relu"})),
    ),
)  # fmt: skip

#: The sums and products that a softmax weighs; between two integer kernels ONNX Runtime makes a QLinearSoftmax of any other too.
_READERS_OF_SOFTMAX = ("matmul", "mul", "add", "mean", "dense", "conv2d", "depthwise_conv2d", "mask")

_TABLE = "the scale is that of the whole table; where it is tied to a dense layer, that of each row"

_NORMS = (
    Row("layer_norm", output="own", note="sums of integers, then single float32 operators"),
    Row("group_norm", output="own", note="sums of integers, then single float32 operators; an InstanceNorm too"),
    Row("rms_norm", output="own", note="sums of integers, then single float32 operators; an L2 norm too"),
)

# Attention (qat/arithmetic/attention.py). A product whose second operand has a zero point takes 16 to 50 times as long: the
# delegate leaves it to TFLite's own kernel. The scale of softmax is the specification's, or a finer one by way of 16 bits.
_LITERT_ATTENTION_ROWS = (
    Row("matmul", output="own", starts=True, symmetric=(1,), note="BATCH_MATMUL of two activations"),
    Row("softmax", output="probabilities", readers=_READERS_OF_SOFTMAX),
    # The mask holds the least and the greatest integer, whatever the scale of the scores.
    Row("mask", output="as_input", second=Fixed(1.0, 0), note="MINIMUM of integers: a hidden score is the least integer"),
    Row("embedding", output="own", starts=True, note=f"GATHER of integers; {_TABLE}, by EMBEDDING_LOOKUP"),
    *_NORMS,
)

# ONNX Runtime, onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc. A ReLU is
# absorbed where the output's zero point is the type's minimum, which a range that starts at 0 gives.
# An output is float: what is concatenated there needs no scale that its parts would share.
_ONNXRUNTIME_LIMITS: dict[str, dict[str, Any]] = {
    "avg_pool2d": {
        "half_padding": False,
        "note": "a QLinearConv with ones; with padding that it does not count, a float AveragePool of the integers themselves",
    },
    "concat": {"leaves": False},
}
_ONNXRUNTIME_ROWS = (
    *(replace(row, **_ONNXRUNTIME_LIMITS.get(row.kind, {})) for row in _LITERT_ROWS),
    # There is no QLinearConvTranspose on the CPU: exporters/onnx/conv_transpose.py.
    Row(
        "conv_transpose2d", output="own", fuses=_CLIPS, starts=True,
        note="a convolution to one channel for each place of the stride, and a shuffle of integers",
    ),
    Row("conv3d", output="own", fuses=_CLIPS, starts=True),
    Row(
        "upsample_bilinear2d", output="as_input",
        note="by whole factors up to 5, between the centres of pixels: a transposed convolution by fixed integers",
    ),
    _CONSTANT,
    *_EXTREMES,
    _TRANSPOSE,
    replace(_MOVE, leaves=False),
    *(
        Row(
            kind, output="own",
            note="a float operator, proved for all 256 integers, else a Gather from 256 integers",
            holds=FUNCTIONS if kind == "composed" else (),
        )
        for kind in FUNCTIONS
    ),
    Row("matmul", output="own", starts=True, note="QLinearMatMul of two activations"),
    Row("softmax", output="probabilities", readers=_READERS_OF_SOFTMAX, note="QLinearSoftmax"),
    Row("mask", output="as_input", second=Fixed(1.0, 128), note="Min of integers: a hidden score is the least integer"),
    Row("embedding", output="own", starts=True, note=f"Gather of integers; {_TABLE}"),
    *_NORMS,
)  # fmt: skip

# NVIDIA TensorRT, "Working with Quantized Types", https://docs.nvidia.com/deeplearning/tensorrt/. IElementWiseLayer,
# IPoolingLayer and IReduceLayer take int8; a reduction computes in float inside. Softmax, LayerNorm and functions run
# in FP16 and have no row. A weight has a scale for each channel in convolutions and "MatMul where the second input is
# constant and both input matrices are 2D" (Developer Guide, "Per-Tensor and Per-Channel Quantization"): a dense layer merges
# its leading axes.
_TENSORRT_LIMITS: dict[str, dict[str, Any]] = {
    "dense": {"note": "a Gemm; leading axes are merged between Q/DQ"}, "mul": {"of_one": ""},
    "avg_pool2d": {"padding": False, "half_padding": False},
}  # fmt: skip
_TENSORRT_ROWS = (
    *(replace(row, **_TENSORRT_LIMITS.get(row.kind, {})) for row in _LITERT_ROWS),
    Row("matmul", output="own", starts=True, note="MatMul of two activations"),
    _TRANSPOSE,
)

_U8 = (0, 255)
_S8 = (-128, 127)

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "litert", "xnnpack", ".tflite", _S8, False, 127,
            (*_LITERT_ROWS, *_LITERT_OWN_ROWS, *_LITERT_FUNCTION_ROWS, *_LITERT_ATTENTION_ROWS),
            source="https://ai.google.dev/edge/litert/models/quantization_spec",
            description="LiteRT with its default delegate (XNNPACK)",
            modes=LITERT,
        ),
        Target(
            # Without VNNI, U8S8 kernels add pairs of products in 16 bits: 2 * 255 * 64 is the most that fits.
            "onnxruntime", "mlas", ".onnx", _U8, False, 64, _ONNXRUNTIME_ROWS,
            source="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
            description="ONNX Runtime on any CPU: 7-bit weights, exact with and without VNNI",
            modes=ONNXRUNTIME,
        ),
        Target(
            "onnxruntime_vnni", "mlas", ".onnx", _U8, False, 127, _ONNXRUNTIME_ROWS,
            source="https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
            description="ONNX Runtime on ARM (phones), or x86 with VNNI: 8-bit weights",
            modes=ONNXRUNTIME,
        ),
        Target(
            "tensorrt", "mlas", ".onnx", (-127, 127), True, 127, _TENSORRT_ROWS,
            source="https://docs.nvidia.com/deeplearning/tensorrt/",
            bias="float32",
            strict_qdq=True,
            description="TensorRT: symmetric int8, float bias (explicit quantization)",
        ),
        Target(
            # Integers of fewer bits through the same formulas, which hold for any limits.
            "simulated", "mlas", "", _U8, False, 127, _ONNXRUNTIME_ROWS,
            source="https://arxiv.org/abs/1712.05877",
            description="No runtime: the prepared model only, activations of 2 to 8 bits",
            activation_bits=(2, 3, 4, 5, 6, 7, 8),
        ),
    )
}  # fmt: skip


#: Short forms of ONNX Runtime's targets, by the processor that the artifact will run on. Not every x86 processor has VNNI.
SHORT_FORMS = {"arm": "onnxruntime_vnni", "x86": "onnxruntime", "any": "onnxruntime"}


def load_target(target: str | Target) -> Target:
    """Return a target given by name, by a short form of :data:`SHORT_FORMS`, or as an object.

    Raises:
        ConfigError: there is no target of that name.
    """
    if isinstance(target, Target):
        return target
    name = SHORT_FORMS.get(target, target)
    if name not in TARGETS:
        valid = (*TARGETS, *SHORT_FORMS)
        raise ConfigError(f"unknown target '{target}'{nearest(target, valid)}; valid: {', '.join(valid)}")
    return TARGETS[name]
