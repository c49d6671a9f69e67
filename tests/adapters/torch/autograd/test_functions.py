"""Fused nodes: the integers and the gradients of the operators that they stand for, in every bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qat
from qat.adapters.torch import set_range_tracking
from qat.adapters.torch.autograd import functions as kernels
from qat.adapters.torch.autograd import kept_bytes, linear, passes
from qat.adapters.torch.autograd.clip_mask import ClipMask, Output, apply_clip_mask, save_clip_mask
from qat.adapters.torch.nodes import data_movement
from qat.runs import zoo_torch as zoo

LIMITS = (-100.0, 90.0)


def both(fused, written_out, *tensors):
    """Return output and gradients of two functions of the same tensors."""
    found = []
    for function in (fused, written_out):
        leaves = [t.clone().requires_grad_() for t in tensors]
        y = function(*leaves)
        upstream = torch.arange(float(y.numel())).view(y.shape).sin()
        found.append((y.detach(), *torch.autograd.grad(y, leaves, upstream)))
    return found


def assert_same(found):
    for fused, written_out in zip(*found, strict=True):
        assert torch.equal(fused, written_out)
        assert fused.count_nonzero() > 0


def test_softmax():
    x, factor, units = torch.randint(-128, 128, (3, 5, 7)).float(), torch.tensor(0.03), torch.tensor(256.0)
    seen = []

    def fused(x):
        y, extremes = kernels.softmax(x, factor, units, Output(LIMITS, tracked=True))
        seen.append(extremes.tolist())
        return y

    def written_out(x):
        v = torch.softmax(x * factor, -1) * 256
        return kernels.straight_through(v, v.detach().round().clamp(*LIMITS))

    assert_same(both(fused, written_out, x))
    v = torch.softmax(x * factor, -1) * 256
    assert seen[0] == [v.min().item(), v.max().item()]


@pytest.mark.parametrize("clip_mask", [ClipMask.OUTPUT, ClipMask.KEPT, ClipMask.BYTES])
@pytest.mark.parametrize("first", [None, -128])
def test_layer_norm(clip_mask, first):
    x, scale = torch.randint(-128, 128, (3, 5, 16)).float(), torch.tensor(0.017)
    seen = []

    def fused(x, gamma, beta):
        y, extremes = kernels.layer_norm(x, gamma, beta, 1e-3, scale, Output(LIMITS, clip_mask, True, first), first)
        seen.append(extremes.abs().max().item())
        return y

    def written_out(x, gamma, beta):
        return kernels.round_clamp(F.layer_norm(x, (16,), gamma / scale, beta / scale, 1e-3), *LIMITS)

    assert_same(both(fused, written_out, x, torch.randn(16), torch.randn(16)))
    assert seen[0] > 100  # unrounded and unclamped


@pytest.mark.parametrize("compiled", [True, False])
def test_a_table_is_read_at_the_index_of_each_integer(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(passes, "walks", lambda: None)
    x, values, slopes = torch.randint(-30, 226, (3, 5, 16)).float(), torch.randint(-128, 128, (256,)).float(), torch.randn(256)

    def written_out(x):
        index = (x.detach() + 30).long()
        return values[index] + (x - x.detach()) * slopes[index]

    assert_same(both(lambda x: kernels.lookup(x, values, slopes, -30), written_out, x))


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("firsts", [(None, None), (-128, 0)])
def test_a_product_is_one_node(tracked, firsts):
    a, b = torch.randint(-128, 128, (3, 5, 4, 4)).float(), torch.randint(0, 255, (3, 5, 1, 1)).float()
    factor = torch.tensor(0.005)
    found = both(
        lambda a, b: kernels.mul(a, b, factor, Output(LIMITS, ClipMask.BYTES, tracked), firsts)[0],
        lambda a, b: kernels.round_clamp(a * b * factor, *LIMITS),
        *(a, b),
    )
    assert_same(found)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("firsts", [(None, None), (-128, -100)])
def test_a_product_of_matrices_is_one_node(transposed, firsts):
    a, b = torch.randint(-128, 128, (3, 2, 5, 16)).float(), torch.randint(-100, 155, (3, 2, 16, 9)).float()
    b = b.mT.contiguous() if transposed else b
    factor = torch.tensor(0.001)
    found = both(
        lambda a, b: kernels.matmul(a, b, transposed, factor, Output(LIMITS, ClipMask.KEPT, False, -100), firsts)[0],
        lambda a, b: kernels.round_clamp(torch.matmul(a, b.mT if transposed else b) * factor, *LIMITS),
        *(a, b),
    )
    assert_same(found)


@pytest.mark.parametrize("limits", [(-255.0, 0.0), (0.0, 255.0), (-100.0, 90.0), (-40000.0, 20000.0)])
def test_a_gradient_passes_by_bytes_where_it_passes_by_the_output(limits):
    y = torch.randint(int(limits[0]), int(limits[1]) + 1, (3, 5, 16)).float()
    y[0], y[1] = limits[0], limits[1]
    grad = torch.randn_like(y)
    narrow = limits[1] - limits[0] <= 255
    outputs = [Output(limits, ClipMask.OUTPUT), Output(limits, ClipMask.BYTES), Output(limits, ClipMask.KEPT)]
    outputs += [Output(limits, ClipMask.KEPT, first=int(limits[0]))] if narrow else []
    saved = [save_clip_mask(y, output) for output in outputs]
    assert [mask.element_size() for mask in saved] == ([4, 1, 4, 1] if narrow else [4, 4, 4])
    for mask, output in zip(saved, outputs, strict=True):
        assert torch.equal(apply_clip_mask(grad, mask, output), apply_clip_mask(grad, saved[0], outputs[0]))


def test_bytes_of_a_tensor_are_made_once_and_move_with_its_views():
    x = torch.randint(-30, 226, (3, 4, 6)).float()
    kept = kept_bytes.keep(x, -30)
    assert torch.equal(kept_bytes.restore(kept, -30), x)
    assert kept_bytes.keep(x, -30) is kept
    assert kept_bytes.keep(x, None) is x
    turned = kept_bytes.moved(x, x.mT, lambda t: t.mT)
    assert kept_bytes.keep(turned, -30).data_ptr() == kept.data_ptr()
    assert torch.equal(kept_bytes.restore(kept_bytes.keep(turned, -30), -30), x.mT)
    x.clamp_(0, 9)  # a change in place: the bytes are those of before
    assert torch.equal(kept_bytes.restore(kept_bytes.keep(x, -30), -30), x)
    with torch.inference_mode():
        y = torch.arange(12.0)
        assert torch.equal(kept_bytes.restore(kept_bytes.keep(y, 0), 0), y)


def kept_by(y):
    """Return the bytes that the nodes behind a tensor keep, beyond parameters, by type: each memory once."""
    sizes, nodes, found = {}, set(), [y.grad_fn]
    while found:
        node = found.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        for t in getattr(node, "saved_tensors", ()):
            if t is not None and t.numel() > 1000:
                sizes[t.untyped_storage().data_ptr()] = (t.dtype, t.untyped_storage().nbytes())
        found += [before for before, _ in node.next_functions]
    totals = {}
    for dtype, size in sizes.values():
        totals[dtype] = totals.get(dtype, 0) + size
    return totals


@pytest.mark.parametrize("tracking", [False, True])
def test_a_step_keeps_a_byte_for_each_activation(tracking):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(4, 3, 32, 32)
    model = qat.calibrate(qat.prepare(net.eval(), x), [x]).train()
    set_range_tracking(model, tracking)
    pixels = x.numel() // 3
    found = kept_by(model(x.requires_grad_()))
    inputs, activations = 3 * pixels, 8 * pixels
    if tracking:
        assert found[torch.float32] >= 4 * 2 * activations
    else:
        # The inputs of the convolutions, the table's index, the last output; the model's input, whose gradient is asked for.
        assert found == {torch.uint8: inputs + 3 * activations, torch.float32: 4 * (inputs + 4 * pixels)}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_max_pooling_that_keeps_places_alone_has_the_gradient_of_pytorch(layout):
    x = torch.randint(-9, 9, (2, 3, 9, 7)).float().to(memory_format=layout)
    window = ((3, 3), (2, 2), (1, 1))
    assert_same(both(lambda x: data_movement._MaxPool.apply(x, window), lambda x: F.max_pool2d(x, *window), x))


def test_an_output_that_no_reader_keeps_is_kept_as_bytes():
    model = qat.prepare(zoo.resnet18(classes=10).eval(), torch.randn(2, 3, 32, 32))
    masks = {name: node.clip_mask for name, node in model.get_submodule("_qat.nodes").named_children() if "conv2d" in name}
    assert masks["conv2d"] is ClipMask.BYTES  # max pooling reads it
    assert masks["conv2d_1"] is ClipMask.KEPT  # a convolution does
    assert masks["conv2d_2"] is ClipMask.BYTES  # an addition does


def test_a_pass_without_gradients_saves_no_clip_mask(monkeypatch):
    saved = []

    def save(y, output):
        saved.append(save_clip_mask(y, output))
        return saved[-1]

    for module in (linear, kernels):
        monkeypatch.setattr(module, "save_clip_mask", save)
    x = torch.randn(2, 3, 32, 32)
    model = qat.calibrate(qat.prepare(zoo.resnet18(classes=10).eval(), x), [x])
    with torch.no_grad():
        expected = model.train()(x)
    masks, saved[:] = list(saved), []
    assert len(masks) > 20
    assert sum(mask is not None for mask in masks) == 1  # the model's input: nothing is asked of its rounding
    assert torch.equal(model(x), expected)
    assert all(mask is not None for mask in saved)


class Gelu(nn.Module):
    """Layers whose output a table alone reads, or another reader too; with a fused ReLU, a product and a LayerNorm among them."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both = both
        self.conv, self.norm, self.a, self.b = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        y = F.relu(self.conv(x))
        z = torch.tanh(y)
        tokens = self.norm(z.flatten(2).transpose(1, 2))
        t = torch.tanh(tokens)
        u = self.b(F.gelu(self.a(t)))
        p = u @ t.transpose(1, 2)
        q = torch.sigmoid(p)
        return (q, y, tokens, p) if self.both else (q,)


@pytest.mark.parametrize("tracking", [False, True])
def test_a_table_gives_no_gradient_to_what_its_writer_clamped(tracking):
    """The same gradients as where every node sees to its own limits."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    grads, left_to_readers = [], []
    for both in (False, True):
        torch.manual_seed(1)
        prepared = qat.calibrate(qat.prepare(Gelu(both).eval(), x), [x / 4])  # so that much is clamped
        set_range_tracking(prepared, tracking)
        nodes = dict(prepared.get_submodule("_qat.nodes").named_children())
        left_to_readers.append([node.clip_mask for node in nodes.values()].count(ClipMask.READERS))
        image = x.clone().requires_grad_(True)
        y, *others = prepared.train()(image)
        (y.square().sum() + 0 * sum(o.sum() for o in others)).backward()
        grads.append({"image": image.grad} | {name: p.grad for name, p in prepared.named_parameters()})
    assert left_to_readers == [4, 1]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-5, atol=1e-7)
