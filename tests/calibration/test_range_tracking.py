"""The public calls that let ranges follow the data, or freeze them."""

import numpy as np
import pytest

import qat
from qat.errors import CalibrationError, ConfigError
from support.nets import digits, layout, net, prepared

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def step(framework, model, x):
    if framework == "torch":
        import torch

        model.train()(torch.from_numpy(x))
    else:
        model(x, training=True)


def range_of_input(model):
    (name,) = model.plan.graph.inputs
    return np.array(model.grids[name].range)


@FRAMEWORKS
def test_ranges_follow_the_data_until_they_are_frozen(framework):
    model = prepared(framework)
    x = 2 * next(iter(digits().batches("test", 32, layout(framework))))[0]
    calibrated = range_of_input(model)
    step(framework, model, x)
    np.testing.assert_array_equal(range_of_input(model), calibrated)
    qat.track_ranges(model)
    step(framework, model, x)
    tracked = range_of_input(model)
    assert tracked[0] < calibrated[0]
    assert tracked[1] > calibrated[1]
    qat.freeze_ranges(model)
    step(framework, model, x)
    np.testing.assert_array_equal(range_of_input(model), tracked)


@FRAMEWORKS
@pytest.mark.parametrize("call", [qat.track_ranges, qat.freeze_ranges])
def test_mistakes(framework, call):
    float_model = net(framework)
    with pytest.raises(CalibrationError, match=f"{call.__name__} needs a prepared model"):
        call(float_model)
    example = next(iter(digits().batches("test", 2, layout(framework))))[0]
    with pytest.raises(CalibrationError, match=rf"call qat.calibrate\(model, samples\) before {call.__name__}"):
        call(qat.prepare(float_model, example))


@pytest.mark.slow
def test_ranges_of_tf_keras_are_moved_by_tfmot():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3)])
    with pytest.raises(ConfigError, match="track_ranges is not for tf_keras models: load the model with Keras 3"):
        qat.track_ranges(qat.prepare(model, engine="tfmot"))
