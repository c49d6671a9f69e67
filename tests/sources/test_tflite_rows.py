"""Each row of the table of TFLite's operators computes what LiteRT computes, for a batch of two."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qat.runtimes.litert import LiteRTSession
from qat.sources.tflite.read import read_tflite
from qat.sources.tflite.table import ROWS
from support.tflite_files import TFLiteFile

RNG = np.random.default_rng(0)
SAME, VALID = 0, 1
RELU, RELU_N1_TO_1, RELU6 = 1, 2, 3


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("f") / np.sqrt(np.prod(shape[1:]))


#: Writes a file's operators for its input of ``shape``, and returns its outputs.
Build = Callable[[TFLiteFile, int], list[int]]
CASES: dict[str, tuple[str, tuple[int, ...], Build]] = {}


def case(code: str, name: str, shape: tuple[int, ...], build: Callable[[TFLiteFile, int], Any]) -> None:
    def outputs(file: TFLiteFile, x: int) -> list[int]:
        made = build(file, x)
        return made if isinstance(made, list) else [made]

    CASES[f"{code} {name}".strip()] = code, shape, outputs


def conv(
    size: int,
    strides: tuple[int, int],
    padding: int,
    kernel: tuple[int, int] = (3, 3),
    dilation: int = 1,
    act: int = 0,
    groups: int = 1,
) -> None:
    def build(f: TFLiteFile, x: int) -> int:
        inputs = [x, f.constant(weights(8, *kernel, 4 // groups)), f.constant(weights(8))]
        return f.operator(
            "CONV_2D",
            inputs,
            options="Conv2D",
            padding=padding,
            strideH=strides[0],
            strideW=strides[1],
            fusedActivationFunction=act,
            dilationHFactor=dilation,
            dilationWFactor=dilation,
        )

    case("CONV_2D", f"{size} {strides} {padding} {kernel} {dilation} {act} {groups}", (1, size, size + 3, 4), build)


for size in (7, 8):
    for strides in ((1, 1), (2, 2), (2, 1)):
        for kernel in ((3, 3), (2, 4)):
            conv(size, strides, SAME, kernel)
conv(8, (2, 2), VALID, act=RELU6)
conv(8, (1, 1), SAME, dilation=2, act=RELU)
conv(8, (1, 1), VALID, act=RELU_N1_TO_1)
conv(9, (3, 3), SAME, (1, 5))
conv(8, (1, 1), SAME, groups=2)


def depthwise(multiplier: int, channels: int, stride: int, dilation: int = 1) -> None:
    case(
        "DEPTHWISE_CONV_2D",
        f"{multiplier} {channels} {stride} {dilation}",
        (1, 9, 8, channels),
        lambda f, x: f.operator(
            "DEPTHWISE_CONV_2D",
            [x, f.constant(weights(1, 3, 3, channels * multiplier)), f.constant(weights(channels * multiplier))],
            options="DepthwiseConv2D",
            padding=SAME,
            strideH=stride,
            strideW=stride,
            depthMultiplier=multiplier,
            dilationHFactor=dilation,
            dilationWFactor=dilation,
        ),
    )


depthwise(1, 4, 1)
depthwise(2, 3, 2)
depthwise(4, 1, 1)
depthwise(1, 4, 1, dilation=2)

for kernel, stride, padding, size in (
    (3, 2, SAME, 12),
    (2, 2, VALID, 12),
    (4, 2, SAME, 12),
    (3, 1, SAME, 6),
    (3, 2, VALID, 13),
    (5, 3, SAME, 17),
):
    case(
        "TRANSPOSE_CONV",
        f"{kernel} {stride} {padding}",
        (1, 6, 6, 4),
        lambda f, x, k=kernel, s=stride, p=padding, n=size: f.operator(
            "TRANSPOSE_CONV",
            [f.constant([1, n, n, 5]), f.constant(weights(5, k, k, 4)), x, f.constant(weights(5))],
            options="TransposeConv",
            padding=p,
            strideH=s,
            strideW=s,
            version=3,
        ),
    )
case(
    "Convolution2DTransposeBias",
    "",
    (1, 6, 5, 4),
    lambda f, x: f.operator(
        "Convolution2DTransposeBias",
        [x, f.constant(weights(3, 2, 2, 4)), f.constant(weights(3))],
        custom=struct.pack("<3i", 1, 2, 2),
        shape=(1, 12, 10, 3),
    ),
)


def connected(shape: tuple[int, ...], inputs: int, keep: bool, act: int = 0) -> None:
    case(
        "FULLY_CONNECTED",
        f"{shape} {keep}",
        shape,
        lambda f, x: f.operator(
            "FULLY_CONNECTED",
            [x, f.constant(weights(5, inputs)), f.constant(weights(5))],
            options="FullyConnected",
            keepNumDims=keep,
            fusedActivationFunction=act,
            version=5,
        ),
    )


connected((1, 6), 6, False, RELU)
connected((1, 3, 6), 6, True)
connected((1, 3, 2, 4), 24, False)


def matmul(f: TFLiteFile, x: int) -> int:
    y = f.operator("TRANSPOSE", [x, f.constant([0, 1, 3, 2])], options="Transpose")
    z = f.operator("BATCH_MATMUL", [x, y], options="BatchMatMul")
    return f.operator("BATCH_MATMUL", [z, f.constant(weights(4, 3))], options="BatchMatMul", adjY=True)


case("BATCH_MATMUL", "", (1, 2, 3, 4), matmul)
case("BATCH_MATMUL", "adjoint", (1, 3, 4), lambda f, x: f.operator("BATCH_MATMUL", [x, x], options="BatchMatMul", adjY=True))
case(
    "BATCH_MATMUL",
    "constant",
    (1, 3, 4),
    lambda f, x: f.operator("BATCH_MATMUL", [x, f.constant(weights(4, 3))], options="BatchMatMul"),
)

for code in ("ADD", "SUB", "MUL", "DIV"):
    for name, other in (("number", 1.5), ("channels", weights(4)), ("image", weights(1, 5, 1, 4)), ("all", None)):
        case(
            code,
            name,
            (1, 5, 6, 4),
            lambda f, x, c=code, o=other: f.operator(
                c,
                [x, f.operator("EXP", [x]) if o is None else f.constant(o)],
                options=c.capitalize(),
                fusedActivationFunction=RELU,
            ),
        )
    case(code, "number first", (1, 4), lambda f, x, c=code: f.operator(c, [f.constant(1.5), x], options=c.capitalize()))
for code in ("MAXIMUM", "MINIMUM"):
    case(code, "", (1, 5, 4), lambda f, x, c=code: f.operator(c, [x, f.constant(weights(4))], options="MaximumMinimum"))
    case(code, "number", (1, 5, 4), lambda f, x, c=code: f.operator(c, [f.constant(0.1), x], options="MaximumMinimum"))
case("SQUARED_DIFFERENCE", "", (1, 5, 4), lambda f, x: f.operator("SQUARED_DIFFERENCE", [x, f.constant(weights(4))]))
case("POW", "", (1, 5), lambda f, x: f.operator("POW", [x, f.constant(2.0)], options="Pow"))
case("POW", "base", (1, 5), lambda f, x: f.operator("POW", [f.constant(2.0), x], options="Pow"))
case("FLOOR_DIV", "", (1, 5), lambda f, x: f.operator("FLOOR_DIV", [x, f.constant(0.3)], options="FloorDiv"))
case("FLOOR_MOD", "", (1, 5), lambda f, x: f.operator("FLOOR_MOD", [x, f.constant(0.3)], options="FloorMod"))
case("ADD_N", "", (1, 5), lambda f, x: f.operator("ADD_N", [x, x, f.operator("NEG", [x])], options="AddN"))
case("PRELU", "channels", (1, 3, 3, 4), lambda f, x: f.operator("PRELU", [x, f.constant(weights(1, 1, 4))]))
case("PRELU", "one", (1, 3, 3, 4), lambda f, x: f.operator("PRELU", [x, f.constant(weights(1, 1, 1))]))
case("PRELU", "everywhere", (1, 3, 3, 4), lambda f, x: f.operator("PRELU", [x, f.constant(weights(3, 3, 4))]))
case("PRELU", "sequence", (1, 3, 4), lambda f, x: f.operator("PRELU", [x, f.constant(weights(1, 4))]))

for code, options, fields in (
    ("RELU", "", {}),
    ("RELU6", "", {}),
    ("RELU_N1_TO_1", "", {}),
    ("RELU_0_TO_1", "", {}),
    ("ELU", "", {}),
    ("HARD_SWISH", "", {}),
    ("LOGISTIC", "", {}),
    ("TANH", "", {}),
    ("EXP", "", {}),
    ("ABS", "Abs", {}),
    ("NEG", "Neg", {}),
    ("SQUARE", "", {}),
    ("SIN", "", {}),
    ("COS", "", {}),
    ("FLOOR", "", {}),
    ("CEIL", "", {}),
    ("ROUND", "", {}),
    ("SIGN", "", {}),
    ("LEAKY_RELU", "LeakyRelu", {"alpha": 0.2}),
    ("GELU", "Gelu", {"approximate": True}),
    ("GELU", "Gelu", {"approximate": False}),
    ("ZEROS_LIKE", "", {}),
):
    case(code, str(*fields.values()), (1, 4, 3, 4), lambda f, x, c=code, o=options, v=fields: f.operator(c, [x], options=o, **v))
for code in ("SQRT", "RSQRT", "LOG"):
    case(code, "", (1, 4), lambda f, x, c=code: f.operator(c, [f.operator("EXP", [x])]))

for code in ("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"):
    case(
        code,
        "",
        (1, 5, 4),
        lambda f, x, c=code: f.operator(
            "SELECT_V2", [f.operator(c, [x, f.constant(0.1)], dtype="bool"), x, f.constant(weights(4))], options="SelectV2"
        ),
    )


def logical(f: TFLiteFile, x: int) -> int:
    low, high = (f.operator(c, [x, f.constant(n)], dtype="bool") for c, n in (("LESS", 0.5), ("GREATER", -0.5)))
    both, either = (f.operator(c, [low, high], dtype="bool") for c in ("LOGICAL_AND", "LOGICAL_OR"))
    inside = f.operator("LOGICAL_AND", [both, f.operator("LOGICAL_NOT", [either], dtype="bool")], dtype="bool")
    picked = f.operator("SELECT", [inside, x, f.operator("NEG", [x])], options="Select")
    return f.operator(
        "CAST",
        [f.operator("CAST", [picked], dtype="int32", options="Cast", inDataType=0, outDataType=2)],
        options="Cast",
        inDataType=2,
    )


case("LOGICAL_AND", "", (1, 5), logical)
case("ATAN2", "", (1, 5), lambda f, x: f.operator("ATAN2", [x, f.constant(weights(1, 5))]))

for code in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"):
    for axes in ([1, 2], [3], [-1, 1]):
        for keep in (True, False):
            case(
                code,
                f"{axes} {keep}",
                (1, 4, 3, 5),
                lambda f, x, c=code, a=axes, k=keep: f.operator(c, [x, f.constant(a)], options="Reducer", keepDims=k),
            )
case("SOFTMAX", "", (1, 3, 5), lambda f, x: f.operator("SOFTMAX", [x], options="Softmax", beta=2.0))
case("LOG_SOFTMAX", "", (1, 5), lambda f, x: f.operator("LOG_SOFTMAX", [x], options="LogSoftmax"))
case("L2_NORMALIZATION", "", (1, 3, 3, 5), lambda f, x: f.operator("L2_NORMALIZATION", [x], options="L2Norm"))
case(
    "LOCAL_RESPONSE_NORMALIZATION",
    "",
    (1, 3, 3, 6),
    lambda f, x: f.operator(
        "LOCAL_RESPONSE_NORMALIZATION", [x], options="LocalResponseNormalization", radius=2, bias=1.0, alpha=0.3, beta=0.5
    ),
)
for code, options in (("ARG_MAX", "ArgMax"), ("ARG_MIN", "ArgMin")):
    case(
        code,
        "",
        (1, 3, 5),
        lambda f, x, c=code, o=options: f.operator(
            "CAST", [f.operator(c, [x, f.constant(-1)], options=o, dtype="int32", outputType=2)], options="Cast", inDataType=2
        ),
    )
for exclusive in (False, True):
    for backwards in (False, True):
        case(
            "CUMSUM",
            f"{exclusive} {backwards}",
            (1, 3, 5),
            lambda f, x, e=exclusive, r=backwards: f.operator(
                "CUMSUM", [x, f.constant(1)], options="Cumsum", exclusive=e, reverse=r
            ),
        )

for code in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
    for window, stride, padding in ((2, 2, SAME), (3, 2, SAME), (3, 1, SAME), (2, 1, SAME), (3, 2, VALID), (7, 1, VALID)):
        case(
            code,
            f"{window} {stride} {padding}",
            (1, 7, 8, 4),
            lambda f, x, c=code, w=window, s=stride, p=padding: f.operator(
                c, [x], options="Pool2D", padding=p, filterHeight=w, filterWidth=w, strideH=s, strideW=s
            ),
        )
for corners, half in ((False, True), (True, False), (False, False)):
    for size in ((10, 8), (9, 13), (3, 2)):
        case(
            "RESIZE_BILINEAR",
            f"{corners} {half} {size}",
            (1, 5, 4, 3),
            lambda f, x, a=corners, h=half, s=size: f.operator(
                "RESIZE_BILINEAR", [x, f.constant(s)], options="ResizeBilinear", alignCorners=a, halfPixelCenters=h, version=3
            ),
        )
        case(
            "RESIZE_NEAREST_NEIGHBOR",
            f"{corners} {half} {size}",
            (1, 5, 4, 3),
            lambda f, x, a=corners, h=half, s=size: f.operator(
                "RESIZE_NEAREST_NEIGHBOR",
                [x, f.constant(s)],
                options="ResizeNearestNeighbor",
                alignCorners=a,
                halfPixelCenters=h,
                version=3,
            ),
        )

case("RESHAPE", "", (1, 4, 3, 2), lambda f, x: f.operator("RESHAPE", [x, f.constant([1, 12, 2])], options="Reshape"))
case("RESHAPE", "rest", (1, 4, 3, 2), lambda f, x: f.operator("RESHAPE", [x, f.constant([1, -1, 2])], options="Reshape"))
case("RESHAPE", "option", (1, 4, 3), lambda f, x: f.operator("RESHAPE", [x], options="Reshape", newShape=[1, -1]))


def rows(f: TFLiteFile, x: int) -> int:
    """The batch is folded into the rows and taken out again."""
    flat = f.operator("RESHAPE", [x, f.constant([6, 4])], options="Reshape")
    y = f.operator("FULLY_CONNECTED", [flat, f.constant(weights(5, 4))], options="FullyConnected")
    return f.operator("RESHAPE", [y, f.constant([1, 6, 5])], options="Reshape")


case("RESHAPE", "rows", (1, 6, 4), rows)


def computed_shape(f: TFLiteFile, x: int) -> int:
    """What Keras' Reshape layer becomes: the batch of the new shape is read from the input."""
    shape = f.operator("SHAPE", [x], options="Shape", dtype="int32", outType=2)
    batch = f.operator(
        "STRIDED_SLICE",
        [shape, f.constant([0]), f.constant([1]), f.constant([1])],
        options="StridedSlice",
        shrinkAxisMask=1,
        dtype="int32",
    )
    target = f.operator("PACK", [batch, f.constant(6), f.constant(4)], options="Pack", valuesCount=3, dtype="int32")
    return f.operator("RESHAPE", [x, target], options="Reshape")


case("RESHAPE", "computed", (1, 2, 3, 4), computed_shape)


def transposed_between(f: TFLiteFile, x: int) -> int:
    y = f.operator("TRANSPOSE", [x, f.constant([0, 3, 1, 2])], options="Transpose")
    z = f.operator("MEAN", [f.operator("RELU", [y]), f.constant([3])], options="Reducer", keepDims=True)
    return f.operator("TRANSPOSE", [f.operator("ADD", [y, z], options="Add"), f.constant([0, 2, 1, 3])], options="Transpose")


case("TRANSPOSE", "", (1, 4, 3, 2), transposed_between)
for axis in (-1, 1):
    case(
        "CONCATENATION",
        str(axis),
        (1, 4, 3, 2),
        lambda f, x, a=axis: f.operator("CONCATENATION", [x, f.operator("NEG", [x])], options="Concatenation", axis=a),
    )
case("SPLIT", "", (1, 4, 6), lambda f, x: f.operator("SPLIT", [f.constant(2), x], 3, options="Split", numSplits=3))
case(
    "SPLIT_V",
    "",
    (1, 4, 6),
    lambda f, x: f.operator("SPLIT_V", [x, f.constant([1, -1, 2]), f.constant(-1)], 3, options="SplitV", numSplits=3),
)
case("UNPACK", "", (1, 3, 4), lambda f, x: f.operator("UNPACK", [x], 3, options="Unpack", num=3, axis=1))
case("PACK", "", (1, 3, 4), lambda f, x: f.operator("PACK", [x, f.operator("NEG", [x])], options="Pack", valuesCount=2, axis=-1))
case(
    "SLICE",
    "",
    (1, 5, 4, 3),
    lambda f, x: f.operator(
        "SLICE", [x, f.constant([0, 1, 2, 0]), f.constant([1, 3, -1, 3])], options="Slice", shape=(1, 3, 2, 3)
    ),
)
for name, ends, masks in (
    ("plain", ([0, 1, 0, 1], [1, 4, 4, 3], [1, 2, 1, 1]), {}),
    ("masks", ([0, 1, 0, 1], [0, 0, 0, 3], [1, 1, 1, 1]), {"beginMask": 1, "endMask": 7}),
    ("shrink", ([0, 1, 0, -1], [1, 2, 4, 0], [1, 1, 1, 1]), {"shrinkAxisMask": 10}),
    ("ellipsis", ([0, 0, 1], [0, 0, 3], [1, 1, 1]), {"ellipsisMask": 2, "endMask": 1}),
    ("backwards", ([0, 4, 0, 0], [1, 0, 4, 3], [1, -2, 1, 1]), {"endMask": 5}),
):
    case(
        "STRIDED_SLICE",
        name,
        (1, 5, 4, 3),
        lambda f, x, e=ends, m=masks: f.operator("STRIDED_SLICE", [x, *(f.constant(n) for n in e)], options="StridedSlice", **m),
    )
for name, amounts in (
    ("image", [[0, 0], [1, 2], [0, 3], [0, 0]]),
    ("channels", [[0, 0], [0, 0], [0, 0], [1, 2]]),
    ("both", [[0, 0], [1, 0], [0, 0], [1, 2]]),
):
    case("PAD", name, (1, 5, 4, 3), lambda f, x, a=amounts: f.operator("PAD", [x, f.constant(a)], options="Pad"))
    case(
        "PADV2",
        name,
        (1, 5, 4, 3),
        lambda f, x, a=amounts: f.operator("PADV2", [x, f.constant(a), f.constant(1.5)], options="PadV2"),
    )
    for mode in (0, 1):
        case(
            "MIRROR_PAD",
            f"{name} {mode}",
            (1, 5, 4, 3),
            lambda f, x, a=amounts, m=mode: f.operator("MIRROR_PAD", [x, f.constant(a)], options="MirrorPad", mode=m),
        )
case("PAD", "sequence", (1, 5, 4), lambda f, x: f.operator("PAD", [x, f.constant([[0, 0], [2, 1], [0, 0]])], options="Pad"))
case("SQUEEZE", "", (1, 1, 4, 1), lambda f, x: f.operator("SQUEEZE", [x], options="Squeeze", squeezeDims=[1, 3]))
case("EXPAND_DIMS", "", (1, 4, 3), lambda f, x: f.operator("EXPAND_DIMS", [x, f.constant(1)], options="ExpandDims"))
case("DEPTH_TO_SPACE", "", (1, 2, 3, 12), lambda f, x: f.operator("DEPTH_TO_SPACE", [x], options="DepthToSpace", blockSize=2))
case("SPACE_TO_DEPTH", "", (1, 4, 6, 3), lambda f, x: f.operator("SPACE_TO_DEPTH", [x], options="SpaceToDepth", blockSize=2))
case("TILE", "", (1, 4, 3), lambda f, x: f.operator("TILE", [x, f.constant([1, 2, 3])], options="Tile"))
case("REVERSE_V2", "", (1, 4, 3), lambda f, x: f.operator("REVERSE_V2", [x, f.constant([1])], options="ReverseV2"))
case("BROADCAST_TO", "", (1, 1, 3), lambda f, x: f.operator("BROADCAST_TO", [x, f.constant([1, 4, 3])], version=2))
case(
    "FILL",
    "",
    (1, 3),
    lambda f, x: f.operator("ADD", [x, f.operator("FILL", [f.constant([1, 3]), f.constant(2.0)], options="Fill")], options="Add"),
)

case("GATHER", "axis", (1, 5, 4), lambda f, x: f.operator("GATHER", [x, f.constant([3, 0, 3])], options="Gather", axis=1))
case("GATHER", "one", (1, 5, 4), lambda f, x: f.operator("GATHER", [x, f.constant(2)], options="Gather", axis=-1))
case("GATHER", "grid", (1, 5, 4), lambda f, x: f.operator("GATHER", [x, f.constant([[3, 0], [1, 1]])], options="Gather", axis=1))


def embedded(f: TFLiteFile, x: int) -> int:
    indices = f.operator("CAST", [f.operator("ABS", [x], options="Abs")], options="Cast", dtype="int32", outDataType=2)
    return f.operator("GATHER", [f.constant(weights(9, 4)), indices], options="Gather")


case("GATHER", "embedding", (1, 5), embedded)


@pytest.mark.parametrize("name", CASES)
def test_a_row_computes_what_litert_computes(name: str, tmp_path: Path) -> None:
    _, shape, build = CASES[name]
    file = TFLiteFile()
    path = file.save(tmp_path / "row.tflite", build(file, file.input(shape)))
    x = RNG.normal(size=(2, *shape[1:])).astype("f")
    expected = LiteRTSession(path).run(x)
    with torch.no_grad():
        found = read_tflite(path)(torch.from_numpy(x))
    for have, want in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert tuple(have.shape) == want.shape
        np.testing.assert_allclose(have.numpy(), want, rtol=1e-4, atol=1e-5)


def test_a_row_without_a_case() -> None:
    # Of these the runtime has no kernel for real numbers, or another row's case runs it.
    others = {
        "CONV_3D",
        "REDUCE_ANY",
        "REDUCE_ALL",
        "LOGICAL_OR",
        "LOGICAL_NOT",
        "SELECT",
        "SELECT_V2",
        "CAST",
        "EMBEDDING_LOOKUP",
        "ONE_HOT",
        "TOPK_V2",
    }
    assert set(ROWS) - {code for code, _, _ in CASES.values()} == others
