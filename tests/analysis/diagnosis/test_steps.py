"""Files of any tool come down to the same steps, and their copies compute what the file does."""

import numpy as np
import pytest

import qat
from qat.analysis.diagnosis.matching import pairs_of
from qat.analysis.diagnosis.measure import Job, measure
from qat.analysis.diagnosis.probes import OWN
from qat.analysis.diagnosis.probes_of import probes_of
from qat.analysis.diagnosis.steps import steps_of
from qat.baselines.ptq import float_baseline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network with a residual connection, in float and by several tools, by name, and samples."""
    import torch
    from onnxruntime.quantization import QuantFormat, quantize_static
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.deep, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
            self.head = nn.Linear(8 * 16, 10)

        def forward(self, x):
            x = torch.relu(self.norm(self.first(x)))
            x = x + self.point(nn.functional.relu6(self.deep(x)))
            return self.head(torch.max_pool2d(x, 2).flatten(1))

    torch.manual_seed(0)
    folder, net = tmp_path_factory.mktemp("files"), Net().eval()
    x = np.random.default_rng(0).normal(size=(48, 1, 8, 8)).astype(np.float32)
    found = {}
    for target, suffix in (("onnxruntime", ".onnx"), ("litert", ".tflite")):
        found[f"float{suffix}"] = float_baseline(net, x[:1], folder, target=target).path
        model = qat.calibrate(qat.prepare(net, x[:2], target=target), [x])
        qat.export(model, folder / f"ours{suffix}")
        found[f"ours{suffix}"] = folder / f"ours{suffix}"
    for baseline in qat.ptq_baselines(found["float.tflite"], [np.ascontiguousarray(x.transpose(0, 2, 3, 1))], folder):
        if baseline.path is not None and "static" in baseline.name:
            found["AI Edge Quantizer"] = baseline.path

    class Reader:
        def __init__(self):
            self.batches = iter([{"x": x}])

        def get_next(self):
            return next(self.batches, None)

    for name, form in (("QDQ", QuantFormat.QDQ), ("QOperator", QuantFormat.QOperator)):
        path = folder / f"{name}.onnx"
        quantize_static(found["float.onnx"], path, Reader(), quant_format=form, per_channel=True)
        found[name] = path
    return found, x


@pytest.mark.parametrize("name", ["ours.onnx", "QDQ", "QOperator", "ours.tflite", "AI Edge Quantizer"])
def test_a_file_has_the_steps_of_its_float_file(files, name):
    found, _ = files
    of_float = steps_of(
        probes_of(found["float.tflite" if name in ("ours.tflite", "AI Edge Quantizer") else "float.onnx"]).network
    )
    pairs = pairs_of(of_float, steps_of(probes_of(found[name]).network))
    assert [pair.float.kind for pair in pairs] == ["input", "conv", "conv", "conv", "add", "max_pool", "dense"]
    assert all(pair.quantized.grid is not None for pair in pairs)
    assert [p.quantized.weight.real.shape[0] for p in pairs if p.float.weight is not None] == [8, 8, 8, 10]


@pytest.mark.parametrize(
    "name", ["float.onnx", "ours.onnx", "QDQ", "QOperator", "float.tflite", "ours.tflite", "AI Edge Quantizer"]
)
def test_steps_that_are_cut_from_each_other_compute_what_the_whole_file_does(files, name):
    found, x = files
    probes = probes_of(found[name])
    (given,) = probes.network.inputs
    tensor = probes.network.tensor(given)
    fed = x if name in ("float.onnx", "ours.onnx", "QDQ", "QOperator") else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    fed = fed if tensor.grid is None else tensor.grid.integers(fed, tensor.dtype)
    names = [s.held.name for s in steps_of(probes.network) if s.held.name != given]
    whole = probes.tapped(names).run({given: fed})
    cut = probes.cut(names)
    alone = cut.run({n: ({given: fed} | whole)[n] for n in cut.inputs})
    assert sorted(alone) == sorted(n + OWN for n in names)
    for n in names:
        np.testing.assert_allclose(alone[n + OWN], whole[n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("float_name", "name"), [("float.onnx", "QOperator"), ("float.tflite", "ours.tflite"), ("float.onnx", "ours.tflite")]
)
def test_the_shares_of_the_error_are_those_of_the_whole(files, float_name, name):
    found, x = files
    facts = measure(Job(found[float_name], found[name], (x,)))
    assert sum(step.share for step in facts.steps) == pytest.approx(1)
    assert facts.sqnr > 25 and facts.samples == 48
    assert facts.steps[0].own_sqnr == facts.steps[0].sqnr  # nothing stands before the input
    assert all(step.own_sqnr > step.sqnr - 3 for step in facts.steps)
