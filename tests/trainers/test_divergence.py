"""A diverging run stops and says what to lower; one that only jumps, or whose loss is noise, does not."""

import logging

import numpy as np
import pytest

import qat
from qat.trainers import TrainingDiverged
from qat.trainers.divergence import Trend
from support.nets import digits, layout, net, raises, same, train

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


@pytest.fixture(scope="module")
def trained():
    """A float net for each framework that knows the digits."""
    made = {}

    def of(framework):
        if framework not in made:
            made[framework] = train(framework, None, net(framework), epochs=6, learning_rate=0.1)[0]
        return made[framework]

    return of


def on_grid(framework, float_model):
    data = digits()
    example = next(iter(data.batches("test", 4, layout(framework))))[0]
    return qat.calibrate(qat.prepare(float_model, example), [x for x, _ in data.batches("train", 64, layout(framework))])


@FRAMEWORKS
@pytest.mark.parametrize("observe_fraction", [0.0, 0.1])
def test_a_rate_far_too_high_is_told(framework, observe_fraction, trained, tmp_path):
    """Gradients are clipped and the outputs of a grid have limits: nothing becomes NaN, yet all is lost."""
    model = on_grid(framework, trained(framework))
    with pytest.raises(TrainingDiverged) as caught:
        train(framework, tmp_path, model, learning_rate=1e9, observe_fraction=observe_fraction)
    message = str(caught.value)
    assert "by step 11 (epoch 2) the loss has risen from" in message
    assert "(outputs of zero have 2.3), the median of the last 10 steps" in message
    assert "lower learning_rate (now 1e+09), keep gradient_clip at 1 (now 1.0)" in message
    suffix = "safetensors" if framework == "torch" else "keras"
    assert f"the weights of the best epoch, 1, which {tmp_path / f'best.{suffix}'} has too" in message
    assert same(model, qat.load_prepared(on_grid(framework, trained(framework)), tmp_path / f"best.{suffix}"))
    assert caught.value.exit_code == 2


@FRAMEWORKS
def test_a_run_of_few_steps_is_judged_at_its_end(framework, trained):
    with pytest.raises(TrainingDiverged, match=r"by step 9 .*no epoch was finished: start again"):
        train(framework, None, on_grid(framework, trained(framework)), epochs=1, learning_rate=1e9)


@FRAMEWORKS
@pytest.mark.parametrize("rate", [None, 0.02, 0.3])
def test_a_run_that_jumps_and_recovers_is_left_alone(framework, rate, trained, caplog):
    with caplog.at_level(logging.WARNING, "qat"):
        train(framework, None, on_grid(framework, trained(framework)), epochs=4, learning_rate=rate)
    assert "the loss came out" not in caplog.text


@FRAMEWORKS
def test_none_trains_on_and_the_end_says_so(framework, trained, caplog):
    rate = {"learning_rate": 1e9, "observe_fraction": 0.0}
    history = train(framework, None, on_grid(framework, trained(framework)), divergence=None, **rate)[1]
    assert history.steps == 18
    with caplog.at_level(logging.WARNING, "qat"):
        train(framework, None, on_grid(framework, trained(framework)), divergence=1e30, **rate)
    assert "the loss came out at" in caplog.text
    assert "lower learning_rate (now 1e+09)" in caplog.text


@pytest.mark.slow
@FRAMEWORKS
def test_distillation_is_held_against_a_uniform_answer(framework, trained):
    """The distance to the teacher starts near zero: many times that is no divergence yet."""
    teacher = trained(framework)
    options = {"teacher": teacher, "labels": "none", "optimizer": "sgd", "observe_fraction": 0.0, "progress": False}
    data = digits().batches("train", 32, layout(framework))
    qat.finetune(on_grid(framework, teacher), data, epochs=2, learning_rate=0.3, **options)
    with pytest.raises(TrainingDiverged):
        qat.finetune(on_grid(framework, teacher), data, epochs=2, learning_rate=1e6, **options)


@FRAMEWORKS
def test_a_loss_below_zero(framework, trained):
    """The likelihood of the right class, negative: at the start, throughout, and where it rises to that of no knowledge."""

    def negative(outputs, labels):
        if framework == "torch":
            return -outputs.softmax(-1)[range(len(labels)), labels].mean()
        import tensorflow as tf

        return -tf.gather(tf.nn.softmax(outputs), tf.cast(labels, tf.int32), batch_dims=1)

    train(framework, None, on_grid(framework, trained(framework)), loss=negative)
    with pytest.raises(TrainingDiverged):
        train(framework, None, on_grid(framework, trained(framework)), loss=negative, learning_rate=1e6, divergence=0.2)


def test_a_loss_that_refuses_zeros_is_judged_by_itself(trained):
    def strict(outputs, labels):
        if not outputs.any():
            raise ValueError("no zeros")
        return outputs.square().mean()

    train("torch", None, on_grid("torch", trained("torch")), loss=strict)
    with pytest.raises(TrainingDiverged) as caught:
        train("torch", None, on_grid("torch", trained("torch")), loss=strict, learning_rate=1e6, gradient_clip=None)
    assert "outputs of zero" not in str(caught.value)


@pytest.mark.slow
@FRAMEWORKS
def test_the_judgement_is_the_same_after_a_resume(framework, trained, tmp_path):
    def told(folder, **options):
        with pytest.raises(TrainingDiverged) as caught:
            train(framework, folder, on_grid(framework, trained(framework)), learning_rate=1e9, **options)
        return str(caught.value).replace(str(folder), "")

    whole = told(tmp_path / "whole")
    cut = {"interrupt": (7, raises(KeyboardInterrupt)), "learning_rate": 1e9}
    with pytest.raises(KeyboardInterrupt):
        train(framework, tmp_path / "cut", on_grid(framework, trained(framework)), **cut)
    assert told(tmp_path / "cut", resume=True) == whole


def fires(losses, silent, samples=32):
    """Return the step at which a run of these losses is stopped, or None."""
    trend = Trend()
    trend.begin(losses[0], silent, samples)
    for step, loss in enumerate(losses[1:], 2):
        trend.add(loss)
        if trend.diverges(0.9, last=step == len(losses)):
            return step
    return None


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 20), marks=pytest.mark.slow)], ids=["few", "many"])
def test_noise_is_no_divergence(seeds):
    """Ordinary losses of 2,000 steps: heavy tails, batches of one sample, around zero, without a value to be held against."""
    for seed in seeds:
        random = np.random.default_rng(seed)
        assert fires(random.normal(0.0, 1.0, 2000), None) is None
        assert fires(random.exponential(0.02, 2000), None) is None
        assert fires(random.exponential(2.0, 2000), 4.6, samples=1) is None  # half of the samples wrong
        assert fires(np.where(random.random(2000) < 0.1, 5.0, 0.001), 2.3, samples=1) is None
        assert fires(random.normal(3.0, 0.3, 2000), 2.3) is None  # few bits: worse than no answer, from the start
        assert fires([0.3] * 50 + [1e6] + [0.3] * 50, 2.3) is None  # one bad batch


def test_divergence_at_any_time_is_found():
    random = np.random.default_rng(0)
    fall = 2.3 * np.exp(-np.arange(200) / 50) + random.normal(0, 0.02, 200)
    assert 200 < fires([*fall, *random.normal(2.29, 0.02, 100)], 2.3) <= 210  # to what a dead net has
    assert fires([0.3, *random.normal(20.0, 3.0, 30)], 2.3) == 11
    assert 50 < fires([*random.normal(-5.0, 0.1, 50), *random.normal(20.0, 0.1, 50)], None) <= 60
    assert 100 < fires([*random.exponential(0.1, 100), *random.exponential(30.0, 200)], 2.3, samples=1) <= 200
