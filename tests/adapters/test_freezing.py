"""Weights that oscillate are frozen, in both frameworks alike, and what is frozen stays."""

import logging
from importlib import import_module

import numpy as np
import pytest

import qat
from qat.arithmetic.oscillation import FREE, MOMENTUM
from qat.frameworks import adapter_for
from support.low_bits import FRAMEWORKS, images, net, recipe


def prepared(framework, learned=False, granularity="channel"):
    x = images(framework)
    low = recipe(3, 3, granularity, learned)
    return qat.calibrate(qat.prepare(net(framework), x[:2], low, "simulated"), [x])


class Watched:
    """The first watched weight of a model, its scale per output channel on the last axis, and a way to set it."""

    def __init__(self, framework, threshold):
        self.framework, self.threshold = framework, threshold
        self.model = prepared(framework)
        self.begin()

    def begin(self):
        """Count from here."""
        framework = self.framework
        self.freezing = import_module(f"qat.adapters.{framework}.freezing").Freezing(self.model, self.threshold)
        if framework == "torch":
            self.state = self.freezing.weights[0]
            self.weight = self.state.of[1]
        else:
            self.state = self.freezing.weights[0]
            self.weight = self.model.parameters[self.state.node.planned.op.params["weight"]]

    def get(self):
        return np.array(self.weight.detach() if self.framework == "torch" else self.weight)

    def set(self, values):
        if self.framework == "torch":
            import torch

            self.weight.data.copy_(torch.from_numpy(values))
        else:
            self.weight.assign(values)

    def of_state(self, name):
        return np.array(getattr(self.state, name))

    def scales(self):
        """The scales, laid along the weight's axes."""
        scale = self.of_state("scale")
        return scale.reshape(-1, 1, 1, 1) if self.framework == "torch" else scale.reshape(1, 1, 1, -1)


@FRAMEWORKS
def test_an_oscillating_weight_is_frozen_to_its_mean_and_stays(framework):
    watched = Watched(framework, threshold=0.05)
    start, scale = watched.get(), watched.scales()
    q = np.rint(start / scale)
    place = tuple(np.argwhere(np.abs(q) < 2)[0])  # far from the weight that sets the scale
    wanted = np.broadcast_to(scale, start.shape)[place]

    def step(value):
        moved = watched.get()
        moved[place] = value
        watched.set(moved)
        watched.freezing.update()

    steps = 0
    while watched.of_state("frozen")[place] == FREE:
        step((1.6 if steps % 2 == 0 else 1.4) * wanted)  # to 2 and back to 1
        steps += 1
        assert steps < 30
    # The first flip has none before it; then the average rises by MOMENTUM of what is left.
    assert steps == 1 + int(np.ceil(np.log(1 - 0.05) / np.log(1 - MOMENTUM)))
    frozen = watched.of_state("frozen")[place]
    assert frozen == np.rint(watched.of_state("mean")[place])
    assert watched.freezing.share() == 1 / sum(np.array(w.frozen).size for w in states(watched))
    for value in (5.0, -3.0, 0.0):
        step(value)
        assert np.rint(watched.get() / watched.scales())[place] == frozen
        assert watched.get()[place] == np.float32(frozen) * np.broadcast_to(watched.scales(), start.shape)[place]


def states(watched):
    return watched.freezing.weights


@FRAMEWORKS
def test_a_weight_that_drifts_is_not_frozen(framework):
    watched = Watched(framework, threshold=0.005)
    scale = watched.scales()
    place = tuple(np.argwhere(np.abs(np.rint(watched.get() / scale)) < 2)[0])
    start = int(watched.of_state("last")[place])
    for integer in range(start, 3):  # always the same way
        moved = watched.get()
        moved[place] = integer * np.broadcast_to(scale, moved.shape)[place]
        watched.set(moved)
        watched.freezing.update()
    assert (watched.of_state("frozen") == FREE).all()


@pytest.mark.slow
def test_both_frameworks_carry_out_the_same_rule():
    pairs = [Watched(framework, threshold=0.015) for framework in ("torch", "keras")]
    random = np.random.default_rng(0)
    shape = pairs[0].get().shape
    walk = random.normal(0, 0.1, shape).astype(np.float32)
    for step in range(60):
        walk = (0.9 * walk + random.normal(0, 0.03, shape)).astype(np.float32)
        for watched in pairs:
            watched.set(walk if watched.framework == "torch" else np.ascontiguousarray(walk.transpose(2, 3, 1, 0)))
            watched.freezing.update() if step else watched.begin()
    torch, keras = pairs
    assert 0.05 < np.mean(torch.of_state("frozen") != FREE) < 1.0
    for name in ("last", "direction", "frequency", "mean", "frozen"):
        expected = torch.of_state(name).transpose(2, 3, 1, 0)
        np.testing.assert_allclose(keras.of_state(name), expected, rtol=1e-6, err_msg=name)


@pytest.mark.slow
@FRAMEWORKS
@pytest.mark.parametrize(("learned", "granularity"), [(False, "channel"), (False, "tensor"), (True, "channel")])
def test_training_keeps_what_is_frozen_and_the_program_has_it(framework, learned, granularity, monkeypatch):
    """After every update of a training at a high rate each weight that was frozen has the integer it was frozen at."""
    module = import_module(f"qat.adapters.{framework}.freezing")
    made = []
    original = module.Freezing.__init__

    def remembered(self, *args):
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(module.Freezing, "__init__", remembered)
    model = prepared(framework, learned, granularity)
    x, y = images(framework), np.arange(32) % 10
    options = {"learning_rate": 0.05, "gradient_clip": None, "divergence": None, "freezing": 0.005, "progress": False}
    qat.finetune(model, [(x, y)] * 20, epochs=2, **options)
    (freezing,) = made
    assert 0.0 < freezing.share() < 1.0
    watched = freezing.weights
    program = {step.name: step for step in adapter_for(framework).lower(model).instructions}
    for state in watched:
        op = (state.of[0] if framework == "torch" else state.node).planned.op
        frozen = np.array(state.frozen)
        if framework == "keras":
            from qat.adapters.keras.lower import to_program_layout

            frozen = to_program_layout(frozen, op.kind)
        kept = frozen != FREE
        np.testing.assert_array_equal(program[op.name].weight[kept], frozen[kept])


@FRAMEWORKS
def test_the_artifact_of_a_training_with_frozen_weights_is_equal(framework, tmp_path):
    x, y = images(framework), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net(framework), x[:2], "static_wi4_ai8"), [x])
    before = integers(framework, model)
    options = {"learning_rate": 0.02, "schedule": "constant", "divergence": None, "progress": False}
    qat.finetune(model, [(x, y)] * 20, freezing=0.001, **options)
    path = tmp_path / ("m.onnx" if framework == "torch" else "m.tflite")
    assert qat.export(model, path, verify=[images(framework, seed=1)]).parity.exact == 1.0
    assert any((before[name] != weight).any() for name, weight in integers(framework, model).items())


def integers(framework, model):
    """Return the integers of each weight of the program, by the operator's name."""
    return {s.name: s.weight for s in adapter_for(framework).lower(model).instructions if s.weight is not None}


def test_eight_bits_have_nothing_to_freeze(caplog):
    x, y = images("torch"), np.arange(32) % 10
    model = qat.calibrate(qat.prepare(net("torch"), x[:2]), [x])
    with caplog.at_level(logging.WARNING, "qat"):
        qat.finetune(model, [(x, y)], freezing=0.02, progress=False)
    assert "no weight has fewer than 8 bits: freezing does nothing" in caplog.text
