"""The compiled passes: the numbers of PyTorch's operators, in every bit, NaN and signed zeros among them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.adapters.torch import set_range_tracking
from qat.adapters.torch.autograd import by_operators, passes
from qat.runs.zoo_torch import mobilenet_tiny

pytestmark = pytest.mark.skipif(passes.walks() is None, reason="no C compiler, or not one for this system")
SEEDS = st.integers(0, 2**31)
#: Numbers that arithmetic treats in a way of their own.
ODD = (0.0, -0.0, 0.5, -0.5, 2.5, float("inf"), -float("inf"), float("nan"), 1e-42, 3e38)


def bits(x):
    """Return the bits of a tensor; all NaN are one."""
    if not x.is_floating_point():
        return x
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x).contiguous().view(torch.int32)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        if b is None:
            assert a is None
        else:
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
            assert torch.equal(bits(a), bits(b))


def numbers(shape, seed, size, odd=False, last=False):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * size).astype(np.float32)
    if odd:
        x.reshape(-1)[rng.integers(0, x.size, min(10, x.size))] = rng.choice(ODD, min(10, x.size))
    x = torch.from_numpy(x)
    return x.to(memory_format=torch.channels_last) if last else x


def walked(x):
    """Return the compiled passes, which are those that are chosen for this tensor."""
    assert passes.of(x) is passes.walks()
    return passes.walks()


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 1100), st.integers(1, 5), st.integers(1, 9)),
    images=st.booleans(),
    odd=st.booleans(),
    limits=st.sampled_from([(0.0, 200.0), (-128.0, 127.0), (-3.0, 4.0), (0.0, 0.0)]),
)
def test_requantize(seed, shape, images, odd, limits):
    acc = numbers(shape if images else (shape[0] * shape[2], shape[1]), seed, 2**13, odd, last=images)
    before = acc.clone()
    for multiplier in (numbers((shape[1],), seed, 0.01).abs(), torch.tensor(0.01), None):
        for first in (None, int(limits[0])):
            args = multiplier, limits, 1 if images else -1, first
            acc = before.clone()
            found = walked(acc).requantize(acc, *args)
            expected = by_operators.requantize(before.clone(), *args)
            assert found[0] is acc
            assert_same(found[:1], expected[:1])
            if not odd:  # what a byte makes of a NaN is no matter
                assert_same(found, expected)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, lo=st.integers(-255, 0), shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.just(5), st.just(3)))
def test_bytes(seed, lo, shape):
    for last in (False, True):
        x = torch.from_numpy(np.random.default_rng(seed).integers(lo, lo + 256, shape).astype(np.float32))
        x = x.to(memory_format=torch.channels_last) if last else x
        for y in (x, x.mT):
            kept = walked(y).to_bytes(y, lo)
            assert_same([kept], [by_operators.to_bytes(y, lo)])
            assert_same([walked(kept).from_bytes(kept, lo)], [by_operators.from_bytes(kept, lo)])
            assert torch.equal(walked(kept).from_bytes(kept, lo), y)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, low=st.integers(0, 20), width=st.integers(0, 235), last=st.booleans())
def test_clip_masks(seed, low, width, last):
    grad = numbers((3, 17, 5, 4), seed, 1.0, odd=True, last=last)
    saved = torch.empty_like(grad, dtype=torch.uint8)
    saved.random_(low, low + width + 1, generator=torch.Generator().manual_seed(seed % 2**31))
    args = grad, saved, (float(low), float(low + width))
    assert_same([walked(grad).mask_by_bytes(*args)], [by_operators.mask_by_bytes(*args)])


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, last=st.booleans(), odd=st.booleans(), limits=st.sampled_from([(0.0, 200.0), (-128.0, 127.0), (-3.0, 4.0)]))
def test_rounding_and_clamping(seed, last, odd, limits):
    v = numbers((3, 7, 5, 4), seed, 100.0, odd, last)
    assert_same([walked(v).round_clamp(v, limits)], [by_operators.round_clamp(v, limits)])


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 4), st.integers(2, 70), st.integers(2, 5), st.integers(2, 4)),
    other=st.sampled_from(["same", "each image's channels", "all images' channels", "one number"]),
    last=st.booleans(),
    odd=st.booleans(),
    swapped=st.booleans(),
)
def test_products(seed, shape, other, last, odd, swapped):
    images, channels = shape[:2]
    shapes = {
        "same": shape,
        "each image's channels": (images, channels, 1, 1),
        "all images' channels": (1, channels, 1, 1),
        "one number": (1, 1, 1, 1),
    }
    a, grad = (numbers(shape, seed + i, 90.0, odd, last) for i in range(2))
    b, factor = numbers(shapes[other], seed + 2, 90.0, odd, last), torch.tensor(0.013)
    a, b = (b, a) if swapped else (a, b)
    how = a, b, factor, (-100.0, 127.0)
    assert_same([walked(a).product(*how)], [by_operators.product(*how)])
    assert_same(walked(a).product_gradients(grad, *how[:3]), by_operators.product_gradients(grad, *how[:3]))


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, entries=st.sampled_from([16, 256]), last=st.booleans(), grad_last=st.booleans())
def test_tables(seed, entries, last, grad_last):
    index = torch.from_numpy(np.random.default_rng(seed).integers(0, entries, (3, 17, 5, 4)).astype(np.uint8))
    index = index.to(memory_format=torch.channels_last) if last else index
    table, grad = numbers((entries,), seed, 1.0, odd=True), numbers(index.shape, seed, 1.0, odd=True, last=grad_last)
    found = walked(table).look_up(index, table)
    assert_same([found], [by_operators.look_up(index, table)])
    assert torch.equal(bits(found), bits(table[index.long()]))
    assert found.stride() == index.stride()  # else the next kernel copies it
    args = index, table, grad
    assert_same([walked(grad).look_up_times(*args)], [by_operators.look_up_times(*args)])


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 3), st.integers(1, 3)),
    last=st.booleans(),
    bias=st.booleans(),
    odd=st.booleans(),
    per_channel=st.booleans(),
    qmax=st.sampled_from([1, 3, 7, 64, 127]),
    size=st.sampled_from([1e-30, 0.05, 1.0, 1e6]),
)
def test_weights(seed, shape, last, bias, odd, per_channel, qmax, size):
    weight = numbers(shape, seed, size, odd, last)
    b = numbers(shape[:1], seed + 1, 100 * size, odd) if bias else None
    scales = torch.tensor(0.031), torch.tensor(0.077)
    args = weight, b, scales, qmax, per_channel, 2.0**23
    expected = by_operators.weight_integers(*args)
    found = walked(weight).weight_integers(*args)
    assert torch.equal(bits(found[0]), bits(expected[0].clone()))  # one scale of all channels is a view there
    assert_same(found[1:], expected[1:])
    for factor in (None, found[3]):
        args = weight, found[0], factor
        assert_same([passes.walks().rounded_weight(*args)], [by_operators.rounded_weight(*args)])


def test_what_cannot_be_walked_is_left_to_the_operators():
    dense = torch.ones(4, 6)
    for x in (dense.double(), dense.to("meta"), torch.nn.UninitializedParameter()):
        assert passes.of(x) is by_operators
    g, scales = torch.Generator().manual_seed(0), (torch.tensor(0.3), torch.tensor(0.5))
    for x in (torch.randn(6, 4, generator=g).t(), torch.randn(6, 4, 5, generator=g)[:, ::2], torch.randn(0, 3)):
        assert_same([passes.of(x).to_bytes(x, -5)], [by_operators.to_bytes(x, -5)])
        saved = torch.ones(x.shape).byte()
        assert_same([passes.of(x).mask_by_bytes(x, saved, (0.0, 9.0))], [by_operators.mask_by_bytes(x, saved, (0.0, 9.0))])
        multiplier = torch.rand(x.shape[-1], generator=g)
        how = multiplier, (-1.0, 1.0), -1, -1
        assert_same(passes.of(x).requantize(x.clone(), *how), by_operators.requantize(x.clone(), *how))
        if len(x):
            args = x, None, scales, 7, True, 2.0**23
            assert_same(passes.of(x).weight_integers(*args), by_operators.weight_integers(*args))
            args = x, torch.rand(len(x), generator=g) + 0.1, None
            assert_same([passes.of(x).rounded_weight(*args)], [by_operators.rounded_weight(*args)])


def test_a_library_that_rounds_otherwise_is_not_used(monkeypatch):
    wrong = lambda self, weight, scale, factor: by_operators.rounded_weight(weight, scale, factor).add_(1.0)  # noqa: E731
    monkeypatch.setattr(passes.Walks, "rounded_weight", wrong)
    passes.walks.cache_clear()
    assert passes.walks() is None
    monkeypatch.undo()
    passes.walks.cache_clear()
    assert passes.walks() is not None


class Gated(torch.nn.Module):
    """A squeeze-and-excite between tables."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.head = torch.nn.Conv2d(1, 12, 3), torch.nn.Conv2d(12, 12, 1), torch.nn.Conv2d(12, 10, 6)

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(F.hardswish(x)).flatten(1)


@pytest.mark.parametrize("net", [mobilenet_tiny, Gated])
@pytest.mark.parametrize("tracking", [False, True])
def test_a_model_trains_to_the_same_bits(net, tracking, monkeypatch):
    torch.manual_seed(0)
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    model = qat.calibrate(qat.prepare(net().eval(), images[:2]), [images])
    set_range_tracking(model, tracking)
    trained = []
    for library in (passes.walks(), None):
        monkeypatch.setattr(passes, "walks", lambda library=library: library)
        copied = copy.deepcopy(model).train()
        optimizer = torch.optim.SGD(copied.parameters(), 0.05)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(copied(images), labels).backward()
            optimizer.step()
        trained.append(copied.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(trained[0].values(), trained[1].values(), strict=True))
