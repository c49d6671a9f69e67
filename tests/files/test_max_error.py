"""`--max-error`, `--same-answers`: the layers that lose most stay in higher precision, as few as are enough, in both formats."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qat
from qat.errors import OptionError
from qat.exporters.inspection import inspect
from qat.files.bounds import Bounds
from qat.report.statistics import error_percent
from qat.trainers.output_losses import choose
from support.command_line import CommandLine

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 16)).astype(np.float32)
MANY = RNG.normal(size=(640, 16)).astype(np.float32)


def fragile(path, softmax=False):
    """Four layers; the third multiplies by two numbers of which one is a hundred times the other."""
    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.4, (16, 16)).astype(np.float32) for _ in range(4)]
    weights[1][0] *= 200
    weights[2][:, 0] /= 200
    nodes = []
    for i in range(4):
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}"], [f"g{i}"], f"layer{i}", transB=1))
        if i < 3:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [f"x{i + 1}"], f"relu{i}"))
    inputs = [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 16])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["g3"], ["p"], "softmax"))
    outputs = [helper.make_tensor_value_info("p" if softmax else "g3", TensorProto.FLOAT, ["n", 16])]
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_few_layers_are_enough_for_a_bound(target, tmp_path):
    path = fragile(tmp_path / "net.onnx")
    common = {"target": target, "estimator": "minmax", "outputs": "int8"}
    plain = qat.quantize(path, X, out=tmp_path / "plain", **common)
    made = qat.quantize(path, X, out=tmp_path / "bounded", max_error=plain.error_percent / 4, **common)
    assert plain.error_percent > 5 and plain.precise == ()
    assert made.error_percent < plain.error_percent / 2
    assert 0 < len(made.precise) < 4 and made.precision == "float"
    assert made.exact == 1.0 and made.quantized[0] > 0
    assert made.bytes >= plain.bytes
    assert inspect(made.path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_few_layers_are_enough_for_answers(target, tmp_path):
    path = fragile(tmp_path / "net.onnx", softmax=True)
    common = {"target": target, "estimator": "minmax", "samples": len(MANY)}
    plain = qat.quantize(path, MANY, out=tmp_path / "plain", **common)
    made = qat.quantize(path, MANY, out=tmp_path / "bounded", same_answers=95, **common)
    assert plain.agreement < 92 and plain.precise == ()
    assert made.agreement > 93
    assert 0 < len(made.precise) < 4 and made.precision == "float" and made.quantized[0] > 0


def test_an_output_that_hardly_varies_does_not_decide(tmp_path):
    path, made = fragile(tmp_path / "net.onnx"), []
    for name, bias in (("varies", 0.0), ("hardly", 9.0)):  # sigmoid(9) = 0.9999 for every sample
        net = onnx.load(path)
        net.graph.node.append(helper.make_node("Gemm", ["g3", "head", "bias"], ["score"], "score"))
        net.graph.node.append(helper.make_node("Sigmoid", ["score"], ["flag"], "flag"))
        head = np.full((16, 1), 0.001, np.float32)
        net.graph.initializer.extend([numpy_helper.from_array(head, "head"), numpy_helper.from_array(np.float32([bias]), "bias")])
        net.graph.output.append(helper.make_tensor_value_info("flag", TensorProto.FLOAT, ["n", 1]))
        onnx.save(net, tmp_path / f"{name}.onnx")
        made.append(qat.quantize(tmp_path / f"{name}.onnx", X, estimator="minmax", outputs="int8", max_error=60.0))
    assert made[1].error_percent < 1.2 * made[0].error_percent and made[1].precise == made[0].precise == ()


def test_answers_are_counted():
    real = np.eye(4)[np.arange(100) % 4]
    got = real.copy()
    got[:2] = got[:2, ::-1]
    losses = choose({"0": real}, None, True)
    for least, held in ((100, False), (99, False), (98, True), (97, True)):
        bounds = Bounds(None, least)
        assert (bounds.off([got], [real], losses) <= 1) is held
        assert bounds.off([real], [real], losses) == 0
    both = Bounds(1.0, 98)
    assert both.off([got], [real], losses) == pytest.approx(error_percent([got], [real])) and both.off([got], [real], losses) > 1
    assert both.options == ("max_error", "same_answers")
    assert both.found([got], [real], losses).endswith("% and 98 % of float's answers")


@pytest.mark.slow
def test_bounds_that_hold_already_change_no_byte(tmp_path):
    path = fragile(tmp_path / "net.onnx", softmax=True)
    asked = ({}, {"max_error": 90.0}, {"same_answers": 1.0})
    files = [qat.quantize(path, X, out=tmp_path / str(i), **each).path.read_bytes() for i, each in enumerate(asked)]
    assert files[0] == files[1] == files[2]


def test_numbers_have_no_answers_to_keep(tmp_path):
    path = fragile(tmp_path / "net.onnx")
    net = onnx.load(path)
    net.graph.node.append(helper.make_node("ReduceSum", ["g3", "axes"], ["sum"], "sum"))
    net.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 1]))
    onnx.save(net, path)
    with pytest.raises(OptionError, match="no output is of classes, so that none is an answer: take max_error"):
        qat.quantize(path, X, same_answers=100)
    assert not (tmp_path / "net_int8.onnx").exists()


def test_samples_that_calibrate_and_judge_are_said(tmp_path, caplog):
    path = fragile(tmp_path / "net.onnx")
    for count, said in ((160, False), (64, True)):
        caplog.clear()
        qat.quantize(path, X[:count], out=tmp_path / str(count), max_error=90.0)
        assert ("others may be further off: give 220 samples or more" in caplog.text) is said


def test_a_recipe_without_layers_to_spare_says_what_it_has(tmp_path):
    path = fragile(tmp_path / "net.onnx")
    with pytest.raises(OptionError, match=r"'dynamic_wi8_afp32' has no layer in integers that could stay .* an error of \d"):
        qat.quantize(path, X, recipe="dynamic", max_error=1e-3)


def test_a_bound_that_nothing_keeps_is_an_error_with_the_least(tmp_path):
    path = fragile(tmp_path / "net.onnx")
    with pytest.raises(
        OptionError, match=r"no recipe that quantizes anything keeps an error of 1e-05 %, the nearest has an error of \d"
    ):
        qat.quantize(path, X, max_error=1e-5)
    assert not (tmp_path / "net_int8.onnx").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_error": 0}, "above 0"),
        ({"max_error": 5, "tool": "onnxruntime"}, "tool"),
        ({"same_answers": 101}, "above 0 to 100"),
        ({"same_answers": 99, "tool": "onnxruntime"}, "tool"),
    ],
)
def test_what_cannot_be_is_said_first(options, said):
    with pytest.raises(OptionError, match=said):
        qat.quantize("nothing.onnx", X, **options)


@pytest.mark.slow
def test_the_command_says_which_layers(tmp_path, capfd):
    np.save(tmp_path / "x.npy", X)
    options = ["--data", "x.npy", "--estimator", "minmax", "--max-error", "3"]
    path, command = fragile(tmp_path / "net.onnx"), CommandLine(tmp_path, capfd)
    found = json.loads(command("quantize", path, *options, "--json").stdout)["files"][0]
    assert found["precise"] and found["precision"] == "float" and found["error_percent"] < 6
    done = command("quantize", path, *options, "--force")
    assert "in float, so that the bounds hold" in " ".join(done.stdout.split())
