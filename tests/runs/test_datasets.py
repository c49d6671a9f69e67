"""Data sources, and what a file that is no data says."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from qat.errors import DataError
from qat.runs import datasets as load
from qat.runs.dataset import Dataset, checked


def arrays(n=20, classes=3):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (n, 6, 6), np.uint8), np.arange(n) % classes
    return {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6]}


def write_idx(folder, x, y, suffix=".gz"):
    pack = gzip.compress if suffix else bytes
    for prefix in ("train", "t10k"):
        images = struct.pack(">4i", 0x803, len(x), *x.shape[1:]) + x.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(images))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(struct.pack(">2i", 0x801, len(y)) + y.tobytes()))


def test_digits_are_real_and_split():
    data = load.digits()
    assert (len(data.train_x), len(data.test_x), data.classes) == (1297, 500, 10)


def test_npz_round_trip(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays())
    data = load.npz(tmp_path / "d.npz", mean=0.5, std=0.5)
    x, y = next(iter(data.batches("test", 4, "NCHW")))
    assert x.shape == (4, 1, 6, 6)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[0, 0], (arrays()["x_train"][0] / 255 - 0.5) / 0.5, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, [0, 1, 2, 0])


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_round_trip(tmp_path, suffix):
    a = arrays()
    write_idx(tmp_path, a["x_train"], a["y_train"].astype(np.uint8), suffix)
    data = load.idx(tmp_path, "mine")
    np.testing.assert_array_equal(data.train_x[..., 0], a["x_train"])
    np.testing.assert_array_equal(data.test_y, a["y_train"])


def test_image_folder(tmp_path):
    for split in ("train", "test"):
        for index, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (5, 7), (index * 200, 0, 0)).save(tmp_path / split / name / "a.png")
    data = load.image_folder(tmp_path, (4, 3))
    assert data.train_x.shape == (2, 4, 3, 3)
    assert data.train_x[1, 0, 0].tolist() == [200, 0, 0]
    (tmp_path / "test" / "dog" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        load.image_folder(tmp_path, (4, 3))


def test_validation_is_neither_trained_on_nor_tested():
    x = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1)
    data = Dataset("d", x, np.zeros(50, np.int64), x + 100, np.zeros(50, np.int64))
    seen = {s: {float(v) for b, _ in data.batches(s, 8) for v in b.ravel()} for s in ("train", "validation", "test")}
    assert (len(seen["train"]), len(seen["validation"]), len(seen["test"])) == (45, 5, 50)
    assert not (seen["train"] & seen["validation"] or seen["validation"] & seen["test"])


def test_shuffling_is_seeded_and_new_each_epoch():
    x = np.arange(64, dtype=np.float32).reshape(64, 1, 1, 1)
    data = Dataset("d", x, np.zeros(64, np.int64), x, np.zeros(64, np.int64))

    def epochs(seed):
        batches = data.batches("train", 8, shuffle=seed)
        return [np.concatenate([b.ravel() for b, _ in batches]).tolist() for _ in range(2)]

    assert epochs(1) == epochs(1) != epochs(2)
    assert epochs(1)[0] != epochs(1)[1]


def corrupt_npz(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file"),
        (corrupt_npz, r"d\.npz is not a whole \.npz file"),
        (lambda p: p.write_bytes(b"PK"), "is not a whole"),
        (lambda p: np.savez(p, x_train=np.zeros((2, 2))), r"d\.npz has no array 'y_train'"),
        (lambda p: np.savez(p, **{**arrays(), "y_train": np.arange(20) - 1}), "label -1 of image 0 is out of range"),
        (lambda p: np.savez(p, **{**arrays(), "y_test": np.full(6, 7)}), "test label 7 is out of range"),
        (lambda p: np.savez(p, **{**arrays(), "y_train": np.arange(20.0)}), "labels must be integers"),
        (lambda p: np.savez(p, **{**arrays(), "y_train": np.arange(3)}), "20 images but 3 labels"),
        (lambda p: np.savez(p, **{**arrays(), "x_test": np.zeros((0, 6, 6)), "y_test": np.zeros(0, int)}), "there are no images"),
        (lambda p: np.savez(p, **{**arrays(), "x_train": np.full((20, 6, 6), np.nan)}), "image 0 holds NaN"),
        (lambda p: np.savez(p, **{**arrays(), "x_test": np.zeros((6, 5, 5))}), r"training images are .* test images"),
    ],
)
def test_npz_that_is_no_data(tmp_path, make, message):
    make(tmp_path / "d.npz")
    with pytest.raises(DataError, match=message):
        load.npz(tmp_path / "d.npz")


def test_idx_that_is_no_data(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load.idx(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no train-images-idx3-ubyte"):
        load.idx(tmp_path)
    a = arrays()
    write_idx(tmp_path, a["x_train"], a["y_train"].astype(np.uint8))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is not a whole gzip file"):
        load.idx(tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    with pytest.raises(DataError, match="is truncated"):
        load.idx(tmp_path)


def test_factory_must_return_a_dataset():
    with pytest.raises(DataError, match="returned a list"):
        load.factory(list)
    data = Dataset("d", np.zeros((1, 2, 2)), np.zeros(1, np.int64), np.zeros((1, 2, 2)), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="found 3 dimensions"):
        checked(data)
