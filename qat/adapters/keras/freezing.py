"""Freezing of oscillating weights of few bits; :mod:`qat.arithmetic.oscillation` has the rule and its source."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from qat.adapters.keras.nodes.linear import Linear
from qat.arithmetic.oscillation import FREE, MOMENTUM

from .dampening import few_bits
from .prepared_model import PreparedModel

_STATE = ("last", "direction", "frequency", "mean", "frozen", "scale")

log = logging.getLogger("qat")


class Freezing:
    """The oscillations of a calibrated model's weights of fewer than 8 bits, as far as they were seen.

    Call :meth:`update` after each step of the optimizer, outside of the replicas. The state is in variables, one set a weight, in
    the program's layout.
    """

    def __init__(self, model: PreparedModel, threshold: float) -> None:
        self.threshold = threshold
        self.weights = [_Weight(model, node) for node in few_bits(model)]
        if not self.weights:
            log.warning("no weight has fewer than 8 bits: freezing does nothing")

    def update(self) -> None:
        """Count the flips of the last update, freeze the weights that oscillate, and put back those that are frozen."""
        for weight in self.weights:
            weight.update(self.threshold)

    def state(self) -> dict[str, np.ndarray]:
        """Return the state by ``weight's number/name``."""
        return {f"{i}/{name}": np.array(getattr(w, name)) for i, w in enumerate(self.weights) for name in _STATE}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back what :meth:`state` returned."""
        for key, array in arrays.items():
            index, name = key.split("/")
            getattr(self.weights[int(index)], name).assign(array)

    def share(self) -> float:
        """Return the share of these weights that is frozen."""
        frozen = [np.asarray(weight.frozen) != FREE for weight in self.weights]
        return float(sum(int(f.sum()) for f in frozen)) / max(sum(f.size for f in frozen), 1)


class _Weight:
    """The state of one weight."""

    def __init__(self, model: PreparedModel, node: Linear) -> None:
        self.model, self.node = model, node
        params = model.params_of(node.planned.op)
        scale = node.weight_scale(params["weight"], params.get("bias"))
        q = node.quantized(params["weight"], None, scale)[0]
        self.last = tf.Variable(tf.cast(q, tf.int8), trainable=False)
        self.direction = tf.Variable(tf.zeros_like(self.last), trainable=False)
        self.frequency = tf.Variable(tf.zeros_like(q), trainable=False)
        self.mean = tf.Variable(q, trainable=False)
        self.frozen = tf.Variable(tf.fill(q.shape, tf.constant(FREE, tf.int8)), trainable=False)
        self.scale = tf.Variable(scale, trainable=False)

    def update(self, threshold: float) -> None:
        """Carry out the rule."""
        node, spec = self.node, self.node.planned.weight
        assert spec is not None
        params = self.model.params_of(node.planned.op)
        weight, bias = params["weight"], params.get("bias")
        shape = node.channels(weight)
        frozen = tf.cast(self.frozen, tf.float32)
        kept = tf.not_equal(self.frozen, FREE)
        limit = np.inf if spec.learned else float(node.planned.qmax)
        at_limit = tf.where(tf.abs(frozen) >= limit, frozen * tf.reshape(self.scale, shape), 0.0)
        scale = node.weight_scale(tf.where(kept, at_limit, weight), bias)
        self.scale.assign(scale)
        spread = tf.reshape(scale, shape)
        weight = tf.where(kept, frozen * spread, weight)
        q = node.quantized(weight, None, scale)[0]
        change = q - tf.cast(self.last, tf.float32)
        direction = tf.cast(self.direction, tf.float32)
        flipped = tf.logical_and(tf.not_equal(change, 0.0), tf.equal(tf.sign(change), -direction))
        frequency = self.frequency + MOMENTUM * (tf.cast(flipped, tf.float32) - self.frequency)
        mean = self.mean + MOMENTUM * (q - self.mean)
        self.frequency.assign(frequency)
        self.mean.assign(mean)
        self.direction.assign(tf.cast(tf.where(tf.not_equal(change, 0.0), tf.sign(change), direction), tf.int8))
        freeze = tf.reduce_all([tf.logical_not(kept), frequency > threshold, tf.abs(q) < limit], 0)
        frozen = tf.where(freeze, tf.math.rint(mean), frozen)
        self.frozen.assign(tf.cast(frozen, tf.int8))
        self.last.assign(tf.cast(tf.where(freeze, frozen, q), tf.int8))
        name = node.planned.op.params["weight"]
        shape = self.model.tensor(name).shape
        self.model.set_tensor(name, tf.reshape(tf.where(freeze, frozen * spread, weight), shape))
