"""Arrays in .npz and .npy files: large ones are mapped, not read."""

import numpy as np
import pytest

from qat.errors import DataError
from qat.runs import array_files
from qat.runs import datasets as load
from qat.runs.array_files import ArrayFiles


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch, tmp_path):
    monkeypatch.setattr(array_files, "MAPPED", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 6, 5, 3), np.uint8), np.arange(40) % 3
    return {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6]}


def test_an_npz_that_is_not_compressed_is_mapped_where_it_lies(tmp_path):
    turned = np.asfortranarray(arrays()["x_train"])
    np.savez(tmp_path / "d.npz", **arrays(), turned=turned, floats=turned.astype(np.float32))
    files = ArrayFiles(tmp_path / "d.npz")
    for name in ("x_train", "turned", "floats"):
        assert isinstance(files[name], np.memmap)
        np.testing.assert_array_equal(files[name], arrays()["x_train"])
    assert not isinstance(files["x_test"], np.memmap)  # small
    data = load.npz(tmp_path / "d.npz")
    assert isinstance(data.train_x, np.memmap) and not data.decoded
    for (x, y), (u, v) in zip(data.batches("train", 8, shuffle=1), data.batches("train", 8, shuffle=1), strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_a_compressed_npz_is_unpacked_once(tmp_path, caplog, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", **arrays())
    for _ in range(2):
        found = ArrayFiles(tmp_path / "d.npz")["x_train"]
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, arrays()["x_train"])
    assert len(caplog.messages) == 1
    assert "'x_train' is compressed, and is unpacked once into" in caplog.text
    np.savez_compressed(tmp_path / "d.npz", **arrays() | {"x_train": arrays()["x_train"] + 1})
    np.testing.assert_array_equal(ArrayFiles(tmp_path / "d.npz")["x_train"], arrays()["x_train"] + 1)
    (tmp_path / "no_folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_folder"))
    with pytest.raises(DataError, match=r"'x_train' cannot be unpacked into .*XDG_CACHE_HOME names another folder"):
        ArrayFiles(tmp_path / "d.npz")["x_train"]


def test_npy_files_in_a_folder(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    for name, array in arrays().items():
        np.save(folder / f"{name}.npy", array)
    data = load.npz(folder)
    assert isinstance(data.train_x, np.memmap)
    np.testing.assert_array_equal(data.train_x, arrays()["x_train"])
    (folder / "x_train.npy").write_bytes((folder / "x_train.npy").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"x_train\.npy is not a whole \.npy file"):
        load.npz(folder)
    (folder / "x_train.npy").unlink()
    with pytest.raises(DataError, match="has no array 'x_train'"):
        load.npz(folder)
    with pytest.raises(DataError, match=r"is a folder without \.npy files, not an \.npz file"):
        load.npz(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_found_before_training(save, tmp_path):
    save(tmp_path / "d.npz", **arrays())
    raw = bytearray((tmp_path / "d.npz").read_bytes())
    raw[2000] ^= 1
    (tmp_path / "d.npz").write_bytes(raw)
    with pytest.raises(DataError, match=r"d\.npz is not a whole \.npz file"):
        load.npz(tmp_path / "d.npz")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays() | {"x_train": np.array([object()] * 300 + ["x" * 2000], object)})
    with pytest.raises(DataError, match=r"d\.npz, array 'x_train': holds Python objects.*: save numbers"):
        load.npz(tmp_path / "d.npz")
    folder = tmp_path / "d"
    folder.mkdir()
    for name, array in (arrays() | {"y_train": np.array(["a"], object)}).items():
        np.save(folder / f"{name}.npy", array)
    with pytest.raises(DataError, match=r"y_train\.npy: holds Python objects"):
        load.npz(folder)


def test_a_mapped_array_with_nan_is_named(tmp_path):
    x = arrays()["x_train"].astype(np.float32)
    x[33, 2] = np.nan
    np.savez(tmp_path / "d.npz", **arrays() | {"x_train": x, "x_test": x[:6]})
    with pytest.raises(DataError, match="image 33 holds NaN"):
        load.npz(tmp_path / "d.npz")
