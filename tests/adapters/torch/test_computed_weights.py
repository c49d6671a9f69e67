"""Weights that are computed from parameters: weight_norm, spectral_norm, weight standardization, masks of pruning."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import qat


def after_a_pass(wrap):
    """Return a net whose layer keeps the weight of its last pass, which PyTorch does not copy."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5))
    wrap(model[0])
    model(torch.rand(2, 3, 12, 12))
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
    ids=["prune", "weight_norm", "spectral_norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_net_that_holds_a_computed_weight_is_copied(wrap):
    assert qat.prepare(after_a_pass(wrap), torch.rand(2, 3, 12, 12)).plan


def test_what_cannot_be_copied_is_said():
    model = nn.Sequential(nn.Linear(3, 4))
    model.log = open(__file__)  # noqa: SIM115
    with model.log, pytest.raises(qat.QatError, match=r"Sequential cannot be copied.*outside the model's layers"):
        qat.prepare(model, torch.rand(2, 3))


class StandardizedByBatchNorm(nn.Conv2d):
    """As timm's ScaledStdConv2d computes its weight."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        rows, gain = self.weight.reshape(1, self.out_channels, -1), (self.gain * 0.1).view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Standardized(nn.Conv2d):
    """As the paper of weight standardization computes its weight."""

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / torch.sqrt(variance + 1e-5), self.bias, self.stride, self.padding)


def norm(channels):
    made = nn.BatchNorm2d(channels)
    nn.init.uniform_(made.weight, 0.5, 2)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    return made


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


P, U = nn.utils.parametrizations, nn.utils
ORIGINALS = ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")
WEIGHTS = {
    "weight_norm": (lambda: P.weight_norm(nn.Conv2d(3, 4, 3, bias=False)), ORIGINALS),
    "old weight_norm": (lambda: U.weight_norm(nn.Conv2d(3, 4, 3)), ("0.weight_g", "0.weight_v")),
    "spectral_norm": (lambda: P.spectral_norm(nn.Conv2d(3, 4, 3)), ("0.parametrizations.weight.original",)),
    "old spectral_norm": (lambda: U.spectral_norm(nn.Conv2d(3, 4, 3)), ("0.weight_orig",)),
    "standardized": (lambda: Standardized(3, 4, 3), ("0.weight",)),
    "standardized by BatchNorm": (lambda: StandardizedByBatchNorm(3, 4, 3), ("0.weight", "0.gain")),
    "pruned": (lambda: pruned(nn.Conv2d(3, 4, 3)), ("0.weight_orig",)),
}


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_computed_weight_is_quantized_and_its_parameters_train(name, target, tmp_path):
    torch.manual_seed(0)
    make, parameters = WEIGHTS[name]
    model, x = nn.Sequential(make(), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)), torch.randn(128, 3, 6, 6)
    model(x)
    prepared = qat.prepare(model.eval(), x[:2], target=target)
    assert not prepared.plan.floats()
    assert {n for n, _ in prepared.named_parameters()} == {*parameters, "0.bias", "4.weight", "4.bias"}
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(x), model(x), atol=1e-4)
    zeros = (prepared.tensor("0.weight") == 0).sum() if name == "pruned" else 0
    qat.calibrate(prepared, [x]).train()(x).square().sum().backward()
    assert all(prepared.get_parameter(n).grad.abs().sum() > 0 for n in parameters)
    before = prepared.tensor(prepared.plan.ops[0].op.params["weight"]).detach()
    torch.optim.SGD(prepared.parameters(), 1e-3).step()
    after = prepared.tensor(prepared.plan.ops[0].op.params["weight"]).detach()
    assert not torch.equal(before, after)
    assert name != "pruned" or (after == 0).sum() == zeros == 54
    suffix = ".onnx" if target == "onnxruntime" else ".tflite"
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1.0


def shared():
    """Return a net with a weight-normed layer that is called twice, a spectral-normed one before a BatchNorm, and a tied one."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = P.spectral_norm(nn.Conv2d(3, 4, 3)), norm(4)
            self.twice = P.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
            self.encoder, self.last = nn.Linear(64, 8), P.weight_norm(nn.Linear(64, 5))

        def forward(self, x):
            x = self.twice(torch.relu(self.twice(torch.relu(self.norm(self.first(x))))))
            x = F.linear(torch.relu(self.encoder(torch.flatten(x, 1))), self.encoder.weight.t())
            return self.last(x)

    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(0))
METHODS = {
    "equalize": ({"equalize": True}, lambda q: q),
    "adaround": ({}, lambda q: qat.adaround(q, [X])),
    "adaround of 4 bits": ({"recipe": "static_wi4_ai8", "target": "litert"}, lambda q: qat.adaround(q, [X])),
    "reconstruct": ({}, lambda q: qat.reconstruct(q, [X])),
    "correct_biases": ({}, lambda q: qat.correct_biases(q, [X])),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_of_calibration_take_computed_weights(method, tmp_path):
    options, apply = METHODS[method]
    prepared = apply(qat.calibrate(qat.prepare(shared(), X[:2], **options), [X]))
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[X])
    assert artifact.parity.exact == 1.0
    if method.startswith("adaround"):  # a corrected weight is still computed, and its state is saved and loaded
        again = qat.prepare(shared(), X[:2], **options)
        again.load_state_dict(prepared.state_dict())
        name = next(name for name in prepared.computed if name.startswith("last"))
        assert torch.equal(again.tensor(name), prepared.tensor(name))
        assert not torch.allclose(again.tensor(name), shared().last.weight)
        assert torch.allclose(again.tensor(name), shared().last.weight, atol=0.1)


def test_a_computed_weight_is_saved_and_training_goes_on(tmp_path):
    data = [(X[:64], torch.zeros(64, dtype=torch.int64)), (X[64:], torch.ones(64, dtype=torch.int64))]
    prepared = qat.calibrate(qat.prepare(shared(), X[:2]), [X])
    qat.finetune(prepared, data, epochs=1, checkpoint_dir=tmp_path / "c", progress=False)
    loaded = qat.load_prepared(qat.prepare(shared(), X[:2]), tmp_path / "c" / "last.safetensors")
    torch.save(prepared, tmp_path / "m.pt")
    pickled = torch.load(tmp_path / "m.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(X), prepared.eval()(X))
        assert torch.equal(pickled.eval()(X), prepared(X))
    history = qat.finetune(loaded, data, epochs=2, checkpoint_dir=tmp_path / "c", resume=True, progress=False)
    assert len(history.epochs) == 2


def test_a_frozen_weight_that_is_computed_stays_frozen():
    model = shared()
    model.last.requires_grad_(False)
    prepared = qat.prepare(model, X[:2])
    frozen = {name for name, p in prepared.named_parameters() if not p.requires_grad}
    assert frozen == {f"last.{name}" for name, _ in model.last.named_parameters()}


def test_a_weight_with_its_transpose_is_one_parameter():
    prepared = qat.prepare(shared(), X[:2])
    assert [name for name, _ in prepared.named_parameters() if name.startswith("encoder")] == ["encoder.weight", "encoder.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(X), shared()(X), atol=1e-4)


def test_dampening_takes_computed_weights_and_freezing_says_that_it_does_not(caplog):
    data = [(X, torch.zeros(128, dtype=torch.int64))]
    prepared = qat.calibrate(qat.prepare(shared(), X[:2], "static_wi4_ai8", "litert"), [X])
    qat.finetune(prepared, data, epochs=1, dampening=1e-3, freezing=0.02, progress=False)
    assert "freezing leaves" in caplog.text


class InFloat(nn.Module):
    """Computed weights that float operators read, one of them beside an integer layer that reads it, too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = P.weight_norm(nn.Conv2d(3, 4, 3)), P.weight_norm(nn.Linear(4, 4))
        self.mix = nn.Parameter(torch.rand(4))

    def forward(self, x):
        x = torch.cumsum(self.first(x) * torch.softmax(self.mix, 0).view(1, -1, 1, 1), 1)
        return self.last(torch.sort(x.mean((2, 3)), 1).values * self.last.weight[0])


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_float_operators_read_computed_weights(suffix, tmp_path):
    model = InFloat().eval()
    prepared = qat.prepare(model, X[:2], target="onnxruntime" if suffix == ".onnx" else "litert")
    assert prepared.plan.floats()
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(X), model(X), atol=1e-5)
    prepared = qat.calibrate(prepared, [X])
    prepared.train()(X).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in prepared.parameters())
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.mean_lsb < 0.5


class Scaled(nn.Module):
    """Residual branches with a trained factor for each channel, behind a layer or behind the turn of its output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv, self.up, self.down = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 8),
            nn.Linear(8, 4),
        )
        self.of_image, self.of_tokens = nn.Parameter(torch.rand(4) + 0.1), nn.Parameter(torch.rand(4) - 0.5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.of_image.reshape(1, -1, 1, 1) * self.down(self.up(x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2)
        return x + (self.conv(x).permute(0, 2, 3, 1) * self.of_tokens).permute(0, 3, 1, 2)


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_factors_of_channels_multiply_the_weight_before_them(target, tmp_path):
    model = Scaled()
    prepared = qat.prepare(model.eval(), X[:2], target=target)
    assert "mul" not in [p.op.kind for p in prepared.plan.ops] and not prepared.plan.floats()
    assert {n for n, _ in prepared.named_parameters()} == {n for n, _ in model.named_parameters()}
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(X), model(X), atol=1e-5)
    qat.calibrate(prepared, [X]).train()(X).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in prepared.parameters())
    torch.optim.SGD(prepared.parameters(), 1e-3).step()
    suffix = prepared.plan.target.suffix
    assert qat.export(prepared, tmp_path / f"m{suffix}", verify=[X]).parity.exact == 1.0


class OtherFactors(Scaled):
    """Factors of the lines of an image, and of a layer that something else reads too."""

    def forward(self, x):
        x = self.conv(self.stem(x[..., :4, :4]))
        return x * self.of_image.view(-1, 1, 1) + self.down(self.up(x)) * self.of_image[:, None]


def test_other_factors_stay_products():
    assert [p.op.kind for p in qat.plan(OtherFactors().eval(), X[:2]).ops].count("mul") == 2
