"""Modes of quantization, and what each runtime's kernels do in them, as tables.

What stands here was seen in the runtimes themselves (ONNX Runtime 1.32, LiteRT 2.1): tests/exporters/test_recipes.py repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qat.graph.kinds import KINDS

#: ``static``: weights and activations are integers, every scale known beforehand. ``dynamic``: integer weights; the range of
#: the activation is measured as the kernel runs, which reads and writes float. ``weight_only``: integer weights, dequantized
#: for a float kernel. ``float16``: the same with weights in float16. ``float``: left as it is.
Mode = Literal["static", "dynamic", "weight_only", "float16", "float"]

#: Modes in which an operator reads and writes float tensors and its weight alone is stored in another form.
STORED = ("dynamic", "weight_only", "float16")


@dataclass(frozen=True)
class Modes:
    """What a runtime has besides static kernels of 8 bits.

    Attributes:
        stored: by mode of :data:`STORED`, the operators that run in it and the arithmetic of their kernels.
        packed: by mode, the operators that read a weight of 4 bits from half a byte, and the arithmetic of their kernels then.
            Any other weight of 4 bits is held in int8.
        wide: the operators with static kernels for activations of 16 bits, see :mod:`qat.arithmetic.int16`.

    An arithmetic is a name in :mod:`qat.arithmetic.numerics` (static) or :mod:`qat.arithmetic.dynamic`, or ``float``.
    """

    stored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    packed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    wide: tuple[str, ...] = ()


STATIC_ONLY = Modes()

_FLOAT = {kind.name: "float" for kind in KINDS.values() if kind.stored_weight}

#: XNNPACK reads 4-bit weights of fully connected layers only; TFLite's built-in kernels unpack those of the convolutions, all but
#: the dynamic depthwise one. XNNPACK has no dynamic depthwise kernel.
LITERT = Modes(
    stored={
        "dynamic": {"conv2d": "xnnpack", "depthwise_conv2d": "builtin_depthwise", "dense": "xnnpack"},
        "weight_only": _FLOAT,
        "float16": _FLOAT,
    },
    packed={
        "static": {"conv2d": "builtin", "depthwise_conv2d": "builtin", "dense": "xnnpack"},
        "dynamic": {"conv2d": "builtin", "dense": "xnnpack"},
        "weight_only": _FLOAT,
    },
    wide=tuple(kind.name for kind in KINDS.values() if kind.int16),
)

#: QLinearConv, QGemm, ConvInteger and MatMulInteger read 8-bit weights only; DequantizeLinear reads 4 bits since opset 21.
ONNXRUNTIME = Modes(
    stored={"dynamic": dict.fromkeys(_FLOAT, "mlas"), "weight_only": _FLOAT, "float16": _FLOAT},
    packed={"weight_only": _FLOAT},
)
