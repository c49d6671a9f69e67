"""The .onnx writer: every operator bit-exact in ONNX Runtime with all optimizations, and run by an integer kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

import qat
from qat.arithmetic import lookup as functions
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.float_functions import float_is_exact
from qat.arithmetic.mlas import quantize
from qat.errors import ExportError
from qat.exporters.onnx import model as exporter
from qat.exporters.onnx import read_encodings
from qat.exporters.onnx.writer import REQUANTIZE
from qat.graph.kinds import FUNCTIONS
from qat.program.program import FrameworkBlock, Instruction, Value
from qat.runtimes.onnxruntime import OnnxSession
from support.programs import NONE, Sketch

#: What may stand in the optimized graph of a program that is integer throughout, besides its own kernels. The last two are of a
#: float kernel on blocks of channels, whose width is the processor's.
BORDERS = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "ReorderInput", "ReorderOutput"}

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 3)
pairs = st.tuples(sides, sides)
edges = st.tuples(st.integers(0, 2), st.integers(0, 2))
activations = st.sampled_from([None, "relu", "relu6"])


def unfused(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names, as in the program, of the quantized operators that ONNX Runtime does not run by an integer kernel.

    The optimizer has left the QuantizeLinear that writes such an operator's result.
    """
    # The extended level fuses; the layout level above it only inserts transposes.
    optimized = OnnxSession(model.SerializeToString()).optimized_graph("extended")
    left = [node.name for node in optimized.graph.node if node.op_type == "QuantizeLinear"]
    return tuple(name.removesuffix(REQUANTIZE) for name in left if name.endswith(REQUANTIZE))


def check(sketch: Sketch, output: str, *kernels: str) -> None:
    """Compare every integer of the program with ONNX Runtime's, and the kernels with the expected ones."""
    program = sketch.program(sketch.real(output, "y"))
    model = exporter.build(program)
    session = OnnxSession(model.SerializeToString())
    (y,) = session.run(*sketch.feeds.values())
    np.testing.assert_array_equal(y, sketch.floats["y"])
    probe = OnnxSession(exporter.build(program, tuple(sketch.grid)).SerializeToString())
    found = probe.run_named(*sketch.feeds.values())
    for name, integers in sketch.grid.items():
        np.testing.assert_array_equal(found[name].astype(np.int64) - sketch.of(name).zero_point, integers, err_msg=name)
    assert set(session.ops()) - BORDERS == set(kernels)
    assert unfused(model) == ()


@settings(max_examples=25, deadline=None)
@given(seeds, pairs, pairs, pairs, edges, edges, st.booleans(), st.booleans(), activations, st.booleans())
def test_convolution_is_exact(seed, kernel, strides, dilations, rows, columns, per_channel, bias, activation, absorbed):
    sketch = Sketch(seed, (2, 4, 9, 8))
    options = {"strides": strides, "dilations": dilations, "padding": (rows, columns), "per_channel": per_channel}
    output = sketch.conv(sketch.x, 6, kernel, bias=bias, groups=2, activation=activation, absorbed=absorbed, **options)
    check(sketch, output, "QLinearConv", *clip_of(sketch, output))


@settings(max_examples=15, deadline=None)
@given(seeds, pairs, st.sampled_from([1, 2]), edges, activations)
def test_depthwise_convolution_is_exact(seed, strides, multiplier, rows, activation):
    sketch = Sketch(seed, (3, 5, 7, 9))
    output = sketch.conv(sketch.x, 5 * multiplier, strides=strides, groups=5, padding=(rows, (1, 1)), activation=activation)
    repeated = ["Gather"] if multiplier > 1 else []
    check(sketch, output, "QLinearConv", *repeated, *clip_of(sketch, output))


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "written"),
    [(32, 32, 8, 2), (36, 36, 9, 1), (128, 64, 32, 4), (64, 64, 4, 4), (48, 96, 48, 96), (64, 64, 64, 64), (28, 28, 7, 1)],
)
def test_groups_are_those_that_the_kernel_is_quick_with(channels, outputs, groups, written):
    sketch = Sketch(7, (2, channels, 5, 6))
    output = sketch.conv(sketch.x, outputs, groups=groups, padding=((1, 1), (1, 1)))
    check(sketch, output, "QLinearConv", *(["Gather"] if written > groups else []))
    program = exporter.legalize(sketch.program(sketch.real(output, "again")))
    (node,) = (n for n in exporter.build(program).graph.node if n.op_type == "Conv")
    assert next(a.i for a in node.attribute if a.name == "group") == written


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([(), (4,), (2, 3)]), st.integers(1, 40), st.booleans(), st.booleans(), activations)
def test_dense_is_exact_on_any_rank(seed, between, width, per_channel, bias, activation):
    sketch = Sketch(seed, (3, *between, width))
    output = sketch.dense(sketch.x, 7, per_channel=per_channel, bias=bias, activation=activation)
    check(sketch, output, "QGemm", *clip_of(sketch, output))


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(["add", "mul"]), activations, st.booleans(), st.booleans())
def test_add_and_mul_are_exact(seed, kind, activation, absorbed, same):
    sketch = Sketch(seed, (2, 6, 5, 7))
    other = sketch.x if same else sketch.input("z", (2, 6, 5, 7))
    output = sketch.binary(kind, sketch.x, other, activation, absorbed)
    check(sketch, output, f"QLinear{kind.title()}", *clip_of(sketch, output))


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_global_average_is_exact(seed, height, width, keepdims):
    sketch = Sketch(seed, (2, 6, height, width))
    check(sketch, sketch.mean(sketch.x, keepdims), "QLinearGlobalAveragePool")


@settings(max_examples=10, deadline=None)
@given(seeds, pairs, pairs, st.sampled_from([NONE, ((0, 1), (1, 0))]))
def test_max_pooling_is_exact(seed, kernel, strides, padding):
    kernel = tuple(k + 1 for k in kernel)
    sketch = Sketch(seed, (2, 6, 8, 9))
    check(sketch, sketch.pool("max_pool2d", sketch.x, kernel, strides, padding), "MaxPool")


@settings(max_examples=10, deadline=None)
@given(seeds, st.tuples(st.integers(1, 7), st.integers(1, 7)), pairs)
def test_average_pooling_is_exact(seed, kernel, strides):
    sketch = Sketch(seed, (2, 6, 8, 9))
    check(sketch, sketch.pool("avg_pool2d", sketch.x, kernel, strides), "QLinearConv")


@settings(max_examples=25, deadline=None)
@given(seeds, st.tuples(st.integers(2, 6), st.integers(2, 6)), pairs, st.integers(0, 1), st.sampled_from([6, 16]), st.booleans())
def test_average_pooling_with_padding_is_exact(seed, kernel, strides, last, channels, few):
    sketch = Sketch(seed, (2, channels, 8, 9))
    if few:  # integers of which many averages lie in the middle between two
        sketch.grid[sketch.x] = np.clip(sketch.grid[sketch.x], 0, 2)
        sketch.feeds["x"] = sketch.grid[sketch.x] * sketch.of(sketch.x).scale
    padding = ((1, last), (last, 1))
    output = sketch.pool("avg_pool2d", sketch.x, kernel, strides, padding)
    check(sketch, output, "Cast", "AveragePool", "Round")


@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_activation_of_its_own_clips_integers(kind):
    sketch = Sketch(7, (2, 6, 5, 7))
    check(sketch, sketch.relu(sketch.x, kind), "Clip")


@pytest.mark.parametrize("axis", [1, 3])
def test_concat_of_one_scale_is_exact(axis):
    sketch = Sketch(8, (2, 6, 5, 7))
    check(sketch, sketch.concat((sketch.relu(sketch.x), sketch.x, sketch.x), axis), "Clip", "QLinearConcat")


def test_pad_and_reshape_stay_integer():
    sketch = Sketch(9, (2, 3, 6, 6))
    padded = sketch.pad(sketch.x, ((0, 1), (2, 0)))
    flat = sketch.reshape(sketch.conv(padded, 4), (4 * 5 * 6,))
    check(sketch, sketch.dense(flat, 5), "Pad", "QLinearConv", "QGemm")


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_chain_of_all_fused_kernels_is_exact(seed):
    sketch = Sketch(seed, (3, 3, 12, 12))
    same = ((1, 1), (1, 1))
    stem = sketch.conv(sketch.x, 8, padding=same, activation="relu")
    depthwise = sketch.conv(stem, 8, groups=8, padding=same, activation="relu")
    added = sketch.binary("add", stem, sketch.conv(depthwise, 8, (1, 1)))
    pooled = sketch.pool("max_pool2d", added, (2, 2), (2, 2))
    output = sketch.dense(sketch.mean(pooled, keepdims=False), 10)
    check(sketch, output, "QLinearConv", "QLinearAdd", "NhwcMaxPool", "QLinearGlobalAveragePool", "QGemm")


def test_batch_of_any_size_runs():
    sketch = Sketch(10, (5, 3, 6, 6))
    program = sketch.program(sketch.real(sketch.dense(sketch.mean(sketch.conv(sketch.x, 4), keepdims=False), 3), "y"))
    session = OnnxSession(exporter.build(program).SerializeToString())
    for batch in (1, 2, 5):
        np.testing.assert_array_equal(session.run(sketch.feeds["x"][:batch])[0], sketch.floats["y"][:batch])


def test_scales_read_back_in_every_bit():
    sketch = Sketch(11, (2, 3, 6, 6))
    padded = sketch.pad(sketch.conv(sketch.x, 4, activation="relu6", absorbed=False), ((1, 1), (1, 1)))
    output = sketch.mean(sketch.relu(padded), keepdims=False)
    program = sketch.program(sketch.real(output, "y"))
    raw = exporter.build(program).SerializeToString()
    found = read_encodings(raw)
    for name in sketch.grid:
        assert found[name].same_as(sketch.of(name)), name
    (conv,) = (s for s in program.instructions if s.kind == "conv2d")
    weight = found[f"{conv.name}.weight"]
    assert weight.scale.tobytes() == conv.weight_encoding.scale.tobytes()
    assert (weight.axis, weight.zero_point) == (0, 0)


class Gelu(torch.nn.Module):
    """Two outputs: one of them is computed with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, 4).reshape(4, 1, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.nn.functional.gelu(x) * self.scale
        return y, torch.softmax(y.mean((2, 3)), 1)


def test_block_is_spliced_between_integer_kernels():
    sketch = Sketch(12, (3, 3, 6, 6))
    real = sketch.real(sketch.conv(sketch.x, 4))
    module = Gelu().eval()
    with torch.no_grad():
        gelu, softmax = (t.numpy() for t in module(torch.from_numpy(sketch.floats[real])))
    e = sketch.encoding(0.05, 128)
    for name, shape in (("gelu", (None, 4, 4, 4)), ("probabilities", (None, 4))):
        sketch.values[name] = Value(name, shape)
    sketch.steps.append(Instruction("gelu_op", "float", (real,), ("gelu", "probabilities"), {"target": "aten.gelu"}))
    sketch.steps.append(Instruction("quantize_gelu", "quantize", ("gelu",), ("gelu_quantized",)))
    sketch.emit("gelu_quantized", quantize(gelu, e), e)
    output = sketch.real(sketch.conv("gelu_quantized", 5), "y")
    block = FrameworkBlock("torch", module, (real,), ("gelu", "probabilities"))
    model = exporter.build(sketch.program(output, "probabilities", block=block))
    session = OnnxSession(model.SerializeToString())
    y, probabilities = session.run(sketch.feeds["x"])
    np.testing.assert_array_equal(y, sketch.floats["y"])
    np.testing.assert_allclose(probabilities, softmax, atol=1e-6)
    assert session.run(sketch.feeds["x"][:1])[0].shape[0] == 1
    assert session.ops()["QLinearConv"] == 2
    assert unfused(model) == ()


class Unexportable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.linalg.eigvals(x).real,)


def test_float_operator_without_onnx_form_is_named():
    sketch = Sketch(13, (2, 3, 6, 6))
    real = sketch.real(sketch.conv(sketch.x, 3))
    sketch.values["eig"] = Value("eig", (None, 3, 4))
    sketch.steps.append(Instruction("eig_op", "float", (real,), ("eig",), {"target": "aten.linalg_eigvals"}))
    program = sketch.program("eig", block=FrameworkBlock("torch", Unexportable().eval(), (real,), ("eig",)))
    with pytest.raises(ExportError, match=r"aten\.linalg_eigvals"):
        exporter.build(program)


def test_kernel_that_cannot_fuse_is_named():
    # The symmetric int8 form with a ReLU before the QuantizeLinear is TensorRT's; ONNX Runtime leaves it in float.
    sketch = Sketch(14, (2, 3, 6, 6), limits=(-127, 127))
    output = sketch.conv(sketch.x, 4, activation="relu", absorbed=False)
    program = dataclasses.replace(sketch.program(sketch.real(output, "y")), bias="float32", strict_qdq=True)
    assert unfused(exporter.build(program)) == (f"{output}_op",)


def test_program_in_nhwc_is_refused():
    sketch = Sketch(15, (2, 4))
    program = dataclasses.replace(sketch.program(sketch.real(sketch.dense(sketch.x, 3), "y")), layout="NHWC")
    with pytest.raises(ExportError, match=r"NHWC.*tflite"):
        exporter.build(program)


def test_model_that_returns_its_input_is_refused():
    sketch = Sketch(16, (2, 4))
    with pytest.raises(ExportError, match="'x'"):
        exporter.build(sketch.program("x"))


def clip_of(sketch: Sketch, output: str) -> tuple[str, ...]:
    """Return ``("Clip",)`` where an activation is narrower than the output's type."""
    step = next(s for s in sketch.steps if s.outputs == (output,))
    e = sketch.of(output)
    return () if step.clamp == (e.qmin, e.qmax) else ("Clip",)


ATTRIBUTES = {
    "leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 0.7}, "gelu": {"approximate": False}, "clamp": {"low": -0.3, "high": 0.4},
    "power": {"exponent": 3.0}, "composed": {"steps": (("add", "x", 3.0), ("clamp", "#0", 0.0, 5.0), ("mul", "x", "#1"))},
}  # fmt: skip


@pytest.mark.parametrize("kind", FUNCTIONS)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, spread=st.floats(0.01, 12.0), approximate=st.booleans())
def test_a_function_gives_its_table_for_every_integer(kind, seed, spread, approximate):
    sketch = Sketch(seed, (1, 1, 16, 16))
    x = sketch.encoding(spread / 255)
    sketch.grid[sketch.x] = np.arange(x.lo, x.hi + 1, dtype=np.float32).reshape(1, 1, 16, 16)
    sketch.values[sketch.x] = dataclasses.replace(sketch.values[sketch.x], encoding=x)
    sketch.feeds["x"] = sketch.grid[sketch.x] * x.scale
    attrs = ATTRIBUTES.get(kind, {}) | ({"approximate": approximate} if kind == "gelu" else {})
    values = functions.real(kind, attrs, sketch.feeds["x"])
    finite = values[np.isfinite(values)]  # none of a pole's one side
    y = sketch.encoding((float(np.ptp(finite)) / 250 if finite.size else 0.0) or 0.01)
    table = functions.table(kind, attrs, x, y)
    output = sketch.emit("y_integers", table.reshape(1, 1, 16, 16), y)
    sketch.steps.append(Instruction("f", kind, (sketch.x,), (output,), attrs))
    program = sketch.program(sketch.real(output, "y"))
    session = OnnxSession(exporter.build(program).SerializeToString())
    np.testing.assert_array_equal(session.run(sketch.feeds["x"])[0], sketch.floats["y"])
    event("look-up" if "Gather" in session.ops() else "float")


def test_a_result_near_a_border_is_looked_up():
    x, y = Encoding(np.float32(0.125), 0, 0, 255), Encoding(np.float32(1 / 16), 0, 0, 255)
    assert float_is_exact("abs", {}, x, y)
    assert not float_is_exact("leaky_relu", {"alpha": 0.25}, Encoding(x.scale, 128, 0, 255), Encoding(y.scale, 128, 0, 255))
    assert not float_is_exact("exp", {}, Encoding(np.float32(1.0), 0, 0, 255), y), "it overflows"


class Clipped(torch.nn.Module):
    """Three clips of one tensor between limits that are buffers, as Gemma's layers for sound and images have."""

    def __init__(self):
        super().__init__()
        self.dense, self.outs = torch.nn.Linear(8, 8), torch.nn.ModuleList(torch.nn.Linear(8, 4) for _ in range(3))
        for i in range(3):
            self.register_buffer(f"low{i}", torch.tensor(-0.2 - i / 4))
            self.register_buffer(f"high{i}", torch.tensor(0.3 + i / 4))

    def forward(self, x):
        y = self.dense(x)
        return sum(out(torch.clamp(y, getattr(self, f"low{i}"), getattr(self, f"high{i}"))) for i, out in enumerate(self.outs))


def test_several_clips_of_a_tensor_keep_their_limits(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    prepared = qat.calibrate(qat.prepare(Clipped().eval(), x[:2]), [x])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1
