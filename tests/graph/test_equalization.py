"""Cross-layer equalization: the float function stays, the ranges of neighbours agree, and one scale a tensor suffices."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qat
from qat.errors import ConfigError

PER_TENSOR = "static_wi8_ai8_per_tensor"


def layers(kind, channels, groups, activation, bias):
    """Return a layer, its activation and what may follow: the second of a pair."""
    acts = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1), "none": nn.Identity}
    first = nn.Conv2d(2 * groups, channels, 3, padding=1, groups=groups, bias=bias)
    if kind == "flat":
        return [first, acts[activation](), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(4 * channels, 3)]
    if kind == "pooled":
        return [first, acts[activation](), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3, bias=bias)]
    second = {
        "grouped": lambda: nn.Conv2d(channels, 2 * groups, 3, groups=groups, bias=bias),
        "depthwise": lambda: nn.Conv2d(channels, 2 * channels, 3, groups=channels, bias=bias),
        "transposed": lambda: nn.ConvTranspose2d(channels, 3, 3, bias=bias),
    }[kind]()
    return [first, acts[activation](), second]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["grouped", "depthwise", "transposed", "pooled", "flat"]),
    per_group=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    activation=st.sampled_from(["relu", "leaky", "none"]),
    bias=st.booleans(),
    dead=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_float_function_stays_and_ranges_agree(kind, per_group, groups, activation, bias, dead, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(*layers(kind, per_group * groups, groups, activation, bias)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.exp(2 * torch.randn(len(model[0].weight), 1, 1, 1)))
        if dead:
            model[0].weight[0] = 0
    x = torch.randn(4, 2 * groups, 6, 6)
    prepared = qat.prepare(model, x, PER_TENSOR, equalize=True)
    with torch.no_grad():
        want = model(x)
        np.testing.assert_allclose(prepared.eval()(x), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    first, last = prepared.get_parameter("0.weight").detach(), prepared.get_parameter(f"{len(model) - 1}.weight").detach()
    outputs = first.abs().amax((1, 2, 3))
    inputs = {
        "grouped": lambda: last.view(groups, 2, per_group, 3, 3).abs().amax((1, 3, 4)).flatten(),
        "depthwise": lambda: last.view(len(outputs), 2, 3, 3).abs().amax((1, 2, 3)),
        "transposed": lambda: last.abs().amax((1, 2, 3)),
        "pooled": lambda: last.abs().amax(0),
        "flat": lambda: last.view(3, len(outputs), 4).abs().amax((0, 2)),
    }[kind]()
    torch.testing.assert_close(outputs[dead:], inputs[dead:], rtol=1e-3, atol=0)


def unequal(relu6):
    """Return a net as MobileNetV2's blocks; a channel that died has a folded weight hundreds of times as large as the others."""
    torch.manual_seed(0)
    act = nn.ReLU6 if relu6 else nn.ReLU
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), act(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 4, 1),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.fill_(0.55)
            norm.running_var.fill_(0.1)
        model[1].weight[0], model[1].bias[0] = 1e-3, -1.0  # never above 0, so that the next layer's channel sees no variance
        model[4].weight[0], model[4].bias[0], model[4].running_var[0] = 0.5, -1.0, 1e-9
    return model, torch.randn(64, 3, 6, 6)


def error(prepared, model, x):
    with torch.no_grad():
        want = model(x)
        return float((prepared.eval()(x) - want).norm() / want.norm())


@pytest.mark.parametrize("relu6", [False, True])
def test_one_scale_a_tensor_suffices(relu6, tmp_path):
    model, x = unequal(relu6)
    errors = []
    for equalize in (False, True):
        prepared = qat.prepare(model, x[:2], PER_TENSOR, equalize=equalize)
        assert error(prepared, model, x) < 1e-5
        qat.calibrate(prepared, [x])
        errors.append(error(prepared, model, x))
    assert errors[1] < errors[0] / 3
    # Training goes on from there, and what is shipped is what was trained.
    qat.finetune(prepared, [(x, torch.zeros(64, dtype=torch.long))], loss=_loss, progress=False)
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def _loss(outputs, labels):
    return outputs.square().mean()


def test_a_relu6_that_clips_keeps_its_channels(caplog):
    model, x = unequal(relu6=True)
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.fill_(0.55)
            norm.bias.fill_(5)
            norm.running_var.fill_(0.1)
    with caplog.at_level(logging.WARNING, "qat"):
        prepared = qat.prepare(model, x[:2], PER_TENSOR, equalize=True)
    assert "equalize changed nothing" in caplog.text
    plain = qat.prepare(model, x[:2], PER_TENSOR)
    assert all(torch.equal(a, b) for a, b in zip(prepared.parameters(), plain.parameters(), strict=True))


class Branches(nn.Module):
    """Two readers of a tensor, and a weight that is read twice: neither may be rescaled."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.b(torch.relu(self.a(self.a(x)))) + x


def test_what_others_read_is_left_alone(caplog):
    model, x = Branches().eval(), torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING, "qat"):
        prepared = qat.prepare(model, x, equalize=True)
    assert "equalize changed nothing" in caplog.text
    assert all(torch.equal(value, prepared.get_parameter(name)) for name, value in model.named_parameters())


def test_a_permutation_of_axes_ends_a_pair(caplog):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x).permute(0, 2, 3, 1))

    with caplog.at_level(logging.WARNING, "qat"):
        qat.prepare(Net(), torch.randn(2, 3, 6, 6), equalize=True)
    assert "equalize changed nothing: 0 pair(s)" in caplog.text


def test_keras_equalizes_as_pytorch_does(tmp_path):
    import keras

    rng = np.random.default_rng(0)
    inputs = keras.Input((6, 6, 3))
    y = keras.layers.ReLU()(keras.layers.Conv2D(8, 3, padding="same")(inputs))
    y = keras.layers.ReLU()(keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y))
    y = keras.layers.ReLU()(keras.layers.Conv2DTranspose(4, 2, strides=2)(y))
    y = keras.layers.Flatten()(keras.layers.MaxPooling2D(4)(y))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.ReLU()(keras.layers.Dense(6)(y))))
    conv, depthwise = model.layers[1], model.layers[3]
    factor = np.exp(2 * rng.normal(size=8))
    conv.set_weights([w * factor for w in conv.get_weights()])
    depthwise.kernel.assign(depthwise.kernel / factor[:, None])
    x = rng.normal(size=(32, 6, 6, 3)).astype(np.float32)
    want, errors = np.asarray(model(x)), []
    for equalize in (False, True):
        prepared = qat.prepare(model, recipe=PER_TENSOR, equalize=equalize)
        np.testing.assert_allclose(prepared(x), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        qat.calibrate(prepared, [x])
        errors.append(np.linalg.norm(np.asarray(prepared(x)) - want) / np.linalg.norm(want))
    assert errors[1] < errors[0] / 2
    kernels = [np.abs(np.asarray(v)) for v in prepared.weights if v.path.endswith("kernel") and "dense" in v.path]
    np.testing.assert_allclose(kernels[0].max(0), kernels[1].max(1), rtol=1e-2)
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


def test_tfmot_says_so():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(ConfigError, match="leave out equalize"):
        qat.prepare(model, equalize=True, engine="tfmot")
