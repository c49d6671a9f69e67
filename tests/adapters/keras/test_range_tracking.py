"""Ranges that follow the data in Keras: in training only, while observed, by :func:`qat.arithmetic.encoding.from_range`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import qat
from qat.adapters.keras import set_range_tracking
from qat.adapters.keras.nodes.range_tracking import MOMENTUM
from qat.arithmetic.encoding import from_range


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)


@pytest.fixture
def prepared(images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)])
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    return qat.calibrate(qat.prepare(model), [images])


def ranges(model):
    return {name: np.asarray(grid.range).copy() for name, grid in model.grids.items()}


@pytest.mark.parametrize("in_graph", [True, False])
def test_ranges_move_only_in_training_while_observed(prepared, images, in_graph):
    call = tf.function(lambda x, training: prepared(x, training=training)) if in_graph else prepared
    before = ranges(prepared)
    call(3 * images, training=True)
    set_range_tracking(prepared, True)
    call(3 * images, training=False)
    assert all(np.array_equal(before[name], now) for name, now in ranges(prepared).items())
    call(3 * images, training=True)
    assert all((np.abs(now) >= np.abs(before[name])).all() for name, now in ranges(prepared).items())
    first = prepared.plan.graph.inputs[0]
    seen = 3 * np.array([images.min(), images.max()])
    np.testing.assert_allclose(prepared.grids[first].range, before[first] + MOMENTUM * (seen - before[first]), rtol=1e-5)


def test_scale_and_zero_point_follow_bit_for_bit(prepared, images):
    set_range_tracking(prepared, True)
    prepared.compile(keras.optimizers.SGD(0.01), "mse")
    prepared.train_on_batch(2 * images, np.zeros((16, 3), np.float32))
    for grid in prepared.grid_layers:
        expected = from_range(*np.asarray(grid.range), grid.group.qmin, grid.group.qmax, grid.group.symmetric)
        assert np.float32(grid.scale) == expected.scale
        assert (float(grid.zero_point), float(grid.lo), float(grid.hi)) == (expected.zero_point, expected.lo, expected.hi)


def test_the_scale_of_a_softmax_follows_bit_for_bit():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((40, 8))
    q, k = layers.Dense(8)(inputs), layers.Dense(8)(inputs)
    scores = keras.ops.softmax(keras.ops.matmul(q, keras.ops.transpose(k, (0, 2, 1))))
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.matmul(scores, inputs)))
    x = np.random.default_rng(0).normal(size=(8, 40, 8)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [0.1 * x])
    (grid,) = [grid for grid in prepared.grid_layers if grid.group.probabilities]
    before = float(grid.scale)
    set_range_tracking(prepared, True)
    prepared.compile(keras.optimizers.SGD(0.0), "mse")
    for _ in range(3):
        prepared.train_on_batch(x, np.zeros((8, 40, 3), np.float32))
        assert np.float32(grid.scale) == grid.group.encoding(*np.asarray(grid.range)).scale
    assert float(grid.scale) > before
    assert (float(grid.zero_point), float(grid.lo)) == (grid.group.qmin, 0.0)


def test_tensors_of_one_scale_count_as_one(prepared, images):
    shared = next(grid for grid in prepared.grid_layers if len(grid.group.tensors) > 2)
    before = np.asarray(shared.range).copy()
    set_range_tracking(prepared, True)
    _, grid = prepared.run(images, training=False)
    joined = next(p.op for p in prepared.plan.ops if p.op.kind == "concat")
    parts = [np.asarray(grid[name]) * np.asarray(shared.scale) for name in joined.inputs]
    prepared(images, training=True)
    seen = np.array([min(p.min() for p in parts), max(p.max() for p in parts)])
    step = float(shared.scale)
    assert np.abs((np.asarray(shared.range) - before) / MOMENTUM - (seen - before)).max() < step


def test_the_shared_branches_run_under_xla(prepared, images):
    set_range_tracking(prepared, True)
    before = ranges(prepared)
    prepared.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=True)
    assert np.isfinite(prepared.train_on_batch(3 * images, np.zeros((16, 3), np.float32)))
    assert any(not np.array_equal(before[name], now) for name, now in ranges(prepared).items())


def test_a_pass_reads_a_grid_once(prepared, images):
    step = tf.function(lambda x: prepared(x, training=True)).get_concrete_function(tf.TensorSpec((None, 6, 6, 3), tf.float32))
    reads = [op for op in step.graph.get_operations() if op.type == "ReadVariableOp"]
    others = len(prepared.parameters) + 1 + len(prepared.weight_limits) * len(prepared.parameters)
    assert len(reads) <= len(prepared.grid_layers) + others
