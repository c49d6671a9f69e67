"""Files of several exporters, loaded, proved and prepared; what cannot be loaded ends in one sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import qat
from qat.errors import CaptureError, DataError, QatError
from support.onnx_files import model_of, module_of, module_outputs, one_operator, runtime_outputs

_RNG = np.random.default_rng(5)


def _numbers(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


class Net(nn.Module):
    """A convolution, an addition, squeeze and excitation, attention of the pixels, a layer norm and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid())
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x * self.squeeze(x) + x
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(nn.functional.gelu(self.norm(tokens)).mean(1))


def _exported(path, dynamo, opset, batch):
    torch.manual_seed(0)
    net, x = Net().eval(), (torch.randn(batch, 3, 16, 16),)
    if dynamo:
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if batch > 1 else {}
        torch.onnx.export(net, x, path, dynamo=True, opset_version=opset, verbose=False, external_data=False, **shapes)
    else:
        axes = {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}} if batch > 1 else {}
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(net, x, path, dynamo=False, opset_version=opset, do_constant_folding=opset != 14, **names, **axes)


@pytest.mark.parametrize(
    ("dynamo", "opset", "batch"),
    [(False, 14, 2), (False, 17, 1), *(pytest.param(True, *more, marks=pytest.mark.slow) for more in ((18, 2), (20, 1)))],
)
def test_files_of_both_exporters_of_pytorch_take_any_batch(dynamo, opset, batch, tmp_path):
    _exported(tmp_path / "net.onnx", dynamo, opset, batch)
    model = qat.load(tmp_path / "net.onnx")
    assert model.meta["qat_agreement"].worst < 1e-4
    x = torch.randn(3, 3, 16, 16)
    assert model(x).shape == (3, 5)
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


def test_a_path_is_prepared_and_exported(tmp_path):
    _exported(tmp_path / "net.onnx", False, 17, 1)
    model = qat.prepare(tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    qat.calibrate(model, [x])
    artifact = qat.export(model, tmp_path / "int8.onnx", verify=[x])
    assert artifact.parity.top1_agreement == 1.0
    assert [p.name for p in onnx.load(tmp_path / "int8.onnx").graph.input] == ["x"]


def test_parameters_and_scopes_have_the_names_of_the_file(tmp_path):
    _exported(tmp_path / "net.onnx", False, 17, 2)
    model = qat.load(tmp_path / "net.onnx")
    assert {"head.weight", "head.bias", "squeeze.1.weight"} <= {name for name, _ in model.named_parameters()}
    assert "head.Gemm" in {row["scope"] for row in qat.plan(model, torch.zeros(2, 3, 16, 16)).table()}


def _free_axes_net():
    """Pixels in twos, by sizes that the graph computes: Shape, Gather, Div, Cast, Concat, Reshape, and a Resize to those."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Gather", ["s", "three"], ["v"]),
        helper.make_node("Cast", ["h"], ["hf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hf", "half"], ["hh"]),
        helper.make_node("Floor", ["hh"], ["hd"]),
        helper.make_node("Cast", ["hd"], ["hi"], to=TensorProto.INT64),
        *(helper.make_node("Unsqueeze", [name, "first"], [f"{name}u"]) for name in ("n", "hi", "v")),
        helper.make_node("Concat", ["nu", "four", "hiu", "pair", "vu"], ["shape"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], axes=[3], keepdims=0),
        helper.make_node("Slice", ["s", "two1", "four1"], ["hw"]),
        helper.make_node("Slice", ["s", "zero1", "two1"], ["nc"]),
        helper.make_node("Concat", ["nc", "hw"], ["whole"], axis=0),
        helper.make_node("Resize", ["m", "", "", "whole"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"),
    ]
    constants = {
        "w": _numbers(4, 3, 3, 3), "half": np.float32(0.5), "zero": np.array(0), "two": np.array(2), "three": np.array(3),
        "first": np.array([0]), "four": np.array([4]), "pair": np.array([2]), "two1": np.array([2]), "four1": np.array([4]),
        "zero1": np.array([0]),
    }  # fmt: skip
    x = {"x": _numbers(2, 3, 8, 6)}
    return model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13, shapes={"x": ["n", 3, "h", "w"]}), x


def test_sizes_that_the_file_computes_stay_free(tmp_path):
    model, x = _free_axes_net()
    module = module_of(model, x, tmp_path)
    for shape in ((1, 3, 8, 6), (3, 3, 16, 10)):
        feeds = {"x": _numbers(*shape)}
        expected = runtime_outputs(model, feeds)[0]
        np.testing.assert_allclose(module_outputs(module, feeds)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_choice_by_sizes_is_made(tmp_path):
    then = helper.make_graph([helper.make_node("Squeeze", ["x", "one"], ["a"])], "then", [], [_value("a")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "else", [], [_value("b")])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one0"], ["n"]),
        helper.make_node("Equal", ["n", "one0"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    constants = {"one": np.array([1]), "one0": np.array(1)}
    x = {"x": _numbers(2, 1, 3)}
    model = model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13, shapes={"x": ["n", 1, 3]})
    assert module_outputs(module_of(model, x, tmp_path), x)[0].shape == (2, 3)


def _value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_a_bias_that_is_added_becomes_one(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["b", "shape"], ["b4"]),
        helper.make_node("Add", ["b4", "c"], ["y"]),
    ]
    constants = {"w": _numbers(4, 3, 3, 3), "b": _numbers(4), "shape": np.array([1, 4, 1, 1])}
    x = {"x": _numbers(2, 3, 8, 6)}
    model = model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13)
    module = module_of(model, x, tmp_path, any_batch=True)
    assert {row["op"] for row in qat.plan(module, torch.zeros(2, 3, 8, 6)).table()} == {"conv2d"}
    assert {name for name, _ in module.named_parameters()} == {"w", "b"}
    np.testing.assert_allclose(module_outputs(module, x)[0], runtime_outputs(model, x)[0], rtol=1e-5, atol=1e-5)


def test_a_file_of_one_sample_takes_any_batch(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["r"]),
        helper.make_node("Concat", ["token", "r"], ["t"], axis=1),
        helper.make_node("Transpose", ["t"], ["s"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["s", "heads"], ["h"]),
        helper.make_node("Reshape", ["h", "back"], ["k"]),
        helper.make_node("Transpose", ["k"], ["y"], perm=[1, 0, 2]),
    ]
    constants = {
        "flat": np.array([1, 4, 6]), "token": _numbers(1, 1, 6), "heads": np.array([5, 2, 3]), "back": np.array([5, 1, 6])
    }  # fmt: skip
    x = {"x": _numbers(1, 4, 2, 3)}
    model = model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13)
    module = module_of(model, x, tmp_path, any_batch=True)
    many = {"x": _numbers(3, 4, 2, 3)}
    each = [runtime_outputs(model, {"x": many["x"][i : i + 1]})[0] for i in range(3)]
    np.testing.assert_array_equal(module_outputs(module, many)[0], np.concatenate(each))


def test_a_file_of_one_sample_whose_output_has_the_batch_second(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Squeeze", ["c", "two"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[2, 0, 1]),
    ]
    constants = {"w": _numbers(1, 3, 4, 3), "b": _numbers(1), "two": np.array([2])}
    model = model_of(nodes, {"x": _numbers(1, 3, 4, 9)}, constants, {"y": TensorProto.FLOAT}, 13)
    x = _numbers(3, 3, 4, 9)
    prepared = qat.calibrate(qat.prepare(_saved(model, tmp_path), x), [x])
    artifact = qat.export(prepared, tmp_path / "int8.onnx", verify=[x])
    assert artifact.parity.exact == 1.0
    assert qat.load(tmp_path / "net.onnx")(torch.from_numpy(x)).shape == (7, 3, 1)


def test_weights_in_another_file_and_listed_as_inputs(tmp_path):
    model, _ = one_operator("Gemm", [("x", _numbers(2, 3)), _numbers(3, 4), _numbers(4)], opset=9)
    model.graph.input.extend(helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.dims) for t in model.graph.initializer)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    loaded = qat.load(tmp_path / "net.onnx")
    assert [name for name, _ in loaded.named_parameters()] == ["c1", "c2"]
    for break_it in (lambda data: data.write_bytes(data.read_bytes()[:8]), Path.unlink):
        break_it(tmp_path / "net.data")
        with pytest.raises(DataError, match="its weights are in another file"):
            qat.load(tmp_path / "net.onnx")
        with pytest.raises(QatError, match="its weights are in another file, which is not beside it or is not whole"):
            qat.quantize(tmp_path / "net.onnx", "random")


def test_half_precision_is_computed_in_float32(tmp_path):
    x = ("x", _numbers(2, 3).astype(np.float16))
    model, feeds = one_operator("MatMul", [x, _numbers(3, 4).astype(np.float16)], outputs=(np.float16,))
    module = module_of(model, feeds, tmp_path)
    found = module(torch.from_numpy(feeds["x"].astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(found, runtime_outputs(model, feeds)[0].astype(np.float32), atol=5e-3)


def test_a_definition_by_other_operators_is_opened(tmp_path):
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["z"])]
    function = helper.make_function("mine", "Twice", ["a"], ["z"], body, [helper.make_opsetid("", 17)])
    x = {"x": _numbers(2, 3)}
    node = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    model = model_of([node], x, {}, {"y": TensorProto.FLOAT}, domains=["mine"])
    model.functions.append(function)
    np.testing.assert_array_equal(module_outputs(module_of(model, x, tmp_path), x)[0], runtime_outputs(model, x)[0])


def _saved(model, folder):
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def test_an_operator_without_a_row_is_named(tmp_path):
    model, _ = one_operator("Det", [("x", _numbers(2, 3, 3))])
    with pytest.raises(CaptureError, match=r"operator Det 'place' has no form in PyTorch .*: cut the model before it"):
        qat.load(_saved(model, tmp_path))


def test_a_quantized_file_is_refused(tmp_path):
    model, _ = one_operator("QuantizeLinear", [("x", _numbers(2, 3)), np.float32(0.1), np.uint8(3)], outputs=(np.uint8,))
    with pytest.raises(CaptureError, match="shows that the file is quantized already: load the float file"):
        qat.load(_saved(model, tmp_path))


def test_weights_stored_in_integers_are_read(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1), helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"q": _RNG.integers(-9, 9, (3, 4)).astype(np.int8), "s": np.abs(_numbers(4))}
    x = {"x": _numbers(2, 3)}
    model = model_of(nodes, x, constants, {"y": TensorProto.FLOAT})
    np.testing.assert_allclose(module_outputs(module_of(model, x, tmp_path), x)[0], runtime_outputs(model, x)[0], rtol=1e-5)


def test_free_sizes_need_an_example(tmp_path):
    model, _ = one_operator("Conv", [("x", _numbers(2, 3, 8, 8)), _numbers(4, 3, 3, 3)], shapes={"x": ["n", 3, "h", "w"]})
    path = _saved(model, tmp_path)
    with pytest.raises(DataError, match=r"input 'x' of the file has the sizes \[n, 3, h, w\]: pass example_inputs"):
        qat.plan(path)
    assert len(qat.plan(path, torch.zeros(2, 3, 12, 12)).ops) == 1


def _truncated(data):
    return data[: len(data) // 2]


def _flipped(data):
    return data[:20] + bytes(b ^ 0x55 for b in data[20:60]) + data[60:]


@pytest.mark.parametrize("damage", [_truncated, _flipped, lambda data: b"", lambda data: b"\x00" * 100])
def test_damaged_files_end_in_a_sentence(damage, tmp_path):
    _exported(tmp_path / "net.onnx", False, 17, 1)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(damage((tmp_path / "net.onnx").read_bytes()))
    with pytest.raises(qat.QatError):
        qat.load(path)


def test_a_circle_is_a_sentence(tmp_path):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    model = model_of(nodes, {"x": _numbers(2, 3)}, {}, {"b": TensorProto.FLOAT})
    with pytest.raises(DataError, match=r"does not run in its own runtime|which nothing before it computes"):
        qat.load(_saved(model, tmp_path))


def test_functions_that_multiply_are_counted_before_they_are_opened(tmp_path):
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [helper.make_function("mine", "f0", ["a"], ["z"], [helper.make_node("Neg", ["a"], ["z"])], opset)]
    for level in range(1, 9):
        calls = [helper.make_node(f"f{level - 1}", [f"v{i}"], [f"v{i + 1}"], domain="mine") for i in range(20)]
        functions.append(helper.make_function("mine", f"f{level}", ["v0"], ["v20"], calls, opset))
    node = helper.make_node("f8", ["x"], ["y"], domain="mine")
    model = model_of([node], {"x": _numbers(2, 3)}, {}, {"y": TensorProto.FLOAT}, domains=["mine"])
    model.functions.extend(functions)
    with pytest.raises(DataError, match=r"has 25,600,000,000 operators"):
        qat.load(_saved(model, tmp_path))


def test_a_constant_of_no_end_is_a_sentence(tmp_path):
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    model = model_of(nodes, {"x": _numbers(2, 3)}, {"s": np.array([1 << 20, 1 << 20])}, {"y": TensorProto.FLOAT})
    with pytest.raises(DataError):
        qat.load(_saved(model, tmp_path))


def test_another_opset_is_refused(tmp_path):
    model, _ = one_operator("Relu", [("x", _numbers(2, 3))])
    model.opset_import[0].version = 6
    with pytest.raises(DataError, match="is of opset 6, and 7 to 24 can be read"):
        qat.load(_saved(model, tmp_path))


def test_the_numbers_of_a_tensor_must_be_its_size(tmp_path):
    model, _ = one_operator("Gemm", [("x", _numbers(2, 3)), _numbers(3, 4)])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(_numbers(3, 4), "c1"))
    model.graph.initializer[0].dims[0] = 300
    with pytest.raises(DataError, match="is damaged"):
        qat.load(_saved(model, tmp_path))


@pytest.mark.slow
def test_a_keras_net_by_tf2onnx(tmp_path):
    keras, tf, tf2onnx = (pytest.importorskip(name) for name in ("keras", "tensorflow", "tf2onnx"))
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 12, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(image)
    x = layers.Activation("swish")(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    y = layers.MaxPooling2D(2, padding="same")(layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x))
    y = layers.UpSampling2D(2, interpolation="bilinear")(y)
    x = layers.Concatenate()([x, layers.AveragePooling2D(3, strides=2, padding="same")(y)])
    x = layers.Reshape((-1, 12))(x)
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 6)(x, x))
    net = keras.Model(image, layers.Dense(4, activation="softmax")(layers.LSTM(5)(x)))
    function = tf.function(
        lambda t: net(t, training=False), input_signature=[tf.TensorSpec((None, 16, 12, 3), tf.float32, name="x")]
    )
    path = tmp_path / "net.onnx"
    tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=17, output_path=str(path))
    model = qat.load(path)
    assert model.meta["qat_agreement"].worst < 1e-4
    images = _numbers(3, 16, 12, 3)
    np.testing.assert_allclose(module_outputs(model, {"x": images})[0], net.predict(images, verbose=0), atol=1e-5)
    assert not any(
        kind in row["op"] for row in qat.plan(model, images).table() for kind in ("conv", "pool") if row["runs"] == "float"
    )


def test_constants_take_the_shape_of_free_sizes(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Expand", ["c", "s"], ["e"]),
        helper.make_node("Reshape", ["c6", "to"], ["r"]),
        helper.make_node("Add", ["x", "e"], ["a"]),
        helper.make_node("Concat", ["a", "r"], ["y"], axis=0),
    ]
    constants = {"c": _numbers(1, 3), "c6": _numbers(6), "to": np.array([2, 3])}
    x = {"x": _numbers(4, 3)}
    model = model_of(nodes, x, constants, {"y": TensorProto.FLOAT}, 13, shapes={"x": ["n", 3]})
    np.testing.assert_allclose(module_outputs(module_of(model, x, tmp_path), x)[0], runtime_outputs(model, x)[0])


def test_a_choice_by_an_input_is_named_also_where_no_size_fits(tmp_path):
    then = helper.make_graph([helper.make_node("Reshape", ["x", "seven"], ["a"])], "then", [], [_value("a")])
    other = helper.make_graph([helper.make_node("Reshape", ["x", "seven"], ["b"])], "else", [], [_value("b")])
    model = model_of(
        [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)],
        {"x": _numbers(2, 7), "c": np.array(True)},
        {"seven": np.array([-1, 7777])},
        {"y": TensorProto.FLOAT},
        13,
        shapes={"x": ["n", "m"]},
    )
    with pytest.raises(CaptureError, match="operator If 'choice' chooses by the values of the model's inputs"):
        qat.load(_saved(model, tmp_path))
