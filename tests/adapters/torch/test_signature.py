"""What a PyTorch model takes and returns: any arguments and containers, which the prepared model takes and returns alike."""

import inspect
import pickle
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import CaptureError, DataError
from qat.runtimes import open_session

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", "left right")


@dataclass
class Pictures:
    near: torch.Tensor
    far: torch.Tensor
    weight: float = 1.0


@dataclass
class Found:
    scores: torch.Tensor
    boxes: list
    state: object = None


class Net(nn.Module):
    """A layer for each of two tensors, whose sum a subclass reads from its arguments."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

    def both(self, x, y):
        return torch.relu(self.a(x)) + torch.relu(self.b(y))


class Starred(Net):
    def forward(self, x, *args, **kwargs):
        return self.both(x, kwargs["other"] if kwargs else args[0] if args else x)


class Named(Net):
    def forward(self, x, *, other=None, scale=2.0):
        return self.both(x, x if other is None else other) * scale


class Optional(Net):
    def forward(self, x, labels=None, other=None):
        return self.both(x, x if other is None else other)


class OfDict(Net):
    def forward(self, batch):
        return self.both(batch["near"], batch["far"])


class OfDataclass(Net):
    def forward(self, pictures):
        return self.both(pictures.near, pictures.far) * pictures.weight


class OfNest(Net):
    def forward(self, pair, more):
        return self.both(pair.left, more["list"][1])


FORMS = {
    "star alone": (Starred, (X,), (X,), {}, "x"),
    "star": (Starred, (X, Y), (X, Y), {}, "x args_0"),
    "two stars": (Starred, {"x": X, "other": Y}, (X,), {"other": Y}, "x other"),
    "keyword only": (Named, {"x": X, "other": Y}, (X,), {"other": Y}, "x other"),
    "setting": (Named, {"other": Y, "x": X, "scale": 0.5}, (X,), {"other": Y, "scale": 0.5}, "x other"),
    "optional": (Optional, {"x": X, "other": Y}, (X, None), {"other": Y}, "x other"),
    "not given": (Optional, X, (X,), {"labels": None}, "x"),
    "dict": (OfDict, {"near": X, "far": Y}, ({"far": Y, "near": X},), {}, "near far"),
    "mapping": (OfDict, UserDict({"near": X, "far": Y}), (UserDict({"near": X, "far": Y}),), {}, "near far"),
    "dict in a tuple": (OfDict, ({"near": X, "far": Y},), (), {"batch": {"near": X, "far": Y}}, "near far"),
    "dataclass": (OfDataclass, Pictures(X, Y, 0.5), (Pictures(X, Y, 0.5),), {}, "near far"),
    "nest": (OfNest, (Pair(X, X), {"list": [X, Y]}), (Pair(X, X), {"list": [X, Y]}), {},
             "pair_left pair_right more_list_0 more_list_1"),
    "arrays": (OfDict, {"near": X.numpy(), "far": Y.numpy()}, ({"near": X, "far": Y},), {}, "near far"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_arguments(form, tmp_path):
    net, example, args, kwargs, names = FORMS[form]
    model = net().eval()
    expected = model(*args, **kwargs)
    prepared = qat.prepare(model, example).eval()
    torch.testing.assert_close(prepared(*args, **kwargs), expected)
    assert list(prepared.plan.graph.inputs) == names.split() == list(inspect.signature(prepared.forward).parameters)
    tensors = [Y if name.endswith(("other", "args_0", "far", "list_1")) else X for name in names.split()]
    qat.calibrate(prepared, [tuple(tensors)])
    torch.testing.assert_close(prepared(*args, **kwargs), prepared(*tensors), rtol=0, atol=0)
    artifact = qat.export(prepared, tmp_path / "net.onnx", verify=[tuple(tensors)])
    assert artifact.parity.exact == 1.0
    assert [x.name for x in open_session(artifact.path).inputs] == names.split()
    again = pickle.loads(pickle.dumps(prepared))
    torch.testing.assert_close(again(*args, **kwargs), prepared(*tensors), rtol=0, atol=0)


def test_example_of_one_sample_is_repeated():
    prepared = qat.prepare(OfDict(), {"near": X[:1], "far": Y[:1]}).eval()
    assert prepared({"near": X, "far": Y}).shape == (4, 5)


class Returns(Net):
    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def forward(self, x):
        return self.returned(self.a(x), self.b(x))


def _mapping(a, b):
    return OrderedDict(first=a, rest={"second": b})


def _found(a, b):
    return Found(a, [b, a], {"not", "a tensor"})


def _pair(a, b):
    return Pair(a, (b, None))


@pytest.mark.parametrize(
    ("returned", "names"), [(_mapping, ["first", "rest_second"]), (_found, ["scores", "boxes_0"]), (_pair, ["left", "right_0"])]
)
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_outputs(returned, names, suffix, tmp_path):
    model = Returns(returned).eval()
    prepared = qat.prepare(model, X, target="onnxruntime" if suffix == "onnx" else "litert").eval()
    expected, got = model(X), prepared(X)
    assert type(got) is type(expected)
    if isinstance(got, Found):
        assert got.state is None
        assert got.scores is got.boxes[1]
        got, expected = (got.scores, got.boxes), (expected.scores, expected.boxes)
    torch.testing.assert_close(got, expected)
    qat.calibrate(prepared, [X])
    artifact = qat.export(prepared, tmp_path / f"net.{suffix}", verify=[X])
    assert artifact.parity.exact == 1.0
    if suffix == "onnx":
        assert [x.name for x in open_session(artifact.path).outputs] == names


class WithPlaces(nn.Module):
    """Returns, beside its own, its input, a parameter, a buffer and what is computed from it, as a detector its anchors."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("places", torch.arange(5))

    def forward(self, x):
        y = self.layer(x)
        return y, x, self.layer.bias, self.places, self.places * 0.5 + 1, y


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_inputs_parameters_and_constants_are_outputs(suffix, tmp_path):
    """Constants ended in a KeyError; an input that was returned was rounded in a .tflite, and refused for an .onnx."""
    model = WithPlaces().eval()
    prepared = qat.calibrate(qat.prepare(model, X, target="onnxruntime" if suffix == "onnx" else "litert"), [X])
    for real, ours in [*zip(model(X), prepared(X), strict=True)][1:5]:
        torch.testing.assert_close(ours, real)
    artifact = qat.export(prepared, tmp_path / f"net.{suffix}", verify=[X])
    assert artifact.parity.exact == 1.0
    assert len(open_session(artifact.path).outputs) == 5


def test_prepared_model_refuses_what_it_was_not_captured_with():
    prepared = qat.prepare(Optional(), X)
    with pytest.raises(DataError, match=r"'labels' is not among the example inputs that the model was prepared with \(x\)"):
        prepared(X, labels=Y)
    with pytest.raises(DataError, match=r"the inputs do not fit the model's forward\(x, labels=None, other=None\): .*'mask'"):
        prepared(X, mask=Y)
    with pytest.raises(DataError, match="'scale' is not among the example inputs"):
        qat.prepare(Named(), X)(X, scale=3.0)
    with pytest.raises(
        DataError, match=r"the input 'batch\['far'\]' is not given: the model takes batch\['near'\], batch\['far'\]"
    ):
        qat.prepare(OfDict(), {"near": X, "far": Y})({"near": X})


def test_example_that_does_not_fit_says_so():
    with pytest.raises(DataError, match=r"the inputs do not fit the model's forward\(x, labels=None, other=None\)"):
        qat.prepare(Optional(), (X, Y, Y, Y))
    with pytest.raises(DataError, match="there is no input 'mask': the model's inputs are x, labels, other"):
        qat.prepare(Optional(), {"x": X, "mask": Y})
    with pytest.raises(DataError, match="a sample holds a set"):
        qat.prepare(Optional(), (X, {1}))


@pytest.mark.parametrize(
    "model",
    [
        torch.jit.script(nn.Sequential(nn.Linear(6, 5))),
        nn.Sequential(torch.jit.script(nn.Linear(6, 5))),
        torch.jit.trace(nn.Linear(6, 5), X),
    ],
)
def test_torchscript_is_refused_in_one_sentence(model):
    with pytest.raises(CaptureError, match="holds TorchScript, which has lost the code that a capture reads: pass the nn"):
        qat.prepare(model, X)


def test_a_model_without_weights_is_refused_in_one_sentence():
    with pytest.raises(CaptureError, match=r"^Linear has no weights: its parameters are on the device 'meta'"):
        qat.prepare(nn.Linear(6, 5, device="meta"), X)


def test_training_returns_what_evaluation_does():
    class Auxiliary(Net):
        def forward(self, x):
            return (self.a(x), self.b(x)) if self.training else self.a(x)

    prepared = qat.calibrate(qat.prepare(Auxiliary().train(), X), [X])
    assert prepared.train()(X).shape == prepared.eval()(X).shape == (4, 5)


def test_numpy_inputs_of_a_call_stay_the_callers():
    example = {"near": np.zeros((2, 6), np.float32), "far": np.zeros((2, 6), np.float32)}
    qat.prepare(OfDict(), example)
    assert all(isinstance(x, np.ndarray) for x in example.values())
