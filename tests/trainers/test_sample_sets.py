"""Data sets of PyTorch, Hugging Face and WebDataset, and tf.data, in every call that takes data."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import qat
from qat.errors import DataError
from qat.runs.data_parts import class_numbers_of
from qat.runs.own_data import parts_of
from qat.system.sample_sets import SampleBatches, as_pair, kind_of, stacked
from support.nets import same

FRAMEWORKS = ("torch", "keras")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 4)).astype(np.float32)
Y = X[:, :3].argmax(1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, map(int, Y), strict=True))


class Rows:
    """Stands for a data set of Hugging Face: a dictionary for each number."""

    column_names = ("values", "label")
    shape = (160, 2)

    def with_format(self, kind):
        return self

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"values": X[index].tolist(), "label": int(Y[index])}


class RowStream:
    column_names = ("values", "label")

    def with_format(self, kind):
        return self

    def __iter__(self):
        return (Rows()[i] for i in range(len(X)))


def tf_data():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)


SETS = {
    "batches": lambda: [(X[i : i + 32], Y[i : i + 32]) for i in range(0, 160, 32)],
    "loader": lambda: DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 32),
    "columns": lambda: DataLoader(
        [{"pixel_values": torch.from_numpy(x), "labels": int(y)} for x, y in zip(X, Y, strict=True)], 32
    ),
    "map": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "stream": Stream,
    "rows": Rows,
    "row stream": RowStream,
    "tf.data": tf_data,
}


def net(framework):
    if framework == "torch":
        torch.manual_seed(0)
        return torch.nn.Linear(4, 3)
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", SETS)
def test_every_call_takes_them(framework, kind):
    data = SETS[kind]()
    model = qat.calibrate(qat.prepare(net(framework), X[:2]), data)
    np.testing.assert_allclose(model.grids[model.plan.graph.inputs[0]].range, [X.min(), X.max()], rtol=0.02)
    history = qat.finetune(model, data, data, max_steps=5, learning_rate=0.1, progress=False)
    assert history.steps == 5
    assert 50 < qat.evaluate(model, data)["top1"] == history.epochs[0].metrics["top1"]
    if kind in ("rows", "tf.data"):
        report = qat.compare([model], data, latency_runs=0)
        assert report.entries[0].top1 == pytest.approx(history.epochs[0].metrics["top1"], abs=1)


def test_single_samples_train_as_a_shuffled_loader_would():
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    batches = SampleBatches(data, 32, shuffle=0)
    first = [y for _, y in batches]
    assert len(first) == 5 and sorted(np.concatenate(first)) == sorted(Y)
    assert not np.array_equal(np.concatenate(first), np.concatenate([y for _, y in batches]))
    models = []
    for shape in (data, SampleBatches(data, 32, shuffle=3)):
        model = qat.calibrate(qat.prepare(net("torch"), X[:2]), [X])
        qat.finetune(model, shape, seed=3, epochs=2, progress=False)
        models.append(model)
    assert same(*models)


def test_a_stream_of_unknown_length_needs_max_steps_and_is_repeated():
    model = qat.calibrate(qat.prepare(net("torch"), X[:2]), Stream())
    with pytest.raises(DataError, match="the training data has no length, and the schedule needs the number of steps: give max_"):
        qat.finetune(model, Stream(), progress=False)
    history = qat.finetune(model, Stream(), epochs=2, max_steps=14, progress=False)
    assert (history.steps, len(history.epochs)) == (14, 2)
    with pytest.raises(DataError, match="the training data yields no batches"):
        qat.finetune(model, iter([]), max_steps=3, progress=False)


def test_a_stream_is_resumed(tmp_path):
    def run(folder, steps, **options):
        model = qat.calibrate(qat.prepare(net("torch"), X[:2]), [X])

        def stop(epoch):
            if epoch.number == steps:
                raise KeyboardInterrupt

        options |= {"on_epoch": stop, "progress": False, "learning_rate": 0.1, "checkpoint_every": 2}
        qat.finetune(model, Stream(), epochs=3, max_steps=12, checkpoint_dir=folder, **options)
        return model

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 2)
    assert same(run(tmp_path / "cut", None, resume=True), run(tmp_path / "whole", None))


def test_what_makes_no_batch_is_named():
    class Broken(Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            raise KeyError("mask")

    class Ragged(Broken):
        def __getitem__(self, index):
            return np.zeros(index + 1, np.float32), 0

    class Words(Broken):
        def __getitem__(self, index):
            return object(), 0

    model = qat.prepare(net("torch"), X[:2])
    for data, message in (
        (Broken(), "calibration: sample 0 cannot be read: KeyError: 'mask'"),
        (Ragged(), "calibration: samples of different shapes make no batch .* a DataLoader with a collate_fn"),
        (Words(), "calibration: a sample holds a object: give the data set a transform"),
    ):
        with pytest.raises(DataError, match=message):
            qat.calibrate(model, data)


def test_rows_and_columns():
    assert as_pair({"image": 1, "label": 2, "__key__": "a"}) == (1, 2)
    assert as_pair({"a": 1, "b": 2, "labels": 3}) == ({"a": 1, "b": 2}, 3)
    assert as_pair({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    batch = stacked([({"a": [1.0, 2.0]}, (0.5, 3)), ({"a": [3.0, 4.0]}, (1.5, 4))], "d")
    assert batch[0]["a"].tolist() == [[1, 2], [3, 4]] and batch[1][0].dtype == np.float32 and batch[1][1].tolist() == [3, 4]


def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    table = pytest.importorskip("pyarrow").table({"values": X.tolist(), "label": Y.tolist()})
    data = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="rows")  # which is not made of a pickle then
    assert kind_of(data) == kind_of(data.with_format("torch")) == "samples"
    assert kind_of(data.to_iterable_dataset()) == "stream"
    (x, y), *_ = SampleBatches(data.with_format("torch"), 160)
    np.testing.assert_allclose(x, X, rtol=1e-6)
    assert y.tolist() == Y.tolist()
    assert class_numbers_of(data).tolist() == class_numbers_of(data.with_format("torch")).tolist() == Y.tolist()
    parts = parts_of(datasets.DatasetDict({"train": data, "test": data}), 0)
    assert np.bincount(parts["validation"].labels[parts["validation"].chosen]).max() <= 16


def test_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "d-0.tar")) as shard:
        for i in range(40):
            shard.write({"__key__": f"{i:03}", "x.npy": X[i], "cls": int(Y[i])})
    data = wds.WebDataset(str(tmp_path / "d-0.tar"), shardshuffle=False).decode().to_tuple("x.npy", "cls")
    assert (kind_of(data), kind_of(data.batched(8))) == ("stream", "batches")
    assert qat.evaluate(net("torch"), data)["top1"] >= 0
