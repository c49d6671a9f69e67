import numpy as np
import pytest

from qat.analysis.mixed.choices import choices_for
from qat.analysis.mixed.network import Network
from qat.planning.recipe import load_recipe
from qat.planning.targets import load_target


@pytest.fixture
def network_of():
    """Return what makes the network of a model for a target."""
    import qat

    def make(model, example, target, choices=None):
        graph = qat.plan(model, example, target=target).graph
        chosen = choices_for(load_target(target), choices)
        return Network(graph, load_recipe("static_wi8_ai8"), load_target(target), chosen)

    return make


@pytest.fixture
def images():
    """Return random images in a framework's layout."""
    return lambda framework, count=4: (
        np.random.default_rng(0).normal(size=(count, 1, 8, 8) if framework == "torch" else (count, 8, 8, 1)).astype(np.float32)
    )
