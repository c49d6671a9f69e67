"""Metadata in an artifact: what was given is read back, by our own reader and by those of others."""

from __future__ import annotations

import io
import logging
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import qat
from qat.errors import ConfigError, ExportError
from qat.exporters.inspection import inspect
from qat.runtimes import open_session

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip("ai_edge_litert")

LABELS = ("cat", "Köter, groß", "emu")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
FULL = qat.Metadata("pets", "Tells pets apart.", LABELS, MEAN, STD, "1.2", "Ada", "Apache-2.0")
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.float32)
PIXELS[0, 0, 0], PIXELS[0, 0, 1] = 0, 255
IMAGES = ((PIXELS - MEAN) / STD).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3)

    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3)))


def prepared(framework, target, images=IMAGES):
    if framework == "torch":
        images = images.transpose(0, 3, 1, 2).copy()
        model = qat.prepare(Net().eval(), torch.from_numpy(images[:2]), target=target)
    else:
        image = keras.Input((8, 8, 3), name="image")
        features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(image))
        model = qat.prepare(keras.Model(image, keras.layers.Dense(3)(features)), target=target)
    return qat.calibrate(model, [images]), images


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_what_is_written_is_read_back_and_the_outputs_stay(framework, target, suffix, tmp_path):
    model, images = prepared(framework, target)
    plain = qat.export(model, tmp_path / f"plain{suffix}")
    full = qat.export(model, tmp_path / f"full{suffix}", verify=[images], metadata=FULL)
    found = inspect(full.path).metadata
    assert replace(found, mean=None, std=None) == replace(FULL, mean=None, std=None)
    np.testing.assert_allclose(found.normalization, FULL.normalization, rtol=1e-6)
    assert full.parity.exact == 1
    assert plain.encodings == full.encodings
    assert inspect(plain.path).metadata is None
    assert inspect(plain.path).says() == []
    assert inspect(full.path).says()[-2:] == [
        ("labels", "3: cat, Köter, groß, emu"), ("pixels", "(0 to 255 - 123.675, 116.28, 103.53) / 58.395, 57.12, 57.375"),
    ]  # fmt: skip


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model, _ = prepared("torch", "litert")
    written = [qat.export(model, tmp_path / f"{n}.tflite", metadata=FULL).path.read_bytes() for n in range(2)]
    assert written[0] == written[1]


def test_labels_lie_in_a_zip_uncompressed(tmp_path):
    model, _ = prepared("torch", "litert")
    raw = qat.export(model, tmp_path / "m.tflite", metadata=FULL).path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        (info,) = archive.infolist()
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read(info).decode().splitlines() == list(LABELS)
    unnamed = qat.export(model, tmp_path / "u.tflite", metadata=replace(FULL, labels=())).path.read_bytes()
    assert not zipfile.is_zipfile(io.BytesIO(unnamed))


def test_the_tables_are_those_of_the_schema(tmp_path):
    from qat.exporters.tflite.metadata import attached
    from qat.exporters.tflite.metadata_schema import decode

    model, _ = prepared("torch", "litert")
    raw = qat.export(model, tmp_path / "m.tflite", metadata=FULL).path.read_bytes()
    (subgraph,) = decode(attached(raw).table)["subgraph_metadata"]
    (image,), (output,) = subgraph["input_tensor_metadata"], subgraph["output_tensor_metadata"]
    assert (image["name"], output["name"]) == ("image", "output_0")
    size = {"width": 8, "height": 8}
    assert image["content"]["content_properties"] == ("ImageProperties", {"color_space": 1, "default_size": size})
    assert output["associated_files"] == [{"name": "labels.txt", "type": 2}]


def test_attached_metadata_move_to_another_file(tmp_path):
    from qat.exporters.tflite.metadata import attach, attached

    model, _ = prepared("torch", "litert")
    described = qat.export(model, tmp_path / "a.tflite", metadata=FULL).path.read_bytes()
    plain = qat.export(model, tmp_path / "b.tflite").path.read_bytes()
    moved = tmp_path / "c.tflite"
    moved.write_bytes(attach(attach(plain, attached(described)), attached(described)))
    assert attached(moved.read_bytes()) == attached(described)
    assert attached(plain) is None
    session, other = (open_session(path) for path in (moved, tmp_path / "a.tflite"))
    assert [x.name for x in session.inputs] == [x.name for x in other.inputs]


@pytest.mark.parametrize(
    ("metadata", "error", "sentence"),
    [
        ({"labels": ["a", "b"]}, ExportError, "2 labels, and the outputs have 3 values"),
        ({"labels": "abc"}, ConfigError, "labels are a list of names"),
        ({"labels": ["a", "", "c"]}, ConfigError, "label 1 is ''"),
        ({"labels": ["a", "b\nb", "c"]}, ConfigError, r"label 1 is 'b\\nb'"),
        ({"mean": 1.0}, ConfigError, "give both"),
        ({"mean": 0.0, "std": 0.0}, ConfigError, "std a positive one"),
        ({"mean": (0.0, 1.0), "std": 1.0}, ExportError, "mean has 2 numbers"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, ExportError, "255 times those for pixels from 0 to 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_metadata_that_do_not_fit_are_refused(metadata, error, sentence, target, suffix, tmp_path):
    model, _ = prepared("torch", target)
    with pytest.raises(error, match=sentence):
        qat.export(model, tmp_path / f"m{suffix}", metadata=qat.Metadata(**metadata))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("white", "warns"), [(255, False), (180, True)])
def test_a_uint8_input_that_pixels_do_not_fit_is_named(white, warns, tmp_path, caplog):
    """Libraries that hand bytes over as they are need a grid of which black is 0 and white is 255."""
    model, _ = prepared("torch", "litert", np.clip(PIXELS, 0, white) / 255)
    with caplog.at_level(logging.WARNING, "qat"):
        qat.export(model, tmp_path / "m.tflite", io_dtype="uint8", metadata=qat.Metadata(mean=0.0, std=255.0))
    assert any("hands pixels over as they are" in message for message in caplog.messages) == warns


def test_mediapipe_reads_the_file(tmp_path):
    """Its classifier wants another protobuf than TensorFlow's, so that the reader of metadata stands for it."""
    others = pytest.importorskip("mediapipe.tasks.python.metadata.metadata")
    model, _ = prepared("torch", "litert")
    shown = others.MetadataDisplayer.with_model_file(str(qat.export(model, tmp_path / "m.tflite", metadata=FULL).path))
    text = shown.get_metadata_json()
    for part in (
        '"description": "Tells pets apart."',
        '"type": "TENSOR_AXIS_LABELS"',
        '"color_space": "RGB"',
        '"width": 8',
        "57.375",
    ):
        assert part in text
    assert shown.get_packed_associated_file_list() == ["labels.txt"]
    assert shown.get_associated_file_buffer("labels.txt").decode().split("\n")[:3] == list(LABELS)
