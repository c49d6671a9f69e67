"""MediaPipe's bundles: models are exchanged, all else keeps its bytes, and a hostile zip ends in one sentence."""

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.errors import DataError
from qat.sources.bundle import models_of, with_models
from qat.system.zip_entries import read_entries


def zipped(entries, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 2, 29, 12, 30, 2)), content, compression)
    return stream.getvalue()


HANDS = zipped({"hand_detector.tflite": b"palm" * 9, "hand_landmarks_detector.tflite": b"landmarks"})
GESTURES = zipped({"hand_landmarker.task": HANDS, "labels.txt": "faust\nänder".encode(), "embedder.tflite": b"embedder"})


def contents_of(raw):
    return {entry.name: entry.content for entry in read_entries(raw, "it")}


def test_models_are_found_in_bundles_within_bundles():
    assert models_of(GESTURES, "it") == {
        "hand_landmarker.task/hand_detector.tflite": b"palm" * 9,
        "hand_landmarker.task/hand_landmarks_detector.tflite": b"landmarks",
        "embedder.tflite": b"embedder",
    }


def test_a_model_is_exchanged_and_the_rest_keeps_its_bytes():
    made = with_models(GESTURES, {"hand_landmarker.task/hand_detector.tflite": b"small"}, "it")
    assert list(contents_of(made)) == list(contents_of(GESTURES))
    assert contents_of(made)["labels.txt"] == contents_of(GESTURES)["labels.txt"]
    inner = contents_of(contents_of(made)["hand_landmarker.task"])
    assert inner == {"hand_detector.tflite": b"small", "hand_landmarks_detector.tflite": b"landmarks"}
    assert [entry.date for entry in read_entries(made, "it")] == [entry.date for entry in read_entries(GESTURES, "it")]


@pytest.mark.parametrize("names", [["a"], ["a", "bb", "ccc", "dddd", "ä"], [f"folder/{'x' * n}.txt" for n in range(9)]])
def test_entries_are_stored_and_begin_at_multiples_of_four(names):
    entries = {name: name.encode() * 3 for name in names} | {"net.tflite": b"float"}
    made = with_models(zipped(entries, compression=zipfile.ZIP_DEFLATED), {"net.tflite": b"int8!"}, "it")
    assert contents_of(made) == entries | {"net.tflite": b"int8!"}
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<HH", made, info.header_offset + 26)
            begin = info.header_offset + 30 + name + extra
            assert begin % 4 == 0
            assert made[begin : begin + info.file_size] == archive.read(info)


def test_a_bundle_without_a_model_and_a_model_that_the_bundle_lacks():
    with pytest.raises(DataError, match=r"it: the bundle holds no \.tflite"):
        models_of(zipped({"a.txt": b""}), "it")
    with pytest.raises(DataError, match=r"it: the bundle holds no 'other\.tflite'"):
        with_models(GESTURES, {"other.tflite": b""}, "it")


@pytest.mark.parametrize("name", ["../up.tflite", "/etc/passwd", "a/../../b", "a\\b", "C:/b"])
def test_a_path_outside_the_zip(name):
    with pytest.raises(DataError, match="not to be trusted"):
        models_of(zipped({name: b"x", "net.tflite": b""}), "it")


def test_a_name_that_stands_twice():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("net.tflite", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("net.tflite", b"two")
    with pytest.raises(DataError, match="twice"):
        models_of(stream.getvalue(), "it")


def test_a_bomb_is_refused_by_its_sizes_before_it_is_read():
    bomb = zipped({f"{n}.tflite": bytes(1 << 20) for n in range(4)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 14
    with pytest.raises(DataError, match="more than 3000000 bytes together"):
        read_entries(bomb, "it", limit=3_000_000)


def test_an_entry_that_is_longer_than_the_zip_says():
    raw = bytearray(zipped({"net.tflite": bytes(10_000)}, compression=zipfile.ZIP_DEFLATED))
    central = raw.rfind(b"PK\x01\x02")
    for offset in (raw.find(b"PK\x03\x04") + 22, central + 24):
        raw[offset : offset + 4] = struct.pack("<I", 10)
    with pytest.raises(DataError, match=r"another size|cannot be read"):
        read_entries(bytes(raw), "it")


def test_an_entry_without_a_name_is_one_sentence():
    raw = zipped({"net.tflite": b"x"}).replace(b"net.tflite", bytes(10))  # zipfile reads a name up to its first zero
    with pytest.raises(DataError, match=r"^it: its zip names ''"):
        read_entries(raw, "it")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_ends_in_one_sentence(data):
    raw = bytearray(GESTURES)
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    said = "it"
    try:
        with_models(bytes(raw), {}, "it")
    except DataError as error:
        said = str(error)
    assert said.startswith("it")
    assert "\n" not in said
