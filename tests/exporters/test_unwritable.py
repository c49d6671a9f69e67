"""What a format cannot hold is said before the training, by every way that trains and exports."""

import keras
import numpy as np
import pytest
import torch

import qat
from qat.errors import ExportError
from qat.exporters import refuse_unwritable
from qat.exporters.tflite.writer import Op, Writer
from qat.program.program import Program, Value
from support.command_line import CommandLine

MODULE = """
import torch


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.end = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8, 10)

    def forward(self, x):
        return self.end(torch.linalg.svdvals(self.stem(x).flatten(2)))
"""

CONFIG = """
name: odd
framework: torch
model: {factory: "my_net:Odd"}
data: {source: digits, batch_size: 64}
float_training: {epochs: 1}
training: {epochs: 1}
ptq: false
control: false
latency_runs: 0
"""


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_run_ends_before_its_training(command, tmp_path, capfd):
    (tmp_path / "my_net.py").write_text(MODULE)
    (tmp_path / "run.yaml").write_text(CONFIG)
    done = CommandLine(tmp_path, capfd)(command, "run.yaml")
    assert done.returncode == 2
    assert "linalg_svdvals" in done.stderr
    assert "my_net.py:11 `return self.end(torch.linalg.svdvals" in done.stderr
    assert "done prepare and calibrate" not in done.stdout + done.stderr
    trained = {path.parent.name for path in (tmp_path / "runs" / "odd").rglob("last.*")}
    assert trained <= {"float"}  # the float model's own training


class Ends(torch.nn.Module):
    def __init__(self, end):
        super().__init__()
        self.stem, self.end = torch.nn.Conv2d(1, 8, 3), end

    def forward(self, x):
        return self.end(self.stem(x))


def with_indices(x):
    return torch.nn.functional.max_pool2d(x, 2, return_indices=True)


TFLITE_LACKS = {
    "_fft_c2c": lambda x: torch.fft.fft2(x).abs(),
    "linalg_inv_ex": torch.linalg.inv,
    "cubic curves": lambda x: torch.nn.functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), mode="bicubic"),
    "its indices": lambda x: with_indices(x)[1],
    "of integers": lambda x: x.int() & 3,
    "median.default": torch.median,
    "over the batch": lambda x: x.sort(0)[0],
}


@pytest.mark.parametrize("lacking", TFLITE_LACKS)
def test_prepare_and_plan_name_the_operator_that_a_tflite_cannot_hold(lacking):
    model, x = Ends(TFLITE_LACKS[lacking]).eval(), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ExportError, match=rf"{lacking}.*test_unwritable.py:\d+ `"):
        qat.prepare(model, x, target="litert")
    said = qat.plan(model, x, target="litert").unwritable()
    assert any(lacking in reason for reason in said.values())


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
def test_what_a_format_holds_in_other_operators_is_prepared(target):
    def end(x):
        return torch.einsum("bchw,bdhw->bcd", x, torch.nn.functional.instance_norm(with_indices(x)[0]).relu().repeat(1, 1, 2, 2))

    plan = qat.plan(Ends(end).eval(), torch.zeros(2, 1, 6, 6), target=target)
    assert plan.floats()
    assert not plan.unwritable()


def test_an_onnx_cannot_hold_every_operator():
    with pytest.raises(ExportError, match=r"a \.onnx cannot hold aten\.linalg_inv_ex"):
        qat.prepare(Ends(torch.linalg.inv).eval(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ExportError, match=r"a \.onnx cannot hold aten\.cumprod"):  # a .tflite does
        qat.prepare(Ends(lambda x: x.cumprod(1)).eval(), torch.zeros(2, 1, 8, 8))


def test_an_onnx_has_no_projections_of_states():
    lstm = torch.nn.LSTM(6, 5, 2, bias=False, bidirectional=True, proj_size=3)
    with pytest.raises(ExportError, match=r"a \.onnx cannot hold aten\.lstm\.input \(with projections\)"):
        qat.prepare(Ends(lambda x: lstm(x[:, 0])[0]).eval(), torch.zeros(2, 1, 8, 8))


def test_an_onnx_cannot_hold_every_operator_of_complex_numbers():
    def low_pass(x):
        waves = torch.fft.rfft2(x)
        kept = torch.zeros_like(waves)
        kept[..., :4, :4] = waves[..., :4, :4]
        return torch.fft.irfft2(kept, s=x.shape[-2:])

    with pytest.raises(ExportError, match=r"a \.onnx cannot hold aten\.full_like\.default \(of complex numbers\)"):
        qat.prepare(Ends(low_pass).eval(), torch.zeros(2, 1, 8, 8), target="onnxruntime")
    halved = qat.plan(Ends(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:])).eval(), torch.zeros(2, 1, 8, 8))
    assert not halved.unwritable()


def test_prepare_names_the_keras_layer_that_a_tflite_cannot_hold():
    with pytest.raises(ExportError, match=r"lstm.*loop of LSTM over a free number of steps.*fixed length"):
        qat.prepare(recurrent())


def recurrent():
    inputs = keras.Input((None, 4))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(4)(x)))


def test_a_file_is_refused_before_its_training(tmp_path, monkeypatch):
    entry = keras.Input((6, 4))
    x = keras.layers.Dense(4)(entry)
    keras.Model(entry, keras.layers.Dense(2)(keras.ops.irfft((x, x)))).save(tmp_path / "net.keras")
    monkeypatch.setattr("qat.api.finetune", lambda *_, **__: pytest.fail("it was trained"))
    x = np.random.default_rng(0).normal(size=(64, 6, 4)).astype(np.float32)
    with pytest.raises(ExportError, match=r"a \.tflite cannot hold IRFFT"):
        qat.quantize(tmp_path / "net.keras", x, train=10)
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]


def test_the_check_leaves_nothing_and_passes_what_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    model = qat.calibrate(qat.prepare(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])), [x])
    refuse_unwritable(model, ".tflite")
    assert not list(tmp_path.iterdir())


def test_a_tflite_that_reads_what_nothing_writes_is_refused():
    values = {"x": Value("x", (None, 4)), "lost": Value("lost", (1, 4)), "y": Value("y", (None, 4))}
    writer = Writer(Program("net", "NHWC", "xnnpack", "litert", "static_wi8_ai8", ("x",), ("y",), values, ()), "float32")
    for name in values:
        writer.float_tensor(name)
    writer.operator(Op.ADD, ["x", "lost"], "y", options="AddOptions")
    with pytest.raises(ExportError, match=r"'lost' of the \.tflite would be read"):
        writer.finish(())
