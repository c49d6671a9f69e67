"""Modes of quantization, and what each runtime's kernels do in them, as tables.

What stands here was seen in the runtimes themselves (ONNX Runtime 1.32, LiteRT 2.1): tests/exporters/test_recipes.py repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qat.graph.graph import Op
from qat.graph.kinds import KINDS

#: ``static``: weights and activations are integers, every scale known beforehand. ``dynamic``: integer weights; the range of
#: the activation is measured as the kernel runs, which reads and writes float. ``weight_only``: integer weights, dequantized
#: for a float kernel. ``float16``: the same with weights in float16. ``float``: left as it is.
Mode = Literal["static", "dynamic", "weight_only", "float16", "float"]

#: Modes in which an operator reads and writes float tensors and its weight alone is stored in another form.
STORED = ("dynamic", "weight_only", "float16")


@dataclass(frozen=True)
class Packed:
    """A kernel that reads a weight of 4 bits from half a byte.

    Attributes:
        arithmetic: a name in :mod:`qat.arithmetic`.
        groups: whether it takes more groups than one.
        dilations: whether it takes dilations.
        tensor: whether it takes a weight of one scale.
    """

    arithmetic: str
    groups: bool = True
    dilations: bool = True
    tensor: bool = True

    def takes(self, op: Op, per_channel: bool) -> bool:
        """Whether the kernel runs an operator whose weight has one scale a channel, or one in all."""
        return (
            (self.tensor or per_channel)
            and (self.groups or op.attrs["groups"] == 1)
            and (self.dilations or set(op.attrs["dilations"]) == {1})
        )


@dataclass(frozen=True)
class Modes:
    """The kernels of a runtime besides static ones of 8 bits.

    Attributes:
        stored: by mode of :data:`STORED`, the operators that run in it and the arithmetic of their kernels.
        packed: by mode, the operators that read a weight of 4 bits from half a byte, and their kernels then, of which the first
            that takes the operator runs it. Any other weight of 4 bits is held in int8.
        int16: the operators with static kernels for activations of 16 bits, see :mod:`qat.arithmetic.int16`.
        slow: by mode, the operators whose kernels take a multiple of the float kernel's time.

    An arithmetic is a name in :mod:`qat.arithmetic.kernels` (static) or :mod:`qat.arithmetic.dynamic`, or ``float``.
    """

    stored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    packed: Mapping[str, Mapping[str, tuple[Packed, ...]]] = field(default_factory=dict)
    int16: tuple[str, ...] = ()
    slow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Modes:
        """Read the dictionary that :func:`dataclasses.asdict` made."""
        packed = {
            mode: {kind: tuple(Packed(**kernel) for kernel in kernels) for kind, kernels in of_mode.items()}
            for mode, of_mode in data["packed"].items()
        }
        slow = {mode: tuple(kinds) for mode, kinds in data.get("slow", {}).items()}
        return cls(data["stored"], packed, tuple(data["int16"]), slow)


STATIC_ONLY = Modes()

_FLOAT = {kind.name: "float" for kind in KINDS.values() if kind.stored_weight}

_XNNPACK = (Packed("xnnpack"),)
_FLOAT_PACKED = dict.fromkeys(_FLOAT, (Packed("float"),))

#: XNNPACK reads 4-bit weights of fully connected layers only. TFLite's built-in kernels unpack those of the convolutions, all but
#: the dynamic depthwise one; a convolution in groups, or a dilated depthwise one, is run by a kernel of another arithmetic.
#: XNNPACK has no dynamic depthwise kernel. With one scale in all, TFLite's dynamic kernel takes symmetric activations, which are
#: worse than those of XNNPACK's int8 kernel: such a weight is held in int8.
LITERT = Modes(
    stored={
        "dynamic": {"conv2d": "xnnpack", "depthwise_conv2d": "builtin_depthwise", "dense": "xnnpack"},
        "weight_only": _FLOAT,
        "float16": _FLOAT,
    },
    packed={
        "static": {
            "conv2d": (Packed("builtin", groups=False),),
            "depthwise_conv2d": (Packed("builtin_depthwise", dilations=False),),
            "dense": _XNNPACK,
        },
        "dynamic": {
            "conv2d": (Packed("builtin", groups=False, tensor=False), Packed("builtin_groups", tensor=False)),
            "dense": _XNNPACK,
        },
        "weight_only": _FLOAT_PACKED,
    },
    int16=tuple(kind.name for kind in KINDS.values() if kind.int16),
)

#: QLinearConv, QGemm, ConvInteger and MatMulInteger read 8-bit weights only; DequantizeLinear reads 4 bits since opset 21.
#: ConvInteger has no kernel for depthwise convolutions, and turns every window of the others into a row first.
ONNXRUNTIME = Modes(
    stored={"dynamic": dict.fromkeys(_FLOAT, "mlas"), "weight_only": _FLOAT, "float16": _FLOAT},
    packed={"weight_only": _FLOAT_PACKED},
    slow={"dynamic": ("conv2d", "depthwise_conv2d")},
)
