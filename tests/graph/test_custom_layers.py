"""Handlers of custom layers, as docs/custom_layers.md has them."""

import re
from pathlib import Path

import numpy as np
import pytest

import qat
from qat.errors import ConfigError
from qat.graph.custom_layers import HANDLERS

EXAMPLES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "custom_layers.md").read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def forget_handlers():
    yield
    HANDLERS.clear()


def test_the_documented_keras_layer_runs_on_the_grid(tmp_path):
    import keras

    names = {}
    exec(EXAMPLES[0], names)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = names["Gate"]()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    data = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [data])
    assert prepared.plan.floats() == {}
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[data]).parity.exact == 1.0


def test_the_documented_operator_of_pytorch_runs_on_the_grid(tmp_path):
    import torch
    from torch import nn

    exec(EXAMPLES[1], {})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.ops.mine.gate(self.conv(x)).mean((2, 3)))

    torch.manual_seed(0)
    data = torch.randn(16, 3, 6, 6)
    prepared = qat.calibrate(qat.prepare(Net(), data), [data])
    assert prepared.plan.floats() == {}
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[data]).parity.exact == 1.0


def test_a_mistake_in_a_handler_says_what_is_valid():
    import torch
    from torch import nn

    with pytest.raises(ConfigError, match=r"'hard_swich' \(did you mean 'hard_swish'\?\)"):
        qat.Handled("hard_swich")
    with pytest.raises(ConfigError, match="parameter 'kernel' of 'dense', which has weight, bias"):
        qat.Handled("dense", params={"kernel": None})
    with pytest.raises(ConfigError, match="a module of PyTorch is captured by its operators"):
        qat.register_handler(nn.Conv2d, lambda module: None)
    with pytest.raises(ConfigError, match="a Keras layer class or a PyTorch operator"):
        qat.register_handler(torch.relu, lambda node: None)
