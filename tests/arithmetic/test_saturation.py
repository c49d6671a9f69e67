"""Functions that stop changing: where they do, and ranges that end there, in calibration and while they are tracked."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.arithmetic.lookup import ARGUMENTS, real
from qat.arithmetic.saturation import saturation

#: Of functions that have arguments, examples.
ATTRS = {
    "gelu": {"approximate": False}, "leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 1.0}, "clamp": {"low": None, "high": 2.0},
    "power": {"exponent": 2.0}, "composed": {"steps": (("hard_swish", "x"), ("mul", "#0", 2.5), ("add", "#1", -0.2))},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_beyond_its_ends_a_function_is_constant(kind):
    attrs = ATTRS.get(kind, {})
    low, high = saturation(kind, attrs)
    for end, sign in ((low, -1), (high, 1)):
        if end is not None:
            beyond = real(kind, attrs, end + sign * np.geomspace(1e-3, 1e3, 200))
            assert np.ptp(beyond) <= 1e-5
            assert sign * end >= 0


def test_the_ends_are_known():
    assert saturation("hard_swish", {}) == (-3, None)
    assert saturation("hard_sigmoid", {}) == (-3, 3)
    assert saturation("clamp", ATTRS["clamp"]) == (None, 2)
    assert saturation("composed", ATTRS["composed"]) == (-3, None)
    for kind in ("leaky_relu", "square", "abs", "sqrt", "log", "reciprocal", "power", "neg"):
        assert saturation(kind, ATTRS.get(kind, {}))[1] is None, kind
    low, high = saturation("gelu", ATTRS["gelu"])
    assert -6 < low < -4
    assert high is None


def torch_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 4, 1), nn.Hardsigmoid()), torch.randn(64, 3, 8, 8) * 40


def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = [keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.Activation("hard_swish"), layers.Conv2D(4, 1)]
    net += [layers.Activation("hard_sigmoid")]
    return keras.Sequential(net), np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32) * 40


@pytest.mark.parametrize("build", [torch_model, keras_model])
@pytest.mark.parametrize("estimator", ["minmax", "mse"])
def test_a_range_ends_where_its_readers_do(build, estimator, tmp_path):
    model, x = build()
    prepared = qat.prepare(model, x[:2]) if build is torch_model else qat.prepare(model)
    qat.calibrate(prepared, [x], estimator)
    swish, sigmoid = (p.op.inputs[0] for p in prepared.plan.ops if p.op.kind in ("hard_swish", "hard_sigmoid"))
    grids = {tensor: prepared.grids[prepared.plan.group_of[tensor]] for tensor in (swish, sigmoid)}
    ends = {t: grid.range.tolist() if build is torch_model else np.asarray(grid.range) for t, grid in grids.items()}
    assert ends[swish][0] == pytest.approx(-3)
    assert ends[swish][1] > 10
    assert ends[sigmoid] == pytest.approx([-3, 3])
    qat.track_ranges(prepared)
    prepared.train()(x) if build is torch_model else prepared(x, training=True)
    grid = grids[swish]
    assert float(np.asarray(grid.encoding.scale * grid.encoding.lo)) == pytest.approx(-3, abs=float(grid.encoding.scale))
    name = tmp_path / f"m{prepared.plan.target.suffix}"
    qat.freeze_ranges(prepared)
    assert qat.export(prepared, name, verify=[x]).parity.exact == 1.0


def test_a_tensor_that_others_read_keeps_its_range():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return nn.functional.hardswish(y) + y

    x = torch.randn(8, 3, 4, 4) * 40
    prepared = qat.calibrate(qat.prepare(Both().eval(), x[:2]), [x])
    assert all(group.bounds == (None, None) for group in prepared.plan.groups.values())
