"""The activation scale that the nodes of one group share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.range_estimators import RangeEstimator, RangeMode, Spans
from qat.errors import CalibrationError
from qat.planning.plan import Group


class Grid(keras.layers.Layer):
    """The activation scale of one group of tensors. All of its state is in variables, which are saved with the model.

    Attributes:
        range: float32 (low, high); NaN until calibrated. Trainable where the recipe has it learned.
        scale, zero_point, lo, hi: derived from the range; ``lo`` is ``qmin - zero_point``, ``hi`` is ``qmax - zero_point``.
        calibrating: whether the model computes in float, to be calibrated.
        estimator: sees each float tensor of the group in calibration; None at any other time.
        spans: the extremes of each of these tensors in the calibration in progress.
        tracker: takes the group's values of the training pass in progress, and moves the range at the end of the pass.
    """

    def __init__(self, group: Group, is_tracking: Callable[[], bool] = lambda: False, **kwargs: Any) -> None:
        super().__init__(trainable=group.learned, **kwargs)
        self.group = group
        # Reading a variable of each grid on every call would cost a step milliseconds.
        self._calibrated = False  # once true it stays so
        self._trackable_read: bool | None = None
        self.tracker: Callable[[Grid, Tensor, Tensor, Tensor], Tensor] | None = None
        self.estimator: RangeEstimator | None = None
        self.spans = Spans()
        self.calibrating = False
        self._is_tracking = is_tracking
        unknown = float("nan")
        self.range = self._scalar("range", unknown, (2,), True) if group.learned else self._derived("range", unknown, (2,))
        self.scale = self._derived("scale", 1.0)
        self.zero_point = self._derived("zero_point", 0.0)
        self.lo = self._derived("lo", float(group.qmin))
        self.hi = self._derived("hi", float(group.qmax))
        self.levels = self._scalar("levels", float(group.qmax if group.symmetric else group.qmax - group.qmin))
        self._trackable = self._scalar("trackable", float(group.follows(group.spec.estimator)))
        self.built = True

    def _derived(self, name: str, value: float, shape: tuple[int, ...] = ()) -> keras.Variable:
        # Under tf.distribute each replica has its own variable, and all replicas assign the same value.
        return self._scalar(name, value, shape, synchronization="on_read", aggregation="only_first_replica")

    def _scalar(
        self, name: str, value: float, shape: tuple[int, ...] = (), trainable: bool = False, **placed: str
    ) -> keras.Variable:
        with keras.name_scope(self.name):
            full = np.full(shape, value, np.float32)
            return keras.Variable(full, trainable=trainable, autocast=False, name=name, **placed)

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
                self._trackable_read = bool(np.asarray(self._trackable) > 0.5)
        return self._trackable_read

    def allow_tracking(self, allowed: bool) -> None:
        """Say whether training may move the range."""
        self._trackable.assign(float(allowed))
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
        if not self.calibrated:
            raise CalibrationError(
                f"no range for '{self.group.name}': call qat.calibrate(model, samples) before training or exporting"
            )
        low, high = (float(v) for v in np.asarray(self.range))
        return self.group.encoding(low, high)

    def set_range(self, low: float, high: float) -> None:
        """Set the range and derive scale, zero point and limits, in NumPy's float32 like everywhere else."""
        self.range.assign(np.array([low, high], np.float32))
        e = self.encoding
        for variable, value in ((self.scale, e.scale), (self.zero_point, e.zero_point), (self.lo, e.lo), (self.hi, e.hi)):
            variable.assign(np.float32(value))

    def estimate(self, x: Tensor, tensor: str) -> None:
        """Show a float tensor, by its name, to the calibration's estimator, if one is set. Calibration runs eagerly."""
        if self.estimator is not None:
            values = self.group.within_bounds(np.asarray(x))
            self.estimator.update(values)
            self.spans.see(tensor, values)

    def observe(self, v: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Show unrounded grid values, limited to ``[low, high]``, to the training pass; return ``v``, which depends on that."""
        if self.tracker is None or not self.trackable:
            return v
        least, most = self.group.bounds
        low = low if least is None else tf.maximum(low, least / self.scale)
        return self.tracker(self, v, low, high if most is None else tf.minimum(high, most / self.scale))

    def load_own_variables(self, store: Mapping[str, np.ndarray]) -> None:
        """Restore the variables."""
        super().load_own_variables(store)
        self.forget()
