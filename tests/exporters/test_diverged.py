"""A file is run once before it is written: diverged weights and files that a runtime does not take end in one sentence."""

import os
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import torch

import qat
from qat.errors import ExportError
from qat.exporters import export_program, loading
from support.programs import Sketch

X = np.random.default_rng(0).random((2, 3, 12, 12), np.float32)
PAIRS = [(framework, suffix) for framework in ("torch", "keras") for suffix in (".onnx", ".tflite")]
TARGETS = {".onnx": "onnxruntime", ".tflite": "litert"}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.cumsum(torch.relu(self.stem(x)), 1).mean((2, 3)))


def keras_net():
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, name="stem")(inputs)
    x = keras.ops.cumsum(keras.layers.ReLU()(x), 1)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(keras.layers.GlobalAveragePooling2D()(x)))


def prepared(framework, suffix):
    """Return a calibrated model with a float operator in its midst, and the function that multiplies a layer's weight."""
    x = X if framework == "torch" else X.transpose(0, 2, 3, 1)
    model = Net().eval() if framework == "torch" else keras_net()
    model = qat.calibrate(qat.prepare(model, x, target=TARGETS[suffix]), [x])

    def multiply(layer, factor):
        if framework == "torch":
            with torch.no_grad():
                model.get_parameter(f"{layer}.weight").mul_(factor)
        else:
            weight = model.parameters[f"{layer}/kernel"]
            weight.assign(weight * factor)

    return model, multiply


@pytest.mark.parametrize("factor", [1e9, np.nan, np.inf])
@pytest.mark.parametrize(("framework", "suffix"), PAIRS)
def test_diverged_weights_are_said_by_their_layer_and_nothing_is_written(framework, suffix, factor, tmp_path):
    model, multiply = prepared(framework, suffix)
    multiply("stem", factor)
    with pytest.raises(ExportError, match=r"stem.* the weights have diverged.* learning_rate"):
        qat.export(model, tmp_path / f"m{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("framework", "suffix"), PAIRS)
def test_a_model_calibrated_on_its_large_weights_is_exported(framework, suffix, tmp_path):
    model, multiply = prepared(framework, suffix)
    multiply("stem", 1e9)
    x = X if framework == "torch" else X.transpose(0, 2, 3, 1)
    qat.calibrate(model, [x])
    assert qat.export(model, tmp_path / f"m{suffix}", verify=[x]).parity.max_lsb < 1


@pytest.mark.parametrize("suffix", TARGETS)
def test_a_net_whose_activations_vanish_trains_and_is_exported(suffix, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.AdaptiveAvgPool2d(1)
    )
    with torch.no_grad():
        model[0].weight.mul_(1e-16)
        for layer in model[::2]:
            layer.bias.zero_()
    model = qat.calibrate(qat.prepare(model, X, target=TARGETS[suffix]), [X])
    qat.finetune(model, [(X, np.ones((2, 4, 1, 1), np.float32))] * 2, loss="mse", progress=False)
    assert qat.export(model, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1


@pytest.mark.parametrize("suffix", TARGETS)
def test_what_reads_a_dead_relu_keeps_its_precision(suffix, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
        model[2].bias.mul_(0.01)
        expected = model(torch.from_numpy(X))
    prepared = qat.calibrate(qat.prepare(model, X, target=TARGETS[suffix]), [X])
    assert torch.allclose(prepared.eval()(torch.from_numpy(X)), expected, rtol=0.02)
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1


def program_with(kind, factor):
    """Return an operator's program, the first of its inputs scaled by a factor."""
    sketch = Sketch(1, (2, 8, 8, 4), (-128, 127))
    other = sketch.relu(sketch.x)
    result = sketch.concat((sketch.x, other)) if kind == "concat" else sketch.binary(kind, sketch.x, other)
    sketch.real(result, "y")
    encoding = replace(sketch.of(sketch.x), scale=np.float32(sketch.of(sketch.x).scale * factor))
    sketch.values[sketch.x] = replace(sketch.values[sketch.x], encoding=encoding)
    return replace(sketch.program("y"), layout="NHWC", kernels="xnnpack")


def test_a_file_that_ends_its_process_is_an_error_and_not_written(tmp_path):
    with pytest.raises(
        ExportError, match=r"LiteRT ends the process that runs the file .* far apart in .*\(add\), by \d.*diverged"
    ):
        export_program(program_with("add", 2.0**40), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("before", [None, b"the last good one"])
def test_a_file_that_its_runtime_refuses_does_not_replace_a_good_one(before, tmp_path):
    path = tmp_path / "m.tflite"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(
        ExportError, match=r"does not take the file, .*nothing was written .*CONCATENATION.* in operator 'concat_\d"
    ):
        export_program(program_with("concat", 2.0), path, overwrite=True)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_process_of_its_own_is_started_only_where_a_runtime_may_abort(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "run_in_runtime", lambda *_: pytest.fail("a process was started"))
    model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), X[0, 0, :, :4], target="litert"), [X[0, 0, :, :4]])
    qat.export(model, tmp_path / "m.tflite")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_file_is_tried_within_the_memory_that_its_user_may_have(tmp_path):
    import resource

    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    model = qat.calibrate(qat.prepare(torch.nn.Linear(4, 3), X[0, 0, :, :4]), [X[0, 0, :, :4]])
    qat.export(model, tmp_path / "m.onnx")
    command = [sys.executable, "-m", "qat.runtimes.child", str(tmp_path / "m.onnx"), str(tmp_path), ""]
    subprocess.run(command, check=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (half, half)))
    assert (tmp_path / "outputs.npz").is_file()
