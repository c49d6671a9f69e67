"""The float twin of a prepared model: a copy that computes in float, with the weights from before any method changed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from qat.arithmetic.range_estimators import RangeMode
from qat.frameworks import adapter_for, framework_of
from qat.typing import Adapter, P, PreparedModel


@dataclass(frozen=True)
class _Treated:
    """A model that a method has treated: its float twin, and the parameters that the method left in the model."""

    twin: Any
    left: Mapping[str, np.ndarray]


#: The models that were treated, for as long as they live: a further method compares them with the same float twin.
_TREATED: WeakKeyDictionary[PreparedModel, _Treated] = WeakKeyDictionary()


def float_twin(model: P) -> P:
    """Return a copy of a prepared model that computes in float.

    Its weights are the model's own. Where a method between calibration and training has changed those, and nothing else since,
    the twin is the one that the method started from.
    """
    adapter, treated = _adapter(model), _TREATED.get(model)
    twin: P = treated.twin if treated and _holds(model, treated.left) else adapter.twin_of(model)
    for grid in adapter.grids(twin).values():
        grid.mode = RangeMode.CALIBRATING  # without an estimator: the twin computes in float
    return twin


def remember(model: PreparedModel, twin: Any) -> None:
    """Note the twin of a model that a method has changed."""
    _TREATED[model] = _Treated(twin, _parameters(model))


def _parameters(model: PreparedModel) -> dict[str, np.ndarray]:
    adapter = _adapter(model)
    names = {name for planned in model.plan.ops for name in planned.op.params.values()}
    return {name: adapter.parameter(model, name) for name in names}


def _holds(model: PreparedModel, parameters: Mapping[str, np.ndarray]) -> bool:
    """Whether the model's parameters are still these: nothing else, training say, has changed them since."""
    adapter = _adapter(model)
    return all(np.array_equal(adapter.parameter(model, name), value) for name, value in parameters.items())


def _adapter(model: PreparedModel) -> Adapter:
    framework = framework_of(model)
    assert framework != "tf_keras", "tensorflow-model-optimization's models have no layers to reach"
    return adapter_for(framework)
