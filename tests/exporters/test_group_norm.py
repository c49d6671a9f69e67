"""GroupNorm and InstanceNorm: float operators that IEEE 754 rounds, on integers; exact in both frameworks and both formats."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.adapters.torch.lower import lower
from qat.analysis.mixed.single_layers import layer_file
from qat.arithmetic.layer_norm import group_norm, layer_norm, rms_norm
from qat.runtimes import open_session

L = keras.layers
SLOW = pytest.mark.slow
RNG = np.random.default_rng(0)
TARGETS = (("onnxruntime", "onnx"), ("litert", "tflite"))
IMAGES = RNG.normal(size=(6, 5, 7, 3)).astype(np.float32)


class Net(nn.Module):
    """A norm between two convolutions, of channels that differ."""

    def __init__(self, norm, conv=nn.Conv2d, channels=8):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = conv(3, channels, 1), norm, conv(channels, 4, 1)
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 0.5, 0.6)

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


class Signals(nn.Module):
    """An instance norm of each channel over time, written out."""

    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        y = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, correction=0) + 1e-5)
        return y * self.gamma + self.beta


NORMS = {
    "groups": (lambda: nn.GroupNorm(2, 8), nn.Conv2d, (5, 7)),
    "one group": (lambda: nn.GroupNorm(1, 8, affine=False), nn.Conv2d, (5, 7)),
    "a group for each channel": (lambda: nn.GroupNorm(8, 8, eps=1e-3), nn.Conv2d, (6, 6)),
    "one pixel": (lambda: nn.GroupNorm(2, 8), nn.Conv2d, (1, 1)),
    "long lines": (lambda: nn.GroupNorm(2, 8), nn.Conv2d, (2, 301)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8), nn.Conv2d, (5, 7)),
    "InstanceNorm2d, affine": (lambda: nn.InstanceNorm2d(8, affine=True), nn.Conv2d, (5, 7)),
    "GroupNorm of signals": (lambda: nn.GroupNorm(4, 8), nn.Conv1d, (19,)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(8, affine=True), nn.Conv1d, (19,)),
    "features": (lambda: nn.GroupNorm(2, 8), nn.Linear, ()),
    "over time": (Signals, nn.Linear, (9,)),
}


def torch_case(name):
    norm, layer, sizes = NORMS[name]
    torch.manual_seed(0)
    x = torch.randn(12, *sizes, 3) if layer is nn.Linear else torch.randn(12, 3, *sizes)
    return Net(norm(), layer).eval(), x


@pytest.mark.parametrize(("target", "suffix"), TARGETS)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_groups_is_exact(name, target, suffix, tmp_path):
    model, x = torch_case(name)
    prepared = qat.calibrate(qat.prepare(model, x[:2], target=target), [x])
    assert [p.op.kind for p in prepared.plan.ops].count("group_norm") == 1 and not prepared.plan.floats()
    with torch.no_grad():
        expected = model(x)
        assert float((prepared(x) - expected).norm() / expected.norm()) < 0.04
    qat.finetune(prepared, [(x, expected)], loss="mse", learning_rate=1e-3, progress=False)
    parity = qat.export(prepared, tmp_path / f"m.{suffix}", verify=[x, x[:3], x[:1], 30 * x, 1e-3 * x]).parity
    assert parity.exact == 1.0, parity.first_difference


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 8), nn.InstanceNorm2d(8)])
def test_a_norm_of_whole_channels_leaves_an_image_in_its_layout(norm, tmp_path):
    """Convolutions hold it with the channels last: a reshape between them would take a transpose before and behind itself."""
    x = torch.randn(4, 3, 20, 20)
    prepared = qat.calibrate(qat.prepare(Net(norm).eval(), x[:2]), [x])
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[x, 30 * x])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    ops = open_session(artifact.path).ops()
    assert ops["QLinearConv"] == 2 and ops["Transpose"] == 2 and "Reshape" not in ops
    assert sum(ops.values()) <= 28


def test_norms_of_volumes_are_exact(tmp_path):
    x = torch.randn(6, 3, 3, 4, 5)
    for norm in (nn.GroupNorm(2, 8), nn.InstanceNorm3d(8, affine=True)):
        prepared = qat.calibrate(qat.prepare(Net(norm, nn.Conv3d).eval(), x[:2]), [x])
        assert not prepared.plan.floats()
        parity = qat.export(prepared, tmp_path / f"{type(norm).__name__}.onnx", verify=[x, x[:1]]).parity
        assert parity.exact == 1.0, parity.first_difference


def test_the_statistics_of_training_make_an_instance_norm_a_batch_norm():
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    model, x = Net(norm).eval(), torch.randn(6, 3, 5, 7)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    prepared = qat.calibrate(qat.prepare(model, x[:2]), [x])
    assert [p.op.kind for p in prepared.plan.ops] == ["conv2d", "conv2d"]
    with torch.no_grad():
        assert float((prepared(x) - model(x)).norm() / model(x).norm()) < 0.04


KERAS = {
    "groups": (lambda: L.GroupNormalization(2), "group_norm"),
    "instances": (lambda: L.GroupNormalization(-1, scale=False), "group_norm"),
    "one group": (lambda: L.GroupNormalization(1, center=False), "group_norm"),
    "another axis": (lambda: L.GroupNormalization(5, axis=1), "group_norm"),
    "deviation alone": (lambda: L.LayerNormalization(rms_scaling=True), "layer_norm"),
    "deviation of images": (lambda: L.LayerNormalization(axis=(1, 2, 3), rms_scaling=True), "layer_norm"),
    "mean square": (L.RMSNormalization, "rms_norm"),
    "length": (L.UnitNormalization, "rms_norm"),
    "length over pixels": (lambda: L.UnitNormalization(axis=(1, 2)), "rms_norm"),
}


def keras_model(names):
    """Return norms one behind the other, with a convolution before each."""
    keras.utils.set_random_seed(0)
    x = y = L.Input((5, 7, 3))
    for name in names:
        norm = KERAS[name][0]()
        y = norm(L.Conv2D(8, 1)(y))
        for weight in norm.weights:
            weight.assign(np.random.default_rng(1).normal(0.5, 0.6, weight.shape))
    return keras.Model(x, L.Conv2D(4, 1)(y))


@pytest.mark.parametrize(("target", "suffix"), TARGETS)
@pytest.mark.parametrize("names", [("groups", "deviation alone", "length over pixels"), pytest.param([*KERAS], marks=SLOW)])
def test_norms_of_keras_are_exact(names, target, suffix, tmp_path):
    model = keras_model(names)
    prepared = qat.prepare(model, target=target)
    found = [p.op.kind for p in prepared.plan.ops if p.op.kind.endswith("_norm")]
    assert found == [KERAS[name][1] for name in names] and not prepared.plan.floats()
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(prepared.predict(IMAGES, verbose=0), expected, atol=1e-4)
    qat.calibrate(prepared, [IMAGES])
    assert np.linalg.norm(prepared.predict(IMAGES, verbose=0) - expected) / np.linalg.norm(expected) < 0.1
    parity = qat.export(prepared, tmp_path / f"m.{suffix}", verify=[IMAGES, IMAGES[:3], IMAGES[:1], 30 * IMAGES]).parity
    assert parity.exact == 1.0, parity.first_difference


@pytest.mark.slow
@pytest.mark.parametrize("name", ["groups", "deviation alone"])
def test_a_norm_of_keras_trains(name, tmp_path):
    model = keras_model([name])
    prepared = qat.calibrate(qat.prepare(model, target="litert"), [IMAGES])
    before = [np.array(v) for v in prepared.trainable_variables]
    expected = model.predict(IMAGES, verbose=0)
    qat.finetune(prepared, [(IMAGES, expected)], loss="mse", learning_rate=1e-3, progress=False)
    assert all(np.any(np.array(v) != b) for v, b in zip(prepared.trainable_variables, before, strict=True))
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[IMAGES, IMAGES[:3]]).parity
    assert parity.exact == 1.0, parity.first_difference


#: Sizes at which sums pass what float32 and int32 hold.
LARGE = {
    "group_norm": (nn.GroupNorm(2, 4), (4, 300, 301)),
    "instance_norm": (nn.InstanceNorm2d(4), (4, 512, 512)),
    "layer_norm": (nn.LayerNorm([4, 300, 301]), (4, 300, 301)),
    "rms_norm": (nn.RMSNorm([4, 300, 301], eps=1e-6), (4, 300, 301)),
}


@pytest.mark.parametrize(("target", "suffix"), TARGETS)
@pytest.mark.parametrize("name", LARGE)
def test_sums_of_large_images_are_exact(name, target, suffix, tmp_path):
    """The runtime's integers are those of the reference, on images whose every integer is an end of the type."""
    norm, shape = LARGE[name]
    x = torch.randn(1, 3, *shape[1:])
    prepared = qat.calibrate(qat.prepare(Net(norm, channels=4).eval(), x, target=target), [x])
    program = lower(prepared)
    (instruction,) = (i for i in program.instructions if i.kind in ("group_norm", "layer_norm", "rms_norm"))
    file = layer_file(program, [instruction], f".{suffix}")
    session = file.file_format.open(file.raw, kernels=file.kernels)
    encoding, out = (program.encoding_of(name) for name in (instruction.inputs[0], instruction.outputs[0]))
    shape = (1, *(n or 1 for n in program.values[instruction.inputs[0]].shape[1:]))
    channels_last = file.file_format.layout == "NHWC" and len(shape) == 4
    for low, high in ((encoding.qmin, encoding.qmin), (encoding.qmax, encoding.qmax), (encoding.qmin, encoding.qmax), (0, 100)):
        stored = np.where(RNG.random(shape) < 0.5, low, high) if high != 100 else RNG.integers(low, high, shape)
        given = stored.transpose(0, 2, 3, 1) if channels_last else stored
        (found,) = session.invoke(given.astype(encoding.dtype))
        found = np.asarray(found).transpose(0, 3, 1, 2) if channels_last else np.asarray(found)
        how = (instruction.attrs["epsilon"], encoding, out, program.kernels)
        q = (stored - encoding.zero_point).astype(np.float32)
        if instruction.kind == "group_norm":
            groups, axis = instruction.attrs["groups"], instruction.attrs["axis"]
            expected = group_norm(q, instruction.weight, instruction.bias, how[0], groups, axis, *how[1:])
        elif instruction.kind == "layer_norm":
            expected = layer_norm(q, instruction.weight, instruction.bias, *how)
        else:
            expected = rms_norm(q, instruction.weight, how[0], instruction.attrs["least"], *how[1:])
        assert np.array_equal(found.astype(np.int64), (expected + out.zero_point).astype(np.int64))
