"""The PyTorch adapter, through the public calls and in ONNX Runtime."""

import copy
import logging
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qat
from qat.adapters import torch as adapter
from qat.arithmetic.range_estimators import RangeMode
from qat.errors import CalibrationError, CaptureError, ConfigError, DataError, ExportError, QatError
from qat.planning.recipe import QuantSpec, Recipe, Rule
from qat.program import interpreter as reference
from qat.runs.zoo_torch import InvertedResidual, mobilenet_tiny, resnet18
from qat.runtimes import open_session


@pytest.fixture(scope="module")
def images():
    return torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def float_model(images):
    torch.manual_seed(0)
    model = mobilenet_tiny()
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(images)
    return model.eval()


@pytest.fixture(scope="module")
def ready(float_model, images):
    return qat.calibrate(qat.prepare(float_model, images[:2]), [images])


@pytest.fixture
def prepared(ready):
    return copy.deepcopy(ready)


def train(model, images, steps=3):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    labels = torch.arange(len(images)) % 10
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def outputs(model, images):
    model.eval()
    with torch.no_grad():
        return model(images).numpy()


def test_prepared_model_computes_the_folded_float_model_until_calibrated(float_model, images):
    model = qat.prepare(float_model, images[:2])
    np.testing.assert_allclose(outputs(model, images), outputs(float_model, images), atol=1e-4)


def test_preparing_leaves_the_float_model_as_it_was(float_model, images):
    before = copy.deepcopy(float_model.state_dict())
    qat.calibrate(qat.prepare(float_model, images[:2]), [images])
    assert all(torch.equal(v, before[k]) for k, v in float_model.state_dict().items())


def test_parameters_keep_their_names(float_model, prepared):
    names = {n for n, _ in float_model.named_parameters() if n.endswith("0.weight") or n.startswith("classifier")}
    assert names <= {n for n, _ in prepared.named_parameters()}


def test_trained_artifact_equals_the_model_in_every_output(prepared, images, tmp_path):
    losses = train(prepared, images, steps=8)
    assert losses[-1] < losses[0]
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=[images.numpy()])
    assert artifact.parity.exact == 1.0
    assert artifact.parity.first_difference is None
    np.testing.assert_array_equal(open_session(artifact.path).run(images.numpy())[0], outputs(prepared, images))


def test_every_quantized_operator_reaches_an_integer_kernel(prepared, images, tmp_path):
    qat.export(prepared, tmp_path / "m.onnx")
    ops = open_session(tmp_path / "m.onnx").ops()
    kinds = [p.op.kind for p in prepared.plan.ops]
    assert ops["QLinearConv"] == sum(k in ("conv2d", "depthwise_conv2d") for k in kinds)
    assert ops["QLinearAdd"] == kinds.count("add") == 2
    assert (ops["QGemm"], ops["QLinearGlobalAveragePool"]) == (1, 1)
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1, 1)


def test_model_equals_the_numpy_reference_at_every_kernel(prepared, images):
    train(prepared, images)
    expected = reference.run(adapter.lower(prepared), images.numpy())
    for name, value in adapter.grid_values(prepared, images.numpy()).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_resnet_with_projection_shortcuts_is_exact(tmp_path):
    torch.manual_seed(0)
    model, x = resnet18(classes=10).eval(), torch.randn(4, 3, 32, 32)
    model = qat.calibrate(qat.prepare(model, x), [x])
    assert qat.export(model, tmp_path / "r.onnx", verify=[x.numpy()]).parity.exact == 1.0
    assert not model.plan.floats()


def test_deepcopy_state_dict_and_batch_sizes(float_model, prepared, images):
    train(prepared, images)
    expected = outputs(prepared, images)
    np.testing.assert_array_equal(outputs(copy.deepcopy(prepared), images), expected)
    fresh = qat.prepare(float_model, images[:2])
    fresh.load_state_dict(prepared.state_dict())
    np.testing.assert_array_equal(outputs(fresh, images), expected)
    np.testing.assert_array_equal(outputs(prepared, images[:1]), expected[:1])


def test_channels_last_gives_the_same_bits(prepared, images):
    expected = outputs(prepared, images)
    last = copy.deepcopy(prepared).to(memory_format=torch.channels_last)
    np.testing.assert_array_equal(outputs(last, images.to(memory_format=torch.channels_last)), expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_torch_compile_gives_the_same_bits_and_trains(prepared, images):
    expected = outputs(prepared, images)
    compiled = torch.compile(prepared)
    np.testing.assert_array_equal(outputs(compiled, images), expected)
    compiled.train()
    for tracking in (False, True):
        adapter.set_range_tracking(prepared, tracking)
        before = {name: grid.range.clone() for name, grid in prepared.grids.items()}
        F.cross_entropy(compiled(2 * images), torch.zeros(len(images), dtype=torch.long)).backward()
        assert any(not torch.equal(before[name], grid.range) for name, grid in prepared.grids.items()) == tracking


def test_frozen_parameters_stay_frozen(float_model, images):
    model = copy.deepcopy(float_model)
    model.classifier.weight.requires_grad_(False)
    prepared = qat.calibrate(qat.prepare(model, images[:2]), [images])
    before = prepared.get_parameter("classifier.weight").detach().clone()
    train(prepared, images)
    assert torch.equal(prepared.get_parameter("classifier.weight"), before)


def test_finetune_observes_ranges_then_freezes_them(prepared, images):
    batches = [(images, torch.arange(32) % 10)] * 10
    before = {n: g.range.clone() for n, g in prepared.grids.items()}
    history = qat.finetune(prepared, batches, batches[:1], epochs=2, progress=False, learning_rate=0.02)
    assert history.steps == 20
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert not any(g.mode is RangeMode.TRACKING for g in prepared.grids.values())
    assert any(not torch.equal(g.range, before[n]) for n, g in prepared.grids.items())


class Mixed(nn.Module):
    """A float operator in the middle, several outputs as a dictionary, an unfoldable BatchNorm."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8 * 4, 5)

    def forward(self, x):
        x = F.relu_(self.a(x))
        x = torch.cat([x, torch.sin(x)], 1)
        x = F.max_pool2d(F.avg_pool2d(x, 2), 3, 1, 1)
        x = self.norm(self.b(x) * self.b(x) + 1)
        return {"features": x, "logits": self.fc(x.flatten(1))}


def test_unsupported_operators_stay_float_with_a_notice_and_export(images, tmp_path, caplog):
    torch.manual_seed(0)
    model = Mixed().eval()
    with caplog.at_level(logging.WARNING, "qat"):
        prepared = qat.prepare(model, images[:2])
    assert "stay float" in caplog.text
    assert "aten.sin" in caplog.text
    qat.calibrate(prepared, [images])
    found, expected = prepared(images), model(images)
    assert set(found) == {"features", "logits"}
    torch.testing.assert_close(found["logits"], expected["logits"], atol=0.1, rtol=0.1)
    parity = qat.export(prepared, tmp_path / "m.onnx", verify=[images.numpy()]).parity
    assert parity.mean_lsb < 0.1
    assert parity.max_lsb <= 1


def test_tied_weights_are_one_parameter(images):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.stem, self.fc = nn.Conv2d(1, 4, 1), nn.Linear(4 * 64, 10)

        def forward(self, x):
            return self.fc(self.conv(self.conv(self.stem(x))).flatten(1))

    prepared = qat.calibrate(qat.prepare(Tied(), images[:2]), [images])
    assert sum("conv.weight" in n for n, _ in prepared.named_parameters()) == 1
    train(prepared, images)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 6),
    out=st.integers(1, 6),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    depthwise=st.booleans(),
    activation=st.sampled_from([None, "relu", "relu6"]),
    bias=st.booleans(),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_convolution_node_equals_the_reference(channels, out, kernel, stride, depthwise, activation, bias, per_channel, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(
        channels, channels if depthwise else out, kernel, stride, kernel // 2, bias=bias, groups=channels if depthwise else 1
    )
    after = {None: nn.Identity(), "relu": nn.ReLU(), "relu6": nn.ReLU6()}[activation]
    x = 3 * torch.randn(3, channels, 7, 7)
    granularity = "channel" if per_channel else "tensor"
    recipe = Recipe(name="r", rules=(Rule(weight=QuantSpec(symmetric=True, granularity=granularity)),))
    model = qat.calibrate(qat.prepare(nn.Sequential(conv, after), x, recipe), [x])
    expected = reference.run(adapter.lower(model), x.numpy())
    for name, value in adapter.grid_values(model, x.numpy()).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_gradient_is_that_of_the_float_model_up_to_quantization(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3))
    prepared = qat.calibrate(qat.prepare(model, images[:2]), [images])
    target = torch.randn(32, 4, 6, 6)
    for m in (model, prepared.train()):
        F.mse_loss(m(images), target).backward()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        a, b = model.get_parameter(name).grad, prepared.get_parameter(name).grad
        assert float(F.cosine_similarity(a.flatten(), b.flatten(), 0)) > 0.99
        assert float(b.norm() / a.norm()) == pytest.approx(1, abs=0.05)


def test_bias_beyond_the_limit_widens_its_channel_and_says_so(images, caplog):
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight[0], conv.bias[0] = 1e-9, 5.0
    prepared = qat.calibrate(qat.prepare(conv, images[:2]), [images])
    with caplog.at_level(logging.WARNING, "qat"):
        program = adapter.lower(prepared)
    (step,) = [s for s in program.instructions if s.kind == "conv2d"]
    assert abs(int(step.bias[0])) <= 2**23
    assert "widened" in caplog.text


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda m, x, p: qat.prepare(m, x, recipe="static_wi8_ai9"), ConfigError, "did you mean 'static_wi8_ai8'"),
        (lambda m, x, p: qat.prepare(m, x, target="onnxruntim"), ConfigError, "did you mean 'onnxruntime'"),
        (lambda m, x, p: qat.prepare({}, x), CaptureError, "neither a torch.nn.Module nor a Keras model"),
        (lambda m, x, p: qat.prepare(m, x[:, :, :2, 0]), CaptureError, "cannot capture"),
        (lambda m, x, p: qat.calibrate(m, [x]), CalibrationError, "qat.prepare"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m, x), []), DataError, "no samples"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m, x), [x * float("nan")]), DataError, "calibration batch 0 holds nan"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m, x), [x - float("inf")]), DataError, "give a mask as booleans, or with a"),
        (lambda m, x, p: qat.export(qat.prepare(m, x), p / "m.onnx"), CalibrationError, "qat.calibrate"),
        (lambda m, x, p: qat.finetune(qat.prepare(m, x), [(x, x)]), CalibrationError, "not calibrated"),
        (lambda m, x, p: qat.export(m, p / "m.onnx"), CalibrationError, "prepared model"),
        (lambda m, x, p: qat.export(qat.calibrate(qat.prepare(m, x), [x]), p / "m.pt"), ExportError, "onnx"),
        (lambda m, x, p: qat.finetune(m, [(x, x)], epoch=2), ConfigError, "did you mean 'epochs'"),
        (lambda m, x, p: qat.finetune(m, []), DataError, "empty"),
        (lambda m, x, p: qat.finetune(m, [(x, torch.full((4,), 10))]), DataError, "label 10 is out of range: the model has 10"),
        (lambda m, x, p: qat.finetune(m, [(x, torch.zeros(4, 1).long())]), DataError, "one class number for each of 4"),
        (lambda m, x, p: qat.finetune(m, [(x, torch.zeros(4))]), DataError, "expected class numbers"),
        (lambda m, x, p: qat.finetune(m, [(x, ["a"] * 4)]), DataError, "labels of batch 0 are no numbers"),
        (lambda m, x, p: qat.finetune(m, [(x, x)], learning_rate=-1), ConfigError, "learning_rate must be a number"),
        (lambda m, x, p: qat.finetune(m, [(x, x)], epochs=1.5), ConfigError, "epochs must be a whole number"),
        (
            lambda m, x, p: qat.calibrate(qat.prepare(m, x), [x[:, :, :4]]),
            DataError,
            r"has shape \(4, 1, 4, 8\), the model takes",
        ),
        (lambda m, x, p: qat.calibrate(qat.prepare(m, x), [x[:0]]), DataError, "no samples"),
        (lambda m, x, p: qat.calibrate(qat.prepare(m, x), None), DataError, "expected batches"),
        (lambda m, x, p: qat.prepare(m), CaptureError, "pass example_inputs"),
        (lambda m, x, p: qat.prepare(m, x, recipe=None), ConfigError, "a recipe is a name"),
        (lambda m, x, p: qat.prepare(m, x, target="litter"), ConfigError, "did you mean 'litert'"),
    ],
)
def test_mistakes_end_in_one_clear_sentence(float_model, images, tmp_path, work, error, message):
    with pytest.raises(error, match=message):
        work(float_model, images[:4], tmp_path)


def test_control_flow_on_values_is_named_with_its_line(images):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match=r"test_prepared_model\.py:\d+.*torch\.where"):
        qat.prepare(Branching(), images)


def test_nan_in_training_data_names_the_batch(prepared, images):
    bad = images.clone()
    bad[3] = float("nan")
    with pytest.raises(DataError, match="batch 1 of the data holds NaN"):
        qat.finetune(prepared, [(images, torch.zeros(32).long()), (bad, torch.zeros(32).long())], progress=False)


def test_a_weight_that_is_no_number_names_its_layer(prepared, images):
    name = next(name for name, parameter in prepared.named_parameters() if parameter.ndim == 4)
    with torch.no_grad():
        prepared.get_parameter(name).view(-1)[0] = float("nan")
    with pytest.raises(QatError, match=rf"the loss is nan at step 0.*'{re.escape(name.removesuffix('.weight'))}'"):
        qat.finetune(prepared, [(images, torch.zeros(32).long())] * 3, progress=False)


def test_truncated_checkpoint_is_named(prepared, images, tmp_path):
    batches = [(images, torch.arange(32) % 10)]
    qat.finetune(prepared, batches, batches, checkpoint_dir=tmp_path, progress=False)
    expected = outputs(prepared, images)
    np.testing.assert_array_equal(outputs(qat.load_prepared(prepared, tmp_path / "best.safetensors"), images), expected)
    with pytest.raises(DataError, match=r"training\.safetensors is where training continues .* give best\.safetensors"):
        qat.load_prepared(prepared, tmp_path / "training.safetensors")
    path = tmp_path / "best.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"best\.safetensors is not a whole"):
        qat.load_prepared(prepared, path)


def test_inverted_residual_is_what_the_demo_runs():
    assert InvertedResidual(8, 8, 1, 4).residual


class Branches(nn.Module):
    """Every tensor before the concatenation shares one grid with it, and is written more than once a step."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.pool(torch.cat([F.relu(self.a(x)), self.b(x)], 1))
        return self.head(y.flatten(1))


def test_ranges_of_a_shared_grid_are_observed_in_training(images, tmp_path):
    torch.manual_seed(0)
    prepared = qat.calibrate(qat.prepare(Branches(), images[:2]), [images[:4]])
    before = {name: grid.range.clone() for name, grid in prepared.grids.items()}
    batches = [(images, torch.arange(32) % 10)] * 4
    qat.finetune(prepared, batches, observe_fraction=0.5, learning_rate=0.01, progress=False)
    assert any(not torch.equal(before[name], grid.range) for name, grid in prepared.grids.items())
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[images]).parity.exact == 1.0


def test_autocast_leaves_the_grid_exact(prepared, images):
    expected = outputs(prepared, images)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        np.testing.assert_array_equal(prepared(images).float().numpy(), expected)


class Sum(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)

    def forward(self, u, v):
        return (F.relu(self.a(u)) + F.relu(self.b(v))).mean((2, 3))


def test_several_inputs_with_and_without_labels(images, tmp_path):
    pair = (images, images.flip(0))
    prepared = qat.calibrate(qat.prepare(Sum().eval(), (images[:2], images[:2])), [pair])
    ranges = {name: grid.range.clone() for name, grid in prepared.grids.items()}
    qat.calibrate(prepared, [(pair, torch.zeros(32))])
    assert all(torch.equal(ranges[name], grid.range) for name, grid in prepared.grids.items())
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[pair]).parity.exact == 1.0


def test_several_outputs_need_a_loss(images):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 8)

        def forward(self, x):
            y = self.conv(x).flatten(1)
            return {"a": y, "b": y.relu()}

    prepared = qat.calibrate(qat.prepare(Two().eval(), images[:2]), [images])
    batches = [(images, torch.arange(32) % 4)]
    with pytest.raises(ConfigError, match="several outputs: give loss"):
        qat.finetune(prepared, batches, progress=False)
    qat.finetune(prepared, batches, loss=lambda out, labels: F.cross_entropy(out["a"], labels), progress=False)


def test_model_that_ends_in_softmax_is_trained_on_its_logarithm(images):
    torch.manual_seed(0)
    labels = torch.arange(32) % 10
    losses = {}
    for end in (nn.Identity(), nn.Softmax(1)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten(), end)
        losses[type(end)] = qat.finetune(model, [(images, labels)], progress=False).epochs[0].loss
    assert losses[nn.Softmax] == pytest.approx(losses[nn.Identity], rel=1e-3)


def test_pooling_with_a_divisor_of_its_own(images, tmp_path):
    # torch.onnx leaves the divisor out.
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2, divisor_override=3)).eval()
    prepared = qat.calibrate(qat.prepare(model, images[:2]), [images])
    np.testing.assert_allclose(outputs(prepared, images), model(images).detach().numpy(), atol=0.05)
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[images]).parity.exact > 0.99


def test_artifact_far_from_its_model_is_reported(images, tmp_path, caplog, monkeypatch):
    prepared = qat.calibrate(qat.prepare(nn.Conv2d(1, 4, 3), images[:2]), [images])
    predict = adapter.predict
    monkeypatch.setattr(adapter, "predict", lambda model, *arrays: tuple(2 * o for o in predict(model, *arrays)))
    with caplog.at_level(logging.WARNING, "qat"):
        qat.export(prepared, tmp_path / "m.onnx", verify=[images])
    assert "do not ship it" in caplog.text


def test_whole_model_is_saved_and_loaded(prepared, images, tmp_path):
    train(prepared, images)
    torch.save(prepared, tmp_path / "m.pt")
    loaded = torch.load(tmp_path / "m.pt", weights_only=False)
    np.testing.assert_array_equal(outputs(loaded, images), outputs(prepared, images))
    assert not loaded.training
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in prepared.named_parameters()]
    assert qat.export(loaded, tmp_path / "m.onnx", verify=[images]).parity.exact == 1.0
    assert train(loaded, images)


@pytest.mark.slow
def test_a_model_with_operators_of_pytorch_is_saved_and_loaded(tmp_path):
    class Kept(nn.Module):
        """A float operator, one of integers, one that reads the batch, and dropout."""

        def __init__(self):
            super().__init__()
            self.inner, self.outer, self.dropout = nn.Linear(6, 6), nn.Linear(6, 4), nn.Dropout(0.5)

        def forward(self, x):
            y = self.dropout(self.inner(x)).cumsum(-1).roll(1, -1)
            return {"out": self.outer(y).view(len(x), -1, 2)}

    x = torch.randn(5, 3, 6)
    prepared = qat.calibrate(qat.prepare(Kept().eval(), x[:2]), [x]).eval()
    torch.save(prepared, tmp_path / "m.pt")
    loaded = torch.load(tmp_path / "m.pt", weights_only=False)
    assert torch.equal(loaded(x)["out"], prepared(x)["out"])
    assert torch.equal(copy.deepcopy(prepared)(x)["out"], prepared(x)["out"])
    assert qat.export(loaded, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0
    trained = []
    for model in (prepared, loaded):
        torch.manual_seed(0)
        model.train()(x)["out"].sum().backward()
        trained.append(model.get_parameter("inner.weight").grad)
    assert torch.equal(*trained)


def test_forward_of_any_number_of_inputs(images, tmp_path):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, *xs):
            return sum(self.conv(x) for x in xs)

    pair = (images, images.flip(0))
    prepared = qat.calibrate(qat.prepare(Sums().eval(), (images[:2], images[:2])), [pair])
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[pair]).parity.exact > 0.99


def test_first_difference_of_a_model_of_token_ids(tmp_path):
    """Verification hands over float32; the values on the grid are asked for with the model's own integer inputs."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(20, 8), nn.Linear(8, 4)

        def forward(self, ids):
            return self.out(self.words(ids))

    torch.manual_seed(0)
    ids = torch.randint(0, 20, (4, 6))
    model = qat.calibrate(qat.prepare(Tokens(), ids), [ids])
    found = adapter.grid_values(model, ids.numpy().astype(np.float32))
    want = adapter.grid_values(model, ids.numpy())
    assert found.keys() == want.keys()
    assert found and all(np.array_equal(found[name], want[name]) for name in found)


def test_a_function_reads_integers_that_the_observed_range_has_just_left():
    """The convolution clamps to the limits of before its values moved the range, and the table has those of after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 2))
    x = torch.randn(2, 3, 8, 8)
    prepared = qat.calibrate(qat.prepare(model, x), [x])
    adapter.set_range_tracking(prepared, True)
    prepared.train()
    for scale in (0.1, 3.0, -2.0, 10.0):
        loss = prepared(x.abs() * scale).square().mean()
        loss.backward()
        assert torch.isfinite(loss)


def test_a_weight_that_is_a_buffer_is_exported_calibrated_and_corrected(tmp_path):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(4, 3, 3, 3))
            self.bias = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return F.relu(F.conv2d(x, self.weight, self.bias))

    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    model = qat.calibrate(qat.prepare(Frozen(), x), [x])
    qat.correct_biases(model, [x])
    assert qat.export(model, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def test_an_input_may_be_named_as_a_method_of_modules(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, type):
            return self.fc(type)

    x = torch.randn(4, 4)
    model = qat.calibrate(qat.prepare(Named(), x), [x])
    assert qat.export(model, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0
