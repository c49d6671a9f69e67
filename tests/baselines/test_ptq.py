"""PTQ baselines by the tools themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch._decomp import decomposition_table

import qat
from qat.baselines import float_baseline
from qat.baselines.onnxruntime import float_bytes
from qat.errors import DataError, ExportError
from qat.exporters import inspection
from qat.runtimes import open_session

SAMPLES = [np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)]


def keras_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def torch_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).eval()


def test_keras_baselines_run_and_resemble_the_float_model(tmp_path):
    found = {b.name: b for b in qat.ptq_baselines(keras_model(), SAMPLES, tmp_path)}
    assert set(found) == {
        "float", "tflite_dynamic", "tflite_float16", "tflite_int8", "tflite_uint8_io",
        "aeq_dynamic_wi8_afp32", "aeq_weight_only_wi8_afp32", "aeq_static_wi8_ai8",
    }  # fmt: skip
    assert not [b.error for b in found.values() if b.error]
    reference = open_session(found["float"].path).run(*SAMPLES)[0]
    for b in found.values():
        got = open_session(b.path).run(*SAMPLES)[0]
        # The median: some tools cut the tails of an activation's range.
        assert np.median(np.abs(got - reference)) < 0.05 * np.abs(reference).max(), b.name
    session = open_session(found["tflite_uint8_io"].path)
    assert (session.inputs[0].dtype, session.outputs[0].dtype) == ("uint8", "uint8")


def test_torch_baselines_run_and_resemble_the_float_model(tmp_path):
    samples = [SAMPLES[0].transpose(0, 3, 1, 2).copy()]
    found = {b.name: b for b in qat.ptq_baselines(torch_model(), samples, tmp_path)}
    assert set(found) == {
        "float", "onnxruntime_dynamic", "onnxruntime_static_minmax", "onnxruntime_static_entropy",
        "onnxruntime_static_percentile",
    }  # fmt: skip
    assert not [b.error for b in found.values() if b.error]
    reference = open_session(found["float"].path).run(*samples)[0]
    for b in found.values():
        got = open_session(b.path).run(*samples)[0]
        assert np.median(np.abs(got - reference)) < 0.05 * np.abs(reference).max(), b.name


def test_keras_baselines_for_onnxruntime_are_onnx_files(tmp_path):
    inputs = keras.Input((8, 8, 2), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    keras.utils.set_random_seed(0)
    model = keras.Model(inputs, [keras.layers.Dense(3)(x), keras.layers.Dense(2)(x)])
    found = {b.name: b for b in qat.ptq_baselines(model, SAMPLES, tmp_path, target="onnxruntime")}
    assert set(found) == {
        "float", "onnxruntime_dynamic", "onnxruntime_static_minmax", "onnxruntime_static_entropy",
        "onnxruntime_static_percentile",
    }  # fmt: skip
    assert not [b.error for b in found.values() if b.error]
    reference = open_session(found["float"].path).run(*SAMPLES)
    for mine, its in zip(reference, model(SAMPLES[0]), strict=True):
        np.testing.assert_allclose(mine, its.numpy(), atol=1e-5)
    for b in found.values():
        for got, want in zip(open_session(b.path).run(*SAMPLES), reference, strict=True):
            assert np.median(np.abs(got - want)) < 0.05 * np.abs(want).max(), b.name


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="no calibration samples"):
        qat.ptq_baselines(torch_model(), [], tmp_path)
    (tmp_path / "torch_float.onnx").write_bytes(b"precious")
    with pytest.raises(ExportError, match="exists already"):
        qat.ptq_baselines(torch_model(), [SAMPLES[0].transpose(0, 3, 1, 2).copy()], tmp_path)
    assert (tmp_path / "torch_float.onnx").read_bytes() == b"precious"


def test_torch_baselines_for_litert_are_tflite_files_of_the_models_own_operators(tmp_path):
    samples = [SAMPLES[0].transpose(0, 3, 1, 2).copy()]
    model = torch_model()
    found = {b.name: b for b in qat.ptq_baselines(model, samples, tmp_path, target="litert")}
    assert set(found) == {"float", "aeq_dynamic_wi8_afp32", "aeq_weight_only_wi8_afp32", "aeq_static_wi8_ai8"}
    assert not [b.error for b in found.values() if b.error]
    assert {b.path.suffix for b in found.values()} == {".tflite"}
    with torch.no_grad():
        wanted = model(torch.from_numpy(samples[0])).numpy()
    np.testing.assert_allclose(open_session(found["float"].path).run(*SAMPLES)[0], wanted, atol=1e-5)
    prepared = qat.calibrate(qat.prepare(model, samples[0], target="litert"), samples)
    report = qat.compare([model, *found.values(), prepared], [(samples[0], wanted.argmax(1))], latency_runs=0)
    assert {e.path.suffix for e in report.entries} == {".tflite"}
    assert [e.kind for e in report.entries] == ["float", "float", "ptq", "ptq", "ptq", "qat"]
    figures = [(e.name, e.agreement, e.sqnr) for e in report.entries]
    assert all(agreement > 80 and sqnr > 10 for _, agreement, sqnr in figures), figures  # that tool cuts the tails of ranges
    assert inspection.kind_of(found["float"].path)[0] == "float"


class TiedHead(nn.Module):
    """A language model whose embedding and head are one weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(torch.relu(self.words(ids)))


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_tied_weights_have_a_float_file(target, tmp_path):
    model, ids = TiedHead().eval(), torch.arange(48).reshape(8, 6)
    found = float_baseline(model, ids, tmp_path, target=target)
    assert found.error is None
    np.testing.assert_allclose(open_session(found.path).run(ids.numpy())[0], model(ids).detach(), atol=1e-5)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x, y):
        return torch.relu(self.a(x)) - self.b(y)


def two_inputs(framework):
    if framework == "torch":
        torch.manual_seed(0)
        return TwoInputs().eval()
    keras.utils.set_random_seed(0)
    x, y = keras.Input((6,), name="z"), keras.Input((6,), name="a")  # their names are in another order
    return keras.Model([x, y], keras.layers.Dense(3, activation="relu")(x) - keras.layers.Dense(3)(y))


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "target"), [("torch", None), ("torch", "litert"), ("keras", None)])
def test_a_pair_of_inputs_is_no_pair_of_inputs_and_labels(framework, target, tmp_path):
    model = two_inputs(framework)
    pair = tuple(np.random.default_rng(i).normal(size=(32, 6)).astype(np.float32) for i in range(2))
    found = qat.ptq_baselines(model, [pair], tmp_path, target=target)
    assert not [b.error for b in found if b.error]
    wanted = model(*(torch.from_numpy(x) for x in pair)).detach() if framework == "torch" else model(list(pair))
    for b in found:
        got = open_session(b.path).run(*pair)[0]
        # AI Edge Quantizer cuts the tails of a range; inputs that are swapped would give a correlation of none.
        assert np.corrcoef(got.ravel(), np.asarray(wanted).ravel())[0, 1] > 0.9, b.name
    again = qat.ptq_baselines(model, [(pair, np.zeros(32))], tmp_path, target=target, overwrite=True)
    assert [b.error for b in again] == [None] * len(found)


def test_a_float_file_is_written_without_taking_activations_apart(monkeypatch):
    def apart(*args, **kwargs):
        raise AssertionError("taken apart")

    aten = torch.ops.aten
    for op in (aten.hardtanh.default, aten._native_batch_norm_legit_no_training.default, aten.addmm.default):
        monkeypatch.setitem(decomposition_table, op, apart)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 5)
    assert float_bytes(nn.Sequential(*layers), (np.zeros((2, 3, 8, 8), np.float32),))


def test_keras_constants_that_are_folded_leave_no_inputs_behind(tmp_path):
    entry = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(keras.layers.Rescaling(1 / 255.0)(entry))
    model = keras.Model(entry, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(x))))
    samples = [np.random.default_rng(0).random((32, 8, 8, 3)).astype("float32")]
    found = qat.ptq_baselines(model, samples, tmp_path, target="onnxruntime")
    assert [b.error for b in found] == [None] * len(found)
    assert open_session(found[0].path).input_names == ("image",)


class Counted(torch.nn.Module):
    """Keeps what follows from the shape it saw last, as YOLO's heads do: torch.onnx refuses it for any batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.shape = torch.nn.Conv2d(2, 4, 3), None

    def forward(self, x):
        y = self.conv(x)
        if self.shape != y.shape:
            self.places, self.shape = torch.arange(y.shape[2] * 1.0), y.shape
        return y + self.places


class CountedRows(torch.nn.Module):
    """Keeps a mask of as many rows as the batch had last, and returns its results by name."""

    def __init__(self):
        super().__init__()
        self.dense, self.mask = torch.nn.Linear(6, 4), None

    def forward(self, x):
        y = self.dense(x)
        if self.mask is None or self.mask.shape[:2] != y.shape[:2]:
            self.mask = torch.ones(y.shape[0], y.shape[1], 1)
        return {"masked": y * self.mask, "sum": y.sum(1)}


@pytest.mark.parametrize(("build", "shape"), [(Counted, (4, 2, 8, 8)), (CountedRows, (4, 5, 6))])
def test_a_pytorch_model_that_counts_its_samples_has_a_float_file_for_any_batch(build, shape, tmp_path):
    torch.manual_seed(0)
    model, x = build().eval(), torch.rand(shape)
    found = float_baseline(model, x, tmp_path, target="onnxruntime")
    assert found.error is None
    session = open_session(found.path)
    for samples in (x[:1], x[:3]):
        expected = model(samples)
        wanted = [*expected.values()] if isinstance(expected, dict) else [expected]
        for have, want in zip(session.run(samples.numpy()), wanted, strict=True):
            np.testing.assert_allclose(have, want.detach(), atol=1e-5)


class Subclassed(keras.Model):
    """Is built of no symbolic tensors, and has a function that tf2onnx has no form of."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, activation="gelu")

    def call(self, x):
        return {"scores": self.dense(x), "sum": keras.ops.sum(x + keras.ops.convert_to_tensor([1.0, 2.0, 3.0]), -1)}


def named_inputs():
    entries = {name: keras.Input((3,), name=name) for name in ("b", "a")}
    return keras.Model(entries, keras.layers.Dense(2)(entries["b"]) + entries["a"][:, :2])


def compiled_by_xla():
    """Return a model whose grouped convolution, and a layer, call functions that XLA compiles."""

    class Gathered(keras.layers.Layer):
        @tf.function(jit_compile=True)
        def inner(self, x):
            return tf.math.cumsum(tf.nn.softplus(x), -1)

        def call(self, x):
            return self.inner(x)

    grouped = keras.layers.Conv1D(4, 2, groups=2)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(12), keras.layers.Reshape((3, 4)), grouped, Gathered()])


@pytest.mark.parametrize(
    ("build", "inputs"),
    [(Subclassed, lambda x: x), (named_inputs, lambda x: {"a": x, "b": 2 * x}), (compiled_by_xla, lambda x: x)],
    ids=["subclassed", "named", "compiled by XLA"],
)
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_keras_models_of_any_kind_have_a_float_file(target, build, inputs, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = build(), np.random.default_rng(0).random((4, 3)).astype("float32")
    expected = model(inputs(x))
    found = float_baseline(model, inputs(x), tmp_path, target=target)
    assert found.error is None
    given = inputs(x)
    arrays = [given[name] for name in sorted(given)] if isinstance(given, dict) else [given]
    for have, want in zip(open_session(found.path).run(*arrays), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "inputs"), [(Subclassed, lambda x: x), (named_inputs, lambda x: {"a": x, "b": 2 * x})])
def test_all_tools_take_keras_models_of_any_kind(build, inputs, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = build(), np.random.default_rng(0).random((16, 3)).astype("float32")
    model(inputs(x))
    found = qat.ptq_baselines(model, [inputs(x)], tmp_path, target="litert")
    assert not {b.name: b.error for b in found if b.error}
