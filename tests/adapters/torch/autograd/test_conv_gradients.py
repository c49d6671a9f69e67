"""The gradients of convolutions: each form's are those of PyTorch's operator, in the layouts that the neighbours have."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.adapters.torch.autograd import conv_gradients
from qat.adapters.torch.autograd.conv_gradients import of_convolution
from qat.adapters.torch.autograd.kernel_choice import computing_with
from support.kernels import Always

ONE = ((1, 1), (0, 0), (1, 1), 1)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
of_input, of_weight = conv_gradients.of_input["float32"], conv_gradients.of_weight["float32"]
FORMS = sorted({*of_input.by_name, *of_weight.by_name})


@st.composite
def convolutions(draw):
    """Return input, weight, gradient of the output, and geometry: any stride, dilation, groups, padding, sizes and layouts."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    if draw(st.booleans()):
        groups = outputs = inputs  # depthwise
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    window = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 5)]))
    strides, dilations = draw(two), draw(two)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    least = [d * (k - 1) + 1 for d, k in zip(dilations, window, strict=True)]
    height, width = (n + draw(st.integers(0, 6)) for n in least)
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(draw(st.integers(1, 3)), inputs, height, width, generator=g)
    weight = torch.randn(outputs, inputs // groups, *window, generator=g)
    geometry = (strides, padding, dilations, groups)
    grad = torch.randn(F.conv2d(x, weight, None, *geometry).shape, generator=g)
    x, weight, grad = (t.contiguous(memory_format=draw(st.sampled_from(LAYOUTS))) for t in (x, weight, grad))
    return grad, x, weight, geometry


def expected(grad, x, weight, geometry):
    found = torch.ops.aten.convolution_backward(
        grad.double(), x.double(), weight.double(), [len(weight)], *geometry[:3], False, [0, 0], geometry[3], [True] * 3
    )
    return [t.float() for t in found]


def assert_close(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def assert_same_layout(mine, theirs):
    for layout in LAYOUTS:
        assert mine.is_contiguous(memory_format=layout) or not theirs.is_contiguous(memory_format=layout) or mine.is_contiguous()


@pytest.mark.parametrize("name", FORMS)
@settings(deadline=None, max_examples=40)
@given(convolutions())
def test_every_form_has_the_gradients_of_the_operator(name, convolution):
    _, x, weight, _ = convolution
    gx, gw, gb = expected(*convolution)
    for form, arguments in ((of_input.by_name.get(name), convolution), (of_weight.by_name.get(name), (*convolution, True))):
        if form is None or not form.fits(*arguments):
            continue
        found = form.compute(*arguments)
        if form in of_input.forms:
            assert_close(found, gx)
            assert_same_layout(found, x)
        else:
            assert_close(found[0], gw)
            assert_same_layout(found[0], weight)
            assert_close(found[1], gb)
            assert form.compute(*convolution, False)[1] is None


@pytest.mark.parametrize(
    "needed", [(True, True, True), (False, True, True), (True, False, True), (True, True, False), (False,) * 3]
)
@pytest.mark.parametrize("name", ["operator", "product"])
def test_what_is_not_needed_is_not_computed(name, needed):
    x, grad = (torch.randn(2, channels, 4, 6) for channels in (5, 16))
    arguments = (grad, x, torch.randn(16, 5, 1, 1), ((1, 1), (0, 0), (1, 1), 1))
    with computing_with(Always(name)):
        found = of_convolution(*arguments, needed)
    for mine, theirs, asked in zip(found, expected(*arguments), needed, strict=True):
        assert (mine is not None) == asked
        if asked:
            assert_close(mine, theirs)


def test_forms_are_asked_where_they_compute_something_else():
    def fitting(kernel, x, weight, geometry, *more):
        grad = F.conv2d(x, weight, None, *geometry)
        return [form.name for form in kernel.forms if form.fits(grad, x, weight, geometry, *more)]

    x, dense, depthwise, large = (
        torch.randn(2, 4, 6, 6),
        torch.randn(8, 4, 1, 1),
        torch.randn(4, 1, 3, 3),
        torch.randn(512, 4, 3, 3),
    )
    one, half = ONE, ((2, 2), (0, 0), (1, 1), 1)
    assert fitting(of_input, x, dense, one) == ["operator", "channels_last", "product", "convolution"]
    assert fitting(of_input, x, dense, half) == ["operator", "channels_last", "product"]
    assert fitting(of_input, x, depthwise, ((1, 1), (1, 1), (1, 1), 4)) == ["operator", "channels_last", "convolution"]
    assert fitting(of_weight, x, depthwise, ((1, 1), (1, 1), (1, 1), 4), True) == ["operator", "channels_last", "taps"]
    assert fitting(of_weight, x, dense, half, True) == ["operator", "channels_last", "product"]
    assert fitting(of_weight, x, large, one, True) == ["operator", "channels_last", "windows"]
    assert fitting(of_weight, x, large[:8], one, True) == ["operator", "channels_last"]  # the windows would take more memory
    last = x.to(memory_format=torch.channels_last)
    assert fitting(of_weight, last, large, one, True) == ["operator", "plain", "windows"]


@pytest.mark.parametrize("channels", [3, 5, 7])
def test_few_channels_of_every_second_pixel(channels):
    """Without AVX512 oneDNN's gradient of this weight wrote beyond its memory, which ended the process."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 1), torch.nn.Conv2d(channels, 8, 1, 2)).to(
        memory_format=torch.channels_last
    )
    x = torch.randn(4, 3, 10, 12, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    prepared = qat.calibrate(qat.prepare(net, x), [x], progress=False).train()
    for _ in range(10):
        prepared.zero_grad()
        prepared(x).square().mean().backward()
    assert torch.isfinite(prepared.get_parameter("1.weight").grad).all()
