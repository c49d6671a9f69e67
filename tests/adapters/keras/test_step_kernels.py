"""The kernels of a training step in Keras: the quick forms give the operator's own integers and gradients, and hold no more."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import qat
from qat.adapters.keras.autograd.linear import Convolution, Pointwise


def integers(rng, low, high, shape):
    return tf.constant(rng.integers(low, high, shape).astype(np.float32))


@pytest.mark.parametrize("images", [(5, 6), (5, None), (None, None)])
def test_a_pointwise_convolution_is_a_product_of_matrices(images):
    rng = np.random.default_rng(0)
    x, w = integers(rng, -128, 128, (2, 5, 6, 7)), integers(rng, -127, 128, (1, 1, 7, 4))
    g = integers(rng, -9, 10, (2, 5, 6, 4))
    plain, quick = Convolution((1, 1), "VALID", (1, 1), depthwise=False), Pointwise()

    def all_three(operator):
        @tf.function(input_signature=[tf.TensorSpec((None, *images, 7)), tf.TensorSpec((None, *images, 4))])
        def computed(x, g):
            return operator.forward(x, w), operator.input_gradient(x, w, g), operator.weight_gradient(x, w, g)

        return computed(x, g)

    for want, have in zip(all_three(plain), all_three(quick), strict=True):
        assert np.array_equal(want, have)


@pytest.mark.parametrize("training", [False, True])
def test_a_pointwise_convolution_is_a_product_in_training_alone(training):
    entry = keras.Input((4, 4, 3))
    x = np.random.default_rng(0).normal(size=(100, 4, 4, 3)).astype(np.float32)
    net = qat.calibrate(qat.prepare(keras.Model(entry, keras.layers.Conv2D(5, 1)(entry))), [x])
    graph = tf.function(lambda x: net(x, training=training)).get_concrete_function(x).graph
    kernels = {op.type for op in graph.get_operations()} & {"Conv2D", "MatMul"}
    assert kernels == {"MatMul" if training else "Conv2D"}


@pytest.mark.parametrize(("size", "window", "stride", "padding"), [
    (2, 3, 1, "SAME"), (1, 3, 1, "SAME"), (3, 3, 2, ((1, 1), (1, 1))), (3, 5, 1, "SAME"), (2, 3, 1, ((1, 1), (1, 1))),
])  # fmt: skip
def test_images_too_small_for_the_quick_kernel_are_padded_for_a_depthwise_gradient(size, window, stride, padding):
    rng = np.random.default_rng(0)
    x, w = integers(rng, -128, 128, (3, size, size, 6)), integers(rng, -127, 128, (window, window, 6, 1))
    operator = Convolution((stride, stride), padding, (1, 1), depthwise=True)
    assert operator._around(x.shape[1:3], w.shape[:2]) is not None
    g = integers(rng, -9, 10, operator.forward(x, w).shape)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.reduce_sum(operator.forward(x, w) * g)
    assert np.array_equal(operator.weight_gradient(x, w, g), tape.gradient(y, w))


def test_images_of_a_size_that_the_quick_kernel_takes_are_not_padded():
    operator = Convolution((2, 2), "SAME", (1, 1), depthwise=True)
    assert operator._around((4, 4), (3, 3)) is None
    assert operator._around((None, 4), (3, 3)) is None
    assert Convolution((1, 1), "VALID", (1, 1), depthwise=True)._around((3, 3), (3, 3)) is None


def small_net():
    keras.utils.set_random_seed(0)
    entry = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(6, 1, activation="relu")(entry)
    y = keras.layers.Conv2D(4, 3)(y)
    y = keras.layers.Conv2D(6, 1, strides=2)(keras.layers.Conv2D(6, 1, groups=2)(y))
    return keras.Model(entry, keras.layers.Dense(3)(keras.layers.Flatten()(y)))


def before(op):
    """Return the operators that run before one, by its inputs and its control edges."""
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        fresh = {*(t.op for t in op.inputs), *op.control_inputs} - found
        found |= fresh
        waiting += fresh
    return found


def test_the_graph_of_a_step_makes_the_factors_of_masks_and_gradients_after_the_forward_pass():
    model, x = small_net(), np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(model), [x])

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(prepared(x, training=True) ** 2)
        return tape.gradient(loss, prepared.trainable_variables)

    operators = step.get_concrete_function(tf.TensorSpec((None, 8, 8, 3))).graph.get_operations()
    masks = [op for op in operators if op.type == "Relu6Grad"]
    assert masks
    for mask in masks:
        grad, features = mask.inputs
        assert grad.op in before(features.op)
    # The convolution of 1x1 without strides and groups runs as a product of matrices, the others do not.
    filters = {tuple(op.inputs[1].shape) for op in operators if op.type == "Conv2D"}
    assert (1, 1, 3, 6) not in filters
    assert {(3, 3, 6, 4), (1, 1, 6, 6)} <= filters


def test_whether_training_may_move_a_range_is_read_again_after_weights_were_set():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    prepared = qat.calibrate(qat.prepare(small_net()), [x])
    grid = next(grid for grid in prepared.grid_layers if grid.trackable)
    followed = prepared.get_weights()
    grid.allow_tracking(False)
    assert not grid.trackable
    prepared.set_weights(followed)
    assert grid.trackable
