"""Data of a configuration's own factory: data sets, loaders and streams, whole or in parts."""

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import qat.runs.data
from qat.errors import ConfigError, DataError
from qat.runs import run, stages
from qat.runs.config import RunConfig
from qat.runs.data import RunData
from qat.runs.job import Job
from qat.runs.prefetch import Prefetched

N = 200
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
Y = np.repeat(np.arange(4), N // 4)  # sorted by class
T = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


class Stream(IterableDataset):
    def __init__(self, fail=None):
        self.fail = fail

    def __iter__(self):
        for i in range(N):
            if i == self.fail:
                raise ValueError(f"no sample {i}")
            yield X[i], int(Y[i])


class Noisy(Dataset):
    """Samples with a transform that draws from each global random generator."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        import random

        return X[index] + np.float32(random.random() + np.random.rand()) + torch.rand(4).numpy(), int(Y[index])


@pytest.fixture
def data_of(monkeypatch, tmp_path):
    def make(returned, framework="torch", training=None, samples=40, weights="w", **data):
        monkeypatch.setattr(qat.runs.data, "import_object", lambda name, key: lambda: returned)
        config = {
            "name": "r", "framework": framework, "model": {"factory": "a:b", "weights": weights}, "training": training or {},
            "data": {"source": "factory", "factory": "own:data", "batch_size": 20} | data, "calibration": {"samples": samples},
        }  # fmt: skip
        return RunData(RunConfig.model_validate(config), tmp_path)

    return make


def labels_of(batches):
    return np.concatenate([np.asarray(y) for _, y in batches])


@pytest.mark.parametrize(
    "returned",
    [
        lambda: T,
        lambda: (X, Y),
        lambda: ((X, Y), (X[::4], Y[::4])),
        lambda: {"train": T, "test": (X[::4], Y[::4])},
        lambda: (T, Subset(T, range(0, N, 4)), (X[::4], Y[::4])),
    ],
    ids=["one", "arrays", "keras pairs", "dictionary", "three"],
)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_samples_by_number_are_split_by_class(returned, framework, data_of, caplog):
    data = data_of(returned(), framework, workers=0)
    assert data.dataset.classes == 4
    parts = {split: labels_of(data.batches(split)) for split in ("train", "validation", "test")}
    for found in parts.values():
        counts = np.bincount(found)
        assert len(counts) == 4 and max(counts) - min(counts) <= 2
    assert sorted(labels_of(data.training(0))[:20]) != [0] * 20
    pairs, source = data.calibration_pairs()
    assert (np.bincount(labels_of(pairs)).tolist(), source) == ([10, 10, 10, 10], "")
    assert data.example().shape == (2, 4)
    assert "no sample" not in caplog.text


def test_the_order_belongs_to_the_seed_and_the_epoch_with_workers_too(data_of):
    kinds = {workers: data_of(Noisy(), workers=workers).training(3) for workers in (1, 2)}
    found = {workers: [[np.asarray(x) for x, _ in batches] for _ in range(2)] for workers, batches in kinds.items()}
    assert isinstance(kinds[1], Prefetched)
    np.testing.assert_array_equal(found[1], found[2])  # a transform's draws are the batch's, not the worker's
    assert not np.array_equal(found[1][0], found[1][1])
    kinds[2].set_epoch(1)
    kinds[2].start_at(1)
    np.testing.assert_array_equal([np.asarray(x) for x, _ in kinds[2]], found[1][1][1:])


def test_a_streams_calibration_samples_are_drawn_from_its_beginning(data_of, caplog):
    data = data_of({"train": Stream(), "val": T, "test": T}, training={"max_steps": 5})
    pairs, source = data.calibration_pairs()
    assert source == "drawn from the first 192 of the training data"
    assert len(labels_of(pairs)) == 40 and set(labels_of(pairs)) == {0, 1, 2, 3}
    assert labels_of(data.calibration_pairs()[0]).tolist() == labels_of(pairs).tolist()
    assert not caplog.messages


def test_a_loaders_calibration_samples_are_a_sample_of_all(data_of):
    data = data_of({"train": DataLoader(T, 8), "val": DataLoader(T, 8), "test": DataLoader(T, 8)})
    pairs, source = data.calibration_pairs()
    assert (np.bincount(labels_of(pairs)).tolist(), source) == ([10, 10, 10, 10], "")
    assert [len(y) for _, y in data.training(0)] == [8] * 25


def test_a_missing_class_is_named_from_what_was_read(data_of, caplog):
    few = [(X[:20], Y[:20]), (X[50:70], Y[50:70])]
    data = data_of({"train": Stream(), "val": few, "test": DataLoader(T, 8)}, training={"max_steps": 5})
    data.calibration_pairs()
    assert not caplog.messages
    list(data.batches("validation"))
    list(data.batches("validation"))
    assert caplog.messages == ["data set 'own:data': classes 2, 3 have no sample in the validation data (40 samples)"]


def test_parts_that_are_not_given(data_of, caplog):
    alone = data_of(T, workers=0)
    assert "a fifth of them, each class in its share, are the test data" in caplog.text
    assert [len(labels_of(alone.batches(split))) for split in ("train", "validation", "test")] == [144, 16, 40]
    data = data_of({"train": T, "validation": T}, workers=0)
    assert "there are no test data: the validation data are reported on" in caplog.text
    assert [len(labels_of(data.batches(split))) for split in ("train", "validation", "test")] == [180, 20, 200]
    data_of((Stream(), T), training={"steps": 5})
    assert "the data that are reported on also choose the checkpoint" in caplog.text


class Pictures:
    """Stands for a data set of Hugging Face whose rows hold pictures."""

    column_names = ("image", "label")

    def with_format(self, kind):
        return self

    def select_columns(self, names):
        return {"label": self}[names[0]]

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if isinstance(index, slice):
            return {"label": [i // 20 for i in range(40)]}
        return {"image": Image.new("L", (9, 7), 100 + index), "label": index // 20}


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_pictures_become_arrays_as_those_of_a_folder(framework, data_of):
    data = data_of({"train": Pictures(), "test": Pictures()}, framework, size=6, mean=0.5, std=0.25, batch_size=40)
    assert np.bincount(labels_of(data.batches("validation"))).tolist() == [2, 2]
    ((x, _),) = data.batches("test")
    assert x.shape == ((40, 3, 6, 6) if framework == "torch" else (40, 6, 6, 3))
    np.testing.assert_allclose(x[:, 0, 0, 0], ((100 + np.arange(40)) / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("returned", "message", "options"),
    [
        (lambda: 7, r"data\.factory: the factory returned a int as train data: return a Dataset of PyTorch", {}),
        (lambda: {"a": T}, "the factory's dictionary has the key 'a': the keys are train, validation and test", {}),
        (lambda: {"test": T}, "returned no training data", {}),
        (lambda: (T,) * 4, "returned a tuple of 4", {}),
        (lambda: (i for i in ()), "which can be read once only", {}),
        (lambda: [(X, Y)], "training data alone, of which none can be held out by number", {}),
        (lambda: ((X, Y[:9]), (X, Y)), "200 inputs but 9 labels", {}),
        (lambda: T, r"passed on as they are, without data\.mean: leave it out", {"mean": 0.5}),
        (lambda: (DataLoader(T), T), r"passed on as they are, without data\.workers: leave it out", {"workers": 2}),
    ],
)
def test_what_is_no_data(returned, message, options, data_of):
    with pytest.raises(DataError, match=message):
        data_of(returned(), **options)


def test_a_stream_needs_a_number_of_steps_before_anything_is_trained(data_of):
    with pytest.raises(ConfigError, match=r"^training\.max_steps: the training data are a stream of no known length"):
        data_of((Stream(), T))
    with pytest.raises(ConfigError, match=r"^float_training\.max_steps"):
        data_of((Stream(), T), training={"max_steps": 3}, weights=None)


def test_errors_of_the_users_own_data_name_the_batch(data_of):
    data = data_of((Stream(fail=150), T), training={"max_steps": 20})
    with pytest.raises(DataError, match=r"data\.factory: the training data: batch 7 cannot be read: ValueError: no sample 150"):
        list(data.training(0))


CONFIG = {
    "name": "r", "model": {"factory": "qat_own_nets:make"}, "float_training": {"epochs": 1, "max_steps": 5}, "latency_runs": 0,
    "ptq": False, "control": False, "training": {"epochs": 2, "max_steps": 6}, "calibration": {"samples": 40},
}  # fmt: skip
NETS = {
    "torch": "import torch\ndef make(): return torch.nn.Linear(4, 4)\n",
    "keras": "import keras\ndef make(): return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.ci)])
def test_a_run_on_a_stream(framework, tmp_path, monkeypatch):
    def data():
        if framework == "torch":
            return {"train": Stream(), "val": DataLoader(T, 50), "test": T}
        import tensorflow as tf

        stream = tf.data.Dataset.from_generator(lambda: zip(X, Y, strict=True), ("float32", "int64"), ((4,), ())).batch(20)
        return {"train": stream, "val": tf.data.Dataset.from_tensor_slices((X, Y)).batch(50), "test": (X, Y)}

    (tmp_path / "qat_own_nets.py").write_text(NETS[framework])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "qat_own_nets", raising=False)
    monkeypatch.setattr(qat.runs.data, "import_object", lambda name, key: data)
    settings = {"framework": framework, "data": {"source": "factory", "factory": "own:data", "batch_size": 20}}
    job = Job.of(RunConfig.model_validate(CONFIG | settings), tmp_path, tmp_path / "out", Console(quiet=True))
    report = run.execute(job)
    assert [entry.name for entry in report.entries] == [f"{framework}_qat"]
    assert report.entries[0].top1 is not None
    opened = RunData(job.config, tmp_path)
    prepared = stages.prepare(job, opened, run.float_model.FloatModel(job, opened, run.float_model.untrained(job)))
    assert all(grid.calibrated for grid in prepared.grids.values())
