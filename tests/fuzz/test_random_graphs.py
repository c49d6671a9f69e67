"""No random graph crashes on its way to an artifact, and where all of it is integer the artifact is equal in every bit."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import qat
from qat.errors import ConfigError
from support.random_graphs.specs import VOCABULARY, Spec, specs, used_inputs

#: A number of graphs for the slow tests, which then draw others in each run; without it their seed is fixed, and a run repeats.
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
#: The largest share of graphs in which nothing has an integer kernel, so that there is nothing to hold against anything.
MOST_SKIPPED = 0.1

#: Two frameworks round a float operator differently in the last bit, which may move the integer after it by one; the layers
#: after that spread it. In steps of the output, on average and at most.
MEAN_LSB, MAX_LSB = 0.5, 12.0


def batches(spec: Spec, channels_last: bool) -> list[tuple[np.ndarray, ...]]:
    """Return three batches of two samples for all inputs."""
    rng = np.random.default_rng(spec.seed)
    found = []
    for _ in range(3):
        arrays = [rng.normal(0, 1, (2, *shape)).astype(np.float32) for shape in spec.shapes[: spec.inputs - spec.ids]]
        arrays = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if channels_last else a for a in arrays]
        if spec.ids:
            arrays.append(rng.integers(0, VOCABULARY, (2, *spec.shapes[spec.inputs - 1])))
        found.append(tuple(arrays))
    return found


def check(spec: Spec, model: Any, example: Any, data: list[Any], step: Any) -> bool:
    """Take a model all the way, and hold the artifact's parity against what its plan promises; return whether there is one."""
    try:
        prepared = qat.prepare(model, example, target=spec.target)
    except ConfigError:  # which says that nothing of it has an integer kernel
        return False
    samples = [(batch, None) for batch in data]
    qat.calibrate(prepared, samples[:2])
    step(prepared, data[0])
    with tempfile.TemporaryDirectory() as folder:
        parity = qat.export(prepared, Path(folder) / f"model{prepared.plan.target.suffix}", verify=samples).parity
    if prepared.plan.floats():
        assert parity.mean_lsb <= MEAN_LSB and parity.max_lsb <= MAX_LSB, (parity, prepared.plan.floats())
    else:
        assert parity.exact == 1.0, parity
    return True


def torch_step(model: Any, batch: tuple[np.ndarray, ...]) -> None:
    """Train one step of SGD on the squares of all outputs."""
    torch = pytest.importorskip("torch")
    outputs = model.train()(*map(torch.from_numpy, batch))
    loss = sum(o.square().mean() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))
    if not loss.requires_grad:  # a graph without a parameter
        return
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all()
                parameter -= 1e-3 * parameter.grad
    model.eval()


def keras_step(model: Any, batch: tuple[np.ndarray, ...]) -> None:
    """Train one step of SGD on the squares of all outputs."""
    keras, tf = pytest.importorskip("keras"), pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(batch[0] if len(batch) == 1 else list(batch), training=True))
        loss = sum(tf.reduce_mean(tf.square(o)) for o in outputs)
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True):
        if gradient is not None:
            assert np.isfinite(np.asarray(gradient)).all()
            variable.assign_sub(1e-3 * gradient)


def check_torch(spec: Spec) -> bool:
    torch = pytest.importorskip("torch")
    from support.random_graphs.torch_graph import Model

    data = batches(spec, channels_last=False)
    return check(spec, Model(spec), tuple(map(torch.from_numpy, data[0])), data, torch_step)


def check_keras(spec: Spec) -> bool:
    pytest.importorskip("keras")
    from support.random_graphs.keras_graph import keras_model

    if not importlib.util.find_spec("tf2onnx"):  # which writes Keras' float operators to .onnx, and is an extra of its own
        spec = replace(spec, target="litert")
    return check(spec, keras_model(spec), None, batches(spec, channels_last=True), keras_step)


def check_graphs(check_one: Callable[[Spec], bool], count: int, draw_others: bool = False) -> None:
    """Check ``count`` random graphs; fail where one fails, or too many have nothing to check."""
    checked = []

    @settings(
        max_examples=count, deadline=None, derandomize=not draw_others, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @given(specs())
    def each(spec: Spec) -> None:
        assume(used_inputs(spec) == set(range(spec.inputs)))
        checked.append(check_one(spec))

    each()
    assert len(checked) >= count
    assert checked.count(False) <= MOST_SKIPPED * len(checked)


@pytest.mark.parametrize(("check_one", "count"), [(check_torch, 12), (check_keras, 8)])
def test_a_few_random_graphs(check_one: Callable[[Spec], bool], count: int) -> None:
    check_graphs(check_one, count)


@pytest.mark.slow
@pytest.mark.parametrize(("check_one", "count"), [(check_torch, 80), (check_keras, 50)])
def test_many_random_graphs(check_one: Callable[[Spec], bool], count: int) -> None:
    check_graphs(check_one, FUZZ_EXAMPLES or count, draw_others=FUZZ_EXAMPLES > 0)
