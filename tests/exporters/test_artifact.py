"""Writing an artifact, opening it in ONNX Runtime, and proving it equal to what was trained."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from qat.errors import DataError, ExportError, QatError, RuntimeMismatchError
from qat.exporters import export_lowered, export_program, verify
from qat.exporters import onnx as onnx_exporter
from qat.program.program import Instruction, Program, Value
from qat.runtimes import open_session
from qat.system.atomic_files import write_atomically
from support.programs import Sketch


@pytest.fixture
def sketch() -> Sketch:
    sketch = Sketch(1, (6, 3, 8, 8))
    stem = sketch.conv(sketch.x, 8, padding=((1, 1), (1, 1)), activation="relu")
    added = sketch.binary("add", stem, sketch.conv(stem, 8, padding=((1, 1), (1, 1)), groups=8))
    sketch.real(sketch.dense(sketch.mean(added, keepdims=False), 10), "y")
    return sketch


@pytest.fixture
def program(sketch: Sketch) -> Program:
    return sketch.program("y")


def exported(program: Program, sketch: Sketch, path: Path, **changes):
    """Export with the reference in the place of the prepared model."""
    options = {
        "framework": "torch",
        "io_dtype": "int8",
        "overwrite": False,
        "predict": lambda x: (sketch.floats["y"],),
        "locate": lambda x: sketch.grid,
        "data": [sketch.feeds["x"]],
    }
    return export_lowered(program, path, **{**options, **changes})


# --- files ---


def test_file_is_written_into_new_folders(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "text")
    assert path.read_text() == "text"
    assert os.listdir(path.parent) == ["b.txt"]


def test_existing_file_is_kept_unless_overwritten(tmp_path):
    path = write_atomically(tmp_path / "m.onnx", b"old")
    with pytest.raises(ExportError, match="overwrite=True"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert write_atomically(path, b"new", overwrite=True).read_bytes() == b"new"


def test_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "m.onnx", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"cannot write .*m\.onnx .*No space left"):
        write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_disk_that_fills_up_takes_an_artifact_with_its_encodings_or_nothing(program, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"cannot write .*m\.onnx .*No space left"):
        export_program(program, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        write_atomically(tmp_path / "file" / "m.onnx", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write_atomically(tmp_path / "m.onnx", b"")


# --- export ---


def test_artifact_is_described_and_equal(program, sketch, tmp_path):
    artifact = exported(program, sketch, tmp_path / "m.onnx")
    assert artifact.bytes == artifact.path.stat().st_size
    assert (artifact.framework, artifact.kind, artifact.recipe) == ("torch", "qat", "static_wi8_ai8")
    parity = artifact.parity
    assert (parity.exact, parity.top1_agreement, parity.max_lsb, parity.samples) == (1.0, 1.0, 0.0, 6)
    assert parity.first_difference is None


def test_encodings_beside_the_artifact_read_back_to_the_same_bits(program, sketch, tmp_path):
    export_program(program, tmp_path / "m.onnx")
    document = json.loads((tmp_path / "m.onnx.encodings.json").read_text())
    assert set(document["encodings"]) == {
        *sketch.grid,
        *(f"{s.name}.weight" for s in program.instructions if s.bias is not None),
    }
    for name in sketch.grid:
        assert np.float32(document["encodings"][name]["scale"]).tobytes() == sketch.of(name).scale.tobytes()


def test_existing_artifact_is_kept(program, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(ExportError, match="exists already"):
        export_program(program, path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert export_program(program, path, overwrite=True) == path.stat().st_size


def test_unknown_suffix_and_io_dtype_are_named(program, tmp_path):
    with pytest.raises(ExportError, match=r"\.onnx or \.tflite"):
        export_program(program, tmp_path / "m.pb")
    with pytest.raises(ExportError, match="did you mean 'int8'"):
        export_program(program, tmp_path / "m.onnx", io_dtype="int88")


def test_scale_that_differs_in_the_last_bit_is_an_error(program, tmp_path, monkeypatch):
    name = _output(program, "add")

    def changed(raw: bytes):
        found = real(raw)
        found[name] = dataclasses.replace(found[name], scale=np.nextafter(found[name].scale, np.float32(1)))
        return found

    real = onnx_exporter.read_encodings
    assert name in real(onnx_exporter.write(program, "float32"))
    monkeypatch.setattr(onnx_exporter, "read_encodings", changed)
    with pytest.raises(RuntimeMismatchError, match=f"'{name}'"):
        export_program(program, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def _output(program, kind):
    return next(s.outputs[0] for s in program.instructions if s.kind == kind)


# --- verify ---


def test_first_operator_that_differs_is_named(program, sketch, tmp_path):
    name = _output(program, "add")
    wrong = dict(sketch.grid)
    wrong[name] = sketch.grid[name].copy()
    wrong[name].flat[:8] += 2
    lsb = float(sketch.of(_output(program, "dense")).scale)
    off = sketch.floats["y"].copy()
    off[0, 0] += 3 * lsb
    artifact = exported(program, sketch, tmp_path / "m.onnx", predict=lambda x: (off,), locate=lambda x: wrong)
    parity = artifact.parity
    assert parity.exact == pytest.approx(1 - 1 / off.size)
    assert parity.max_lsb == pytest.approx(3, rel=1e-3)
    assert parity.first_difference.startswith(f"add '{name}_op': ")
    assert "by 2 at most" in parity.first_difference


def test_nan_is_an_error(program, sketch, tmp_path):
    nan = np.full_like(sketch.floats["y"], np.nan)
    with pytest.raises(RuntimeMismatchError, match=r"the model gives NaN in output 'y'"):
        exported(program, sketch, tmp_path / "m.onnx", predict=lambda x: (nan,))


def test_small_batches_are_verified_together(program, sketch, tmp_path, monkeypatch):
    x, seen = sketch.feeds["x"], []

    def predict(batch):
        seen.append(len(batch))
        return (sketch.floats["y"][: len(batch)],)

    options = {"predict": predict, "overwrite": True}
    parity = exported(program, sketch, tmp_path / "m.onnx", data=[x[i : i + 1] for i in range(6)], **options).parity
    assert (seen, parity.samples, parity.exact) == ([6], 6, 1.0)
    monkeypatch.setattr(verify, "_MOST_SAMPLES", 4)
    seen.clear()
    parity = exported(program, sketch, tmp_path / "m.onnx", data=[x[:3], x[3:4], x[:1], x], **options).parity
    assert (seen, parity.samples, parity.exact) == ([4, 1, 6], 11, 1.0)


def test_batches_that_depend_on_their_samples_stay_apart(program, sketch):
    x = sketch.feeds["x"]
    dense = next(i for i in program.instructions if i.kind == "dense")
    others = tuple(i for i in program.instructions if i is not dense)
    dynamic = dataclasses.replace(program, instructions=(*others, dataclasses.replace(dense, mode="dynamic")))
    for given, of in (([x[:1], x[:2]], dynamic), ([x[:1], x[:1, :, :4]], program), ([x[:1], x[:0]], program)):
        assert [len(arrays[0]) for arrays in verify._joined([(a,) for a in given], of)] == [len(a) for a in given]


def test_verification_without_data_is_an_error(program, sketch, tmp_path):
    with pytest.raises(DataError, match="no samples"):
        exported(program, sketch, tmp_path / "m.onnx", data=[])


def test_model_of_another_shape_is_an_error(program, sketch, tmp_path):
    with pytest.raises(RuntimeMismatchError, match="output 'y'"):
        exported(program, sketch, tmp_path / "m.onnx", predict=lambda x: (sketch.floats["y"][:, :4],))


def test_output_without_classes_has_no_top1(tmp_path):
    sketch = Sketch(2, (4, 3, 8, 8))
    sketch.real(sketch.conv(sketch.x, 2), "y")
    parity = exported(sketch.program("y"), sketch, tmp_path / "m.onnx").parity
    assert parity.top1_agreement is None
    assert parity.exact == 1.0


# --- the session ---


@pytest.fixture
def path(program, tmp_path) -> Path:
    export_program(program, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_session_describes_the_artifact(path):
    session = open_session(path)
    assert [(i.name, i.shape, i.dtype) for i in session.inputs] == [("x", (None, 3, 8, 8), "float32")]
    assert [(o.name, o.shape, o.dtype) for o in session.outputs] == [("y", (None, 10), "float32")]
    assert session.ops()["QLinearConv"] == 2


def test_threads_that_wait_leave_their_cores(path):
    options = open_session(path, threads=2)._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"not a model"]
)
def test_corrupt_file_is_one_sentence(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(QatError, match=r"cannot load .*m\.onnx"):
        open_session(path)


def test_missing_file_and_unknown_suffix_are_named(tmp_path):
    with pytest.raises(QatError, match="no such artifact"):
        open_session(tmp_path / "m.onnx")
    with pytest.raises(QatError, match=r"\.onnx or \.tflite, not"):
        open_session(tmp_path / "m.pb")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros((2, 3, 8, 9), np.float32),), r"'x' of the artifact is batchx3x8x8, the data is 2x3x8x9"),
        ((np.zeros((2, 3, 8), np.float32),), "the data is 2x3x8"),
        ((), "takes 1 inputs, not 0"),
    ],
)
def test_wrong_input_is_an_error(path, arrays, message):
    with pytest.raises(DataError, match=message):
        open_session(path).run(*arrays)


def test_model_of_a_fixed_batch_runs_any(path, sketch):
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    np.testing.assert_array_equal(open_session(path).run(sketch.feeds["x"])[0], sketch.floats["y"])


@pytest.mark.parametrize(("suffix", "layout", "target"), [(".onnx", "NCHW", "onnxruntime"), (".tflite", "NHWC", "litert")])
def test_operator_that_the_format_lacks_is_named(suffix, layout, target, tmp_path):
    values = {name: Value(name, (None, 4)) for name in ("x", "y")}
    odd = Instruction("norm", "batch_norm", ("x",), ("y",), scope="features.1")
    program = Program("p", layout, "mlas", target, "r", ("x",), ("y",), values, (odd,))
    with pytest.raises(ExportError, match=r"features\.1: there is no \w+ operator for 'batch_norm'"):
        export_program(program, tmp_path / f"m{suffix}")
    assert os.listdir(tmp_path) == []
