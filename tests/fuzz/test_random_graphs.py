"""No random graph crashes on its way to an artifact, and where all of it is integer the artifact is equal in every bit."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import qat
from qat.errors import ConfigError
from support.random_graphs.specs import Spec, specs, used_inputs

#: Graphs of each framework; FUZZ_EXAMPLES asks for more. The seed is fixed: a run repeats.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
QUICK = {"deadline": None, "derandomize": not EXAMPLES, "suppress_health_check": list(HealthCheck), "print_blob": True}

#: Two frameworks round a float operator differently in the last bit, which may move the integer after it by one; the layers
#: after that spread it. In steps of the output, on average and at most.
MEAN_LSB, MAX_LSB = 0.5, 12.0


def batches(spec: Spec, channels_last: bool) -> list[tuple[np.ndarray, ...]]:
    """Return three batches of two samples for all inputs."""
    rng = np.random.default_rng(spec.seed)
    found = []
    for _ in range(3):
        arrays = [rng.normal(0, 1, (2, *shape)).astype(np.float32) for shape in spec.shapes[: spec.inputs]]
        found.append(tuple(np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if channels_last else a for a in arrays))
    return found


def check(spec: Spec, model: Any, example: Any, data: list[Any], step: Any) -> None:
    """Take a model all the way, and hold the artifact's parity against what its plan promises."""
    try:
        prepared = qat.prepare(model, example, target=spec.target)
    except ConfigError:  # which says that nothing of it has an integer kernel
        return
    samples = [(batch, None) for batch in data]
    qat.calibrate(prepared, samples[:2])
    step(prepared, data[0])
    with tempfile.TemporaryDirectory() as folder:
        parity = qat.export(prepared, Path(folder) / f"model{prepared.plan.target.suffix}", verify=samples).parity
    if prepared.plan.floats():
        assert parity.mean_lsb <= MEAN_LSB and parity.max_lsb <= MAX_LSB, (parity, prepared.plan.floats())
    else:
        assert parity.exact == 1.0, parity


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


def check_torch(spec: Spec) -> None:
    torch = pytest.importorskip("torch")
    from support.random_graphs.torch_graph import Model

    data = batches(spec, channels_last=False)
    check(spec, Model(spec), tuple(map(torch.from_numpy, data[0])), data, torch_step)


def check_keras(spec: Spec) -> None:
    pytest.importorskip("keras")
    from support.random_graphs.keras_graph import keras_model

    if not importlib.util.find_spec("tf2onnx"):  # which writes Keras' float operators to .onnx, and is an extra of its own
        spec = replace(spec, target="litert")
    check(spec, keras_model(spec), None, batches(spec, channels_last=True), keras_step)


@settings(max_examples=EXAMPLES or 80, **QUICK)
@given(specs())
def test_torch_graphs(spec: Spec) -> None:
    assume(used_inputs(spec) == set(range(spec.inputs)))
    check_torch(spec)


@settings(max_examples=EXAMPLES or 50, **QUICK)
@given(specs())
def test_keras_graphs(spec: Spec) -> None:
    assume(used_inputs(spec) == set(range(spec.inputs)))
    check_keras(spec)
