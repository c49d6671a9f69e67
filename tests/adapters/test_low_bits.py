"""Activations of fewer than 8 bits: no runtime has them, the NumPy reference does."""

import numpy as np
import pytest

import qat
from qat import reference
from qat.adapters import adapter_for
from qat.errors import ExportError

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def net(framework):
    """A residual net: convolution, depthwise, addition, mean, dense."""
    if framework == "torch":
        import torch

        from qat.zoo.torch import mobilenet_tiny

        torch.manual_seed(0)
        return mobilenet_tiny().eval()
    import keras

    from qat.zoo.keras import TINY, mobilenet

    keras.utils.set_random_seed(0)
    return mobilenet(TINY, (8, 8, 1), 10, stem=16, stem_stride=1, head=64)


def images(framework, count=32, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 8, 8, 1)).astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if framework == "torch" else x


@FRAMEWORKS
@pytest.mark.parametrize("bits", [4, 3])
def test_the_model_computes_what_the_reference_does(framework, bits):
    x, y = images(framework), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net(framework), x[:2], f"static_wi{bits}_ai{bits}", "simulated"), [x])
    qat.finetune(model, [(x, y)] * 3, learning_rate=0.01, progress=False)
    adapter = adapter_for(framework)
    program = adapter.lower(model)
    held_out = images(framework, 8, seed=1)
    expected = reference.run(program, held_out)
    found = adapter.grid_values(model, held_out)
    assert len(found) > 10
    for name, value in found.items():
        assert np.array_equal(expected[name], value), name
    inside = [e for e in program.encodings().values() if e["qmin"] == 0 and e["axis"] is None]
    assert {e["qmax"] for e in inside} >= {2**bits - 1, 255}


@FRAMEWORKS
def test_there_is_nothing_to_export(framework, tmp_path):
    x = images(framework)
    model = qat.calibrate(qat.prepare(net(framework), x[:2], "static_wi4_ai4", "simulated"), [x])
    with pytest.raises(ExportError, match=r"target 'simulated' has no runtime.*prepare with a recipe of 8-bit activations"):
        qat.export(model, tmp_path / "model.onnx")
