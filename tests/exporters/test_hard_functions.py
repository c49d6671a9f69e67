"""Hard swish and hard sigmoid are products and sums of integers in both formats, from both frameworks, in every bit."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import layers
from torch import nn

import qat
from qat.arithmetic import hard_functions, lookup
from qat.arithmetic.encoding import from_range
from qat.runtimes import open_session

IMAGES = torch.randn(8, 4, 12, 12, generator=torch.Generator().manual_seed(0))
SUFFIX = {"onnxruntime": ".onnx", "litert": ".tflite"}
#: What the functions were before, in either runtime's optimized graph.
SLOW = {"HardSigmoid", "HardSwish", "Gather", "HARD_SWISH", "GATHER", "CAST"}


class Gated(nn.Module):
    """A hard swish behind a convolution, and a squeezed gate that multiplies it, whose inputs reach beyond -3 and 3."""

    def __init__(self, gain: float = 6.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.gain, self.first, self.gate, self.last = gain, nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.hardswish(self.first(self.gain * x))
        return self.last(x * F.hardsigmoid(self.gate(self.gain * x.mean((2, 3), keepdim=True))))


def gated_in_keras() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12, 12, 4))
    x = layers.Activation("hard_swish")(layers.Conv2D(8, 3)(layers.Rescaling(6.0)(inputs)))
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(inputs, layers.Conv2D(3, 1)(layers.Multiply()([x, gate])))


def exported(model, images, target: str, folder: Path):
    prepared = qat.calibrate(qat.prepare(model, images, target=target), [images])
    return prepared, qat.export(prepared, folder / f"m{SUFFIX[target]}", verify=[images])


@pytest.mark.parametrize("target", SUFFIX)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_both_are_sums_and_products(framework, target, tmp_path: Path):
    model, images = (Gated().eval(), IMAGES) if framework == "torch" else (gated_in_keras(), IMAGES.permute(0, 2, 3, 1).numpy())
    prepared, artifact = exported(model, images, target, tmp_path)
    assert artifact.parity.exact == 1.0
    ops = open_session(artifact.path).ops()
    assert not SLOW & set(ops) and ops["QuantizeLinear"] <= 2, "of the input and of its factor"
    read = next(p.op.inputs[0] for p in prepared.plan.ops if p.op.kind == "hard_swish")
    step = 3.0 / float(prepared.grids[prepared.plan.group_of[read]].encoding.scale)
    assert abs(step - round(step)) < 1e-4


@pytest.mark.parametrize("target", SUFFIX)
def test_a_range_that_ends_far_above_minus_three_stays(target, tmp_path: Path):
    prepared, artifact = exported(Gated(0.2).eval(), IMAGES, target, tmp_path)
    read = next(p.op.inputs[0] for p in prepared.plan.ops if p.op.kind == "hard_swish")
    encoding = prepared.grids[prepared.plan.group_of[read]].encoding
    assert encoding.lo * encoding.scale > -2.5 and hard_functions.gate_of(encoding) is None
    assert artifact.parity.exact == 1.0
    assert {"HardSigmoid", "HARD_SWISH"} & set(open_session(artifact.path).ops())


@pytest.mark.parametrize("kernels", ["mlas", "xnnpack"])
@pytest.mark.parametrize("whole", [1, 7, 12, 33, 60, 127, 254])
def test_the_product_is_the_function(kernels, whole):
    low, high = (0, 255) if kernels == "mlas" else (-128, 127)
    step = np.float32(3.0 / whole)
    for below in {whole, min(255, 2 * whole)}:
        x = from_range(-below * step, (255 - below) * step, low, high)
        y = from_range(-0.375, max(1.0, (255 - below) * step), low, high)
        exact = lookup.real("hard_swish", {}, lookup.centres(x)) / float(y.scale)
        made = hard_functions.hard_swish(x, y, kernels)
        assert made is not None and np.abs(made - np.clip(exact, y.lo, y.hi)).max() < 0.501
