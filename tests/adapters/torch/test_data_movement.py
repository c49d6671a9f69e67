"""PyTorch operators that move integers about: nothing leaves the grid, and the artifact is exact."""

import math
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F

import qat
from qat.runtimes import open_session
from support.operators import IMAGES, RUNTIMES, Between
from support.rows import every_second

MOVES = {
    "permute": lambda x: x.permute(0, 1, 3, 2),
    "transpose": lambda x: x.transpose(1, 2).flip(3).transpose(2, 1),
    "slice": lambda x: x[:, :, 1:5:2],
    "select": lambda x: x[:, :, 2].unsqueeze(2),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "split": lambda x: torch.cat(x.split(2, 1)[::-1], 1),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "index": lambda x: x.index_select(1, torch.tensor([3, 1, 0, 2])),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 3, -1),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2)[:, ::4],
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "shuffle by hand": lambda x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).reshape(-1, 4, 6, 6),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "maximum": lambda x: x.amax((2, 3), keepdim=True),
    "minimum": lambda x: x.amin(2, keepdim=True),
    "minimum of an axis": lambda x: x.min(3, keepdim=True).values,
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive maxima": lambda x: F.adaptive_max_pool2d(x, 3),
    "adaptive maxima of uneven windows": lambda x: F.adaptive_max_pool2d(x, (4, 5)),
    "adaptive maximum of rows": lambda x: F.adaptive_max_pool1d(x.flatten(2), 1).unsqueeze(3),
    "maxima, the last windows beyond the edge": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "maxima, padded at the end": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, 1),
    "maxima of rows, padded before": lambda x: F.max_pool1d(F.pad(x.flatten(2), (2, 0), value=-math.inf), 3, 2).unsqueeze(3),
    "zeros beside channels": lambda x: F.pad(x[:, :2], (0, 0, 0, 0, 1, 1)),
    "zeros beside all axes": lambda x: F.pad(x[:, :2], (1, 0, 0, 2, 2, 0)),
    "zeros beside two axes of three": lambda x: F.pad(x[:, :3].flatten(2), (1, 2, 0, 1)).unsqueeze(2),
    "zeros beside a row": lambda x: F.pad(x.flatten(1), (0, 4)).view(-1, 4, 37, 1),
    "indices": lambda x: x[:, [3, 1, 0, 2]],
    "windows": lambda x: x.unfold(3, 2, 2).amax(4),
    "columns": lambda x: F.unfold(x, 2, stride=2)[:, :4].unflatten(2, (3, 3)),
    "moved axes": lambda x: x.movedim(1, 2).swapaxes(1, 2),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "interleaved": lambda x: x.repeat_interleave(2, 3),
    "expanded as": lambda x: x[:, :, :1].expand_as(x),
    "maximum of an axis": lambda x: x.max(2, keepdim=True)[0],
    "reflected": lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
    "beside an empty part": lambda x: torch.cat([x[:, :0], x.roll(1, 2)], 1),
    "beside an empty constant": lambda x: torch.cat([torch.zeros(0), x.roll(1, 2)], 1),
    "two chained": lambda x: x.transpose(2, 3).roll(1, 2).flip(2),
}


@pytest.mark.parametrize("name", every_second(MOVES))
def test_moves_run_on_integers(name, tmp_path):
    prepared = qat.calibrate(qat.prepare(Between(lambda m, x: MOVES[name](x)).eval(), IMAGES[:2]), [IMAGES])
    assert not prepared.plan.floats()
    prepared.train()(IMAGES).square().mean().backward()
    assert float(prepared.get_parameter("a.weight").grad.abs().sum()) > 0
    artifact = qat.export(prepared.eval(), tmp_path / "m.onnx", verify=[IMAGES, IMAGES[:3]])
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    ops = open_session(artifact.path).ops()
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1, 1)


class Heads(torch.nn.Module):
    """Query, key and value as parts of one layer's output, in one of the ways that models write."""

    def __init__(self, part) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.part = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8), part

    def forward(self, x):
        q, k, v = self.part(self.qkv(x))
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


WHOLES = {
    "unbind": lambda y: y.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0),
    "chunk": lambda y: [t.unflatten(2, (2, 4)).transpose(1, 2) for t in y.chunk(3, 2)],
    "split of an axis": lambda y: [t.squeeze(2).transpose(1, 2) for t in y.unflatten(2, (3, 2, 4)).split(1, 2)],
}


def saved_by(model, x):
    """Return the memory that a backward pass keeps in bytes, and the functions of the pass."""
    kept, names, waiting = {}, set(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(id(t), t), lambda t: t):
        waiting = [model(x).square().mean().grad_fn]
    while waiting:
        node = waiting.pop()
        names.add(node.name())
        waiting += [n for n, _ in node.next_functions if n is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept.values() if t.dtype is torch.uint8}
    return sum(storages.values()), names


@pytest.mark.parametrize("name", WHOLES)
def test_parts_that_make_up_a_tensor_are_one_node(name, tmp_path, monkeypatch):
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    models, insert = [], sys.modules["qat.adapters.torch.insert"]
    for take_together in (insert.take_together, lambda *args: None):
        monkeypatch.setattr(insert, "take_together", take_together)
        model = qat.calibrate(qat.prepare(Heads(WHOLES[name]).eval(), x), [x])
        model.train()(x).square().mean().backward()
        models.append(model)
    together, apart = (saved_by(model, x) for model in models)
    assert "_PartsBackward" in together[1]
    assert together[1].isdisjoint({"SelectBackward0", "SliceBackward0"})
    assert together[0] == apart[0]
    for one, another in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one.grad, another.grad)
    artifact = qat.export(models[0].eval(), tmp_path / "m.onnx", verify=[x])
    assert artifact.parity.exact == 1.0
    restored = pickle.loads(pickle.dumps(models[0]))
    assert torch.equal(restored(x), models[0](x))


class Siamese(torch.nn.Module):
    """Two images in one batch, taken apart; their product lies as rows, of which a size follows from both batches."""

    def __init__(self):
        super().__init__()
        self.stem, self.end = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, a, b):
        first, second = self.stem(torch.cat([a, b])).chunk(2)
        rows = (first * second).permute(0, 2, 3, 1).reshape(-1, 1, 2, 2)
        return self.end(torch.relu(rows).reshape(len(a), 6, 6, -1).permute(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), RUNTIMES)
def test_two_batches_in_one_are_taken_apart(target, suffix, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 3, 6, 6), torch.randn(3, 3, 6, 6)
    prepared = qat.calibrate(qat.prepare(Siamese().eval(), x, target=target), [x])
    assert not prepared.plan.floats()
    samples = [x, tuple(part[:1] for part in x)]
    assert qat.export(prepared, tmp_path / f"m.{suffix}", verify=samples).parity.exact == 1


def test_what_moves_keeps_no_bytes_of_its_own():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    model = qat.calibrate(qat.prepare(Heads(WHOLES["unbind"]).eval(), x), [x]).train()
    rows = 3 * 5
    outputs = rows * 24 + 2 * 3 * 2 * 5 * 5 + rows * 8  # of the layer with all heads, the products twice, the sum before the last
    assert saved_by(model, x)[0] == rows * 8 + outputs + rows * 8


def test_a_part_that_is_not_read_has_no_gradient():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    model = Heads(lambda y: (lambda q, k, v: (q, q, v))(*WHOLES["unbind"](y))).eval()
    prepared = qat.calibrate(qat.prepare(model, x), [x]).train()
    prepared(x).square().mean().backward()
    of_q, of_k, of_v = prepared.get_parameter("qkv.weight").grad.chunk(3)
    assert of_k.abs().sum() == 0 < min(of_q.abs().sum(), of_v.abs().sum())
