"""Training without labels: losses by what the outputs are, a rate that is found, and a start that is never left for worse."""

import logging

import numpy as np
import pytest

import qat
from qat.errors import ConfigError
from qat.trainers.options import TrainingOptions
from qat.trainers.output_losses import OutputLosses, choose
from qat.trainers.time_budget import seconds_of, steps_within
from qat.trainers.unlabelled import held_out
from support.nets import digits, layout, net, prepared, same

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])
random = np.random.default_rng(0)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


OUTPUTS = {
    "probabilities": (softmax(3 * normal(32, 10)), "kl", 1, True),
    "a sequence of probabilities": (softmax(3 * normal(16, 12, 30)), "kl", 2, True),
    "a map of probabilities, channels second": (softmax(3 * normal(8, 4, 6, 6), 1), "kl", 1, True),
    "logits": (4 * normal(32, 10), "kl", 1, False),
    "a sigmoid's map": (1 / (1 + np.exp(-4 * normal(8, 1, 6, 6))), "bernoulli_kl", -1, True),
    "coordinates": (np.linspace(0, 190, 30, dtype=np.float32) + 5 * normal(32, 30), "mse", -1, False),
    "one number": (3 * normal(32, 1), "mse", -1, False),
    "embeddings": (normal(32, 16) / np.linalg.norm(normal(32, 16), axis=1, keepdims=True), "cosine", 1, False),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_loss_follows_from_the_outputs(kind):
    y, name, axis, given = OUTPUTS[kind]
    (loss,) = choose({"out": y}, None, channels_second=True).each
    assert (loss.name, loss.axis, loss.given) == (name, axis, given)
    assert loss.values(y, y).max() < 1e-6


@pytest.mark.parametrize("kind", [k for k in OUTPUTS if k != "one number"])
def test_the_best_constant_answer_has_a_loss_of_one(kind):
    y, name, axis, _ = OUTPUTS[kind]
    losses = choose({"out": y}, None, channels_second=True)
    rows = softmax(y, axis) if kind == "logits" else y
    other = tuple(a for a in range(y.ndim) if a != axis) if name in ("kl", "cosine") else (0,)
    constant = np.broadcast_to(rows.mean(other, keepdims=True), y.shape)
    constant = np.log(constant) if kind == "logits" else constant
    assert losses.values([constant], [y]).mean() == pytest.approx(1, abs=0.02)


def test_outputs_may_be_named():
    taught = {"boxes": OUTPUTS["logits"][0], "scores": OUTPUTS["logits"][0]}
    assert choose(taught, {"boxes": "mse"}, True).names() == {"boxes": "mse", "scores": "kl"}
    assert choose(taught, "mse", True).names() == {"boxes": "mse", "scores": "mse"}
    with pytest.raises(ConfigError, match=r"loss names an output 'boxs' \(did you mean 'boxes'\?\); the model has boxes, scores"):
        choose(taught, {"boxs": "mse"}, True)
    with pytest.raises(ConfigError, match=r"unknown loss 'kll' of an output \(did you mean 'kl'\?\)"):
        TrainingOptions.of(loss={"boxes": "kll"})


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_both_frameworks_compute_the_reference(temperature):
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    from qat.trainers.keras.losses import output_losses as of_keras
    from qat.trainers.torch.losses import output_losses as of_torch

    taught = [y for y, *_ in OUTPUTS.values()]
    losses = choose(dict(zip(OUTPUTS, taught, strict=True)), None, channels_second=True)
    outputs = [y + 0.1 * random.normal(size=y.shape).astype(np.float32) for y in taught]
    outputs = [
        softmax(np.log(np.maximum(y, 0.01)), loss.axis) if loss.name == "kl" and loss.given else y
        for y, loss in zip(outputs, losses.each, strict=True)
    ]
    for one, y, t in zip(losses.each, outputs, taught, strict=True):
        single = OutputLosses((one,))
        wanted = single.values([y], [t], temperature).mean()
        assert float(of_torch(single, temperature)(torch.tensor(y), torch.tensor(t))) == pytest.approx(wanted, rel=2e-4)
        assert float(of_keras(single, temperature)(tf.constant(y), tf.constant(t))) == pytest.approx(wanted, rel=2e-4)


def test_a_right_class_that_is_all_but_ruled_out_has_a_slope():
    """A probability of 1e-12 where the teacher is sure; one of zero, as a grid has it, has a finite loss."""
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    from qat.trainers.keras.losses import output_losses as of_keras
    from qat.trainers.torch.losses import output_losses as of_torch

    sure = np.eye(3, dtype=np.float32)[[0, 1]]
    losses = choose({"out": sure}, None, channels_second=True)
    logits = np.array([[0, 27.6, 0], [0, 5, 0]], np.float32)
    leaf = torch.tensor(logits, requires_grad=True)
    of_torch(losses, 1.0)(leaf.softmax(-1), torch.tensor(sure)).backward()
    assert leaf.grad[0, 0] < -0.1
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = of_keras(losses, 1.0)(tf.nn.softmax(variable), tf.constant(sure))
    np.testing.assert_allclose(tape.gradient(loss, variable), leaf.grad, rtol=1e-3, atol=1e-5)
    assert np.isfinite(losses.values([sure[::-1]], [sure])).all()


def inputs(framework, count=160):
    batches = digits(count).batches("train", 16, layout(framework))
    return [x for x, _ in batches]


def low_bits(framework, seed=0):
    return prepared(framework, seed, "static_wi4_ai4")


@FRAMEWORKS
def test_inputs_alone_are_learned_from_the_float_model(framework, caplog):
    model, data = low_bits(framework), inputs(framework)
    with caplog.at_level(logging.WARNING, "qat"):
        history = qat.finetune(model, data, steps=60, progress=False)
    ((output, loss),) = history.losses.items()
    assert f"no labels: the float model's outputs are the teacher, by the loss {loss} of '{output}'" in caplog.text
    assert history.steps == 60
    assert len(history.trials) == 4 and history.learning_rate == min(history.trials, key=history.trials.get)
    assert history.best["distance"] < 0.9 * history.before["distance"]


@FRAMEWORKS
def test_training_never_ends_worse_than_it_began(framework, caplog):
    """A rate that ruins the model: what it was before comes back."""
    model, untouched = low_bits(framework), low_bits(framework)
    with caplog.at_level(logging.WARNING, "qat"):
        history = qat.finetune(model, inputs(framework), learning_rate=1.0, steps=6, divergence=None, progress=False)
    assert history.best_epoch == 0 and history.best == history.before
    assert "it stays as it was calibrated" in caplog.text
    assert same(model, untouched)


@pytest.mark.slow
@FRAMEWORKS
@pytest.mark.parametrize("options", [{"steps": 20}, {"time_budget": "100s", "max_steps": 20}])
def test_a_stopped_run_continues_bit_for_bit(framework, options, tmp_path):
    """The rate and the steps that were found stand in the checkpoint."""

    class Crash(Exception):
        pass

    class Crashing(list):
        at, seen = None, 0

        def __iter__(self):
            for batch in super().__iter__():
                self.seen += 1
                if self.seen == self.at:
                    raise Crash
                yield batch

    train, held = held_out(inputs(framework), 0)
    options = options | {"progress": False, "checkpoint_every": 3}
    whole, cut = low_bits(framework), low_bits(framework)
    data = Crashing(train)
    history = qat.finetune(whole, data, held, checkpoint_dir=tmp_path / "whole", **options)
    data.at, data.seen = data.seen - 4, 0
    with pytest.raises(Crash):
        qat.finetune(cut, data, held, checkpoint_dir=tmp_path / "cut", **options)
    again = low_bits(framework, seed=0)
    resumed = qat.finetune(again, list(train), held, checkpoint_dir=tmp_path / "cut", resume=True, **options)
    assert same(again, whole)
    assert resumed.epochs == history.epochs and resumed.trials == history.trials and resumed.before == history.before


@pytest.mark.parametrize(("slower_after", "fewest", "most"), [(10**9, 90, 180), (130, 40, 90)])
def test_a_time_ends_the_run(slower_after, fewest, most, monkeypatch, caplog):
    """A clock that each look moves by a second, later by ten: the steps fit into the time, and end with it in any case."""
    from qat.trainers import loop, preparation, rate_trial

    seconds = [0.0]

    def look():
        seconds[0] += 1 if seconds[0] < slower_after else 10
        return seconds[0]

    for module in (loop, preparation, rate_trial):
        monkeypatch.setattr(module, "time", type("Clock", (), {"perf_counter": staticmethod(look)}))
    history = qat.finetune(low_bits("torch"), inputs("torch"), time_budget="3m", progress=False)
    assert fewest < history.steps < most
    assert history.best_epoch > 0
    assert seconds[0] < 230


def test_times():
    assert [seconds_of(t) for t in ("90s", "10m", "1.5h", 30, "20")] == [90, 600, 5400, 30, 20]
    for wrong in ("10 days", "0s", "-1m", "", True):
        with pytest.raises(ConfigError, match="time_budget is a time above zero: 90s, 10m, 1h or seconds"):
            TrainingOptions.of(time_budget=wrong)
    with pytest.raises(ConfigError, match="give one of them"):
        TrainingOptions.of(time_budget="1m", steps=3)
    assert steps_within(100, 1, 0, 10) == 90
    assert steps_within(100, 1, 10, 10) == 40


def test_steps_go_through_several_epochs():
    history = qat.finetune(prepared("torch"), digits(64).batches("train", 32, "NCHW"), steps=5, progress=False)
    assert (history.steps, len(history.epochs)) == (5, 3)


def test_a_float_model_needs_a_teacher():
    with pytest.raises(ConfigError, match="give teacher=, the float model"):
        qat.finetune(net("torch"), inputs("torch"), labels="none")
    with pytest.raises(ConfigError, match="loss 'kl' is against a teacher, for data without labels"):
        qat.finetune(prepared("torch"), digits(64).batches("train", 32, "NCHW"), loss="kl")


def test_a_loader_of_inputs_is_not_drawn_from():
    """The generator of a DataLoader is where it was, whatever the data is taken for."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x = torch.from_numpy(np.concatenate(inputs("torch")))
    from qat.trainers.unlabelled import lacks_labels

    for tensors, lacks in (((x,), True), ((x, x[:, 0, 0, 0]), False)):
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(TensorDataset(*tensors), 8, shuffle=True, generator=generator)
        before = generator.get_state()
        assert lacks_labels(loader, 1) is lacks
        assert torch.equal(generator.get_state(), before)


@FRAMEWORKS
def test_a_model_of_two_outputs_is_evaluated_against_its_teacher(framework):
    if framework == "torch":
        from torch import nn

        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.scores, self.point = nn.Linear(6, 4), nn.Linear(6, 2)

            def forward(self, x):
                return self.scores(x), self.point(x)

        model, other = Two(), Two()
    else:
        import keras

        def two():
            x = keras.Input((6,))
            return keras.Model(x, [keras.layers.Dense(4, name="scores")(x), keras.layers.Dense(2, name="point")(x)])

        model, other = two(), two()
    batches = [normal(20, 6), normal(12, 6) + 1]
    assert qat.evaluate(model, iter(batches), labels="none", teacher=model) == {"distance": pytest.approx(0, abs=1e-6)}
    assert qat.evaluate(other, batches, labels="none", teacher=model)["distance"] > 0.1


@FRAMEWORKS
def test_inputs_by_name_alone_have_no_labels(framework):
    shapes = {"left": 4, "right": 3}
    data = [{name: random.normal(size=(8, size)).astype(np.float32) for name, size in shapes.items()} for _ in range(3)]
    if framework == "torch":
        import torch

        class Two(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = torch.nn.Linear(4, 3), torch.nn.Linear(3, 3)

            def forward(self, left, right):
                return torch.relu(self.a(left)) + self.b(right)

        model = Two().eval()
    else:
        import keras

        entries = {name: keras.Input((size,), name=name) for name, size in shapes.items()}
        model = keras.Model(entries, keras.layers.Dense(3)(keras.layers.concatenate([*entries.values()])))
    made = qat.calibrate(qat.prepare(model, data[0]), data)
    assert qat.finetune(made, data, steps=2, progress=False).losses
    named = [batch | {"labels": np.arange(8) % 3} for batch in data]
    assert not qat.finetune(made, named, epochs=1, progress=False).losses
