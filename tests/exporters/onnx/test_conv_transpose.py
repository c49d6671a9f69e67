"""A transposed convolution as a convolution, a shuffle and a cut: the same accumulators for any geometry."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.arithmetic import accumulators
from qat.arithmetic.encoding import Encoding
from qat.exporters.onnx import legalize
from qat.program.program import Instruction, Program, Value

E = Encoding(np.asarray(0.5, np.float32), 0, -128, 127)


@st.composite
def axes(draw):
    """Return kernel, stride, padding and output padding of one axis, of which something is left."""
    kernel, stride = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    padding, extra = draw(st.integers(0, kernel)), draw(st.integers(0, stride - 1))
    return kernel, stride, padding, extra, draw(st.integers(2 + 2 * padding // stride, 6 + 2 * padding // stride))


@settings(max_examples=150, deadline=None)
@given(height=axes(), width=axes(), depthwise=st.booleans(), seed=st.integers(0, 99))
def test_any_geometry(height, width, depthwise, seed):
    rng = np.random.default_rng(seed)
    kernel, strides, cut, extra, size = zip(height, width, strict=True)
    padding = tuple((c, c - e) for c, e in zip(cut, extra, strict=True))
    groups, out = (3, 3) if depthwise else (1, 2)
    x = rng.integers(-100, 100, (2, 3, *size))
    weight = rng.integers(-64, 65, (out, 3 // groups, *kernel)).astype(np.int8)
    bias = rng.integers(-1000, 1000, out).astype(np.int32)
    full = accumulators.conv_transpose2d(x, weight, bias, strides, padding, groups)

    turned = torch.from_numpy(weight).double() if depthwise else torch.from_numpy(weight).double().transpose(0, 1)
    real = F.conv_transpose2d(torch.from_numpy(x).double(), turned, torch.from_numpy(bias).double(), strides, cut, extra, groups)
    np.testing.assert_array_equal(full, real.numpy())

    values = {"x": Value("x", (None, 3, *size), E), "y": Value("y", (None, *full.shape[1:]), E)}
    attrs = {"strides": strides, "padding": padding, "dilations": (1, 1), "groups": groups}
    scale = Encoding(rng.uniform(0.1, 1, out).astype(np.float32), 0, -64, 64, 0)
    step = Instruction("t", "conv_transpose2d", ("x",), ("y",), attrs, weight, scale, bias)
    made = legalize(Program("p", "NCHW", "mlas", "onnxruntime", "r", ("x",), ("y",), values, (step,)))
    assert made.instructions[-1].outputs == ("y",)
    for part in made.instructions:
        if part.kind == "conv2d":
            a, phases = part.attrs, strides[0] * strides[1]
            if depthwise and phases > 1:  # the writer repeats the channels
                x = np.concatenate([x] * phases, 1)
            count = len(part.weight) if depthwise else 1
            x = accumulators.conv2d(x, part.weight, part.bias, a["strides"], a["padding"], a["dilations"], count)
            np.testing.assert_array_equal(part.weight_encoding.scale, np.tile(scale.scale, phases))
        elif part.kind == "depth_to_space":
            n, c, h, w = x.shape
            blocks = x.reshape(n, *strides, c // (strides[0] * strides[1]), h, w)
            x = blocks.transpose(0, 3, 4, 1, 5, 2).reshape(n, -1, h * strides[0], w * strides[1])
        else:
            (top, bottom), (left, right) = part.attrs["padding"]
            x = x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
        assert made.values[part.outputs[0]].shape[1:] == x.shape[1:]
    np.testing.assert_array_equal(x, full)
