"""A saved Keras model: its plan, its grids' state and its mode are those of the model that was saved."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

import qat
from qat.adapters.keras import set_range_tracking, twin_of
from qat.arithmetic.range_estimators import RangeMode
from qat.errors import ConfigError
from qat.planning.targets import load_target
from qat.trainers.keras.weights import arrays_of, put


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)


def float_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))))


def ranges(model):
    return {name: np.asarray(grid.range).copy() for name, grid in model.grids.items()}


def loaded(model, way, images, folder):
    if way == "save":
        model.save(folder / "m.keras")
        return keras.models.load_model(folder / "m.keras")
    if way == "twin_of":
        return twin_of(model)
    fresh = qat.prepare(float_model())
    if way == "save_weights":
        model.save_weights(folder / "m.weights.h5")
        fresh.load_weights(folder / "m.weights.h5")
        return fresh
    if way == "checkpoint":
        put(qat.calibrate(fresh, [images]), arrays_of(model))  # from a range that may move, as the recipe's estimator finds it
        return fresh
    labels = np.arange(16) % 3
    options = {"learning_rate": 1e-6, "checkpoint_dir": folder, "progress": False, "observe_fraction": 0.0}
    qat.finetune(model, [(images, labels)], **options)
    return qat.load_prepared(fresh, folder / "last.keras")


@pytest.mark.parametrize("way", ["save", "save_weights", "twin_of", "checkpoint", "load_prepared"])
@pytest.mark.parametrize(("estimator", "moves"), [("mse", False), ("minmax", True)])
def test_a_saved_model_knows_whether_its_ranges_may_move(way, estimator, moves, images, tmp_path):
    model = loaded(qat.calibrate(qat.prepare(float_model()), [images], estimator=estimator), way, images, tmp_path)
    before = ranges(model)
    set_range_tracking(model, True)
    model(3 * images, training=True)
    assert any(not np.array_equal(before[name], now) for name, now in ranges(model).items()) == moves


def test_a_graph_traced_before_another_calibration_is_traced_again(images):
    model = qat.calibrate(qat.prepare(float_model()), [images])
    set_range_tracking(model, True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(images, np.zeros((16, 3), np.float32), verbose=0)
    qat.calibrate(model, [images], estimator="mse")
    before = ranges(model)
    model.fit(3 * images, np.zeros((16, 3), np.float32), verbose=0)
    assert all(np.array_equal(before[name], now) for name, now in ranges(model).items())


def test_the_mode_is_saved(images, tmp_path):
    model = qat.calibrate(qat.prepare(float_model()), [images])
    set_range_tracking(model, True)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert {grid.mode for grid in again.grids.values()} == {RangeMode.TRACKING}
    set_range_tracking(again, False)
    assert {grid.mode for grid in again.grids.values()} == {RangeMode.FROZEN}


def test_a_target_of_ones_own_keeps_its_tables(images, tmp_path):
    target = replace(load_target("litert"), weight_qmax=31)
    model = qat.calibrate(qat.prepare(float_model(), target=target), [images])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.plan == model.plan
    assert {p.qmax for p in again.plan.ops if p.qmax} == {31}
    np.testing.assert_array_equal(model(images), again(images))


def test_a_file_of_an_earlier_version_is_named(images):
    config = qat.prepare(float_model()).get_config()
    del config["plan"]
    with pytest.raises(ConfigError, match="earlier version of qat"):
        type(qat.prepare(float_model())).from_config(config)


def test_a_grid_of_an_earlier_file_is_read(images):
    model = qat.calibrate(qat.prepare(float_model()), [images])
    state = {grid.name: np.asarray(grid.state) for grid in model.grid_layers}
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    for grid in model.grid_layers:
        low, high, *rest = state[grid.name]
        grid.load_own_variables({str(i): np.float32(x) for i, x in enumerate([[low, high], *rest])})
        np.testing.assert_array_equal(grid.state, state[grid.name])
