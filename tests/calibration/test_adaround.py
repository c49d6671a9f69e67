"""AdaRound: the next integer below or above, never worse than the nearest on its samples, and exact in the runtimes."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qat
from qat.errors import CalibrationError, ConfigError, DataError
from qat.planning.recipe import QuantSpec, Recipe, Rule
from support.layer_cases import CASES, outputs, torch_case, train


def recipe(bits, granularity="channel", learned=False):
    weight = QuantSpec(bits=bits, symmetric=True, granularity=granularity, learned=learned)
    return Recipe(name=f"w{bits}", rules=(Rule(weight=weight),))


@settings(max_examples=15, deadline=None)
@given(
    inputs=st.integers(1, 6), outputs=st.integers(1, 4), bits=st.sampled_from([2, 3, 4, 8]), bias=st.booleans(),
    granularity=st.sampled_from(["channel", "tensor"]), relu=st.booleans(), learned=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_the_next_integer_and_no_worse_than_the_nearest(inputs, outputs, bits, bias, granularity, relu, learned, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias), *[nn.ReLU()] * relu).eval()
    with torch.no_grad():
        x, before = torch.randn(200, inputs) @ torch.randn(inputs, inputs), model[0].weight.numpy().copy()
        want = model(x).numpy()
    prepared = qat.calibrate(qat.prepare(model, x[:2], recipe(bits, granularity, learned)), [x])
    weight = prepared.get_parameter("0.weight")
    node = prepared.get_submodule("_qat.nodes.linear")

    def held():
        """Return the integers and the scales that the artifact would hold."""
        with torch.no_grad():
            scale = node.weight_scale(weight, prepared.get_parameter("0.bias") if bias else None)
            return node.quantized(weight, None, scale)[0].numpy(), scale.numpy()[:, None]

    (q, scale), x_grid = held(), node.inputs[0].encoding
    read = np.clip(np.rint(x.numpy() / x_grid.scale), x_grid.lo, x_grid.hi) * x_grid.scale

    def error(integers, scale):
        y = read @ (integers * scale).T + (model[0].bias.detach().numpy() if bias else 0)
        return np.square((np.maximum(y, 0) if relu else y) - want).mean(0)

    plain = error(q, scale)
    qat.adaround(prepared, [x], steps=30)
    q, scale = held()
    np.testing.assert_allclose(weight.detach().numpy(), q * scale, rtol=1e-6, atol=0)
    limit = prepared.plan.ops[0].qmax
    nearest = np.clip(np.rint(before / scale), -limit, limit)
    assert np.abs(q - nearest).max() <= 1
    for other in (plain, error(nearest, scale)):
        got = error(q, scale)
        if granularity == "tensor":  # one scale is chosen for all channels
            got, other = got.sum(), other.sum()
        assert np.all(got <= other * (1 + 1e-4) + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("framework", CASES)
def test_a_model_comes_nearer_to_the_float_one(framework, tmp_path):
    model, x, prepared, name = CASES[framework]()
    batches = [x[:24], x[24:]]
    want = outputs(model, x)

    def off():
        return float(np.linalg.norm(outputs(prepared, x) - want))

    qat.calibrate(prepared, batches)
    before = off()
    assert qat.adaround(prepared, batches, steps=200) is prepared
    assert off() < before / 2
    first = qat.export(prepared, tmp_path / name, verify=[x]).path.read_bytes()
    # Once more: from the same float weights to the same integers.
    qat.adaround(prepared, batches, steps=200)
    assert qat.export(prepared, tmp_path / name, verify=[x], overwrite=True).path.read_bytes() == first
    qat.correct_biases(prepared, batches)
    assert off() < before / 2
    artifact = qat.export(prepared, tmp_path / name, verify=[x], overwrite=True)
    assert artifact.parity.exact == 1.0
    train(prepared, x, tmp_path / name)


def test_a_saved_model_is_the_same(tmp_path):
    from safetensors.torch import load_file, save_file

    _, x, prepared, _ = torch_case()
    qat.adaround(qat.calibrate(prepared, [x]), [x], steps=20)
    save_file(prepared.state_dict(), tmp_path / "m.safetensors")
    _, _, other, _ = torch_case()
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(other.eval()(x), prepared.eval()(x))


class Shared(nn.Module):
    """A layer that is called twice, one of its own, and a buffer that takes part."""

    def __init__(self):
        super().__init__()
        self.twice, self.once = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("offset", torch.randn(4))

    def forward(self, x):
        return self.once(torch.relu(self.twice(torch.relu(self.twice(x)))) + self.offset)


def test_what_is_left_as_it_is_is_named(caplog):
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    prepared = qat.calibrate(qat.prepare(Shared().eval(), x), [x])
    before = prepared.get_parameter("twice.weight").clone()
    qat.adaround(prepared, [x], steps=5)
    assert "adaround leaves 2 of 3 weights as they are: twice" in caplog.text
    assert torch.equal(before, prepared.get_parameter("twice.weight"))


def test_mistakes_are_named():
    model, x, prepared, _ = torch_case()
    with pytest.raises(CalibrationError, match="adaround needs a prepared model"):
        qat.adaround(model, [x])
    qat.calibrate(prepared, [x])
    with pytest.raises(DataError, match="adaround got no samples"):
        qat.adaround(prepared, [])
    with pytest.raises(ConfigError, match="at least one step, not 0"):
        qat.adaround(prepared, [x], steps=0)


def test_a_run_compares_with_it(tmp_path, monkeypatch):
    from rich.console import Console

    from qat.runs import float_model, stages
    from qat.runs.config import RunConfig
    from qat.runs.data import RunData
    from qat.runs.job import Job

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = RunConfig.model_validate(
        {
            "name": "r", "framework": "torch", "model": {"factory": "qat.runs.zoo_torch:mobilenet_tiny"}, "adaround": True,
            "equalize": True, "calibration": {"samples": 16, "bias_correction": True},
        }
    )  # fmt: skip
    job = Job.of(config, tmp_path, tmp_path, Console(quiet=True))
    monkeypatch.setattr("qat.api.ptq_baselines", lambda *_, **__: [])
    data = RunData(config, tmp_path)
    monkeypatch.setattr("qat.api.adaround", functools.partial(qat.adaround, steps=5))
    (entry,) = stages.baselines(job, data, float_model.FloatModel(job, data, float_model.untrained(job)))
    assert (entry.kind, entry.path.name, entry.parity.exact) == ("ptq", "torch_adaround.onnx", 1.0)


def test_the_weights_of_an_attention_layer_take_part(caplog, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = keras.Input((6, 16))
    y = layers.Add()([layers.MultiHeadAttention(2, 8)(x, x), x])
    model = qat.prepare(keras.Model(x, layers.Dense(4)(layers.Flatten()(y))))
    samples = [np.random.default_rng(0).normal(size=(8, 6, 16)).astype(np.float32)]
    qat.adaround(qat.correct_biases(qat.calibrate(model, samples), samples), samples)
    assert "as they are" not in caplog.text
    assert qat.export(model, tmp_path / "m.tflite", verify=samples).parity.exact == 1.0
