"""A product of one tensor with itself: LiteRT's delegate makes a square of it, which rounds in other places than a product."""

from __future__ import annotations

import numpy as np
import pytest

import qat

#: Scales, zero points and limits at which a product of two integers lies within float32's last bit of a half: 400 * 0.01125.
SCALE, ZERO_POINT, OUTPUT_SCALE = 0.0065495754, -24, 0.003813058
INTEGERS = np.arange(-128, 128, dtype=np.float32) - ZERO_POINT


def _torch_model():
    torch = pytest.importorskip("torch")

    class Square(torch.nn.Module):
        def forward(self, x):
            return x * x

    return Square().eval()


def _keras_model():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((256,), name="x")
    return keras.Model(inputs, keras.layers.Multiply()([inputs, inputs]))


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("make", [_torch_model, _keras_model])
def test_every_integer_matches_bit_for_bit(make, target, tmp_path):
    samples = np.tile(INTEGERS * np.float32(SCALE), (128, 1))
    model = make()
    prepared = qat.prepare(model, samples[:2], target=target)
    qat.calibrate(prepared, [samples])
    offset = 128 if target == "litert" else 0
    (x, y) = (prepared.grids[group.name] for group in prepared.plan.groups.values())
    x.set_range(float(INTEGERS[0]) * SCALE, float(INTEGERS[-1]) * SCALE)
    y.set_range(0.0, 255 * OUTPUT_SCALE)
    assert x.encoding.zero_point == ZERO_POINT + 128 - offset
    artifact = qat.export(prepared, tmp_path / f"square{prepared.plan.target.suffix}", verify=[samples])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
