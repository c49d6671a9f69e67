"""Every built-in recipe in the runtimes: what is in the artifact, and how far it is from the model."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

import qat
from qat.adapters.torch import lower
from qat.errors import ConfigError
from qat.planning.recipe import QuantSpec, Recipe, Rule
from qat.program import interpreter as reference
from qat.runtimes.onnxruntime import OnnxSession
from support.machine import EIGHT_BITS_ARE_EXACT

FOUR_BITS = QuantSpec(bits=4, symmetric=True, granularity="channel")
#: Recipes whose artifact computes in float somewhere: frameworks sum in another order, which changes last bits.
INEXACT = 1e-3


class Small(nn.Module):
    """Every kind that can be stored: a convolution, a depthwise one, a dense layer on three axes and one on two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.tokens = nn.Linear(64, 12)
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = nn.functional.relu6(self.depthwise(x))
        return self.head(self.tokens(x.flatten(2)).flatten(1))


@pytest.fixture(scope="module")
def torch_model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def onnx_types(path) -> dict[str, str]:
    """Return the type of every weight in a file."""
    found = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in onnx.load(path).graph.initializer}
    return {name.removesuffix(".weight"): dtype for name, dtype in found.items() if name.endswith(".weight")}


def tflite_types(path) -> dict[str, str]:
    """Return the type of every weight in a file."""
    names = {value: name for name, value in vars(schema.TensorType).items()}
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes())).subgraphs[0]
    found = {t.name.decode(): names[t.type] for t in graph.tensors}
    return {name.removesuffix(".weight"): dtype for name, dtype in found.items() if name.endswith(".weight")}


def keras_model():
    """The same operators in Keras."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    x = layers.Conv2D(12, 1, name="pointwise")(x)
    x = layers.Dense(6, name="tokens")(layers.Reshape((64, 12))(x))
    return keras.Model(inputs, layers.Dense(10, name="head")(layers.Flatten()(x)))


LITERT_RECIPES = [
    ("static_wi8_ai8", {"INT8"}, True),
    ("static_wi4_ai8", {"INT4"}, True),
    ("static_wi8_ai16", {"INT8"}, True),
    ("dynamic_wi8_afp32", {"INT8"}, True),
    ("dynamic_wi4_afp32", {"INT4", "INT8"}, True),  # no depthwise kernel reads 4 bits
    ("weightonly_wi8_afp32", {"INT8"}, False),
    ("weightonly_wi4_afp32", {"INT4"}, False),
    ("float16", {"FLOAT16"}, False),
]


@pytest.mark.parametrize(("recipe", "dtypes", "exact"), LITERT_RECIPES)
def test_keras_to_litert(images, tmp_path, recipe, dtypes, exact):
    data = images.numpy().transpose(0, 2, 3, 1)
    model = qat.calibrate(qat.prepare(keras_model(), recipe=recipe), [data])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[data])
    assert set(tflite_types(artifact.path).values()) == dtypes
    assert artifact.parity.exact == 1.0 if exact else artifact.parity.max_lsb < INEXACT


@pytest.mark.parametrize(("recipe", "dtypes", "exact"), LITERT_RECIPES)
def test_torch_to_litert(torch_model, images, tmp_path, recipe, dtypes, exact):
    model = qat.calibrate(qat.prepare(torch_model, images[:2], recipe=recipe, target="litert"), [images])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[images])
    assert set(tflite_types(artifact.path).values()) == dtypes
    assert artifact.parity.exact == 1.0 if exact else artifact.parity.max_lsb < INEXACT


@pytest.mark.parametrize(
    ("recipe", "dtype", "exact"),
    [
        ("static_wi4_ai8", "INT8", True),
        ("dynamic_wi8_afp32", "INT8", True),
        ("dynamic_wi4_afp32", "INT8", True),
        ("weightonly_wi8_afp32", "INT8", False),
        ("weightonly_wi4_afp32", "INT4", False),
        ("float16", "FLOAT16", False),
    ],
)
def test_keras_to_onnx(images, tmp_path, recipe, dtype, exact):
    if not recipe.startswith("static"):
        pytest.importorskip("tf2onnx")
    data = images.numpy().transpose(0, 2, 3, 1)
    model = qat.calibrate(qat.prepare(keras_model(), recipe=recipe, target="onnxruntime"), [data])
    artifact = qat.export(model, tmp_path / "m.onnx", verify=[data])
    assert set(onnx_types(artifact.path).values()) == {dtype}
    assert artifact.parity.exact == 1.0 if exact else artifact.parity.max_lsb < INEXACT


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [("static_wi4_ai8", "INT8"), ("dynamic_wi4_afp32", "INT4"), ("dynamic_wi8_afp32", "INT8"), ("static_wi8_ai16", "INT8")],
)
@pytest.mark.parametrize(("kernel", "size", "groups"), [(3, 6, 2), (4, 4, 2), (4, 4, 1)])
def test_groups_and_a_window_as_large_as_its_image(tmp_path, recipe, dtype, kernel, size, groups):
    """A convolution in groups is run by a kernel of its own where its weight has 4 bits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, kernel, groups=groups)).eval()
    images = torch.randn(64, 8, size, size)
    model = qat.calibrate(qat.prepare(net, images, recipe=recipe, target="litert"), [images])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[images])
    assert artifact.parity.exact == 1.0
    assert set(tflite_types(artifact.path).values()) == {"INT4" if groups == 1 and "wi4" in recipe else dtype}


@pytest.mark.parametrize("channels", [3, 4, 6, 9])
def test_dynamic_depthwise_of_any_number_of_channels(tmp_path, channels):
    torch.manual_seed(0)
    x = torch.randn(16, channels, 9, 9)
    net = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels)).eval()
    model = qat.prepare(net, x[:2], recipe="dynamic_wi8_afp32", target="litert")
    assert qat.export(model, tmp_path / "torch.tflite", verify=[x]).parity.exact == 1.0
    inputs = keras.Input((9, 9, channels))
    layer = keras.layers.DepthwiseConv2D(3, bias_initializer="normal")
    model = qat.prepare(keras.Model(inputs, layer(inputs)), recipe="dynamic_wi8_afp32")
    assert qat.export(model, tmp_path / "keras.tflite", verify=[x.numpy().transpose(0, 2, 3, 1)]).parity.exact == 1.0


def test_bits_and_modes_mix_by_scope_in_tflite(images, tmp_path):
    """First and last layer in 8 bits, one float, one weight-only, the rest in 4."""
    recipe = Recipe(
        name="mixed",
        rules=(
            Rule(weight=FOUR_BITS),
            Rule(scope="^(stem|head)$", weight=QuantSpec(bits=8, symmetric=True, granularity="channel")),
            Rule(scope="pointwise", mode="weight_only", weight=FOUR_BITS),
            Rule(scope="tokens", mode="float"),
        ),
    )
    data = images.numpy().transpose(0, 2, 3, 1)
    model = qat.calibrate(qat.prepare(keras_model(), recipe=recipe), [data])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[data])
    assert tflite_types(artifact.path) == {"stem": "INT8", "depthwise": "INT4", "pointwise": "INT4", "head": "INT8"}
    assert artifact.parity.top1_agreement == 1.0
    saved = tmp_path / "mixed.keras"
    model.save(saved)
    assert np.array_equal(keras.models.load_model(saved)(data), model(data))


class Wide(nn.Module):
    """The operators that have kernels of 16 bits and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + self.second(x)
        x = nn.functional.max_pool2d(x * torch.relu(self.second(x)), 2)
        x = torch.cat([nn.functional.avg_pool2d(x, 2, 2), nn.functional.max_pool2d(x, 2)], 1)
        return self.head(x.mean((2, 3)))


def test_16_bits_beyond_weights(images, tmp_path):
    """Addition, product, pooling, mean: what float32 cannot sum is exact all the same, trained before or not."""
    torch.manual_seed(0)
    model = qat.calibrate(qat.prepare(Wide().eval(), images[:2], recipe="static_wi8_ai16", target="litert"), [images])
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    model(images).square().sum().backward()
    optimizer.step()
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[images])
    assert artifact.parity.exact == 1.0
    program = lower(model)
    y = reference.run(program, images[:4].numpy())[program.outputs[0]]
    assert np.array_equal(y, model.eval()(images[:4]).detach().numpy())


class WideMoves(nn.Module):
    """What only moves integers, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pixel_shuffle(torch.relu(self.first(x)), 2)
        x = self.second(x[:, :, 1:9:2, :8].flip(3).roll(2, 3).repeat(1, 1, 2, 1))
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest").index_select(2, torch.tensor([3, 1, 5]))
        return self.head(x.permute(0, 2, 3, 1).amax(1).mean(1))


@pytest.mark.slow
def test_16_bits_are_moved_in_torch(images, tmp_path):
    torch.manual_seed(0)
    model = qat.calibrate(qat.prepare(WideMoves().eval(), images[:2], recipe="static_wi8_ai16", target="litert"), [images])
    assert not model.plan.floats()
    assert qat.export(model, tmp_path / "m.tflite", verify=[images]).parity.exact == 1.0


def test_16_bits_are_moved_in_keras(images, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.UpSampling2D(2)(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    x = keras.layers.Permute((2, 1, 3))(keras.layers.Cropping2D(((1, 2), (0, 3)))(x))
    net = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    data = images.numpy().transpose(0, 2, 3, 1)
    model = qat.calibrate(qat.prepare(net, recipe="static_wi8_ai16"), [data])
    assert not model.plan.floats()
    assert qat.export(model, tmp_path / "m.tflite", verify=[data]).parity.exact == 1.0


@pytest.mark.parametrize("target", ["litert", "onnxruntime"])
@pytest.mark.parametrize("recipe", ["dynamic_wi8_afp32", "dynamic_wi4_afp32", "weightonly_wi8_afp32", "float16"])
def test_the_reference_interprets_what_is_stored(images, target, recipe):
    """One layer at a time: what computes in float between two of them differs in last bits."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Linear(8, 5),
    )
    for layer in layers:
        model = qat.prepare(nn.Sequential(layer, nn.ReLU()).eval(), images[:2], recipe=recipe, target=target)
        program = lower(model)
        want, found = model.eval()(images).detach().numpy(), reference.run(program, images.numpy())
        y = found[program.outputs[0]]
        if recipe.startswith("dynamic"):
            assert np.array_equal(y, want)
        else:
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_16_and_8_bits_do_not_meet_in_one_kernel(torch_model, images):
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope="depthwise", activation=QuantSpec(bits=16))))
    with pytest.raises(ConfigError, match=r"depthwise: its activations would have 8 and 16 bits"):
        qat.prepare(torch_model, images[:2], recipe=recipe, target="litert")


def test_a_stored_weight_is_trained_in_keras(images):
    data = images.numpy().transpose(0, 2, 3, 1)
    for recipe in ("dynamic_wi4_afp32", "weightonly_wi4_afp32", "float16"):
        model = qat.prepare(keras_model(), recipe=recipe)
        before = [np.asarray(v) for v in model.trainable_variables]
        model.compile(keras.optimizers.SGD(0.01), "mse")
        losses = model.fit(data, np.ones((16, 10), np.float32), epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        assert all((np.asarray(v) != b).any() for v, b in zip(model.trainable_variables, before, strict=True))


@pytest.mark.parametrize(
    ("recipe", "dtype", "exact", "runs"),
    [
        ("static_wi8_ai8", "INT8", True, {"QLinearConv": 2, "QGemm": 2}),
        ("static_wi4_ai8", "INT8", True, {"QLinearConv": 2, "QGemm": 2}),
        ("dynamic_wi8_afp32", "INT8", True, {"ConvInteger": 2, "DynamicQuantizeMatMul": 2}),
        ("dynamic_wi4_afp32", "INT8", True, {"ConvInteger": 2, "DynamicQuantizeMatMul": 2}),
        ("weightonly_wi8_afp32", "INT8", False, {"DequantizeLinear": 4}),
        ("weightonly_wi4_afp32", "INT4", False, {"DequantizeLinear": 4}),
        ("float16", "FLOAT16", False, {}),
    ],
)
def test_torch_to_onnx(torch_model, images, tmp_path, recipe, dtype, exact, runs):
    model = qat.calibrate(qat.prepare(torch_model, images[:2], recipe=recipe), [images])
    artifact = qat.export(model, tmp_path / "m.onnx", verify=[images])
    assert set(onnx_types(artifact.path).values()) == {dtype}
    ops = OnnxSession(artifact.path).ops()
    assert {kind: ops[kind] for kind in runs} == runs
    assert "MatMulNBits" not in ops
    assert artifact.parity.exact == 1.0 if exact else artifact.parity.max_lsb < INEXACT
    with torch.no_grad():
        assert np.corrcoef(model.eval()(images).numpy().ravel(), torch_model(images).numpy().ravel())[0, 1] > 0.99


def test_bits_and_modes_mix_by_scope_in_onnx(torch_model, images, tmp_path):
    recipe = Recipe(
        name="mixed",
        rules=(
            Rule(),
            Rule(scope="depthwise", weight=FOUR_BITS),
            Rule(scope="tokens", mode="weight_only", weight=FOUR_BITS),
            Rule(scope="head", mode="float"),
        ),
    )
    model = qat.calibrate(qat.prepare(torch_model, images[:2], recipe=recipe, target="onnxruntime_vnni"), [images])
    rows = {row["scope"]: row for row in model.plan.table()}
    assert [rows[s]["runs"] for s in ("stem", "depthwise", "tokens", "head")] == ["integer", "integer", "weight_only", "float"]
    assert "weight int4 held in int8" in rows["depthwise"]["how"]
    artifact = qat.export(model, tmp_path / "m.onnx", verify=[images])
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(artifact.path).graph.initializer}
    by_layer = {row["scope"]: planned.op.name for row, planned in zip(model.plan.table(), model.plan.ops, strict=True)}
    assert np.abs(weights[f"{by_layer['stem']}.weight"]).max() == 127
    assert np.abs(weights[f"{by_layer['depthwise']}.weight"]).max() == 7
    assert weights[f"{by_layer['tokens']}.weight"].dtype.name == "int4"
    assert f"{by_layer['head']}.weight" not in weights
    assert OnnxSession(artifact.path).ops()["QLinearConv"] == 2
    assert artifact.parity.max_lsb < INEXACT or not EIGHT_BITS_ARE_EXACT


def test_a_stored_weight_is_trained(torch_model, images):
    for recipe in ("dynamic_wi4_afp32", "weightonly_wi4_afp32", "float16"):
        model = qat.prepare(torch_model, images[:2], recipe=recipe).train()
        model(images).square().sum().backward()
        # Straight through: the gradient is about that of the float model.
        torch_model.zero_grad()
        torch_model(images).square().sum().backward()
        for name, parameter in torch_model.named_parameters():
            ours = model.get_parameter(name).grad
            assert nn.functional.cosine_similarity(ours.flatten(), parameter.grad.flatten(), 0) > 0.9, (recipe, name)


def test_what_a_target_lacks_is_refused_with_the_pairs_that_have_it(torch_model, images):
    message = r"needs dynamic kernels, which target 'tensorrt' lacks; .*keras or torch -> litert, onnx"
    with pytest.raises(ConfigError, match=message):
        qat.prepare(torch_model, images[:2], recipe="dynamic_wi8_afp32", target="tensorrt")
    message = r"'static_wi8_ai16' needs 16-bit kernels, which target 'onnxruntime' lacks; .*: keras or torch -> litert$"
    with pytest.raises(ConfigError, match=message):
        qat.prepare(torch_model, images[:2], recipe="static_wi8_ai16")


def test_a_mode_whose_kernels_are_slower_than_floats_says_so(torch_model, images, caplog):
    qat.prepare(torch_model, images, recipe="dynamic_wi8_afp32", target="litert")
    assert "takes a multiple" not in caplog.text
    qat.prepare(torch_model, images, recipe="dynamic_wi8_afp32")
    said = "mode dynamic of conv2d in this runtime takes a multiple of float's time (2 operators, 'stem' first): mode weight_only"
    assert said in caplog.text


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_depthwise_convolution_of_4_bits_is_exact_below_zero(framework, tmp_path):
    if framework == "torch":
        torch.manual_seed(0)
        x = torch.randn(16, 3, 8, 8)
        model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.Linear(108, 4)).eval()
    else:
        keras.utils.set_random_seed(0)
        x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
        inputs = keras.Input((8, 8, 3))
        kl = keras.layers
        model = keras.Model(inputs, kl.Dense(3)(kl.Flatten()(kl.DepthwiseConv2D(3)(inputs))))
    prepared = qat.calibrate(qat.prepare(model, x[:2], "static_wi4_ai8", "litert"), [x])
    parity = qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity
    assert parity.exact == 1.0, parity.first_difference
