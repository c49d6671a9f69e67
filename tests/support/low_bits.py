"""A small residual net in both frameworks, its images, and recipes of few bits."""

import numpy as np
import pytest

from qat.planning.recipe import QuantSpec, Recipe, Rule

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def net(framework):
    """A residual net: convolution, depthwise, addition, mean, dense."""
    if framework == "torch":
        import torch

        from qat.runs.zoo_torch import mobilenet_tiny

        torch.manual_seed(0)
        return mobilenet_tiny().eval()
    import keras

    from qat.runs.zoo_keras import TINY, mobilenet

    keras.utils.set_random_seed(0)
    return mobilenet(TINY, (8, 8, 1), 10, stem=16, stem_stride=1, head=64)


def images(framework, count=32, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 8, 8, 1)).astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if framework == "torch" else x


def recipe(weights, activations, granularity="channel", learned=True):
    weight = QuantSpec(bits=weights, symmetric=True, granularity=granularity, learned=learned)
    return Recipe(
        name="low", rules=(Rule(weight=weight, activation=QuantSpec(bits=activations, estimator="mse", learned=learned)),)
    )
