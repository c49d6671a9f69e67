"""A calibrated model beside its float twin, layer by layer, for the methods between calibration and training.

The twin keeps the weights from before. The model's own are changed on the way, so that a later layer reads what the earlier ones,
with their changed weights, give it. Methods may follow each other or be repeated: the twin stays the one that the first of them
made, until something else, training say, changes the model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from qat.errors import CalibrationError, ConfigError, DataError
from qat.frameworks import adapter_for, framework_of, in_order, is_prepared
from qat.graph.kinds import KINDS
from qat.graph.receptive_windows import has_windows, windows
from qat.graph.weight_views import by_channel
from qat.planning.plan import PlannedOp
from qat.system.samples import batches_of, check_finite, first_of_pair
from qat.typing import PreparedModel, Samples

from .float_twin import float_twin, remember

log = logging.getLogger("qat")


class Layerwise:
    """The layers of a calibrated model that have integer weights of their own, in order, those that write float among them.

    Left out are layers that share a weight, convolutions of volumes, and transposed layers in groups.

    Raises:
        CalibrationError: the model is not prepared and calibrated.
        ConfigError: it was prepared by tensorflow-model-optimization.
        DataError: no samples, or one with NaN or infinite values.
    """

    def __init__(self, model: PreparedModel, samples: Samples, method: str) -> None:
        if not is_prepared(model):
            raise CalibrationError(f"{method} needs a prepared model: call qat.prepare and qat.calibrate first")
        framework = framework_of(model)
        if framework == "tf_keras":
            raise ConfigError(f"{method} is not for tf_keras models: load the model with Keras 3")
        self.model, self.adapter = model, adapter_for(framework)
        grids = self.adapter.grids(model)
        if not all(grid.calibrated for grid in grids.values()):
            raise CalibrationError(f"the model is not calibrated: call qat.calibrate(model, samples) before {method}")
        count, plan = len(model.plan.graph.inputs), model.plan
        batches = batches_of(samples, method)
        self.batches = [self.adapter.inputs_of((in_order(model, first_of_pair(sample, count)),)) for sample in batches]
        if not self.batches:
            raise DataError(f"{method} got no samples: pass at least one batch (a generator that was used up yields none)")
        for index, inputs in enumerate(self.batches):
            for x in inputs:
                check_finite(np.asarray(x), f"batch {index} of {method}")
        uses = Counter(name for p in plan.ops for name in p.op.params.values())
        weighted = [p for p in plan.ops if p.weight is not None and KINDS[p.op.kind].linear]
        own = [p for p in weighted if has_windows(p.op) and all(uses[n] == 1 for n in p.op.params.values())]
        self.layers = [layer for layer in (Layer(self, p) for p in own) if layer.known]
        taken = {layer.op.name for layer in self.layers}
        left = [p.op.layer for p in weighted if p.op.name not in taken]
        if left:
            log.warning("%s leaves %d of %d weights as they are: %s", method, len(left), len(weighted), ", ".join(left[:3]))
        self.twin, self.stored = float_twin(model), any(p.stored for p in plan.ops)

    def __enter__(self) -> Layerwise:
        return self

    def __exit__(self, *_: object) -> None:
        remember(self.model, self.twin)


class Layer:
    """One layer. Weights are ``[groups, outputs, inputs * taps]``, values of a channel ``[groups, outputs]``, in float32."""

    def __init__(self, of: Layerwise, planned: PlannedOp) -> None:
        self.of, self.planned, self.op = of, planned, planned.op
        view = by_channel(self.op, of.adapter.parameter(of.model, self.op.params["weight"]))
        self.known = view is not None
        self.shape: tuple[int, ...] = () if view is None else view.shape
        self.kernel: tuple[int, ...] = (*(1,) * (5 - len(self.shape)), *self.shape[3:]) if KINDS[self.op.kind].spatial else ()

    def _weight(self, model: Any) -> np.ndarray:
        view = by_channel(self.op, self.of.adapter.parameter(model, self.op.params["weight"]))
        assert view is not None
        return view.reshape(*self.shape[:2], -1)

    def _bias(self, model: Any) -> np.ndarray | None:
        name = self.op.params.get("bias")
        return None if name is None else self.of.adapter.parameter(model, name).reshape(self.shape[:2])

    @property
    def real(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight and the bias of the float twin."""
        return self._weight(self.of.twin), self._bias(self.of.twin)

    @property
    def weight(self) -> np.ndarray:
        """The weight as it is now."""
        return self._weight(self.of.model)

    @weight.setter
    def weight(self, value: np.ndarray) -> None:
        self.of.adapter.set_parameter(self.of.model, self.op.params["weight"], self.as_parameter(value))

    def as_parameter(self, value: np.ndarray) -> np.ndarray:
        """Return a weight in the layout of the parameter."""
        made = self.of.adapter.parameter(self.of.model, self.op.params["weight"])
        view = by_channel(self.op, made)
        assert view is not None
        view[...] = value.reshape(self.shape)
        return made

    def of_parameter(self, value: np.ndarray) -> np.ndarray:
        """Return what lies in the layout of the parameter, its gradient say, as a weight."""
        view = by_channel(self.op, np.ascontiguousarray(value))
        assert view is not None
        return view.reshape(*self.shape[:2], -1)

    @property
    def bias(self) -> np.ndarray | None:
        """The bias as it is now; None without one."""
        return self._bias(self.of.model)

    @bias.setter
    def bias(self, value: np.ndarray) -> None:
        name = self.op.params["bias"]
        before = self.of.adapter.parameter(self.of.model, name)
        self.of.adapter.set_parameter(self.of.model, name, value.reshape(before.shape).astype(np.float32))

    @property
    def scale(self) -> np.ndarray:
        """The scale of each channel's integers, ``[groups, outputs, 1]``."""
        params = self.op.params
        scale: np.ndarray = self.of.adapter.layer_scale(self.of.model, self.op.name, params["weight"], params.get("bias"))
        return scale.reshape(*self.shape[:2], 1)

    def nearest(self, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return a weight's integers, each to the nearest, in float32."""
        limit = self.planned.qmax
        return np.asarray(np.clip(np.rint(weight / scale), -limit, limit), np.float32)

    def inputs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, batch by batch, the windows that the layer reads on the grid and those that its twin reads in float.

        Each is ``[*positions, channels, *kernel]``, see :func:`qat.graph.receptive_windows.windows`.
        """
        layout = self.of.model.plan.graph.layout
        for batch in self.of.batches:
            read = self.of.adapter.layer_input(self.of.model, self.op.name, batch), self._float_input(batch)
            on_grid, in_float = (windows(self.op, x, self.kernel, layout) for x in read)
            yield on_grid, in_float

    def _float_input(self, batch: Any) -> np.ndarray:
        """Return what the layer reads in the twin, in which layers that write float would read stored weights."""
        if self.of.stored:
            values = self.of.adapter.float_values(self.of.twin, batch)
            if self.op.inputs[0] in values:  # it is not one of several results of an operator
                return values[self.op.inputs[0]]
        return self.of.adapter.layer_input(self.of.twin, self.op.name, batch)


def by_group(rows: np.ndarray, groups: int) -> np.ndarray:
    """Return windows ``[n, channels, *kernel]`` as ``[groups, n, inputs * taps]``, as weights lie."""
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)
