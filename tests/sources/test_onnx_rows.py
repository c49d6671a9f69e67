"""Each row of the table of ONNX's operators against ONNX Runtime, in the forms of several opsets."""

import numpy as np
import pytest

from support.onnx_files import check, one_operator

_RNG = np.random.default_rng(3)


def _x(*shape):
    return ("x", _RNG.normal(size=shape).astype(np.float32))


def _c(*shape, low=None):
    values = _RNG.normal(size=shape) if low is None else _RNG.uniform(low, low + 1, shape)
    return values.astype(np.float32)


def _i(*values):
    return np.array(values, np.int64)


def _f(*values):
    return np.array(values, np.float32)


def _n(value, dtype=np.float32):
    return np.array(value, dtype)


_WINDOWS = {
    "conv": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 3, 3), _c(4)], {}),
    "conv without bias": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 3, 3)], {"strides": [2, 1], "pads": [1, 2, 1, 2]}),
    "conv, uneven pads": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 3, 3), _c(4)], {"pads": [0, 1, 2, 0], "strides": [2, 2]}),
    "conv, same upper": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "conv, same lower": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    "conv, valid": ("Conv", [_x(2, 3, 9, 8), _c(4, 3, 2, 2)], {"auto_pad": "VALID"}),
    "conv, dilated, grouped": ("Conv", [_x(2, 4, 9, 8), _c(6, 2, 3, 3), _c(6)], {"dilations": [2, 1], "group": 2}),
    "conv 1d": ("Conv", [_x(2, 3, 9), _c(4, 3, 3), _c(4)], {"pads": [1, 0]}),
    "conv 3d": ("Conv", [_x(1, 2, 5, 6, 7), _c(3, 2, 3, 3, 3)], {"strides": [1, 2, 1]}),
    "transposed": ("ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3), _c(4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "transposed, output padding": (
        "ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}
    ),
    "transposed, uneven": ("ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3)], {"strides": [2, 2], "pads": [0, 1, 1, 2]}),
    "transposed, less after": ("ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 0, 0]}),
    "transposed, output shape": ("ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3)], {"strides": [2, 2], "output_shape": [10, 8]}),
    "transposed, same upper": ("ConvTranspose", [_x(2, 3, 5, 4), _c(3, 4, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "transposed, grouped, dilated": ("ConvTranspose", [_x(2, 4, 5, 4), _c(4, 2, 3, 3)], {"group": 2, "dilations": [2, 2]}),
    "max": ("MaxPool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max, ceil": ("MaxPool", [_x(2, 3, 10, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max, uneven": ("MaxPool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "max, same": ("MaxPool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "max, dilated": ("MaxPool", [_x(2, 3, 9, 8)], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "max 1d": ("MaxPool", [_x(2, 3, 9)], {"kernel_shape": [3], "strides": [2]}),
    "average": ("AveragePool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average, counted": ("AveragePool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "average, uneven": ("AveragePool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "average, uneven, counted": (
        "AveragePool", [_x(2, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}
    ),
    "average, same": ("AveragePool", [_x(2, 3, 9, 8)], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    "average, ceil": ("AveragePool", [_x(2, 3, 10, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "global average": ("GlobalAveragePool", [_x(2, 3, 9, 8)], {}),
    "global max": ("GlobalMaxPool", [_x(2, 3, 9, 8)], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", _WINDOWS)
def test_windows(name, tmp_path):
    kind, inputs, attributes = _WINDOWS[name]
    check(*one_operator(kind, inputs, **attributes), tmp_path)


_PRODUCTS = {
    "gemm": ("Gemm", [_x(2, 3), _c(3, 4), _c(4)], {}),
    "gemm, transposed": ("Gemm", [_x(2, 3), _c(4, 3), _c(1, 4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "gemm, a transposed": ("Gemm", [_x(3, 2), _c(3, 4)], {"transA": 1}),
    "gemm, one bias": ("Gemm", [_x(2, 3), _c(3, 4), _c(1)], {"beta": 0.5}),
    "gemm, a bias for each": ("Gemm", [_x(2, 3), _c(3, 4), _c(2, 4)], {"beta": 0.5}),
    "gemm of two": ("Gemm", [_x(2, 3), ("z", _c(3, 4)), _c(4)], {"alpha": 2.0}),
    "matmul": ("MatMul", [_x(2, 5, 3), _c(3, 4)], {}),
    "matmul by a vector": ("MatMul", [_x(2, 5, 3), _c(3)], {}),
    "matmul of batches": ("MatMul", [_x(2, 5, 3), _c(2, 3, 4)], {}),
    "matmul of two": ("MatMul", [_x(2, 5, 3), ("z", _c(2, 3, 4))], {}),
    "einsum": ("Einsum", [_x(2, 5, 3), _c(3, 4)], {"equation": "bij,jk->bik"}),
}


@pytest.mark.parametrize("name", _PRODUCTS)
def test_products(name, tmp_path):
    kind, inputs, attributes = _PRODUCTS[name]
    check(*one_operator(kind, inputs, **attributes), tmp_path)


_POSITIVE = {"Log", "Sqrt", "Reciprocal"}
_UNARY = [
    "Abs", "Atan", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "Elu", "HardSigmoid", "LeakyRelu", "Selu",
    "Celu", "ThresholdedRelu", "Shrink", "Identity", "Cosh", "Sinh", "Asinh",
]  # fmt: skip


@pytest.mark.parametrize("kind", _UNARY)
def test_functions_of_one(kind, tmp_path):
    x = ("x", np.abs(_c(2, 3, 4)) + 0.1) if kind in _POSITIVE else _x(2, 3, 4)
    check(*one_operator(kind, [x], opset=18), tmp_path)


_FUNCTIONS = {
    "acos": ("Acos", [("x", _c(3, 4, low=-0.5))], {}),
    "acosh": ("Acosh", [("x", _c(3, 4, low=1.5))], {}),
    "elu": ("Elu", [_x(3, 4)], {"alpha": 0.5}),
    "selu, other numbers": ("Selu", [_x(3, 4)], {"alpha": 0.5, "gamma": 2.0}),
    "hard sigmoid of PyTorch": ("HardSigmoid", [_x(3, 4)], {"alpha": 1 / 6, "beta": 0.5}),
    "shrink": ("Shrink", [_x(3, 4)], {"lambd": 0.4, "bias": 0.2}),
    "prelu, a slope a channel": ("PRelu", [_x(2, 3, 4, 4), _c(3, 1, 1)], {}),
    "prelu, one slope": ("PRelu", [_x(2, 3, 4, 4), _c(1)], {}),
    "prelu, a slope a pixel": ("PRelu", [_x(2, 3, 4, 4), _c(3, 4, 4)], {}),
    "clip": ("Clip", [_x(3, 4), _n(-0.5), _n(0.7)], {}),
    "clip above": ("Clip", [_x(3, 4), None, _n(0.7)], {}),
    "clip at zero": ("Clip", [_x(3, 4), _n(0.0)], {}),
    "clip at nothing": ("Clip", [_x(3, 4)], {}),
    "add": ("Add", [_x(2, 3), _c(3)], {}),
    "add a number": ("Add", [_n(1.5), _x(2, 3)], {}),
    "subtract from a number": ("Sub", [_n(1.5), _x(2, 3)], {}),
    "multiply": ("Mul", [_x(2, 3), ("z", _c(1, 3))], {}),
    "number of more axes": ("Mul", [_x(2, 3), _f(2.0).reshape(1, 1, 1)], {}),
    "divide by a number": ("Div", [_x(2, 3), _n(3.0)], {}),
    "divide a number": ("Div", [_n(3.0), ("x", _c(2, 3, low=1))], {}),
    "square": ("Pow", [_x(2, 3), _n(2.0)], {}),
    "power by an integer": ("Pow", [_x(2, 3), _n(3, np.int64)], {}),
    "power of two": ("Pow", [("x", _c(2, 3, low=1)), _c(3)], {}),
    "maximum": ("Max", [_x(2, 3), _c(3), ("z", _c(2, 1))], {}),
    "maximum with a number": ("Max", [_x(2, 3), _n(0.2)], {}),
    "minimum": ("Min", [_x(2, 3), _c(3)], {}),
    "sum": ("Sum", [_x(2, 3), _c(3), _c(2, 1)], {}),
    "mean": ("Mean", [_x(2, 3), _c(3), _c(2, 1)], {}),
    "fmod": ("Mod", [_x(2, 3), _c(3, low=1)], {"fmod": 1}),
    "where": ("Where", [np.array([True, False, True]), _x(2, 3), _n(0.0)], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions(name, tmp_path):
    kind, inputs, attributes = _FUNCTIONS[name]
    check(*one_operator(kind, inputs, **attributes), tmp_path)


def _ints(*shape, low=-9, high=9):
    return ("x", _RNG.integers(low, high, shape))


_OTHER_TYPES = {
    "integers divided": ("Div", [_ints(2, 5), _i(2, 3, -2, 4, 5)], np.int64, {}),
    "remainder": ("Mod", [_ints(2, 5), _i(2, 3, -2, 4, 5)], np.int64, {}),
    "equal": ("Equal", [_ints(2, 5, low=0, high=2), _i(1)], bool, {}),
    "greater": ("Greater", [_x(2, 5), _n(0.1)], bool, {}),
    "less or equal": ("LessOrEqual", [_x(2, 5), _c(5)], bool, {}),
    "not": ("Not", [("x", _RNG.random((2, 3)) > 0.5)], bool, {}),
    "and": ("And", [("x", _RNG.random((2, 3)) > 0.5), np.array([True, False, True])], bool, {}),
    "xor": ("Xor", [("x", _RNG.random((2, 3)) > 0.5), np.array([True, False, True])], bool, {}),
    "not a number": ("IsNaN", [("x", _f(1, np.nan, 2))], bool, {}),
    "infinite": ("IsInf", [("x", _f(1, np.inf, -np.inf))], bool, {"detect_negative": 0}),
    "cast to integers": ("Cast", [_x(2, 3)], np.int32, {"to": 6}),
    "cast to bool": ("Cast", [_ints(2, 5, low=0, high=2)], bool, {"to": 9}),
    "cast to real numbers": ("Cast", [_ints(2, 5)], np.float32, {"to": 1}),
    "argmax": ("ArgMax", [_x(2, 5)], np.int64, {"axis": 1, "keepdims": 0}),
    "argmin, the last": ("ArgMin", [_ints(2, 9, low=0, high=2)], np.int64, {"axis": 1, "select_last_index": 1}),
    "one hot": ("OneHot", [_ints(2, 3, low=-2, high=4), _i(4), _f(0, 1)], np.float32, {"axis": 1}),
    "embedding": ("Gather", [_c(7, 3), _ints(2, 4, low=0, high=7)], np.float32, {}),
    "embedding along another axis": ("Gather", [_c(3, 7), _ints(2, 4, low=0, high=7)], np.float32, {"axis": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", _OTHER_TYPES)
def test_other_types(name, tmp_path):
    kind, inputs, result, attributes = _OTHER_TYPES[name]
    check(*one_operator(kind, inputs, outputs=(result,), **attributes), tmp_path)


_REDUCED = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("kind", _REDUCED)
def test_reductions(kind, opset, tmp_path):
    as_input = opset >= (13 if kind == "Sum" else 18)
    for axes, keep in (([1, -1], 1), ([2], 0)):
        more = ([_x(2, 3, 4), _i(*axes)], {}) if as_input else ([_x(2, 3, 4)], {"axes": axes})
        check(*one_operator(f"Reduce{kind}", more[0], opset=opset, keepdims=keep, **more[1]), tmp_path)


def test_reductions_over_all_axes_and_over_none(tmp_path):
    check(*one_operator("ReduceMean", [_x(2, 3, 4)], opset=18), tmp_path)
    check(*one_operator("ReduceSum", [_x(2, 3, 4), _i()], opset=13, noop_with_empty_axes=1), tmp_path)


_SHAPES = {
    "reshape": ("Reshape", [_x(2, 3, 4), _i(0, -1)], 13, {}),
    "reshape, zero": ("Reshape", [_x(2, 3, 4), _i(2, 0, 2, 2)], 13, {}),
    "flatten": ("Flatten", [_x(2, 3, 4)], 13, {}),
    "flatten at 0": ("Flatten", [_x(2, 3, 4)], 13, {"axis": 0}),
    "flatten at 2": ("Flatten", [_x(2, 3, 4)], 13, {"axis": 2}),
    "flatten from the end": ("Flatten", [_x(2, 3, 4)], 13, {"axis": -1}),
    "flatten at the end": ("Flatten", [_x(2, 3)], 13, {"axis": 2}),
    "squeeze": ("Squeeze", [_x(2, 1, 4, 1), _i(1, -1)], 13, {}),
    "squeeze, attribute": ("Squeeze", [_x(2, 1, 4, 1)], 11, {"axes": [1]}),
    "squeeze, all": ("Squeeze", [_x(2, 1, 4, 1)], 13, {}),
    "unsqueeze": ("Unsqueeze", [_x(2, 3), _i(0, -1)], 13, {}),
    "unsqueeze, attribute": ("Unsqueeze", [_x(2, 3)], 11, {"axes": [1, 2]}),
    "transpose": ("Transpose", [_x(2, 3, 4)], 13, {"perm": [0, 2, 1]}),
    "transpose, reversed": ("Transpose", [_x(2, 3, 4)], 13, {}),
    "concat": ("Concat", [_x(2, 3), ("z", _c(2, 1)), _c(2, 2)], 13, {"axis": -1}),
    "slice": ("Slice", [_x(2, 9, 8), _i(1, -3), _i(100, -1), _i(1, 2)], 13, {}),
    "slice, attribute": ("Slice", [_x(2, 9, 8)], 9, {"starts": [1, 2], "ends": [2**31 - 1, -1], "axes": [1, 2]}),
    "slice, steps": ("Slice", [_x(2, 9, 8), _i(1, 0), _i(8, 8), _i(1, 2), _i(3, 2)], 13, {}),
    "slice, backwards": ("Slice", [_x(2, 9, 8), _i(-1), _i(-(2**63)), _i(1), _i(-1)], 13, {}),
    "slice, backwards within": ("Slice", [_x(2, 9, 8), _i(7, 6), _i(1, -7), _i(1, 2), _i(-2, -1)], 13, {}),
    "slice, all axes": ("Slice", [_x(2, 9), _i(0, 3), _i(2, 7)], 13, {}),
    "expand": ("Expand", [_x(2, 1, 3), _i(4, 1)], 13, {}),
    "expand, more axes": ("Expand", [_x(3), _i(2, 4, 3)], 13, {}),
    "tile": ("Tile", [_x(2, 3), _i(1, 2)], 13, {}),
    "pad": ("Pad", [_x(2, 3, 4), _i(0, 1, 2, 0, 0, 1)], 13, {}),
    "pad by a number": ("Pad", [_x(2, 3, 4), _i(0, 1, 2, 0, 0, 1), _n(1.5)], 13, {}),
    "pad, attribute": ("Pad", [_x(2, 3, 4)], 10, {"pads": [0, 1, 2, 0, 0, 1], "value": 0.5}),
    "pad, negative": ("Pad", [_x(2, 3, 4), _i(0, -1, 2, 0, 0, -1)], 13, {}),
    "pad, reflect": ("Pad", [_x(2, 3, 6, 5), _i(0, 0, 2, 1, 0, 0, 1, 2)], 13, {"mode": "reflect"}),
    "pad, edge": ("Pad", [_x(2, 3, 6), _i(0, 0, 2, 0, 0, 1)], 13, {"mode": "edge"}),
    "pad, edge, two axes of three": ("Pad", [_x(2, 4, 6), _i(0, 1, 2, 0, 0, 1)], 13, {"mode": "edge"}),
    "pad, reflect of a matrix": ("Pad", [_x(2, 6), _i(0, 2, 0, 1)], 13, {"mode": "reflect"}),
    "pad, of axes": ("Pad", [_x(2, 3, 4), _i(1, 2), None, _i(2)], 18, {}),
    "depth to space": ("DepthToSpace", [_x(2, 8, 3, 4)], 13, {"blocksize": 2}),
    "depth to space, rows first": ("DepthToSpace", [_x(2, 8, 3, 4)], 13, {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", [_x(2, 3, 4, 6)], 13, {"blocksize": 2}),
    "dropout": ("Dropout", [_x(2, 3)], 13, {}),
    "gather": ("Gather", [_x(2, 5, 3), _i(0, 3, -1)], 13, {"axis": 1}),
    "gather one": ("Gather", [_x(2, 5, 3), _n(-1, np.int64)], 13, {"axis": 1}),
    "gather a run": ("Gather", [_x(2, 5, 3), _i(1, 2, 3)], 13, {"axis": 1}),
    "gather a matrix": ("Gather", [_x(2, 5, 3), _i(0, 3, 1, 1).reshape(2, 2)], 13, {"axis": 2 - 1}),
    "gather elements": ("GatherElements", [_x(2, 5), _i(0, -1, 1, 2).reshape(2, 2)], 13, {"axis": 1}),
    "gather by coordinates": ("GatherND", [_x(2, 5, 3), _i(0, 1, 1, 4).reshape(2, 2)], 13, {}),
    "scatter by coordinates": ("ScatterND", [_x(4, 3), _i(1, 3).reshape(2, 1), _c(2, 3)], 13, {}),
    "scatter elements": ("ScatterElements", [_x(2, 5), _i(1, 3).reshape(1, 2), _c(1, 2)], 13, {"axis": 1}),
    "upper triangle": ("Trilu", [_x(4, 4)], 14, {}),
    "lower triangle": ("Trilu", [_x(4, 4), _n(-1, np.int64)], 14, {"upper": 0}),
    "cumulated": ("CumSum", [_x(2, 5), _n(1, np.int64)], 13, {}),
    "cumulated backwards, without itself": ("CumSum", [_x(2, 5), _n(1, np.int64)], 13, {"reverse": 1, "exclusive": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", _SHAPES)
def test_shapes(name, tmp_path):
    kind, inputs, opset, attributes = _SHAPES[name]
    check(*one_operator(kind, inputs, opset=opset, **attributes), tmp_path)


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes"),
    [
        (11, [_x(2, 6)], {"split": [1, 2, 3]}),
        (13, [_x(2, 6), _i(1, 2, 3)], {}),
        (13, [_x(2, 6)], {}),
        (18, [_x(2, 7)], {"num_outputs": 3}),
    ],
)
def test_split(opset, inputs, attributes, tmp_path):
    check(*one_operator("Split", inputs, opset=opset, outputs=(np.float32,) * 3, axis=1, **attributes), tmp_path)


def test_top_k(tmp_path):
    check(*one_operator("TopK", [_x(2, 6), _i(3)], outputs=(np.float32, np.int64)), tmp_path)


_NORMALIZED = {
    "batch": ("BatchNormalization", [_x(2, 3, 4, 5), _c(3), _c(3), _c(3), _c(3, low=1)], 15, {}),
    "batch, opset 7": ("BatchNormalization", [_x(2, 3, 4, 5), _c(3), _c(3), _c(3), _c(3, low=1)], 7, {"epsilon": 1e-3}),
    "instance": ("InstanceNormalization", [_x(2, 3, 4, 5), _c(3), _c(3)], 13, {}),
    "layer": ("LayerNormalization", [_x(2, 3, 8), _c(8), _c(8)], 17, {}),
    "layer, two axes": ("LayerNormalization", [_x(2, 3, 8), _c(3, 8)], 17, {"axis": 1}),
    "layer, one weight": ("LayerNormalization", [_x(2, 3, 8), _c(1)], 17, {}),
    "rms": ("RMSNormalization", [_x(2, 3, 8), _c(8)], 23, {}),
    "group": ("GroupNormalization", [_x(2, 6, 4, 4), _c(6), _c(6)], 21, {"num_groups": 3}),
    "local response": ("LRN", [_x(2, 7, 4, 4)], 13, {"size": 3, "alpha": 0.5}),
    "l2": ("LpNormalization", [_x(2, 5)], 13, {"axis": 1}),
    "l1": ("LpNormalization", [_x(2, 5)], 13, {"axis": -1, "p": 1}),
    "mean and variance": ("MeanVarianceNormalization", [_x(2, 3, 4, 4)], 13, {}),
    "softmax": ("Softmax", [_x(2, 3, 4)], 13, {}),
    "softmax of several axes": ("Softmax", [_x(2, 3, 4)], 11, {}),
    "softmax before the last of one": ("Softmax", [_x(2, 3, 1, 1)], 11, {"axis": 1}),
    "log softmax": ("LogSoftmax", [_x(2, 3, 4)], 13, {"axis": 1}),
    "log softmax of several axes": ("LogSoftmax", [_x(2, 3, 4)], 11, {"axis": 1}),
    "hardmax": ("Hardmax", [_x(2, 5)], 13, {}),
    "gelu": ("Gelu", [_x(2, 5)], 20, {}),
    "gelu, tanh": ("Gelu", [_x(2, 5)], 20, {"approximate": "tanh"}),
}


@pytest.mark.parametrize("name", _NORMALIZED)
def test_normalizations(name, tmp_path):
    kind, inputs, opset, attributes = _NORMALIZED[name]
    check(*one_operator(kind, inputs, opset=opset, **attributes), tmp_path, tolerance=1e-4)


_RESIZED = {
    "twice, nearest": ([None, _f(1, 1, 2, 2)], 13, {"mode": "nearest"}),
    "three times, floor": ([None, _f(1, 1, 3, 2)], 13, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    "three times, rounded": ([None, _f(1, 1, 3, 3)], 13, {"coordinate_transformation_mode": "asymmetric"}),
    "one and a half, nearest": ([None, _f(1, 1, 1.5, 1.5)], 13, {"mode": "nearest"}),
    "smaller, nearest": ([None, _f(1, 1, 0.5, 0.5)], 13, {"mode": "nearest", "nearest_mode": "ceil"}),
    "to sizes, nearest": ([None, None, _i(2, 3, 7, 9)], 13, {"mode": "nearest"}),
    "linear": ([None, _f(1, 1, 2, 2)], 13, {"mode": "linear"}),
    "linear, to sizes": (
        [None, None, _i(2, 3, 7, 9)],
        13,
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    "linear, corners": ([None, None, _i(2, 3, 7, 9)], 13, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    "linear, asymmetric": ([None, _f(1, 1, 2, 2)], 13, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
    "cubic": ([None, _f(1, 1, 2, 2)], 13, {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}),
    "opset 10": ([_f(1, 1, 2, 2)], 10, {"mode": "nearest"}),
    "of axes": ([None, _f(2, 2)], 18, {"mode": "nearest", "axes": [2, 3]}),
}


@pytest.mark.parametrize("name", _RESIZED)
def test_resizing(name, tmp_path):
    inputs, opset, attributes = _RESIZED[name]
    check(*one_operator("Resize", [_x(2, 3, 4, 5), *inputs], opset=opset, **attributes), tmp_path)


def test_upsample(tmp_path):
    check(*one_operator("Upsample", [_x(2, 3, 4, 5), _f(1, 1, 2, 2)], opset=9), tmp_path)
    check(*one_operator("Upsample", [_x(2, 3, 4, 5)], opset=7, scales=[1.0, 1.0, 2.0, 2.0]), tmp_path)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(kind, gates, direction, tmp_path):
    two = 2 if direction == "bidirectional" else 1
    inputs = [_x(5, 2, 3), _c(two, gates * 4, 3), _c(two, gates * 4, 4), _c(two, 2 * gates * 4)]
    outputs = (np.float32,) * (3 if kind == "LSTM" else 2)
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    check(*one_operator(kind, inputs, outputs=outputs, hidden_size=4, direction=direction, **more), tmp_path)


_MICROSOFT = {
    "conv with relu": ("FusedConv", [_x(2, 3, 9, 8), _c(4, 3, 3, 3), _c(4)], {"activation": "Relu"}),
    "matmul": ("FusedMatMul", [_x(2, 5, 3), ("z", _c(2, 4, 3))], {"transB": 1, "alpha": 0.5}),
    "gelu": ("Gelu", [_x(2, 5)], {}),
    "gelu with bias": ("BiasGelu", [_x(2, 5), _c(5)], {}),
    "fast gelu": ("FastGelu", [_x(2, 5), _c(5)], {}),
    "quick gelu": ("QuickGelu", [_x(2, 5)], {}),
    "layer norm of a sum": ("SkipLayerNormalization", [_x(2, 3, 8), ("z", _c(2, 3, 8)), _c(8), _c(8)], {}),
    "attention": ("MultiHeadAttention", [_x(2, 5, 8), ("k", _c(2, 6, 8)), ("v", _c(2, 6, 8))], {"num_heads": 2}),
}


@pytest.mark.parametrize("name", _MICROSOFT)
def test_operators_of_onnxruntime(name, tmp_path):
    kind, inputs, attributes = _MICROSOFT[name]
    check(*one_operator(kind, inputs, domain="com.microsoft", **attributes), tmp_path)
