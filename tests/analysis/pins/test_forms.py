"""Pinned layers in the forms of other tools, each held against the tool itself."""

import json

import numpy as np
import onnx
import pytest

import qat
from qat.analysis.pins.forms import STATIC_WI8_AI8, ai_edge_recipe, layer_precisions, nodes_to_exclude
from qat.analysis.pins.places import places_of
from qat.analysis.sensitivity.pinning import Pin
from qat.baselines import float_baseline

SHAPE = (8, 3, 8, 8)


def torch_net():
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
            self.head = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 4))

        def forward(self, x):
            x = self.first(x)
            x = (x + self.second(x)).mean((2, 3))
            return self.head(x)

    torch.manual_seed(0)
    net = Net()
    for norm in (net.first[1], net.second[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval()


def keras_net():
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((*SHAPE[2:], 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    y = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3, padding="same", name="second")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([x, y]))
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def samples():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def placed(net, x, pins, folder, target=None):
    path = float_baseline(net, x, folder, target=target).path
    return path, places_of(qat.prepare(net, x, target=target), pins, path, [x])


def stored(path):
    """Return the names of the integer weights in an .onnx."""
    return [t.name for t in onnx.load(str(path)).graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]


def test_operators_are_found_in_an_onnx(tmp_path):
    pins = [Pin("first.0", "conv2d"), Pin("second.0", "depthwise_conv2d"), Pin("head.2", "layer_norm"), Pin("head.3", "dense")]
    _, places = placed(torch_net(), samples(), pins, tmp_path)
    kinds = {place.pin.layer: [op.kind for op in place.operators] for place in places}
    assert "conv" in kinds["first.0"] and "relu" in kinds["first.0"] and len(kinds["first.0"]) <= 3
    assert kinds["second.0"][0] == "conv" and "conv" not in kinds["second.0"][1:]
    assert len(kinds["head.2"]) == 1 and kinds["head.3"] == ["dense"]


@pytest.mark.slow
def test_onnxruntime_leaves_the_excluded_nodes_float(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    x = samples()
    net = torch_net()
    path = float_baseline(net, x, tmp_path).path
    quant_pre_process(str(path), str(tmp_path / "preprocessed.onnx"))
    path = tmp_path / "preprocessed.onnx"
    names = nodes_to_exclude(
        places_of(qat.prepare(net, x), [Pin("second.0", "depthwise_conv2d"), Pin("head.3", "dense")], path, [x])
    )
    assert names

    class Reader(CalibrationDataReader):
        def __init__(self):
            name = onnx.load(str(path)).graph.input[0].name
            self.batches = iter([{name: x}])

        def get_next(self):
            return next(self.batches, None)

    whole, spared = tmp_path / "whole.onnx", tmp_path / "spared.onnx"
    quantize_static(str(path), str(whole), Reader())
    quantize_static(str(path), str(spared), Reader(), nodes_to_exclude=names)
    floats = [n for n in onnx.load(str(spared)).graph.node if n.name in names and n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(floats) == 2 and all(not n.input[1].endswith("DequantizeLinear_Output") for n in floats)
    assert len(stored(whole)) - len(stored(spared)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_ai_edge_quantizer_leaves_the_pinned_operators_float(framework, tmp_path):
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    x = samples() if framework == "torch" else samples().transpose(0, 2, 3, 1)
    net = torch_net() if framework == "torch" else keras_net()
    layer = "second.0" if framework == "torch" else "second"
    path, places = placed(net, x, [Pin(layer, "depthwise_conv2d")], tmp_path, "litert")
    made = json.loads(json.dumps(ai_edge_recipe(places, path)))
    assert made[: len(STATIC_WI8_AI8)] == json.loads(json.dumps(recipe.static_wi8_ai8())) and len(made) > len(STATIC_WI8_AI8)
    (tmp_path / "recipe.json").write_text(json.dumps(made))
    tool = quantizer.Quantizer(str(path))
    tool.load_quantization_recipe(str(tmp_path / "recipe.json"))
    key, runner = next(iter(Interpreter(str(path)).get_signature_list().items()))
    batch = x if framework == "keras" else x.transpose(0, 2, 3, 1)
    statistics = tool.calibrate({key: [{runner["inputs"][0]: batch[i : i + 1]} for i in range(8)]})
    raw = bytes(tool.quantize(statistics).quantized_model)
    interpreter = Interpreter(model_content=raw)
    types = {d["index"]: np.dtype(d["dtype"]).name for d in interpreter.get_tensor_details()}
    weights = {
        op["op_name"]: types[int(op["inputs"][1])]
        for op in interpreter._get_ops_details()
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")
    }
    assert weights == {"CONV_2D": "int8", "DEPTHWISE_CONV_2D": "float32"}


@pytest.mark.slow
def test_tensorrt_is_given_names_and_precisions(tmp_path):
    path, places = placed(torch_net(), samples(), [Pin("second.0", "depthwise_conv2d"), Pin("head.3", "dense")], tmp_path)
    names = [part.rpartition(":") for part in layer_precisions(places).split(",")]
    assert {precision for _, _, precision in names} == {"fp16"}
    assert {name for name, _, _ in names} <= {node.name for node in onnx.load(str(path)).graph.node}
    assert [name for name, _, _ in names] == nodes_to_exclude(places)


@pytest.mark.slow
def test_a_file_of_another_model_has_no_places(tmp_path):
    import torch

    x = samples()
    path = float_baseline(
        torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Flatten(), torch.nn.Linear(180, 4)), x, tmp_path
    ).path
    (place,) = places_of(qat.prepare(torch_net(), x), [Pin("head.3", "dense")], path, [x])
    assert place.operators == ()
