"""Data sources, and what a file that is no data says."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from qat.errors import DataError
from qat.runs import datasets as load
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from qat.runs.dataset import Dataset
from qat.runs.splits import mixed_order


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
    assert data.train_x[np.array([1])][0, 0, 0].tolist() == [200, 0, 0]
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


def sorted_arrays(n=200, classes=5):
    """Return arrays whose images are their own number, sorted by class: the last tenth is of the last class alone."""
    x, y = np.arange(n, dtype=np.float32)[:, None, None], np.repeat(np.arange(classes), n // classes)
    return {"x_train": x, "y_train": y, "x_test": x[::10], "y_test": y[::10]}


def sorted_folder(folder, classes=3, count=20):
    for split, n in (("train", count), ("test", 2)):
        for label in range(classes):
            (folder / split / f"class{label}").mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (4, 4), (label * 50, i, 0)).save(folder / split / f"class{label}" / f"{i:02}.png")


def of_config(folder, **data):
    settings = {"name": "r", "framework": "torch", "model": {"factory": "nets:make"}, "data": data}
    return RunData(RunConfig.model_validate(settings | {"calibration": {"samples": 12}}), folder)


@pytest.mark.parametrize("source", ["npz", "folder"])
def test_data_sorted_by_class_have_every_class_everywhere(tmp_path, source, caplog):
    if source == "npz":
        np.savez(tmp_path / "d.npz", **sorted_arrays())
        data = of_config(tmp_path, source="npz", path="d.npz")
    else:
        sorted_folder(tmp_path / "d")
        data = of_config(tmp_path, source="folder", path="d", size=(4, 4))
    classes = set(range(data.dataset.classes))
    seen = {s: np.concatenate([y for _, y in data.batches(s)]) for s in ("train", "validation")}
    assert {s: set(y) for s, y in seen.items()} == {"train": classes, "validation": classes}
    assert max(np.bincount(seen["validation"])) - min(np.bincount(seen["validation"])) <= 1
    calibrating = np.concatenate(list(data.calibration()))
    classes_of_pixels = {(round(float(x) * 255 / 50) if source == "folder" else int(x) // 40) for x in calibrating[:, 0, 0, 0]}
    assert len(calibrating) == 12
    assert classes_of_pixels == classes
    assert "no sample" not in caplog.text


def test_the_split_depends_on_the_seed_and_the_data_alone(tmp_path):
    np.savez(tmp_path / "d.npz", **sorted_arrays())

    def held_out(seed):
        return np.concatenate(
            [x.ravel() for x, _ in of_config(tmp_path, source="npz", path="d.npz", seed=seed).batches("validation")]
        )

    assert held_out(0).tolist() == held_out(0).tolist() != held_out(1).tolist()


def test_validation_data_of_ones_own(tmp_path):
    a = sorted_arrays()
    np.savez(tmp_path / "d.npz", **a, x_val=a["x_test"] + 1000, y_val=a["y_test"])
    data = of_config(tmp_path, source="npz", path="d.npz")
    assert np.concatenate([x for x, _ in data.batches("validation")]).min() == 1000
    assert sum(len(y) for _, y in data.batches("train")) == 200
    np.savez(tmp_path / "d.npz", **a, x_val=a["x_test"])
    with pytest.raises(DataError, match="has no array 'y_val'"):
        of_config(tmp_path, source="npz", path="d.npz")
    sorted_folder(tmp_path / "d")
    (tmp_path / "d" / "train").rename(tmp_path / "d" / "valid")
    sorted_folder(tmp_path / "e")
    (tmp_path / "d" / "valid").rename(tmp_path / "e" / "valid")
    assert len(load.image_folder(tmp_path / "e", (4, 4)).labels("validation")) == 60
    (tmp_path / "e" / "val").mkdir()
    with pytest.raises(DataError, match=r"has both val/ and valid/: keep one"):
        load.image_folder(tmp_path / "e", (4, 4))


def test_a_missing_class_is_named(tmp_path, caplog):
    a = sorted_arrays()
    np.savez(tmp_path / "d.npz", **a, x_val=a["x_train"][:40], y_val=a["y_train"][:40])
    of_config(tmp_path, source="npz", path="d.npz")
    assert caplog.messages == ["data set 'd': classes 1, 2, 3, 4 have no sample in the validation data (40 samples)"]


def test_every_beginning_of_a_mixed_order_is_stratified():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = mixed_order(labels, 100, seed=3)
    assert sorted(order) == list(range(100))
    assert np.bincount(labels[order[:10]]).tolist() == [6, 3, 1]
    alone = np.array([0] * 99 + [1])
    assert 1 not in alone[mixed_order(alone, 100, 0)[:10]]
    for labels in (None, np.linspace(0, 1, 100), np.zeros((100, 2), int)):
        assert sorted(mixed_order(labels, 100, 0)) == list(range(100)) != list(mixed_order(labels, 100, 0))


def test_hidden_files_and_folders_are_ignored(tmp_path):
    sorted_folder(tmp_path)
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "class0" / ".DS_Store").write_bytes(b"nothing")
    data = load.image_folder(tmp_path, (4, 4))
    assert (len(data.train_x), data.class_names) == (60, ("class0", "class1", "class2"))


def test_the_last_class_of_sorted_data_is_learned(tmp_path):
    """Before the split was stratified, no image of the last class was trained on: its recall was 0.00."""
    import torch

    import qat

    digits = load.digits()
    kept = np.argsort(digits.train_y, kind="stable")
    kept = kept[(digits.train_y[kept] != 9) | (np.cumsum(digits.train_y[kept] == 9) <= 100)]
    arrays = {"x_train": digits.train_x[kept], "y_train": digits.train_y[kept], "x_test": digits.test_x, "y_test": digits.test_y}
    np.savez(tmp_path / "d.npz", **arrays)
    data = of_config(tmp_path, source="npz", path="d.npz", mean=5, std=6, batch_size=32)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    qat.finetune(model, data.training(0), epochs=8, learning_rate=0.05, progress=False)
    found = np.concatenate([model(torch.from_numpy(x)).detach().argmax(1).numpy() for x, _ in data.batches("test")])
    recall = (found == digits.test_y)[digits.test_y == 9].mean()
    assert recall > 0.8


def test_one_hot_labels_and_images_as_pytorch_saves_them(tmp_path):
    a = arrays()
    plain = {name: x[..., None].repeat(3, -1) if name[0] == "x" else x for name, x in a.items()}
    np.savez(tmp_path / "a.npz", **plain)
    other = {name: x.transpose(0, 3, 1, 2) if name[0] == "x" else np.eye(3, dtype=np.float32)[x] for name, x in plain.items()}
    np.savez(tmp_path / "b.npz", **other)
    first = of_config(tmp_path, source="npz", path="a.npz")
    second = of_config(tmp_path, source="npz", path="b.npz", layout="NCHW")
    for split in ("train", "validation", "test"):
        for (x, y), (u, v) in zip(first.batches(split), second.batches(split), strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)


def test_pixels_are_not_divided_for_a_model_that_scales_them_itself(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays())
    data = of_config(tmp_path, source="npz", path="d.npz", scale=1)
    np.testing.assert_array_equal(next(iter(data.batches("test")))[0][:, 0], arrays()["x_test"])


def test_other_labels_need_another_loss_and_no_labels_need_none(tmp_path):
    a = arrays() | {"y_train": np.linspace(0, 1, 20), "y_test": np.linspace(0, 1, 6)}
    np.savez(tmp_path / "d.npz", **a)
    config = {"name": "r", "framework": "torch", "model": {"factory": "a:b"}, "data": {"source": "npz", "path": "d.npz"}}
    with pytest.raises(DataError, match="labels must be integers, class numbers, found float64"):
        RunData(RunConfig.model_validate(config), tmp_path)
    for parts in (("y_train", "y_test"), ("y_train",), ("y_test",)):
        np.savez(tmp_path / "names.npz", **arrays() | {n: arrays()[n].astype(str) for n in parts})
        named = config | {"data": {"source": "npz", "path": "names.npz"}}
        with pytest.raises(DataError, match=r"found <U\d+: np\.unique\(names, return_inverse=True\) numbers"):
            RunData(RunConfig.model_validate(named), tmp_path)
    data = RunData(RunConfig.model_validate(config | {"training": {"loss": "mse"}}), tmp_path)
    assert sorted(np.concatenate([y for s in ("train", "validation") for _, y in data.batches(s)])) == list(a["y_train"])
    np.savez(tmp_path / "d.npz", x_train=a["x_train"], x_test=a["x_test"])
    with pytest.raises(DataError, match=r"has no array 'y_train'.*; without labels write"):
        RunData(RunConfig.model_validate(config), tmp_path)
    data = RunData(RunConfig.model_validate(config | {"training": {"labels": "none", "teacher": "float"}}), tmp_path)
    assert [len(batch) for batch in data.training(0)] == [1]


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
        (
            lambda p: np.savez(p, **{**arrays(), "y_test": np.full(6, 7)}),
            "test label 7 is out of range.*sorted by class, shuffle",
        ),
        (
            lambda p: np.savez(p, **{**arrays(), "y_train": arrays()["y_train"] + 1, "y_test": arrays()["y_test"] + 1}),
            "labels start at 1, and classes count from 0: subtract 1",
        ),
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


def test_a_dataset_that_a_factory_returns_is_checked():
    data = Dataset("d", np.zeros((1, 2, 2)), np.zeros(1, np.int64), np.zeros((1, 2, 2)), np.zeros(1, np.int64))
    with pytest.raises(DataError, match=r"found 3 dimensions; .* data\.factory"):
        load.factory(lambda: data)
    with pytest.raises(DataError, match=r"the data factory with kwargs \{\} raises ZeroDivisionError"):
        load.factory(lambda: 1 / 0)
