"""The minimum of two tensors: on the integer grid in both frameworks, equal in every bit in both runtimes."""

import keras
import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.frameworks import adapter_for, framework_of
from qat.program import interpreter as reference
from qat.runtimes import open_session

IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)


class Net(nn.Module):
    """The minimum of two convolutions, and of it and a mean that broadcasts."""

    def __init__(self, minimum):
        super().__init__()
        self.minimum = minimum
        self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        y = self.minimum(self.a(x), self.b(x))
        return self.minimum(y, self.c(x).mean((2, 3), keepdim=True))


def torch_model(minimum):
    torch.manual_seed(0)
    return Net(minimum).eval(), torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())


def keras_model(minimum):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    a, b, c = (keras.layers.Conv2D(4, 3, padding="same")(x) for _ in range(3))
    y = minimum(a, b)
    return keras.Model(x, minimum(y, keras.layers.GlobalAveragePooling2D(keepdims=True)(c))), IMAGES


CASES = {
    "torch.minimum": lambda: torch_model(torch.minimum),
    "torch.min": lambda: torch_model(torch.min),
    "Minimum": lambda: keras_model(lambda a, b: keras.layers.Minimum()([a, b])),
    "keras.ops.minimum": lambda: keras_model(keras.ops.minimum),
}


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("name", CASES)
def test_every_output_matches_bit_for_bit(name, target, tmp_path):
    model, x = CASES[name]()
    prepared = qat.prepare(model, x[:2], target=target) if isinstance(x, torch.Tensor) else qat.prepare(model, target=target)
    qat.calibrate(prepared, [x])
    assert not prepared.plan.floats()
    smaller = [p.op for p in prepared.plan.ops if p.op.kind == "minimum"]
    assert len(smaller) == 2
    for op in smaller:  # the kernels compare integers, which one scale makes comparable
        assert len({prepared.plan.group_of[tensor] for tensor in (*op.inputs, *op.outputs)}) == 1
    targets = torch.zeros(16, 4, 8, 8) if isinstance(x, torch.Tensor) else np.zeros((16, 8, 8, 4), np.float32)
    qat.finetune(prepared, [(x, targets)], loss="mse", learning_rate=1e-3, progress=False)
    adapter = adapter_for(framework_of(prepared))
    expected, found = reference.run(adapter.lower(prepared), np.asarray(x)), adapter.grid_values(prepared, x)
    for op in smaller:
        np.testing.assert_array_equal(np.asarray(found[op.output]), expected[op.output])
    artifact = qat.export(prepared, tmp_path / f"m{prepared.plan.target.suffix}", verify=[x, x[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    assert open_session(artifact.path).ops()["Min" if target == "onnxruntime" else "MINIMUM"] == 2


def test_the_smaller_of_a_tensor_and_a_number_stays_a_clamp():
    class Limited(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.minimum(self.conv(x), torch.tensor(0.5))

    plan = qat.plan(Limited().eval(), torch.zeros(2, 3, 8, 8))
    assert [p.op.kind for p in plan.ops] == ["conv2d", "clamp"]


def test_a_target_without_the_kernel_leaves_it_in_float():
    model, x = torch_model(torch.minimum)
    reasons = qat.plan(model, x[:2], target="tensorrt").floats().values()
    assert "target 'tensorrt' has no integer kernel for minimum" in reasons
