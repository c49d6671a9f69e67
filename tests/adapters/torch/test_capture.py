"""Capture of a PyTorch model: casts, regions, views and constants that a user's code has, and no kernel needs."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._decomp import decomposition_table
from torch._subclasses.fake_impls import FAST_OP_IMPLEMENTATIONS

import qat
from qat.adapters.torch.capture import export
from qat.adapters.torch.capture.decompose import functional
from qat.adapters.torch.signature import call_of
from qat.errors import CaptureError

aten = torch.ops.aten
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def features(self, x):
        return torch.relu(self.conv(x))

    def scores(self, y):
        return self.end(y.mean((2, 3)))


class Casts(Net):
    def forward(self, x):
        y = self.features(x.float().to(torch.float32).type_as(self.conv.weight))
        return self.scores(y.to(y))


class Regions(Net):
    def forward(self, x):
        with torch.no_grad():
            x = x * 2 + 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.features(x)
            with torch.autocast("cpu", enabled=False):
                y = torch.relu(self.conv(x)) + y
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            a, b = y * 0.5, y.relu()
        return self.scores(a + b)


class UnsafeViews(Net):
    def forward(self, x):
        y = self.features(x).permute(0, 2, 3, 1).contiguous()
        y = torch.ops.aten._unsafe_view.default(y.permute(0, 3, 1, 2).clone(), [x.shape[0], 8, 6, 6])
        return self.scores(y.view_as(y).reshape_as(y))


class Constants(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]))
        self.register_buffer("deviation", torch.tensor([0.2, 0.3, 0.4]))
        self.frozen = nn.Parameter(torch.randn(5, 8), requires_grad=False)

    def forward(self, x):
        x = (x - self.mean[:, None, None]) / self.deviation.view(1, 3, 1, 1).clamp(min=0.1)
        scale = torch.linspace(0.5, 1.0, 8).to(x.device) * torch.stack([self.mean, self.deviation]).amax()
        y = self.features(x) * scale[None, :, None, None]
        mask = torch.arange(8) < 6
        return F.linear(y.mean((2, 3)) * mask.float(), F.normalize(self.frozen, dim=-1))


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("net", [Casts, Regions, UnsafeViews, Constants])
def test_everything_runs_in_integers(net, suffix, tmp_path):
    model = net().eval()
    prepared = qat.prepare(model, X[:2], target="onnxruntime" if suffix == "onnx" else "litert").eval()
    assert prepared.plan.floats() == {}
    with torch.no_grad():
        if net is not Regions:  # bfloat16 in the float model
            torch.testing.assert_close(prepared(X), model(X), rtol=1e-4, atol=1e-5)
    qat.calibrate(prepared, [X])
    prepared.train()(X).sum().backward()
    assert all(p.grad is not None for p in prepared.parameters() if p.requires_grad)
    artifact = qat.export(prepared.eval(), tmp_path / f"net.{suffix}", verify=[X])
    assert artifact.parity.exact == 1.0


def test_casts_that_change_the_type_stay():
    class Half(Net):
        def forward(self, x):
            return self.scores(self.features(x.to(torch.float32)))

    pixels = (X * 255).to(torch.uint8)
    prepared = qat.prepare(Half().eval(), pixels[:2]).eval()
    assert prepared.plan.graph.tensors["x"].dtype == "uint8"
    torch.testing.assert_close(prepared(pixels), Half().eval()(pixels))


class SizesOfTheBatch(nn.Module):
    """A class token and a mask, whose batch is that of the input; the scores that the mask hides follow from the token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.q, self.k, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("seen", torch.arange(5) < 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        for _ in range(2):
            scores = self.q(tokens) @ self.k(tokens).mT * 0.25
            hidden = ~self.seen.expand(int(x.numel() / (3 * 8 * 8)), 5, 5)
            tokens = tokens + scores.masked_fill(hidden, -1e4).softmax(-1) @ tokens
        return self.out(tokens[:, 0])


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_sizes_of_the_batch_are_read_before_what_needs_them(suffix, tmp_path):
    images = torch.rand(6, 3, 8, 8)
    prepared = qat.prepare(SizesOfTheBatch().eval(), images[:2], target="onnxruntime" if suffix == "onnx" else "litert")
    qat.calibrate(prepared, [images])
    assert qat.export(prepared, tmp_path / f"net.{suffix}", verify=[images, images[:3]]).parity.exact == 1.0


class Anchors(nn.Module):
    """The head of a detector: boxes from distances, anchors, and strides that are numbers of a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.register_buffer("grid", torch.rand(2, 9))
        self.register_buffer("stride", torch.tensor([8.0, 16.0]))

    def forward(self, x):
        low, high = self.conv(x).flatten(2).chunk(2, 1)
        anchors, strides = self.grid.unsqueeze(0), x.new_full((9,), self.stride[0])
        return torch.cat([anchors - low, anchors + high], 1) * strides


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_detectors_anchors_are_constants(suffix, tmp_path):
    images = torch.rand(6, 3, 8, 8)
    prepared = qat.prepare(Anchors().eval(), images[:2], target="onnxruntime" if suffix == "onnx" else "litert").eval()
    torch.testing.assert_close(prepared(images), Anchors().eval()(images))
    qat.calibrate(prepared, [images])
    assert qat.export(prepared, tmp_path / f"net.{suffix}", verify=[images]).parity.exact == 1.0


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_parts_of_a_constant_tuple_are_constants(suffix, tmp_path):
    class Grid(Net):
        def forward(self, x):
            y = self.features(x)
            down, across = torch.meshgrid(torch.arange(6).type_as(y), torch.arange(6).type_as(y), indexing="ij")
            return self.scores(y * down + across)

    prepared = qat.prepare(Grid().eval(), X, target="onnxruntime" if suffix == "onnx" else "litert")
    assert prepared.plan.floats() == {}
    artifact = qat.export(qat.calibrate(prepared, [X]), tmp_path / f"net.{suffix}", verify=[X])
    assert artifact.parity.exact == 1.0


class KeptSizes(Net):
    """A scale of each column, made anew where the size is not that of the call before; PyTorch calls it "to"."""

    shape = None

    def forward(self, x):
        y = self.features(x)
        if self.shape != y.shape:
            self.shape, self.scale = y.shape, torch.arange(1, y.shape[-1] + 1).float()
        return self.scores(y * self.scale)


def test_a_model_that_has_seen_the_batch_before_is_captured_for_any(tmp_path):
    model = KeptSizes().eval()
    model(X)
    prepared = qat.calibrate(qat.prepare(model, X), [X])
    artifact = qat.export(prepared, tmp_path / "net.onnx", verify=[X, X[:3]])
    assert artifact.parity.exact == 1.0


class CountsElements(Net):
    """A bag of embeddings that skips an index stays float, and reads how many indices there are."""

    def __init__(self):
        super().__init__()
        self.bag, self.end = nn.EmbeddingBag(20, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, indices):
        return self.end(self.bag(indices))


def test_a_number_of_elements_is_a_product_of_sizes(tmp_path):
    indices = torch.arange(15).view(3, 5)
    model = qat.calibrate(qat.prepare(CountsElements().eval(), indices), [indices])
    assert qat.export(model, tmp_path / "m.onnx", verify=[indices, indices[:2]]).parity.exact == 1.0


class EightSamples(Net):
    def forward(self, x):
        return self.end(self.features(x).mean((2, 3)).view(8, 2, 4).flatten(1))


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_batch_that_the_code_names_is_that_of_the_examples(suffix, tmp_path):
    x = X.repeat(2, 1, 1, 1)
    model = qat.prepare(EightSamples().eval(), x, target="onnxruntime" if suffix == "onnx" else "litert")
    artifact = qat.export(qat.calibrate(model, [x]), tmp_path / f"m.{suffix}", verify=[x])
    assert artifact.parity.exact == 1.0
    assert model.plan.graph.tensors["x"].shape == (8, 3, 8, 8)


class SamplesAreSteps(nn.Module):
    """A state that goes from sample to sample, as in a detector of speech that reads a recording's pieces in order."""

    def __init__(self):
        super().__init__()
        self.steps, self.scores = nn.LSTM(8, 4), nn.Conv1d(4, 1, 1)

    def forward(self, x):
        return torch.sigmoid(self.scores(self.steps(x[:, None])[0].permute(1, 2, 0))).reshape(-1)


def test_a_model_whose_samples_are_its_steps_takes_as_many_as_the_example():
    x = torch.randn(1, 8)
    model = qat.calibrate(qat.prepare(SamplesAreSteps().eval(), x), [x])
    assert model(x).shape == (1,)


class Chosen(Net):
    def forward(self, x):
        y = self.features(x)
        return self.scores(torch.take_along_dim(y, y.argmax(1, keepdim=True), 1) + y)


def test_a_choice_along_an_axis_is_captured_for_any_batch_at_once(monkeypatch):
    captures = []
    found = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *args, **options: captures.append(args) or found(*args, **options))
    plan = qat.plan(Chosen().eval(), X, target="litert")
    assert plan.graph.tensors[plan.graph.inputs[0]].shape[0] is None
    assert len(captures) == 1


def test_a_tensor_that_is_only_like_another_does_not_read_it():
    class Like(Net):
        def forward(self, x):
            y = self.features(x)
            ones = torch.ones_like(y[0, 0]) + y.new_zeros(6, 6) + torch.full_like(y[0, 0], 2.0)
            return self.scores(y * (ones * torch.arange(6).type_as(y)))

    prepared = qat.prepare(Like().eval(), X).eval()
    assert prepared.plan.floats() == {}
    torch.testing.assert_close(prepared(X), Like().eval()(X))


class Equations(nn.Module):
    """Linear attention, written as equations: of several operands, and of products element by element."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.end = nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).sigmoid().chunk(3, -1)
        norm = torch.einsum("bnd,bd->bn", q, k.mean(1))
        return self.end(torch.einsum("bnd, bde, bn -> ben", q, torch.einsum("bnd,bne->bde", k, v), norm).mT)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_equations_without_a_matrix_product(suffix, tmp_path):
    model, x = Equations().eval(), torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    prepared = qat.prepare(model, x[:2], target="onnxruntime" if suffix == "onnx" else "litert").eval()
    assert prepared.plan.floats() == {}
    with torch.no_grad():
        torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)
    assert qat.export(qat.calibrate(prepared, [x]), tmp_path / f"net.{suffix}", verify=[x]).parity.exact == 1.0


class AddsToSlice(Net):
    """A residual that is added in place to a part of a concatenation, as GhostNet's is."""

    def forward(self, x):
        y = self.features(x)
        both = torch.cat([y, y * 2], 1)[:, :8]
        both += y
        return self.scores(both)


class AddsToSharedSlice(Net):
    """The same, of a tensor that is read again."""

    def forward(self, x):
        y = self.features(x) * 2
        part = y[:, :4]
        part += 1
        return self.scores(y)


@pytest.mark.parametrize("net", [AddsToSlice, AddsToSharedSlice])
def test_a_change_of_a_view_in_place(net, monkeypatch):
    apart = []
    monkeypatch.setattr(export, "functional", lambda exported: apart.append(net) or functional(exported))
    model = net().eval()
    with torch.no_grad():
        torch.testing.assert_close(qat.prepare(model, X[:2]).eval()(X), model(X), rtol=1e-4, atol=1e-5)
    assert len(apart) == (net is AddsToSharedSlice)  # PyTorch's own pass takes as long as the capture


class Weighted(nn.Module):
    """A layer with a constant, and the batch as a number: Dynamo captures it, and PyTorch's own pass takes it apart."""

    def forward(self, x):
        y = x.expand(len(x), 3, 8, 8) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        part = y[:, :2]
        part += 1
        return y


class WeightedTwice(nn.Module):
    """The same layer, and a constant of the model's own."""

    def __init__(self):
        super().__init__()
        self.weighted, self.conv = Weighted(), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(self.weighted(x) * torch.tensor([1.0, 2.0, 3.0])[:, None, None])


@pytest.mark.parametrize("model", [nn.Sequential(Weighted(), nn.Conv2d(3, 4, 3)), WeightedTwice()])
def test_a_constant_of_a_layer_that_dynamo_captures(model):
    """The constant had the name of a path through a closure, or through the model's method, which no module has (RT-DETR)."""
    prepared = qat.prepare(model.eval(), X[:2]).eval()
    assert not [op.name for op in prepared.plan.graph.ops if "closure" in op.scope]
    with torch.no_grad():
        torch.testing.assert_close(prepared(X), model(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_refused_at_once(dtype):
    with pytest.raises(CaptureError, match=f"holds {str(dtype).removeprefix('torch.')} weights.*model.float()"):
        qat.prepare(Casts().to(dtype).eval(), X.to(dtype))


class Activations(Net):
    """BatchNorm and activations, of plain operands and of others."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        y = F.relu6(self.norm(self.conv(x))).to(memory_format=torch.channels_last)
        y = F.leaky_relu(y, 0.1) + F.hardtanh(self.norm(y.transpose(2, 3)))
        counted = torch.relu((x > 0).sum((1, 2, 3))).sqrt()
        return self.scores(y), torch.clamp(y, min=0.1), counted, torch.addmm(y[:, 0, 0], x[:, 0, 0, :6], x[0, 0, :6, :6], beta=2)


def test_shapes_of_activations_are_told_without_taking_them_apart(monkeypatch):
    def apart(*args, **kwargs):
        raise AssertionError("taken apart")

    for op in (aten.relu.default, aten.hardtanh.default, aten._native_batch_norm_legit_no_training.default, aten.addmm.default):
        monkeypatch.setitem(decomposition_table, op, apart)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU()
    assert qat.prepare(nn.Sequential(*layers), X).plan.floats() == {}


def test_quick_shapes_are_those_of_pytorch(monkeypatch):
    known = dict(FAST_OP_IMPLEMENTATIONS)

    def captured():
        graph = export.capture(Activations().eval(), call_of(Activations(), X)).exported.graph
        values = [n.meta["val"] for n in graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        return str(graph), [(str(v.shape), str(v.stride()), v.dtype, v.device) for v in values]

    quick = captured()
    assert known == FAST_OP_IMPLEMENTATIONS
    monkeypatch.setattr(export, "quick_shapes", contextlib.nullcontext)
    assert quick == captured()


class ReadsConstants(Net):
    """Reads numbers from a buffer, from a mask of ones and from a list of rates, in none of which an input takes part."""

    def __init__(self):
        super().__init__()
        self.register_buffer("initialized", torch.tensor(1, dtype=torch.uint8))
        self.register_buffer("sizes", torch.tensor([3, 5]))

    def forward(self, x):
        if self.initialized.item() == 0:
            raise ValueError("call fit first")
        mask = torch.ones(x.shape[:1])
        mask[0] = 1
        rates = torch.linspace(0, 0.3, 3)
        y = self.conv(x)[..., : int(self.sizes.max())]
        for rate in rates:
            y = y * 2 if rate > 0.2 else y
        return y * 0 if (mask < 1).any() else y


def test_numbers_are_read_from_constants(tmp_path):
    model = ReadsConstants().eval()
    prepared = qat.calibrate(qat.prepare(model, X), [X]).eval()
    torch.testing.assert_close(prepared(X), model(X), rtol=0, atol=0.05)
    assert qat.export(prepared, tmp_path / "net.onnx", verify=[X]).parity.exact == 1


BRANCHES = {
    "an input": lambda net, x: x.mean() > 0,
    "a trained parameter": lambda net, x: net.conv.weight[0, 0, 0, 0] > 0,
    "the batch": lambda net, x: torch.ones(x.shape[0]).sum() > 2,
    "what an input has changed": lambda net, x: torch.zeros(8).add_(x.mean()).any(),
    "chance": lambda net, x: torch.rand(()) > 0.5,
}


@pytest.mark.parametrize("of", BRANCHES)
def test_a_branch_on_what_is_no_constant_is_refused(of):
    class Branches(Net):
        def forward(self, x):
            return self.conv(x) if BRANCHES[of](self, x) else x

    with pytest.raises(CaptureError, match=r"`return self\.conv\(x\) if BRANCHES.*replace Python control flow on tensor values"):
        qat.prepare(Branches(), X)


def test_a_policy_may_return_what_its_distribution_tells():
    class Policy(Net):
        def forward(self, x):
            mean = self.scores(self.features(x))
            spread = torch.distributions.Normal(mean, torch.nn.functional.softplus(mean))
            return spread.mean, spread.entropy().sum(-1)

    model = Policy().eval()
    prepared = qat.prepare(model, X).eval()
    torch.testing.assert_close(prepared(X), model(X))
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


class Windows(Net):
    """Swin's windows, whose number is divided by that of an image's windows."""

    def forward(self, x):
        y = self.features(x)
        windows = y.view(-1, 8, 2, 3, 2, 3).transpose(3, 4).reshape(-1, 8, 2, 2, 9).permute(0, 2, 3, 4, 1).reshape(-1, 9, 8)
        scores = self.end(windows).softmax(-1)
        count = int(scores.shape[0] / (6 * 6 / 3 / 3))
        return scores.view(count, 2, 2, 9, -1).mean((1, 2, 3))


@pytest.mark.parametrize("samples", [2, 3])
def test_a_number_of_windows_is_a_size_of_the_batch(samples):
    model = Windows().eval()
    prepared = qat.prepare(model, X[:samples]).eval()
    torch.testing.assert_close(prepared(X), model(X))


class Clips(nn.Module):
    """Ten rows of the batch are one clip."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(x).view(-1, 10, 5).mean(1)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed)[1][0]


def test_what_no_file_holds_is_refused_in_a_sentence():
    with pytest.raises(CaptureError, match="joins several samples of the batch into one"):
        qat.plan(Clips(), torch.randn(20, 5))
    with pytest.raises(CaptureError, match="a packed sequence has as many steps as the values of the lengths say"):
        qat.plan(Packed(), (torch.randn(4, 7, 5), torch.tensor([7, 6, 3, 2])))


@pytest.mark.parametrize("name", ["graph", "plan", "grids", "meta"])
def test_a_name_that_a_prepared_model_uses_is_said_at_prepare(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(name, nn.Linear(4, 4))

        def forward(self, x):
            return getattr(self, name)(x)

    with pytest.raises(CaptureError, match=f"^the model's own '{name}' has a name that every prepared PyTorch model uses: give"):
        qat.prepare(Net(), torch.ones(2, 4))


def test_float64_of_numpy_is_float32_as_the_weights_are():
    net, x = nn.Linear(4, 3), np.random.default_rng(0).normal(size=(8, 4))
    prepared = qat.calibrate(qat.prepare(net, x), [x])
    assert not prepared.plan.floats()


def test_a_float64_model_is_refused_in_a_sentence():
    with pytest.raises(CaptureError, match=r"holds float64 weights, .* pass model.float\(\) and float32 inputs$"):
        qat.prepare(nn.Linear(4, 3).double(), torch.ones(2, 4, dtype=torch.float64))
