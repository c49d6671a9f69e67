"""`--max-error`: the layers that lose most stay in higher precision, as few as are enough, in both formats."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qat
from qat.errors import OptionError
from qat.exporters.inspection import inspect
from support.command_line import CommandLine

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 16)).astype(np.float32)


def fragile(path):
    """Four layers; the third multiplies by two numbers of which one is a hundred times the other."""
    weights = [RNG.normal(0, 0.4, (16, 16)).astype(np.float32) for _ in range(4)]
    weights[1][0] *= 200
    weights[2][:, 0] /= 200
    nodes = []
    for i in range(4):
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}"], [f"g{i}"], f"layer{i}", transB=1))
        if i < 3:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [f"x{i + 1}"], f"relu{i}"))
    inputs = [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 16])]
    outputs = [helper.make_tensor_value_info("g3", TensorProto.FLOAT, ["n", 16])]
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


def test_a_bound_that_holds_already_changes_no_byte(tmp_path):
    path = fragile(tmp_path / "net.onnx")
    files = [qat.quantize(path, X, out=tmp_path / str(most), max_error=most).path.read_bytes() for most in (None, 90.0)]
    assert files[0] == files[1]


def test_samples_that_calibrate_and_judge_are_said(tmp_path, caplog):
    path = fragile(tmp_path / "net.onnx")
    for count, said in ((160, False), (64, True)):
        caplog.clear()
        qat.quantize(path, X[:count], out=tmp_path / str(count), max_error=90.0)
        assert ("others may be further off: give 220 samples or more" in caplog.text) is said


def test_a_bound_that_nothing_keeps_is_an_error_with_the_least(tmp_path):
    path = fragile(tmp_path / "net.onnx")
    with pytest.raises(OptionError, match=r"no recipe that quantizes anything keeps an error of 1e-05 %, the least is \d"):
        qat.quantize(path, X, max_error=1e-5)
    assert not (tmp_path / "net_int8.onnx").exists()


@pytest.mark.parametrize(("options", "said"), [({"max_error": 0}, "above 0"), ({"max_error": 5, "tool": "onnxruntime"}, "tool")])
def test_what_cannot_be_is_said_first(options, said):
    with pytest.raises(OptionError, match=said):
        qat.quantize("nothing.onnx", X, **options)


def test_the_command_says_which_layers(tmp_path, capfd):
    np.save(tmp_path / "x.npy", X)
    options = ["--data", "x.npy", "--estimator", "minmax", "--max-error", "3"]
    path, command = fragile(tmp_path / "net.onnx"), CommandLine(tmp_path, capfd)
    found = json.loads(command("quantize", path, *options, "--json").stdout)["files"][0]
    assert found["precise"] and found["precision"] == "float" and found["error_percent"] < 6
    done = command("quantize", path, *options, "--force")
    assert "in float, so that the error keeps its bound" in " ".join(done.stdout.split())
