"""The estimator ``importance``: ranges end where the outputs do not care, in both frameworks, by calibration alone."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.adapters import torch as torch_adapter
from qat.arithmetic.range_estimators import make_estimator
from qat.calibration import weighing
from qat.calibration.float_twin import float_twin
from qat.errors import OptionError
from qat.exporters.tensorrt import calibrate_onnx
from qat.frameworks import adapter_for, framework_of
from qat.planning.recipe import Recipe


class Saturating(nn.Module):
    """A first layer whose numbers reach far below what its tanh tells apart; a wide channel has a small weight behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        with torch.no_grad():
            self.first.weight.copy_(torch.diag(torch.tensor([30.0, 1.0, 1.0, 1.0, 1.0, 1.0])))
            self.first.bias.copy_(torch.tensor([-25.0, 0.0, 0.0, 0.0, 0.0, 0.0]))

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def torch_model():
    torch.manual_seed(0)
    model = Saturating().eval()
    return model, lambda x: model(torch.from_numpy(x)).detach().numpy()


def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), keras.layers.Activation("tanh"), keras.layers.Dense(3)])
    like = torch_model()[0]
    for layer, other in ((model.layers[0], like.first), (model.layers[2], like.last)):
        layer.set_weights([other.weight.detach().numpy().T, other.bias.detach().numpy()])
    return model, lambda x: np.asarray(model(x))


def samples(seed, count=256):
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


@pytest.mark.parametrize("made", [torch_model, keras_model])
def test_outputs_come_nearer_where_a_reader_saturates(made, tmp_path):
    model, real = made()
    x, others = samples(0), samples(1)
    off = {}
    for name in ("minmax", "mse", "importance"):
        prepared = qat.calibrate(qat.prepare(model, x[:2]), [x], name, progress=False)
        target = prepared.plan.target.suffix
        artifact = qat.export(prepared, tmp_path / f"{name}{target}", verify=[others])
        assert artifact.parity.exact == 1.0
        got = prepared.eval()(torch.from_numpy(others)).detach().numpy() if made is torch_model else np.asarray(prepared(others))
        off[name] = float(np.square(got - real(others)).mean())
    assert off["importance"] < 0.5 * min(off["minmax"], off["mse"])


@pytest.mark.parametrize("made", [torch_model, keras_model])
def test_one_pass_gives_the_values_and_the_gradients(made):
    model, _ = made()
    prepared, x = qat.prepare(model, samples(0)[:2]), samples(1, 8)
    adapter = adapter_for(framework_of(prepared))
    twin, tensors = float_twin(prepared), [p.op.output for p in prepared.plan.ops]
    found = adapter.output_gradients(twin, {prepared.plan.graph.inputs[0]: x}, tensors, lambda _, y: np.ones_like(y))
    values = adapter.float_values(twin, adapter.inputs_of((x,)))
    assert set(found) == set(tensors) and len(tensors) >= 3
    for name, (value, gradient) in found.items():
        assert np.array_equal(value, values[name]) and gradient.shape == value.shape
    assert (found[prepared.plan.graph.outputs[0]][1] == 1).all()


def test_only_the_first_samples_are_weighed_and_in_parts(monkeypatch):
    model, _ = torch_model()
    prepared = qat.prepare(model, samples(0)[:2])
    numbers = sum(int(np.prod(prepared.plan.graph.tensors[t].shape[1:])) for t in prepared.plan.group_of)
    monkeypatch.setattr(weighing, "_WEIGHED", 10 * numbers)
    monkeypatch.setattr(weighing, "_AT_ONCE", 4 * numbers)
    seen, weigh = [], weighing.Weigher._weigh
    monkeypatch.setattr(weighing.Weigher, "_weigh", lambda self, batch: (seen.append(len(batch[0])), weigh(self, batch)))
    qat.calibrate(prepared, [samples(0, 6), samples(1, 6), samples(2, 6)], "importance", progress=False)
    assert seen == [4, 2, 4]


def test_a_recipe_asks_for_it_and_the_same_samples_give_the_same_ranges():
    model, _ = torch_model()
    recipe = Recipe.model_validate({"name": "r", "rules": [{"activation": {"estimator": "importance"}}]})
    ranges = []
    for given in (recipe, "static_wi8_ai8"):
        prepared = qat.prepare(model, samples(0)[:2], given)
        qat.calibrate(prepared, [samples(0)], None if given is recipe else "importance", progress=False)
        ranges.append({name: grid.range.tolist() for name, grid in prepared.grids.items()})
    assert ranges[0] == ranges[1]


def test_each_end_goes_where_weighted_rounding_errors_are_least():
    random = np.random.default_rng(0)
    x = np.append(random.normal(size=50_000), [-40.0, 60.0]).astype(np.float32)
    free = make_estimator("importance", -128, 127, False)
    free.update(x)
    assert free.range() == pytest.approx((-40, 60))  # nothing was weighed
    weight = np.where(x < -1, 0.0, np.where(x > 50, 1e3, 1.0))
    free.weigh(x, weight)
    low, high = free.range()
    assert -1.5 < low < -0.9 and high == pytest.approx(60, rel=0.01)
    even = make_estimator("importance", -127, 127, True)
    even.update(x)
    even.weigh(x, (np.abs(x) < 20).astype(np.float32))
    assert even.range()[1] < 10


def test_of_a_softmax_its_input_is_weighed_by_tempered_fisher_information():
    net = nn.Sequential(nn.Linear(6, 3), nn.Softmax(-1)).eval()
    prepared = qat.prepare(net, samples(0)[:2])
    weigher = weighing.Weigher(prepared, torch_adapter, {})
    (logits,) = weigher._ends
    assert logits == prepared.plan.ops[-1].op.inputs[0]
    z = np.array([30.0, 0.0, 4.0], np.float32)  # sure of its class: without a temperature all slopes were below 1e-5
    p = np.exp(z / 4) / np.exp(z / 4).sum()
    squares = np.square(weigher._slopes(logits, np.tile(z, (20_000, 1)))).mean(0)
    assert squares == pytest.approx(p * (1 - p), rel=0.05) and squares.min() > 1e-4


def test_sixteen_bits_keep_the_extremes():
    wide = make_estimator("importance", -32767, 32767, True)
    x = np.linspace(-3, 5, 1000, dtype=np.float32)
    wide.update(x)
    wide.weigh(x, np.ones_like(x))
    assert wide.range() == (-3.0, 5.0)


def test_a_file_without_gradients_refuses_it():
    with pytest.raises(OptionError, match="needs gradients"):
        calibrate_onnx("net.onnx", [samples(0)], "importance")
