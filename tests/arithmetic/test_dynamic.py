"""The nodes' arithmetic of dynamic kernels against the NumPy reference, in every bit."""

import numpy as np
import pytest

from qat.arithmetic import dynamic

KERNELS = ("mlas", "xnnpack", "builtin", "builtin_depthwise", "builtin_groups")


def tensors():
    """Return activations of many ranges: of either sign alone, all zero, and with halves between two integers."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        yield (rng.normal(size=(4, 6, 5)) * 10.0 ** rng.uniform(-3, 3) + rng.normal()).astype(np.float32)
    yield np.abs(rng.normal(size=(4, 6, 5))).astype(np.float32)
    yield -np.abs(rng.normal(size=(4, 6, 5))).astype(np.float32)
    yield np.zeros((4, 6, 5), np.float32)
    yield np.concatenate([np.arange(-127, 113) / 2, [-63.5, 64.0] * 60]).reshape(3, 24, 5).astype(np.float32)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_nodes_choose_the_grid_of_the_reference(framework, kernels):
    axes = (0, 1, 2) if kernels == "mlas" else (1, 2)
    for x in tensors():
        if framework == "torch":
            import torch

            from qat.adapters.torch.autograd.dynamic import on_grid

            q, scale = (t.numpy() for t in on_grid(torch.from_numpy(x), axes, kernels))
        else:
            import tensorflow as tf

            from qat.adapters.keras.autograd.dynamic import on_grid

            q, scale = (np.asarray(t) for t in on_grid(tf.constant(x), axes, kernels))
        want_q, want_scale = dynamic.on_grid(x, axes, kernels)
        np.testing.assert_array_equal(q, want_q)
        np.testing.assert_array_equal(np.broadcast_to(scale, want_scale.shape), want_scale)


@pytest.mark.parametrize("bias", [None, np.linspace(-2, 2, 5, dtype=np.float32)])
@pytest.mark.parametrize("kernels", KERNELS)
def test_nodes_dequantize_the_accumulator_as_the_reference_does(kernels, bias):
    import tensorflow as tf
    import torch

    from qat.adapters.keras.autograd import dynamic as in_keras
    from qat.adapters.torch.autograd import dynamic as in_torch

    rng = np.random.default_rng(1)
    acc = rng.integers(-100_000, 100_000, (40, 5)).astype(np.float32)
    x_scale, scale = (rng.uniform(1e-4, 1e-1, size).astype(np.float32) for size in ((40, 1), (5,)))
    want = dynamic.dequantize_accumulator(acc, x_scale, scale, bias, kernels)
    arrays = (acc, x_scale, scale)
    found = in_torch.dequantize_accumulator(
        *map(torch.from_numpy, arrays), None if bias is None else torch.from_numpy(bias), kernels
    ).numpy()
    np.testing.assert_array_equal(found, want)
    found = in_keras.dequantize_accumulator(*map(tf.constant, arrays), None if bias is None else tf.constant(bias), kernels)
    np.testing.assert_array_equal(np.asarray(found), want)
