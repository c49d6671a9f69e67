"""The rules of TensorRT's builder: our own files keep them, another tool's break them where they do."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import qat
from qat.exporters.tensorrt import check_placement, read_cache
from qat.exporters.tensorrt.placement import RULES
from support.command_line import CommandLine
from support.machine import EIGHT_BITS_ARE_EXACT

EXAMPLE = Path(__file__).parents[3] / "examples" / "tensorrt_build.py"
X = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)


class Net(nn.Module):
    """A residual block, average pooling, a product, a mean, a product of matrices, and what TensorRT runs in FP16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.norm, self.head = nn.AvgPool2d(2), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = self.pool(x)
        x = self.pool(torch.relu(self.second(x) + x))
        x = torch.sigmoid(x * y)
        x = x @ x.transpose(2, 3)
        return torch.softmax(self.head(self.norm(x.mean((2, 3)))), 1)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def ours(net, tmp_path_factory):
    model = qat.calibrate(qat.prepare(net, X[:2], target="tensorrt"), [X])
    return qat.export(model, tmp_path_factory.mktemp("trt") / "net.onnx", verify=[X])


@pytest.fixture(scope="module")
def plain(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    torch.onnx.export(net, (torch.from_numpy(X),), path, input_names=["x"], dynamo=False)
    return path


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": X}])

    def get_next(self):
        return next(self.batches, None)


def of_onnxruntime(plain, **options):
    path = plain.with_name(f"{'_'.join(map(str, options)) or 'default'}.onnx")
    quantize_static(plain, path, Reader(), **options)
    return check_placement(path)


def test_the_plan_has_the_operators_that_tensorrt_runs_in_int8(net):
    runs = {row["op"]: row["runs"] for row in qat.plan(net, X[:2], target="tensorrt").table()}
    integer = {"conv2d + relu", "conv2d", "add + relu", "avg_pool2d", "mul", "matmul", "mean", "dense"}
    assert {op for op, how in runs.items() if how == "integer"} == integer
    assert {op for op, how in runs.items() if how == "float"} == {"sigmoid", "layer_norm", "softmax"}


def test_our_own_files_keep_every_rule(ours):
    found = check_placement(ours.path)
    # An integer kernel always writes integers, also before a softmax.
    assert [(finding.level, finding.rule) for finding in found] == [("warning", "wasted")] * len(found)
    # ONNX Runtime stands in for TensorRT, which rounds in its own way: where it fuses no Q/DQ a tie may go the other way.
    assert ours.parity.top1_agreement == 1
    assert ours.parity.mean_lsb < 1


def test_a_mean_that_loses_its_axes_stands_between_qdq(tmp_path):
    """Its Reshape read integers once, which TensorRT's parser refuses."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = qat.calibrate(qat.prepare(net, X[:2], target="tensorrt"), [X])
    artifact = qat.export(model, tmp_path / "net.onnx", verify=[X])
    assert check_placement(artifact.path) == []
    assert artifact.parity.exact == 1 or not EIGHT_BITS_ARE_EXACT


class Tokens(nn.Module):
    """Dense layers on three and on four axes, with and without an activation that the kernel absorbs."""

    def __init__(self):
        super().__init__()
        self.mixed, self.wide, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.mixed(x))
        x = self.wide(x.reshape(len(x), -1, 2, 16))
        return self.head(x.mean((1, 2)))


def test_dense_layers_merge_their_leading_axes_between_qdq(tmp_path):
    x = np.random.default_rng(1).normal(size=(16, 6, 8)).astype(np.float32)
    model = qat.prepare(Tokens().eval(), x[:2], target="tensorrt")
    assert not model.plan.floats()
    artifact = qat.export(qat.calibrate(model, [x]), tmp_path / "tokens.onnx", verify=[x])
    assert check_placement(artifact.path) == []
    assert artifact.parity.exact == 1 or not EIGHT_BITS_ARE_EXACT
    graph = onnx.shape_inference.infer_shapes(onnx.load(artifact.path)).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    gemms = [node for node in graph.node if node.op_type == "Gemm"]
    assert [ranks[node.input[0]] for node in gemms] == [2, 2, 2]


def test_the_leading_axes_of_a_dense_layer_may_be_free(tmp_path):
    x = np.random.default_rng(1).normal(size=(16, 2, 6, 8)).astype(np.float32)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    model = qat.calibrate(qat.prepare(net, x[:2], target="tensorrt", dynamic=("height",)), [x])
    artifact = qat.export(model, tmp_path / "free.onnx", verify=[x])
    assert check_placement(artifact.path) == []
    assert artifact.parity.exact == 1 or not EIGHT_BITS_ARE_EXACT
    session = onnxruntime.InferenceSession(artifact.path)
    assert session.run(None, {session.get_inputs()[0].name: x[:3, :, :4]})[0].shape == (3, 2, 4, 3)


def test_onnx_runtimes_default_breaks_the_rules_that_are_known_to_fail(plain):
    found = of_onnxruntime(plain)
    assert {finding.rule for finding in found if finding.level == "error"} == {"symmetric", "types"}
    assert any("bias in int32" in finding.says for finding in found)
    assert [finding.level for finding in found] == sorted(finding.level for finding in found)


def test_onnx_runtimes_options_for_tensorrt_leave_the_bias(plain):
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    types = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    found = of_onnxruntime(plain, extra_options=options, per_channel=True, **types)
    assert not [finding for finding in found if finding.level == "error"]


def test_operators_on_integers_are_named(plain):
    found = of_onnxruntime(plain, quant_format=QuantFormat.QOperator)
    assert any(finding.rule == "operators" and "QLinearConv" in finding.says for finding in found)


# --- each rule on a file that breaks it alone ---


def damaged(ours, tmp_path, change):
    model = onnx.load(ours.path)
    change(model.graph)
    onnx.save(model, tmp_path / "damaged.onnx")
    return {finding.rule for finding in check_placement(tmp_path / "damaged.onnx")}


def node_of(graph, kind):
    return next(node for node in graph.node if node.op_type == kind)


def replace_constant(graph, name, array):
    tensor = next(t for t in graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def with_a_zero_point(graph):
    node = node_of(graph, "QuantizeLinear")
    replace_constant(graph, node.input[2], np.array(3, np.int8))


def with_a_scale_of_zero(graph):
    node = node_of(graph, "QuantizeLinear")
    replace_constant(graph, node.input[1], np.array(0, np.float32))


def with_a_computed_scale(graph):
    node = node_of(graph, "QuantizeLinear")
    graph.node.insert(0, helper.make_node("Abs", [node.input[1]], ["computed"]))
    node.input[1] = "computed"


def with_scales_of_channels(graph):
    node = node_of(graph, "QuantizeLinear")
    graph.initializer.append(numpy_helper.from_array(np.full(3, 0.1, np.float32), "three"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int8), "zeros"))
    for reader in graph.node:
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear") and reader.input[1] == node.input[1]:
            reader.input[1], reader.input[2] = "three", "zeros"


def with_scales_of_input_channels(graph):
    (weight,) = (tensor.name for tensor in graph.initializer if list(tensor.dims) == [8, 8, 3, 3])
    node = next(node for node in graph.node if node.input[0] == weight)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def with_an_operator_on_integers(graph):
    quantize = node_of(graph, "QuantizeLinear")
    for reader in graph.node:
        reader.input[:] = ["moved" if name == quantize.output[0] else name for name in reader.input]
    graph.node.insert(list(graph.node).index(quantize) + 1, helper.make_node("Identity", [quantize.output[0]], ["moved"]))


def with_a_float_weight(graph):
    conv = node_of(graph, "Conv")
    graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "float_weight"))
    conv.input[1] = "float_weight"


def with_nothing_quantized_at_a_convolution(graph):
    with_a_float_weight(graph)
    node_of(graph, "Conv").input[0] = graph.input[0].name


def with_a_residual_in_float(graph):
    add = node_of(graph, "Add")
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    quantized = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for index, name in enumerate(add.input):  # one operand straight from its convolution, the other one from a Relu in float
        source = quantized[dequantized[name].input[0]].input[0]
        add.input[index] = source


def with_qdq_before_a_softmax(graph):
    softmax = node_of(graph, "Softmax")
    constants = [numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.array(0, np.int8), "z")]
    graph.initializer.extend(constants)
    pair = [
        helper.make_node("QuantizeLinear", [softmax.input[0], "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
    ]
    place = list(graph.node).index(softmax)
    softmax.input[0] = "dq"
    for node in reversed(pair):
        graph.node.insert(place, node)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (with_a_zero_point, "symmetric"), (with_a_scale_of_zero, "scales"), (with_a_computed_scale, "scales"),
        (with_scales_of_channels, "per_tensor"), (with_scales_of_input_channels, "channel_axis"),
        (with_an_operator_on_integers, "on_integers"), (with_a_float_weight, "both_operands"),
        (with_nothing_quantized_at_a_convolution, "in_float"), (with_a_residual_in_float, "residual"),
        (with_qdq_before_a_softmax, "wasted"),
    ],
)  # fmt: skip
def test_a_rule_that_a_file_breaks(ours, tmp_path, change, rule):
    assert rule in damaged(ours, tmp_path, change)


def test_qdq_between_a_convolution_and_its_activation(tmp_path):
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    constants = [weight, scale, numpy_helper.from_array(np.array(0, np.int8), "z")]

    def pair(source, result):
        return [
            helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{result}_q"]),
            helper.make_node("DequantizeLinear", [f"{result}_q", "s", "z"], [result]),
        ]

    nodes = [
        *pair("x", "xd"), *pair("w", "wd"), helper.make_node("Conv", ["xd", "wd"], ["c"], "conv"), *pair("c", "cd"),
        helper.make_node("Relu", ["cd"], ["y"], "relu"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx")
    (finding,) = check_placement(tmp_path / "net.onnx")
    assert (finding.rule, finding.node) == ("fusion", "relu")
    assert "'conv'" in finding.says


def test_every_rule_is_documented():
    page = (EXAMPLE.parents[1] / "docs" / "tensorrt.md").read_text()
    for rule in RULES:
        assert f"| `{rule.name}` | {rule.level} |" in page


# --- the command and the example ---


def test_the_command(ours, plain, tmp_path, capfd):
    command = CommandLine(tmp_path, capfd)
    done = command("lint", ours.path)
    assert done.returncode == 0 and "error" not in done.stdout
    quantize_static(plain, tmp_path / "other.onnx", Reader())
    done = command("lint", tmp_path / "other.onnx")
    assert done.returncode == 1 and "every zero point is 0" in done.stdout
    done = command("lint", tmp_path / "other.onnx", "--json")
    assert {"rule", "level", "node", "says"} == set(json.loads(done.stdout)["findings"][0])
    (tmp_path / "net.tflite").touch()
    for arguments in ((tmp_path / "none.onnx",), (ours.path, "--target", "litert"), (tmp_path / "net.tflite",)):
        done = command("lint", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "TensorRT builds engines of .onnx files" in done.stderr


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("tensorrt_build", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_calibrates_a_float_file_and_reads_its_cache(example, plain, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=X)
    options = [str(plain), "--out", str(tmp_path / "net.engine"), "--int8", "--fp16", "--dry-run"]
    example.main([*options, "--data", str(tmp_path / "x.npz")])
    scales = read_cache(tmp_path / "net.cache").scales
    assert "scales of 32 samples" in capsys.readouterr().out
    assert scales["x"] == pytest.approx(np.abs(X).max() / 127, rel=0.5)
    example.main(options)
    assert f"{len(scales)} scales" in capsys.readouterr().out


def test_the_example_refuses_a_file_that_tensorrt_would(example, plain, tmp_path):
    quantize_static(plain, tmp_path / "other.onnx", Reader())
    with pytest.raises(SystemExit, match="would refuse"):
        example.main([str(tmp_path / "other.onnx"), "--out", str(tmp_path / "net.engine"), "--dry-run"])
