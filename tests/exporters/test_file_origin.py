"""An artifact of a model that was read from a file keeps the file's names, sizes, texts and opset."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter

import qat
from qat.exporters.tflite.metadata import attached
from qat.program.file_origin import FileOrigin, FileTensor
from qat.sources.module_writer import ModuleWriter

X = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)


def from_file(suffix, batch="N", opset=None, output="probabilities:0", **facts):
    """Return a model as a reader of files makes it."""
    random = np.random.default_rng(1)
    writer = ModuleWriter()
    x = writer.input("image:0", (None, 3, 8, 8), torch.float32)
    kernel = writer.parameter("stem.weight", random.normal(size=(4, 3, 3, 3)).astype(np.float32))
    y = writer.call(F.relu, writer.call(F.conv2d, x, kernel, None, 2))
    inputs = (FileTensor("image:0", (batch, 3, 8, 8), "float32"),)
    outputs = (FileTensor(output, (batch, 4, 3, 3), "float32"), FileTensor("means", (batch, 4), "float32"))
    return writer.finish([y, writer.call(torch.mean, y, [2, 3])], FileOrigin(suffix, inputs, outputs, opset, **facts))


def exported(model, path, **options):
    prepared = qat.prepare(model, X[:2], target="litert" if path.suffix == ".tflite" else "onnxruntime")
    return qat.export(qat.calibrate(prepared, [X]), path, verify=[X], **options)


@pytest.mark.parametrize(("opset", "written"), [(11, 18), (18, 18), (20, 20), (23, 21)])
def test_an_onnx_keeps_names_sizes_and_texts(tmp_path, opset, written):
    texts = {"character": "a\nb\nc", "stride": "32"}
    artifact = exported(from_file(".onnx", opset=opset, metadata=texts), tmp_path / "net.onnx")
    assert artifact.parity.exact == 1
    model = onnx.load(artifact.path)
    assert [value.name for value in model.graph.input] == ["image:0"]
    assert [value.name for value in model.graph.output] == ["probabilities:0", "means"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    assert texts.items() <= {entry.key: entry.value for entry in model.metadata_props}.items()
    assert next(o.version for o in model.opset_import if not o.domain) == written


def test_a_batch_that_the_file_fixes_stays_fixed(tmp_path):
    artifact = exported(from_file(".onnx", batch=1), tmp_path / "net.onnx")
    assert artifact.parity.exact == 1 and artifact.parity.samples == 16
    model = onnx.load(artifact.path)
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["relu", "mean", "conv2d", "image_quantized", "quantize_image_0"])
def test_a_name_of_the_file_that_an_inner_tensor_has_too(tmp_path, name):
    artifact = exported(from_file(".onnx", output=name), tmp_path / "net.onnx")
    assert artifact.parity.exact == 1
    assert [value.name for value in onnx.load(artifact.path).graph.output] == [name, "means"]


@pytest.mark.parametrize("io_dtype", ["float32", "int8", "uint8"])
def test_a_tflite_keeps_names_and_the_signatures_key(tmp_path, io_dtype):
    artifact = exported(from_file(".tflite", signature="detect"), tmp_path / "net.tflite", io_dtype=io_dtype)
    assert artifact.parity.exact == 1
    signatures = Interpreter(str(artifact.path)).get_signature_list()
    assert list(signatures) == ["detect"]
    assert signatures["detect"]["inputs"] == ["image:0"]
    assert sorted(signatures["detect"]["outputs"]) == ["means", "probabilities:0"]


def test_a_saved_model_keeps_its_origin(tmp_path):
    prepared = qat.calibrate(qat.prepare(from_file(".onnx"), X[:2]), [X])
    torch.save(prepared, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    qat.export(loaded, tmp_path / "net.onnx", verify=[X])
    assert [value.name for value in onnx.load(tmp_path / "net.onnx").graph.input] == ["image:0"]


def test_a_tflite_keeps_its_metadata_and_the_files_that_it_names(tmp_path):
    plain = exported(from_file(".tflite"), tmp_path / "plain.tflite", metadata=qat.Metadata(labels=list("abcd"), author="me"))
    its = attached(plain.path.read_bytes())
    origin = {"metadata_table": its.table, "associated_files": {**its.files, "more.txt": b"more"}}
    artifact = exported(from_file(".tflite", **origin), tmp_path / "net.tflite")
    assert artifact.parity.exact == 1
    kept = attached(artifact.path.read_bytes())
    assert kept.table == its.table and kept.files == {"labels.txt": b"a\nb\nc\nd\n", "more.txt": b"more"}
