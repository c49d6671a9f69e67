"""Folders of images: what is listed, how files are decoded, and by whom."""

import numpy as np
import pytest
from PIL import Image

from qat.errors import ConfigError, DataError
from qat.runs import datasets as load
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from qat.runs.image_files import ImageFiles, ImageForm
from qat.system.yaml_files import load_yaml

FRAMEWORKS = ("torch", "keras")


def folder_of(root, count=12, classes=2, splits=("train", "test"), suffix="png"):
    """Write images of random pixels, a folder a class."""
    rng = np.random.default_rng(0)
    for split in splits:
        for label in range(classes):
            (root / split / f"c{label}").mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(root / split / f"c{label}" / f"{i:02}.{suffix}")
    return root


def data_of(root, framework="torch", **data):
    settings = {"source": "folder", "path": str(root), "size": 6, "batch_size": 4, "flip": True} | data
    config = {"name": "r", "framework": framework, "model": {"factory": "a:b"}, "data": settings}
    return RunData(RunConfig.model_validate(config), root)


def decoded(path, **form):
    return ImageFiles([str(path)], ImageForm(**{"size": (2, 3)} | form))[np.array([0])][0]


def same(first, second):
    return all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_only_the_images_of_a_batch_are_decoded(tmp_path, monkeypatch):
    paths = []
    original = ImageFiles._decoded
    monkeypatch.setattr(ImageFiles, "_decoded", lambda files, path: [paths.append(path), original(files, path)][1])
    data = data_of(folder_of(tmp_path), workers=0)
    assert data.dataset.classes == 2 and not paths  # labels, classes and splits are of the files' names alone
    next(iter(data.training(0)))
    assert len(paths) == 4


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_workers_make_the_same_batches(framework, tmp_path):
    folder_of(tmp_path)
    alone, helped = data_of(tmp_path, framework, workers=0), data_of(tmp_path, framework, workers=2)
    first, second = alone.training(7), helped.training(7)
    assert len(first) == len(second) == 5
    epochs = [list(first), list(first)]
    assert same(epochs[0] + epochs[1], [*second, *second])
    assert not same(*epochs)
    second.set_epoch(1)
    second.start_at(3)
    assert same(epochs[1][3:], second)
    for split in ("validation", "test"):
        assert same(alone.batches(split), helped.batches(split))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_damaged_behind_its_header_is_named_at_its_batch(framework, workers, tmp_path):
    folder_of(tmp_path, suffix="bmp")
    path = tmp_path / "train" / "c1" / "03.bmp"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError) as caught:
        list(data_of(tmp_path, framework, workers=workers).training(0))
    assert str(caught.value).startswith(f"{path} is not an image, or not a whole one: image file is truncated")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_named_before_training(suffix, damage, tmp_path):
    folder_of(tmp_path, suffix=suffix)
    path = tmp_path / "test" / "c0" / f"07.{suffix}"
    raw = path.read_bytes()
    path.write_bytes({"cut": raw[: len(raw) * 3 // 4], "empty": b"", "text": b"nothing"}[damage])
    with pytest.raises(DataError, match=rf"data.path: {path} is not an image, or not a whole one"):
        data_of(tmp_path)


def test_bytes_behind_a_whole_image_do_no_harm(tmp_path):
    folder_of(tmp_path, suffix="jpg")
    path = tmp_path / "test" / "c0" / "07.jpg"
    path.write_bytes(path.read_bytes() + b"camera's notes")
    assert data_of(tmp_path).dataset.classes == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder_of(tmp_path)
    refused = str(tmp_path / "train" / "c0" / "05.png")
    original = Image.open

    def opened(path, *args):
        if str(path) == refused:
            raise PermissionError(13, "Permission denied", refused)
        return original(path, *args)

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(DataError, match=rf"{refused} cannot be read: Permission denied"):
        data_of(tmp_path)


def test_images_of_any_mode_become_rgb_or_gray(tmp_path):
    red = Image.new("RGB", (3, 2), (255, 0, 0))
    deep = Image.fromarray(np.full((2, 3), 200 * 257, np.uint16))
    clear = red.convert("P")
    clear.info["transparency"] = bytes([0] * 256)
    images = {"rgb": red, "rgba": red.convert("RGBA"), "palette": red.convert("P"), "clear": clear, "cmyk": red.convert("CMYK")}
    for name, image in images.items():
        path = tmp_path / f"{name}.{'tif' if name == 'cmyk' else 'png'}"
        image.save(path)
        assert decoded(path)[0, 0].tolist() == [255, 0, 0], name
    for name, image in {"gray": Image.new("L", (3, 2), 200), "deep": deep, "la": Image.new("LA", (3, 2), (200, 9))}.items():
        image.save(tmp_path / f"{name}.png")
        assert decoded(tmp_path / f"{name}.png")[0, 0].tolist() == [200, 200, 200], name
        assert decoded(tmp_path / f"{name}.png", color="gray").tolist() == [[[200]] * 3] * 2
    Image.fromarray(np.zeros((2, 3), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif .*its pixels are floats: save it with 8 or 16 bits"):
        decoded(tmp_path / "float.tif")


def test_images_are_turned_upright(tmp_path):
    image = Image.fromarray(np.array([[[255, 0, 0]] * 8] * 8 + [[[0, 0, 0]] * 8] * 8, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    pixels = decoded(tmp_path / "a.jpg", size=(16, 8))
    assert pixels[0, 0, 0] < 20 and pixels[-1, 0, 0] > 235


def test_resizing(tmp_path):
    half = np.zeros((4, 8, 3), np.uint8)
    half[:, 2:6] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    options = {"size": (4, 4), "interpolation": "nearest"}
    columns = {kind: decoded(tmp_path / "a.png", resize=kind, **options)[2, :, 0].tolist() for kind in ("stretch", "crop", "pad")}
    assert columns == {"stretch": [0, 255, 255, 0], "crop": [255] * 4, "pad": [0, 255, 255, 0]}
    assert decoded(tmp_path / "a.png", resize="pad", **options)[0, :, 0].tolist() == [0] * 4


def test_layouts_of_folders(tmp_path, caplog):
    own = data_of(folder_of(tmp_path / "a", splits=("train", "val"))).dataset
    assert "a has no test/: val/ is reported on, and a tenth of train/ chooses the checkpoint" in caplog.text
    assert (len(own.labels("train")), len(own.labels("validation")), len(own.labels("test"))) == (22, 2, 24)
    flat = data_of(folder_of(tmp_path / "b", splits=(".",), count=20)).dataset
    assert "8 of its 40 images, each class in its share, are the test data" in caplog.text
    assert np.bincount(flat.labels("test")).tolist() == [4, 4]
    assert not set(flat.test_x.paths) & set(flat.train_x.paths)
    assert flat.test_x.paths != data_of(tmp_path / "b", seed=1).dataset.test_x.paths
    with pytest.raises(DataError, match=r"no such folder: .*train"):
        data_of(folder_of(tmp_path / "c", splits=("test",)))
    with pytest.raises(DataError, match=r"no such folder: .*; an image folder holds"):
        data_of(tmp_path / "nowhere")


def test_other_files_and_lacking_classes(tmp_path, caplog):
    folder_of(tmp_path, classes=3)
    (tmp_path / "train" / "c0" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "train" / "notes.txt").write_text("x")
    for path in (tmp_path / "test" / "c2").iterdir():
        path.unlink()
    data = data_of(tmp_path)
    assert len(data.dataset.train_x) == 36
    assert "c0: Thumbs.db: no images by their names, and ignored" in caplog.text
    assert "class 2 ('c2') has no sample in the test data (24 samples)" in caplog.text
    (tmp_path / "test" / "d").mkdir()
    with pytest.raises(DataError, match="has the class 'd', which the training data lack"):
        data_of(tmp_path)
    (tmp_path / "test" / "d").rename(tmp_path / "train" / "d")
    with pytest.raises(DataError, match=r"d has no images: add some, or delete the folder"):
        data_of(tmp_path)


def test_one_image_a_class_is_enough(tmp_path):
    data = data_of(folder_of(tmp_path, count=1), workers=1)
    assert [x.shape for x, _ in data.training(0)] == [(1, 3, 6, 6)]


def test_a_mean_for_each_channel(tmp_path):
    folder_of(tmp_path)
    (x, _), *_ = data_of(tmp_path, workers=0).batches("test")
    (z, _), *_ = data_of(tmp_path, workers=0, mean=[0.1, 0.2, 0.3], std=[1, 2, 4]).batches("test")
    expected = (x - np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]) / np.array([1, 2, 4], np.float32)[:, None, None]
    np.testing.assert_allclose(z, expected, rtol=1e-6)
    with pytest.raises(DataError, match="mean has 2 numbers, the images have 3 channels"):
        data_of(tmp_path, mean=[0.1, 0.2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("source: npz, path: d.npz, resize: crop", "resize is for images in files: leave it out for the source npz"),
        ("source: folder, path: d, size: 0", "data.size"),
        ("source: folder, path: d, workers: -1", "data.workers"),
        ("source: folder, path: d, resize: squash", "data.resize"),
        ("source: folder, path: d, std: [1, 0, 1]", "data.std"),
        ("source: folder, path: d, std: 0", r"data\.std: Input should be greater than 0"),
    ],
)
def test_options_that_do_not_fit(line, message, tmp_path):
    (tmp_path / "run.yaml").write_text(f"name: a\nframework: torch\nmodel: {{factory: 'a:b'}}\ndata: {{{line}}}\n")
    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "run.yaml", RunConfig)


def test_the_defaults_of_workers(tmp_path):
    from qat.runs.prefetch import Prefetched

    assert isinstance(data_of(folder_of(tmp_path)).training(0), Prefetched)
    assert not isinstance(data_of(tmp_path, workers=0).training(0), Prefetched)
    assert load.digits().decoded is False
