"""A layer that is called several times, and weights that are tied, are one tensor in a file."""

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.exporters.exporter import exporter_of
from qat.frameworks import adapter_for
from qat.planning.recipe import Recipe, Rule
from qat.program.interpreter import run
from qat.runtimes import format_of, open_session


class Tied(nn.Module):
    """Two names of one parameter, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.twice, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.twice(torch.relu(self.twice(x)))
        return self.second(torch.relu(self.first(x)))


def weights_in(path):
    exporter = exporter_of(format_of(path, qat.QatError))
    return [weight.name for weight in exporter.read_weights(path.read_bytes()) if weight.name.endswith(".weight")]


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize("recipe", ["static_wi8_ai8", "dynamic_wi8_afp32", "weightonly_wi8_afp32", "float16"])
def test_tied_weights_are_one_tensor(recipe, target, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(128, 3, 6, 6)
    prepared = qat.prepare(Tied().eval(), x[:2], recipe, target)
    assert {name for name, _ in prepared.named_parameters()} == {"twice.weight", "twice.bias", "first.weight", "first.bias"}
    path = tmp_path / ("m.onnx" if target == "onnxruntime" else "m.tflite")
    artifact = qat.export(qat.calibrate(prepared, [x]), path, verify=[x])
    assert artifact.parity.mean_lsb < 0.01
    if "static" in recipe:
        assert artifact.parity.exact == 1.0
    assert len(weights_in(path)) == 2
    assert {name for name in artifact.encodings if name.endswith(".weight")} <= set(weights_in(path))


class Words(nn.Module):
    """An embedding whose table is the weight of the head, too; its first row, a padding's, is zero, and its bias is not."""

    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 8), nn.Linear(8, 50)
        with torch.no_grad():
            self.words.weight.mul_(torch.logspace(-1, 1, 50)[:, None])
        self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(torch.relu(self.layer(self.words(ids))))


def words_in_keras():
    """Return the same in Keras, by its layer that is read in reverse."""
    import keras

    ids, words = keras.Input((6,), dtype="int32"), keras.layers.ReversibleEmbedding(50, 8)
    return keras.Model(ids, words(keras.layers.Dense(8, activation="relu")(words(ids)), reverse=True))


RECIPES = ("static_wi8_ai8", "dynamic_wi8_afp32", "float16", "static_wi4_ai8", "weightonly_wi4_afp32")


@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
@pytest.mark.parametrize(
    ("framework", "recipe"), [*(("torch", name) for name in RECIPES), *(("keras", name) for name in RECIPES[:3])]
)
def test_an_embedding_and_its_head_are_one_tensor(recipe, framework, target, tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (128, 6))
    model, x = (Words().eval(), ids) if framework == "torch" else (words_in_keras(), ids.int().numpy())
    prepared = qat.calibrate(qat.prepare(model, x[:2], recipe, target), [x])
    path = tmp_path / ("m.onnx" if target == "onnxruntime" else "m.tflite")
    artifact = qat.export(prepared, path, verify=[x])
    assert artifact.parity.mean_lsb < 0.01
    if "static" in recipe:
        assert artifact.parity.exact == 1.0
        program = adapter_for(framework).lower(prepared)
        assert np.array_equal(run(program, np.asarray(x))[program.outputs[0]], open_session(path).run(np.asarray(x))[0])
    read = exporter_of(format_of(path, qat.QatError)).read_weights
    (held,) = (weight for weight in read(path.read_bytes()) if 50 in weight.shape)
    assert held.dtype in ("int8", "int4", "float16")
    (how,) = (row["how"] for row in prepared.plan.table() if row["op"] == "embedding")
    assert how.startswith("rows of the weight of ")


def test_a_table_that_stays_float_is_its_own():
    rules = (Rule(), Rule(scope="words", mode="float"))
    plan = qat.prepare(Words().eval(), torch.zeros(2, 6, dtype=torch.int64), Recipe(name="words in float", rules=rules)).plan
    assert next((p.op.kind, p.integer, p.tied) for p in plan.ops) == ("embedding", False, "")


def test_a_keras_layer_that_is_called_twice_is_one_tensor(tmp_path):
    import keras

    layer, image = keras.layers.Conv2D(3, 3, padding="same", activation="relu"), keras.Input((6, 6, 3))
    model = keras.Model(image, layer(layer(image)))
    x = np.random.default_rng(0).normal(size=(128, 6, 6, 3)).astype(np.float32)
    for name in ("m.tflite", "m.onnx"):
        target = "litert" if name == "m.tflite" else "onnxruntime"
        prepared = qat.calibrate(qat.prepare(model, target=target), [x])
        assert qat.export(prepared, tmp_path / name, verify=[x]).parity.exact == 1.0
        assert len(weights_in(tmp_path / name)) == 1


class Windows(nn.Module):
    """One weight for convolutions of several windows, as banks of filters for octaves have; a BatchNorm behind each call."""

    def __init__(self):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(4.0)

    def forward(self, x):
        windows = {"stride": 2}, {"dilation": 2}, {"padding": 1}
        return tuple(self.norm(nn.functional.conv2d(x, self.weight, **window)) for window in windows)


def in_keras(images):
    """Return a Keras model of one filter in three windows."""
    import keras

    class OfWindows(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 3, 3, 4), name="kernel")

        def call(self, x):
            windows = {"strides": 2}, {"dilation_rate": 2}, {"padding": "same"}
            return [keras.ops.conv(x, self.kernel, **window) for window in windows]

    image = keras.Input(images.shape[1:])
    return keras.Model(image, OfWindows()(image))


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_calls_of_one_weight_keep_their_own_windows(framework, name, tmp_path):
    """All calls had the strides, the padding and the dilations of the first one."""
    torch.manual_seed(0)
    x = (
        torch.randn(64, 3, 9, 9)
        if framework == "torch"
        else np.random.default_rng(0).normal(size=(64, 9, 9, 3)).astype("float32")
    )
    model = Windows().eval() if framework == "torch" else in_keras(x)
    prepared = qat.calibrate(qat.prepare(model, x[:2], target="litert" if name.endswith(".tflite") else "onnxruntime"), [x])
    with torch.no_grad():
        for real, ours in zip(model(x), prepared(x), strict=True):
            assert np.sqrt(np.mean((np.asarray(real) - np.asarray(ours)) ** 2)) < 0.03 * np.asarray(real).std()
    assert qat.export(prepared, tmp_path / name, verify=[x]).parity.exact == 1.0


class Groups(nn.Module):
    """One weight for convolutions of several groups, as filters of one's own on images and on what becomes of them have."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2, 3, 3))

    def forward(self, x):
        y = nn.functional.conv2d(x, self.weight)
        return y, *(nn.functional.conv2d(torch.cat([y] * (n // 4), 1), self.weight, groups=n) for n in (4, 8))


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_a_weight_of_several_groups(name, tmp_path):
    """ONNX Runtime refused the file: the last of the calls had given the weight its groups."""
    torch.manual_seed(0)
    x = torch.randn(16, 2, 9, 9)
    prepared = qat.prepare(Groups().eval(), x[:2], target="litert" if name.endswith(".tflite") else "onnxruntime")
    assert qat.export(qat.calibrate(prepared, [x]), tmp_path / name, verify=[x]).parity.exact == 1.0


def test_a_weight_in_two_orders_is_two_tensors(tmp_path):
    """After an image that is flattened, a .tflite holds a weight in another order than after a row."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(18, 18)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(torch.flatten(nn.functional.max_pool2d(x, 2), 1))))

    x = torch.randn(128, 2, 6, 6)
    prepared = qat.calibrate(qat.prepare(Two().eval(), x[:2], target="litert"), [x])
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0
    assert len(weights_in(tmp_path / "m.tflite")) == 2
