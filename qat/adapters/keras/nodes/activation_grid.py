"""The activation scale that the nodes of one group share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.range_estimators import RangeEstimator, RangeMode, Spans
from qat.errors import CalibrationError
from qat.planning.plan import Group

#: Takes unrounded values of a grid and their limits in a training pass; returns the values, which depend on that.
Tracker: TypeAlias = "Callable[[Grid, Tensor, Tensor, Tensor], Tensor]"


class Values(NamedTuple):
    """The state of a grid, as scalars; :class:`Grid` says what they are."""

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor
    lo: Tensor
    hi: Tensor
    levels: Tensor
    trackable: Tensor


@dataclass
class _Pass:
    """What a run of the model keeps of a grid: no attributes of the layer, each of which Keras would inspect."""

    state: Tensor | None = None
    values: Values | None = None
    tracker: Tracker | None = None


class Grid(keras.layers.Layer):
    """The activation scale of one group of tensors. All of its state is in variables, which are saved with the model.

    Attributes:
        state: float32, of :class:`Values`: one variable, which a pass reads once. The range, NaN until calibrated; what is
            derived from it, ``lo`` being ``qmin - zero_point`` and ``hi`` ``qmax - zero_point``; the number of levels, which
            divides as a variable; and 1 where training may move the range.
        learned: the range where the recipe has it learned, else None.
        calibrating: whether the model computes in float, to be calibrated.
        estimator: sees each float tensor of the group in calibration; None at any other time.
        spans: the extremes of each of these tensors in the calibration in progress.
    """

    def __init__(self, group: Group, is_tracking: Callable[[], bool] = lambda: False, **kwargs: Any) -> None:
        super().__init__(trainable=group.learned, **kwargs)
        self.group = group
        # Reading a variable of each grid on every call would cost a step milliseconds.
        self._calibrated = False  # once true it stays so
        self._trackable_read: bool | None = None
        self._pass = _Pass()
        self.estimator: RangeEstimator | None = None
        self.spans = Spans()
        self.calibrating = False
        self._is_tracking = is_tracking
        unknown = (math.nan, math.nan)
        self.learned = self._variable("range", unknown, trainable=True) if group.learned else None
        levels = group.qmax if group.symmetric else group.qmax - group.qmin
        start = (*unknown, 1.0, 0.0, group.qmin, group.qmax, levels, group.follows(group.spec.estimator))
        # Under tf.distribute each replica has its own variable, and all replicas assign the same value.
        self.state = self._variable("state", start, synchronization="on_read", aggregation="only_first_replica")
        self.built = True

    def _variable(self, name: str, values: Sequence[float], trainable: bool = False, **placed: str) -> keras.Variable:
        with keras.name_scope(self.name):
            return keras.Variable(np.array(values, np.float32), trainable=trainable, autocast=False, name=name, **placed)

    def read(self) -> Tensor:
        """Return the state, as the pass in progress has read it."""
        return tf.convert_to_tensor(self.state) if self._pass.state is None else self._pass.state

    @property
    def values(self) -> Values:
        """The parts of the state."""
        return self._pass.values or Values(*tf.unstack(self.read()))

    @property
    def scale(self) -> Tensor:
        """The step of the grid."""
        return self.values.scale

    @property
    def zero_point(self) -> Tensor:
        """The integer of the number 0."""
        return self.values.zero_point

    @property
    def lo(self) -> Tensor:
        """The least value on the grid."""
        return self.values.lo

    @property
    def hi(self) -> Tensor:
        """The greatest value on the grid."""
        return self.values.hi

    @property
    def range(self) -> Tensor:
        """The two ends, float32; NaN until calibrated."""
        return tf.convert_to_tensor(self.state)[:2] if self.learned is None else tf.convert_to_tensor(self.learned)

    @property
    def calibrated(self) -> bool:
        """Whether there is a range, however it came here: calibration, ``set_weights`` or a file."""
        if not self._calibrated:
            with tf.init_scope():  # readable while a graph is being traced, too
                self._calibrated = bool(np.isfinite(np.asarray(self.range)).all())
        return self._calibrated

    @property
    def trackable(self) -> bool:
        """Whether training may move the range: not one that is learned, prescribed, or left some values out on purpose."""
        if self._trackable_read is None:
            with tf.init_scope():
                self._trackable_read = bool(np.asarray(self.state)[-1] > 0.5)
        return self._trackable_read

    def allow_tracking(self, allowed: bool) -> None:
        """Say whether training may move the range."""
        self._set(trackable=float(allowed))
        self._trackable_read = allowed

    @property
    def mode(self) -> RangeMode:
        """How the range is treated. Whether ranges are tracked is a variable of the model: a graph decides by it as it runs."""
        if self.calibrating:
            return RangeMode.CALIBRATING
        return RangeMode.TRACKING if self._is_tracking() and self.trackable else RangeMode.FROZEN

    @mode.setter
    def mode(self, mode: RangeMode) -> None:
        self.calibrating = mode is RangeMode.CALIBRATING

    def forget(self) -> None:
        """Read the variables again, which were overwritten."""
        self._calibrated, self._trackable_read = False, None

    @property
    def encoding(self) -> Encoding:
        """The encoding in NumPy. Raises CalibrationError where there is none yet."""
        return self._encoding_of(np.asarray(self.range))

    def set_range(self, low: float, high: float) -> None:
        """Set the range and derive scale, zero point and limits, in NumPy's float32 like everywhere else."""
        ends = np.array([low, high], np.float32)
        e = self._encoding_of(ends)
        if self.learned is not None:
            self.learned.assign(ends)
        self._set(low=ends[0], high=ends[1], scale=e.scale, zero_point=e.zero_point, lo=e.lo, hi=e.hi)

    def _encoding_of(self, ends: np.ndarray) -> Encoding:
        if not np.isfinite(ends).all():
            raise CalibrationError(
                f"no range for '{self.group.name}': call qat.calibrate(model, samples) before training or exporting"
            )
        return self.group.encoding(*(float(v) for v in ends))

    def _set(self, **values: Any) -> None:
        """Overwrite a part of the state."""
        now = Values(*np.asarray(self.state))
        self.state.assign(np.array(now._replace(**values), np.float32))

    def estimate(self, x: Tensor, tensor: str) -> None:
        """Show a float tensor, by its name, to the calibration's estimator, if one is set. Calibration runs eagerly."""
        if self.estimator is not None:
            values = self.group.within_bounds(np.asarray(x))
            self.estimator.update(values)
            self.spans.see(tensor, values)

    def start_pass(self, tracker: Tracker | None) -> None:
        """Read the state, for all operators of a pass of the model; ``tracker`` takes the values of a training pass."""
        this = self._pass
        this.state, this.tracker = tf.convert_to_tensor(self.state), tracker
        this.values = Values(*tf.unstack(this.state))

    def end_pass(self) -> None:
        """Read the state anew from now on."""
        this = self._pass
        this.state = this.values = this.tracker = None

    def observe(self, v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Show unrounded grid values, limited to ``[low, high]``, to the training pass; return ``v``, which depends on that."""
        if self._pass.tracker is None or not self.trackable:
            return v
        least, most = self.group.bounds
        low = low if least is None else tf.maximum(low, least / self.scale)
        return self._pass.tracker(self, v, low, high if most is None else tf.minimum(high, most / self.scale))

    def load_own_variables(self, store: Mapping[str, np.ndarray]) -> None:
        """Restore the variables, also of a file that has one for each of :class:`Values`, the range as one."""
        if len(store.keys()) > len(self.variables):
            range_, *rest = (np.asarray(store[str(i)], np.float32) for i in range(len(store.keys())))
            learned = [] if self.learned is None else [range_]
            store = {str(i): array for i, array in enumerate([*learned, np.hstack([range_, *rest])])}
        super().load_own_variables(store)
        self.forget()
