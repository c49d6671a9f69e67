"""The key `outputs`: a run writes a file of these alone beside the compared one, `qat export` nothing else."""

import numpy as np
import pytest

from qat.runtimes import open_session
from support.command_line import CommandLine

NETS = {
    "torch": """
import torch

class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores, self.other = torch.nn.Linear(64, 3), torch.nn.Linear(64, 2)

    def forward(self, x):
        return {"scores": self.scores(x.flatten(1)), "other": self.other(x.flatten(1))}

def make():
    torch.manual_seed(0)
    return Two()

def save():
    torch.save(make().state_dict(), "w.pth")
""",
    "keras": """
import keras

def make():
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(x)
    return keras.Model(image, [keras.layers.Dense(3, name="scores")(x), keras.layers.Dense(2, name="other")(x)])

def save():
    make().save_weights("w.weights.h5")
""",
}


@pytest.fixture
def qat(tmp_path, capfd):
    x = np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x[:30])
    return CommandLine(tmp_path, capfd)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "weights"), [("torch", "w.pth"), ("keras", "w.weights.h5")])
def test_a_run_ships_the_named_outputs(qat, tmp_path, monkeypatch, framework, weights):
    pytest.importorskip(framework)
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"two_{framework}.py").write_text(NETS[framework])
    exec(NETS[framework] + "\nsave()", {})
    text = (
        f"name: two\nframework: {framework}\nmodel: {{factory: 'two_{framework}:make', weights: {weights}}}\n"
        "data: {source: npz, path: d.npz, batch_size: 16}\ntraining: {labels: none, teacher: float, learning_rate: 0.001}\n"
        "ptq: false\ncontrol: false\nlatency_runs: 1\noutputs: [scores]\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    done = qat("run", "run.yaml")
    assert done.returncode == 0, done.stderr
    suffix = ".onnx" if framework == "torch" else ".tflite"
    made = tmp_path / "runs" / "two" / "artifacts"
    few, all_of_them = (open_session(made / f"{framework}_{name}{suffix}") for name in ("qat_outputs", "qat"))
    x = np.random.default_rng(1).random((4, *few.inputs[0].shape[1:]), np.float32)
    (scores,) = few.run(x)
    assert list(few.output_names) == ["scores"]
    np.testing.assert_array_equal(scores, all_of_them.run(x)[list(all_of_them.output_names).index("scores")])
    best = next((tmp_path / "runs" / "two" / "checkpoints").glob("best.*"))
    done = qat("export", "run.yaml", best, f"net{suffix}")
    assert done.returncode == 0, done.stderr
    assert list(open_session(tmp_path / f"net{suffix}").output_names) == ["scores"]
    (tmp_path / "run.yaml").write_text(text.replace("[scores]", "[score]"))
    done = qat("train", "run.yaml")
    assert done.returncode == 2
    assert "error: outputs: there is no output 'score': the model's outputs are scores, other" in done.stderr
