"""TensorRT's calibration: the entropy estimator, the cache, the calibrator's interface."""

import types

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qat.arithmetic.range_estimators import make_estimator
from qat.errors import CalibrationError, DataError, ExportError, QatError
from qat.exporters.tensorrt import CalibrationCache, calibrate_onnx, calibrator_for, read_cache, write_cache
from qat.exporters.tensorrt.calibration_cache import from_text, to_text

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 4)).astype(np.float32)


# --- the estimator ---


def divergence(values, threshold, levels=128, bins=4096):
    """Migacz 2017, slide 38, literally: interval by interval."""
    counts = np.histogram(np.abs(values), bins, (0, np.abs(values).max()))[0].astype(float)
    counts[0] = counts[1]
    keep = round(threshold / np.abs(values).max() * bins)
    p = counts[:keep].copy()
    p[-1] += counts[keep:].sum()
    q = np.zeros(keep)
    for level in range(levels):
        first, last = -(-level * keep // levels), -(-(level + 1) * keep // levels)
        inside = [i for i in range(first, last) if counts[i] > 0]
        if inside:
            q[inside] = counts[inside].sum() / len(inside)
    p, q = p / p.sum(), q / q.sum()
    return sum(a * np.log(a / b) if b > 0 else np.inf for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("values", [RANDOM.normal(size=100_000), RANDOM.laplace(size=100_000)], ids=["normal", "laplace"])
def test_no_other_threshold_loses_less(values):
    estimator = make_estimator("entropy", -127, 127, True)
    for batch in np.array_split(values.astype(np.float32), 7):
        estimator.update(batch)
    low, high = estimator.range()
    chosen, peak = max(-low, high), np.abs(values).max()
    others = [divergence(values, share * peak) for share in np.linspace(0.1, 1, 31)]
    assert divergence(values, chosen) <= min(others) * 1.1


def test_an_outlier_is_left_out():
    estimator = make_estimator("entropy", -127, 127, True)
    estimator.update(np.append(RANDOM.normal(size=100_000), 30.0).astype(np.float32))
    low, high = estimator.range()
    assert 3 < max(-low, high) < 6


def test_zeros_of_a_relu_do_not_decide():
    values = np.maximum(RANDOM.normal(size=100_000), 0).astype(np.float32)
    estimator = make_estimator("entropy", 0, 255, False)
    estimator.update(values)
    low, high = estimator.range()
    assert low == 0
    assert 3 < high <= values.max()


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0, 5.0], [-1.0], [1e-30, 1e30], [2.0] * 50])
def test_few_values_keep_a_range_that_holds_them(values):
    estimator = make_estimator("entropy", -127, 127, True)
    estimator.update(np.array(values, np.float32))
    assert estimator.range() == (pytest.approx(min(values)), pytest.approx(max(values)))


# --- the cache ---


@settings(deadline=None)
@given(
    st.dictionaries(st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"))), st.floats(0, 2.0**100, width=32)),
    st.integers(100, 110_000),
)
def test_a_cache_is_read_as_it_was_written(scales, version):
    cache = CalibrationCache(scales, str(version))
    assert from_text(to_text(cache), "it") == cache


def test_the_text_is_tensorrts():
    text = "TRT-7202-EntropyCalibration2\ndata: 3c008912\n(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f\nnet/x:0: 0\n"
    cache = from_text(text, "it")
    assert (cache.version, cache.algorithm) == ("7202", "EntropyCalibration2")
    assert cache.scales["data"] == pytest.approx(1 / 127.47, rel=1e-4)
    assert cache.scales["net/x:0"] == 0
    assert to_text(cache).splitlines()[:3] == text.splitlines()[:3]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "first line"), ("hello\n", "first line"), ("TRT-1-E\nx 3c008912\n", "line 2"), ("TRT-1-E\nx: zz\n", "line 2"),
     ("TRT-1-E\n\nx: 7fc00000\n", "line 3"), ("TRT-1-E\nx: bf800000\n", "line 2"), ("TRT-1-E\nx: 3c00891234\n", "line 2")],
)  # fmt: skip
def test_a_damaged_cache_ends_in_a_sentence(text, said):
    with pytest.raises(DataError, match=f"it.*{said}"):
        from_text(text, "it")


def test_files_are_not_overwritten_and_missing_ones_are_named(tmp_path):
    write_cache(CalibrationCache({"x": 1.0}), tmp_path / "c.cache")
    with pytest.raises(ExportError, match="exists already"):
        write_cache(CalibrationCache({"x": 2.0}), tmp_path / "c.cache")
    assert read_cache(tmp_path / "c.cache").scales == {"x": 1.0}
    with pytest.raises(DataError, match=r"none\.cache"):
        read_cache(tmp_path / "none.cache")
    with pytest.raises(ExportError, match="finite"):
        write_cache(CalibrationCache({"x": np.nan}), tmp_path / "d.cache")


# --- a file's tensors ---


@pytest.fixture
def net(tmp_path):
    """``relu(2 x) + x`` with an integer branch, whose tensors are not calibrated."""
    constant = onnx.numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["y"]), helper.make_node("ArgMax", ["m"], ["i"], axis=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
         helper.make_tensor_value_info("i", TensorProto.INT64, ["n", 1])], [constant],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_every_float_tensor_has_its_scale(net):
    scales = calibrate_onnx(net, [(X[:40], np.zeros(40)), (X[40:], np.zeros(24))], "minmax").scales
    tensors = {"x": X, "m": 2 * X, "r": np.maximum(2 * X, 0), "y": np.maximum(2 * X, 0) + X}
    assert scales == {name: pytest.approx(np.abs(values).max() / 127, rel=1e-6) for name, values in tensors.items()}


@pytest.mark.parametrize("samples", [[], [np.zeros((2, 5), np.float32)], [np.full((2, 4), np.nan, np.float32)]])
def test_samples_that_do_not_do(net, samples):
    with pytest.raises(DataError):
        calibrate_onnx(net, samples)


def test_a_file_that_does_not_do(tmp_path, net):
    with pytest.raises(QatError, match="no such artifact"):
        calibrate_onnx(tmp_path / "none.onnx", [X])
    (tmp_path / "half.onnx").write_bytes(net.read_bytes()[:100])
    with pytest.raises(QatError, match="cannot load"):
        calibrate_onnx(tmp_path / "half.onnx", [X])


def test_a_weight_that_is_nan(tmp_path, net):
    model = onnx.load(net)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((4, 4), np.nan, np.float32), "w"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(CalibrationError, match="'m' holds NaN"):
        calibrate_onnx(tmp_path / "nan.onnx", [X])


# --- the calibrator ---


class Base:
    """As TensorRT's binding: its methods are called by the builder, and its own __init__ must have run."""

    def __init__(self):
        self.begun = True


TENSORRT = types.SimpleNamespace(IInt8EntropyCalibrator2=Base)


def build(calibrator, names):
    """Call a calibrator as TensorRT's builder does; return the cache, or the batches that it read."""
    assert calibrator.begun
    cache = calibrator.read_calibration_cache()
    if cache is not None:
        return cache
    seen = []
    while (pointers := calibrator.get_batch(names)) is not None:
        held = [array.numpy() for array in calibrator._held]
        assert [array.ctypes.data for array in held] == pointers
        seen.append([array.copy() for array in held])
    calibrator.write_calibration_cache(memoryview(b"TRT-8601-EntropyCalibration2\nx: 3c008912\n"))
    return seen


def test_the_builder_sees_whole_batches_then_the_cache(tmp_path):
    y = X[:, :2]
    batches = [(X[i : i + 24], y[i : i + 24]) for i in range(0, 64, 24)]  # 24, 24, 16
    cache = tmp_path / "c.cache"
    calibrator = calibrator_for(TENSORRT, batches, ["x", "y"], cache, torch.from_numpy)
    assert isinstance(calibrator, Base)
    assert calibrator.get_batch_size() == 24
    seen = build(calibrator, ["y", "x"])
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[1][0], y[24:48])
    np.testing.assert_array_equal(seen[1][1], X[24:48])
    assert read_cache(cache).scales["x"] > 0
    assert build(calibrator_for(TENSORRT, [], ["x"], cache, torch.from_numpy), ["x"]) == cache.read_bytes()


def test_a_calibrator_without_samples_or_with_another_input(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        calibrator_for(TENSORRT, [], ["x"], tmp_path / "c.cache", torch.from_numpy)
    calibrator = calibrator_for(TENSORRT, [X], ["x"], tmp_path / "c.cache", torch.from_numpy)
    with pytest.raises(DataError, match="'image' is none of x"):
        calibrator.get_batch(["image"])
