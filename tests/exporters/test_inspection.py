"""What an artifact is said to hold, against what it was made of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qat.errors import QatError
from qat.exporters import export_program
from qat.exporters.inspection import inspect, kind_of, layout_of
from qat.program.layout import to_layout
from qat.runtimes import TensorInfo
from support.programs import Sketch


@pytest.fixture
def program():
    sketch = Sketch(3, (2, 3, 8, 8), limits=(-128, 127))
    stem = sketch.conv(sketch.x, 8, padding=((1, 1), (1, 1)), activation="relu")
    pooled = sketch.mean(sketch.binary("add", stem, sketch.conv(stem, 8, (1, 1))), keepdims=False)
    return sketch.program(sketch.real(sketch.dense(pooled, 10, per_channel=False)))


def test_tflite_says_what_runs_where_and_in_how_many_bits(program, tmp_path):
    path = tmp_path / "m.tflite"
    export_program(to_layout(program, "NHWC", "NHWC"), path)
    found = inspect(path)
    assert found.runs == {
        "XNNPACK": Counter(CONV_2D=2, ADD=1, MEAN=1, FULLY_CONNECTED=1),
        "TFLite": Counter(),
    }
    assert found.bits() == {"int8": 3}
    assert [(w.shape, w.scale.size) for w in found.weights] == [((8, 3, 3, 3), 8), ((8, 1, 1, 8), 8), ((10, 8), 1)]
    assert [layout_of(i) for i in (*found.inputs, *found.outputs)] == ["NHWC", ""]
    assert found.inputs[0].dtype == "int8" and found.inputs[0].scale is not None
    assert {v.name for v in program.values.values() if v.encoding is not None} == set(found.activations)


def test_operators_that_the_delegate_leaves_are_counted_apart(tmp_path):
    sketch = Sketch(4, (2, 3, 8, 8), limits=(-128, 127))
    stem = sketch.conv(sketch.x, 8)
    program = sketch.program(sketch.real(sketch.pool("avg_pool2d", stem, (2, 2), (2, 2))))
    path = tmp_path / "m.tflite"
    export_program(to_layout(program, "NHWC", "NHWC"), path)
    assert inspect(path).runs == {"XNNPACK": Counter(CONV_2D=1), "TFLite": Counter(AVERAGE_POOL_2D=1)}


def test_onnx_says_what_the_optimizer_made_of_it(tmp_path):
    sketch = Sketch(3, (2, 3, 8, 8))
    pooled = sketch.mean(sketch.conv(sketch.x, 8, padding=((1, 1), (1, 1)), activation="relu"), keepdims=False)
    path = tmp_path / "m.onnx"
    export_program(sketch.program(sketch.real(sketch.dense(pooled, 10))), path)
    found = inspect(path)
    (counts,) = found.runs.values()
    assert (counts["QLinearConv"], counts["QGemm"]) == (1, 1)
    assert found.bits() == {"int8": 2}
    assert [np.size(w.scale) for w in found.weights] == [8, 10]
    assert layout_of(found.inputs[0]) == "NCHW"


def _float_file(path):
    """Write a product with a float weight."""
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "float",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_float_file_has_float_weights_without_scales(tmp_path):
    found = inspect(_float_file(tmp_path / "f.onnx"))
    assert [(w.name, w.dtype, w.scale) for w in found.weights] == [("w", "float32", None)]
    assert not found.activations


def test_dynamic_file_of_another_tool_is_read(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(_float_file(tmp_path / "f.onnx"), path, weight_type=QuantType.QInt8)
    assert inspect(path).bits() == {"int8": 1}
    assert kind_of(path) == ("ptq", "dynamic")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((None, 3, 8, 8), "NCHW"), ((None, 8, 8, 3), "NHWC"), ((None, 8, 8, 8), ""), ((None, 10), ""), ((None, 3, None, 8), "")],
)
def test_layout_is_read_off_the_shape_where_it_can_be(shape, layout):
    assert layout_of(TensorInfo("x", shape, "float32")) == layout


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(QatError, match="no such artifact"):
        inspect(tmp_path / "none.onnx")
