"""A file's free sizes stay free in its artifact, and its format is that of the artifact."""

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qat
from qat.runtimes import open_session
from support.tflite_files import TFLiteFile

RANDOM = np.random.default_rng(0)


class Heads(nn.Module):
    """Rows of numbers for each place of an image of any size, and scores of the whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.rows, self.scores = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 4), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.rows(x.flatten(2).transpose(1, 2)), self.scores(x.mean((2, 3)))


class OfOneSize(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x):
        return self.end(torch.relu(self.stem(x)).flatten(1))


class OfOneHeight(nn.Module):
    """A row of scores for each column, as a reader of lines has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8, 5)

    def forward(self, x):
        return self.end(torch.relu(self.stem(x)).permute(0, 3, 1, 2).flatten(2))


def written(net, path, axes=("n", "height", "width")):
    names = dict(zip((0, 2, 3), axes, strict=True))
    options = {"input_names": ["x"], "output_names": ["rows", "scores"][: 2 if isinstance(net, Heads) else 1]}
    torch.onnx.export(net.eval(), (torch.zeros(2, 3, 8, 8),), path, dynamo=False, dynamic_axes={"x": names}, **options)
    return path


class OfTexts(nn.Module):
    """Scores of texts of any length."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.scores = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids):
        x = torch.relu(self.layer(self.words(ids)))
        return self.scores((torch.softmax(x @ x.transpose(1, 2), -1) @ x).mean(1))


def test_a_file_of_texts_of_any_length_stays_one(tmp_path):
    texts = [torch.randint(0, 20, (32, tokens), generator=torch.Generator().manual_seed(tokens)) for tokens in (6, 9)]
    net, axes = OfTexts().eval(), {"ids": {0: "n", 1: "t"}}
    torch.onnx.export(net, (texts[0],), tmp_path / "texts.onnx", dynamo=False, dynamic_axes=axes, input_names=["ids"])
    prepared = qat.calibrate(qat.prepare(tmp_path / "texts.onnx", texts[0]), texts)
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=texts)
    assert artifact.parity.exact == 1.0
    assert [info.sizes for info in open_session(artifact.path).inputs] == [("n", "t")]


def images(*sizes):
    return [RANDOM.normal(size=(2, 3, *size)).astype(np.float32) for size in sizes]


def test_free_sizes_stay_free(tmp_path):
    path = written(Heads(), tmp_path / "net.onnx")
    inputs = images((16, 16), (12, 20), (24, 8))
    model = qat.calibrate(qat.prepare(path, inputs[0]), inputs)
    assert not model.plan.floats()
    artifact = qat.export(model, tmp_path / "int8.onnx", verify=inputs)
    assert artifact.parity.exact == 1
    dims = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", 3, "height", "width"]
    for x in images((10, 14)):
        for mine, its in zip(open_session(artifact.path).run(x), open_session(path).run(x), strict=True):
            assert mine.shape == its.shape
            np.testing.assert_allclose(mine, its, atol=0.1)


def test_a_size_that_a_layer_fixes_after_all_is_said(tmp_path, caplog):
    path = written(OfOneSize(), tmp_path / "net.onnx")
    (x,) = images((8, 8))
    with caplog.at_level(logging.WARNING, "qat"):
        model = qat.calibrate(qat.prepare(path, x), [x])
    assert "takes the example's size alone, where the file leaves the height and the width free" in caplog.text
    assert qat.export(model, tmp_path / "int8.onnx", verify=[x]).parity.exact == 1


def test_one_of_two_free_sizes_stays_free(tmp_path, caplog):
    path = written(OfOneHeight(), tmp_path / "net.onnx")
    inputs = images((8, 8), (8, 20))
    with caplog.at_level(logging.WARNING, "qat"):
        model = qat.calibrate(qat.prepare(path, inputs[0]), inputs)
    assert "takes any width, and of the other free sizes of the file the example's alone" in caplog.text
    artifact = qat.export(model, tmp_path / "int8.onnx", verify=inputs)
    assert artifact.parity.exact == 1
    dims = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", 3, 8, "width"]


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_file_goes_out_in_its_own_format(tmp_path, suffix):
    (x,) = images((8, 8))
    path = written(Heads(), tmp_path / "net.onnx")
    if suffix == ".tflite":
        float_model = qat.prepare(path, x, target="litert", recipe="float16")
        path = qat.export(float_model, tmp_path / "net.tflite", layout="NCHW").path
        assert qat.plan(path).target.name == "litert"
    else:
        assert qat.plan(path, x).target.name == "onnxruntime"


def test_a_tflite_whose_free_size_is_too_long_for_one(tmp_path):
    file = TFLiteFile()  # a free size stands in the file as 1, and a window of 9 does not fit into that
    signal = file.input([1, 1, 1, 3])
    file.graph.tensors[signal].shapeSignature = np.array([-1, 1, -1, 3], np.int32)
    filters, bias = file.constant(RANDOM.normal(size=(4, 1, 9, 3))), file.constant(np.zeros(4))
    steps = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    conv = file.operator("CONV_2D", [signal, filters, bias], options="Conv2D", padding=1, **steps)
    path = file.save(tmp_path / "net.tflite", [conv])
    session = open_session(path)
    for length in (16, 12, 16):
        (y,) = session.run(RANDOM.normal(size=(2, 1, length, 3)).astype(np.float32))
        assert y.shape == (2, 1, length - 8, 4)
    made = qat.quantize(path, RANDOM.normal(size=(32, 1, 16, 3)).astype(np.float32), estimator="minmax", progress=False)
    assert made.exact == 1.0 and made.quantized[0] == made.quantized[1]
