"""BatchNorm: folded into the layer before it, or a depthwise convolution of its own; in both frameworks."""

import numpy as np
import pytest
import torch
from torch import nn

import qat


def norm(channels, **options):
    made = nn.BatchNorm2d(channels, **options)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    if made.affine:
        nn.init.uniform_(made.weight, 0.5, 2)
        nn.init.normal_(made.bias)
    return made


class Dense(nn.Module):
    """A DenseNet's layer: BatchNorm and ReLU of a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.grow, self.norm, self.end = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), norm(7), nn.Conv2d(7, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.end(torch.relu(self.norm(torch.cat([x, self.grow(x)], 1))))


MODELS = {
    "after a concatenation": Dense,
    "of the input": lambda: nn.Sequential(norm(3), nn.Conv2d(3, 4, 3)),
    "without parameters": lambda: nn.Sequential(nn.MaxPool2d(2), norm(3, affine=False), nn.ReLU(), nn.Conv2d(3, 4, 1)),
    "several in a row": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), norm(4), nn.ReLU(), norm(4), norm(4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_runs_on_the_grid(name, tmp_path):
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), torch.randn(8, 3, 7, 7)
    prepared = qat.prepare(model, x[:2])
    with torch.no_grad():
        np.testing.assert_allclose(prepared.eval()(x), model(x), atol=1e-4)
    assert not prepared.plan.floats()
    kinds = [p.op.kind for p in prepared.plan.ops]
    assert "batch_norm" not in kinds
    assert kinds.count("depthwise_conv2d") == 1
    artifact = qat.export(qat.calibrate(prepared, [x]), tmp_path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0


def test_batch_norm_of_a_sum_in_keras(tmp_path):
    import keras

    inputs = keras.Input((6, 6, 3))
    y = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    y = keras.layers.Add()([y, keras.layers.Conv2D(4, 1)(inputs)])
    y = keras.layers.BatchNormalization()(keras.layers.BatchNormalization()(y))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.ReLU()(y)))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, 4), *rng.normal(size=(2, 4)), rng.uniform(0.5, 2, 4)])
    x = rng.normal(size=(8, 6, 6, 3)).astype(np.float32)
    prepared = qat.prepare(model)
    np.testing.assert_allclose(prepared(x), model(x), atol=1e-4)
    assert not prepared.plan.floats()
    assert qat.export(qat.calibrate(prepared, [x]), tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


def test_a_dense_layer_and_a_batch_norm_of_several_inputs_are_one(tmp_path):
    """Siamese: the encoder is called for each input, and stays one set of parameters."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, 2, bias=False), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5))

    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(*layers)

        def forward(self, a, b):
            return self.encoder(a), self.encoder(b)

    model, (a, b) = Siamese().eval(), torch.randn(2, 64, 1, 8, 8)
    prepared = qat.prepare(model, (a[:2], b[:2]))
    assert {name for name, _ in prepared.named_parameters()} == {
        *("encoder.0.weight", "encoder.0.bias", "encoder.4.weight", "encoder.4.bias")
    }
    with torch.no_grad():
        for got, wanted in zip(prepared.eval()(a, b), model(a, b), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4)
    qat.calibrate(prepared, [(a, b)])
    prepared.train()(a, b)[0].square().sum().backward()
    torch.optim.SGD(prepared.parameters(), 0.01).step()
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[(a, b)])
    assert artifact.parity.exact == 1.0


class Heads(nn.Module):
    """A RetinaNet's head: one convolution for all levels, with a BatchNorm for each; and one BatchNorm of two sums."""

    def __init__(self):
        super().__init__()
        self.head, self.first, self.second, self.sums = nn.Conv2d(3, 4, 1), norm(4), norm(4), norm(4)

    def forward(self, x):
        first, second = self.first(self.head(x)), self.second(self.head(-x))
        return self.sums(first + second), self.sums(first * second)


def test_one_layer_with_two_batch_norms_and_one_batch_norm_of_two_sums():
    torch.manual_seed(0)
    model, x = Heads().eval(), torch.randn(4, 3, 5, 5)
    prepared = qat.prepare(model, x)
    names = ("head", "first", "second", "sums")
    assert {name for name, _ in prepared.named_parameters()} == {f"{n}.{role}" for n in names for role in ("weight", "bias")}
    with torch.no_grad():
        for got, wanted in zip(prepared.eval()(x), model(x), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_fully_connected_layer_with_two_batch_norms_stays_on_the_grid():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.first, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.first(self.layer(x)), self.second(self.layer(-x))

    assert not qat.plan(Two().eval(), torch.randn(4, 3)).floats()


FROZEN = {
    "the layer": (lambda m: m[0], {"0.weight", "0.bias"}),
    "the BatchNorm": (lambda m: m[1], {"0.bias"}),
    "the BatchNorm of an image": (lambda m: m[4], {"4.weight", "4.bias"}),
    "nothing": (lambda m: nn.Module(), set()),
}


@pytest.mark.parametrize("what", FROZEN)
def test_what_is_frozen_stays_frozen(what, tmp_path):
    chosen, frozen = FROZEN[what]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm(4), nn.ReLU(), nn.MaxPool2d(2), norm(4)).eval()
    chosen(model).requires_grad_(False)
    prepared = qat.prepare(model, torch.randn(2, 3, 8, 8))
    assert {name for name, p in prepared.named_parameters() if not p.requires_grad} == frozen
    torch.save(prepared, tmp_path / "m.pt")
    loaded = torch.load(tmp_path / "m.pt", weights_only=False)
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == frozen


def keras_siamese(frozen=()):
    import keras

    image = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv")(image)
    y = keras.layers.Flatten()(keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(y)))
    encoder = keras.Model(image, keras.layers.Dense(5, name="head")(y), name="encoder")
    for name in frozen:
        encoder.get_layer(name).trainable = False
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    return keras.Model([a, b], [encoder(a), encoder(b)])


def test_a_keras_model_called_twice_is_one(tmp_path):
    model, (a, b) = keras_siamese(), np.random.default_rng(0).normal(size=(2, 64, 8, 8, 1)).astype(np.float32)
    prepared = qat.prepare(model)
    assert [v.path for v in prepared.trainable_variables] == ["conv/kernel", "conv/bias", "head/kernel", "head/bias"]
    for got, wanted in zip(prepared([a, b]), model([a, b]), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert qat.export(qat.calibrate(prepared, [(a, b)]), tmp_path / "m.tflite", verify=[(a, b)]).parity.exact == 1.0


@pytest.mark.parametrize(
    ("layer", "trained"), [("conv", {"head/kernel", "head/bias"}), ("norm", {"conv/kernel", "head/kernel", "head/bias"})]
)
def test_what_is_frozen_stays_frozen_in_keras(layer, trained, tmp_path):
    import keras

    prepared = qat.prepare(keras_siamese([layer]))
    assert {v.path for v in prepared.trainable_variables} == trained
    prepared.save(tmp_path / "m.keras")
    assert {v.path for v in keras.saving.load_model(tmp_path / "m.keras").trainable_variables} == trained


class Positions(nn.Module):
    """A layer of the last axis, then a BatchNorm of another one that has as many places."""

    def __init__(self, layer=None, channels=6):
        super().__init__()
        self.layer, self.norm, self.end = layer or nn.Linear(6, 6), norm(channels), nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return self.end(torch.relu(self.norm(self.layer(x))))


@pytest.mark.parametrize("channels", [6, 5])
def test_a_norm_of_another_axis_does_not_fold_into_a_layer(channels):
    torch.manual_seed(0)
    model, x = Positions(channels=channels).eval(), torch.randn(8, channels, 4, 6)
    prepared = qat.calibrate(qat.prepare(model, x[:2]), [x]).eval()
    assert not prepared.plan.floats()
    with torch.no_grad():
        assert (prepared(x) - model(x)).square().mean().sqrt() < 0.03 * model(x).std()  # 0.6 where it folds
