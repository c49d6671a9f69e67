"""An artifact of some of a model's outputs: the others, and what they alone need, are left out."""

import numpy as np
import pytest

import qat
from qat.errors import ConfigError
from qat.runtimes import format_of

X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)


def of_torch():
    import torch
    from torch import nn

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.scores, self.other = nn.Linear(12, 16), nn.Linear(16, 5), nn.Linear(16, 9)

        def forward(self, x):
            y = torch.relu(self.body(x))
            other = torch.cumsum(self.other(y), 1)  # float in both formats
            return {"scores": self.scores(y), "other": other, "both": other[:, :5] * self.scores(y).exp()}

    return Heads().eval()


def of_keras():
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    x = keras.Input((12,))
    y = layers.Dense(16, activation="relu")(x)
    scores, other = layers.Dense(5)(y), ops.cumsum(layers.Dense(9)(y), 1)
    return keras.Model(x, {"scores": scores, "other": other, "both": other[:, :5] * ops.exp(scores)})


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("net", [of_torch, of_keras])
def test_the_rest_is_left_out(net, suffix, tmp_path):
    target = "onnxruntime" if suffix == "onnx" else "litert"
    model = qat.calibrate(qat.prepare(net(), X[:2], target=target), [X])
    whole = qat.export(model, tmp_path / f"whole.{suffix}", verify=[X])
    for chosen in (["scores"], ["both"], ["other", "scores"]):
        path = tmp_path / f"{'_'.join(chosen)}.{suffix}"
        artifact = qat.export(model, path, verify=[X], outputs=chosen)
        assert artifact.parity.exact == 1.0 or "other" in chosen or "both" in chosen
        assert artifact.parity.max_lsb < 0.01
        assert artifact.bytes < whole.bytes or "both" in chosen
        session = format_of(path).open(path)
        assert sorted(session.output_names) == sorted(chosen)
    # What computes one output alone holds no operator of the others, nor the float block.
    held = qat.export(model, tmp_path / f"again.{suffix}", outputs=["scores"])
    assert len(held.encodings) < len(whole.encodings)


@pytest.mark.parametrize("wrong", [["score"], [], "scores"])
def test_a_name_that_is_no_output_is_refused(wrong, tmp_path):
    model = qat.calibrate(qat.prepare(of_torch(), X[:2]), [X])
    with pytest.raises(ConfigError, match="the model's outputs are scores, other, both"):
        qat.export(model, tmp_path / "net.onnx", outputs=wrong)
