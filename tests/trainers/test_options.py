"""Every option, in both frameworks."""

import itertools
import math
import sys

import numpy as np
import pytest

import qat
from qat.errors import ConfigError, DataError, ExportError, MissingDependencyError, QatError
from qat.trainers import TrainingOptions, metric_functions, metrics
from support.nets import difference, digits, layout, net, prepared, same, train, weights

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def probability_of_three(outputs, labels):
    return float(np.mean(outputs.argmax(-1) == 3))


def total_error(outputs, labels):
    """A loss by package.module:function, on either framework's tensors; Keras' may be one value a sample."""
    error = (outputs - labels) ** 2
    return error.mean() if hasattr(error, "mean") else error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sdg"}, r"unknown optimizer 'sdg' \(did you mean 'sgd'\?\); valid: sgd, adam"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"gradients": "bfloat16"}, "unknown gradients 'bfloat16'.*valid: float32, bf16, auto"),
        ({"loss": "mae2"}, "did you mean 'mae'.*package.module:function"),
        ({"metrics": "top1"}, "a list of one or more"),
        ({"metrics": []}, "a list of one or more"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1"),
        ({"teacher_weight": 1.5}, "teacher_weight must be a number between 0 and 1"),
        ({"patience": 0.5}, "patience must be a whole number"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number"),
        ({"divergence": -1}, "divergence must be a number of at least 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions.of(**options)


def test_keywords_of_the_calls_are_the_options():
    from typing import get_type_hints

    from qat.trainers.options import EvaluationKeywords, TrainingKeywords

    assert get_type_hints(TrainingKeywords) == get_type_hints(TrainingOptions)
    assert set(get_type_hints(EvaluationKeywords)) == {"metrics", "labels", "teacher", "progress"}
    for call in (qat.finetune, qat.evaluate):
        with pytest.raises(ConfigError, match=r"unknown training option 'epoch' \(did you mean 'epochs'\?\); valid: epochs"):
            call(net("torch"), [], epoch=2)


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.01), ("linear", 0.01), ("constant", 1.0)])
def test_schedules(schedule, end):
    options = TrainingOptions(schedule=schedule, learning_rate=1.0, warmup_steps=4)
    rates = [options.rate(step, 104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[104] == pytest.approx(end)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert rates[54] == pytest.approx({"cosine": 0.505, "linear": 0.505, "constant": 1.0}[schedule])


def test_metrics():
    outputs, labels = np.array([[1.0, 2, 3, 0, 0, 0], [9, 8, 7, 6, 5, 4]]), np.array([2, 5])
    assert metric_functions.top1(outputs, labels).tolist() == [100, 0]
    assert metric_functions.top(5)(outputs, labels).tolist() == [100, 0]
    assert metric_functions.top1(outputs, outputs).tolist() == [100, 100]
    assert metric_functions.mse(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]])).tolist() == [2.0]
    assert metric_functions.psnr(np.full((1, 2, 2), 0.1), np.zeros((1, 2, 2))) == pytest.approx([20.0])
    assert metric_functions.bit_accuracy(np.array([[1.0, -1, 2, -2]]), np.array([[1, 1, 1, 0]])).tolist() == [75.0]
    batches = [(outputs, labels), (outputs[:1], labels[:1])]
    assert metrics.measure([metrics.METRICS["top1"]], batches) == {"top1": pytest.approx(200 / 3)}
    own = metrics.metric(f"{__name__}:probability_of_three")
    assert (own.name, own.higher_is_better) == ("probability_of_three", True)
    with pytest.raises(ConfigError, match="unknown metric 'topp'"):
        metrics.metric("topp")
    with pytest.raises(DataError, match="metric 'mse' does not take evaluation batch 0"):
        metrics.measure([metrics.METRICS["mse"]], batches)


@FRAMEWORKS
@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "rmsprop", "adagrad"))]
)
def test_every_optimizer_lowers_the_loss(framework, optimizer, tmp_path):
    rate = {"sgd": 0.1, "adagrad": 0.1, "rmsprop": 0.003}.get(optimizer, 0.01)
    history = train(framework, None, optimizer=optimizer, epochs=3, learning_rate=rate, weight_decay=1e-4)[1]
    assert history.epochs[-1].loss < history.epochs[0].loss * 0.95


@pytest.mark.slow
def test_adamw_of_keras_trains_without_weight_decay(tmp_path):
    history = train("keras", None, optimizer="adamw", max_steps=1, weight_decay=0.0)[1]
    assert len(history.epochs) == 1


@FRAMEWORKS
def test_accumulation_is_a_larger_batch(framework):
    """Two batches of 16 give the update of one of 32; where 9 batches are left over in groups of 2, the last group has one."""
    x, y = next(iter(digits().batches("train", 144, layout(framework))))
    parts = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 144, 16)]
    halves = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 128, 32)] + parts[-1:]
    options = {"observe_fraction": 0.0, "schedule": "constant", "learning_rate": 0.05, "progress": False}
    start, a, b = (prepared(framework) for _ in range(3))
    qat.finetune(a, parts, accumulate=2, **options)
    qat.finetune(b, halves, **options)
    moved = difference(start, a)
    apart = difference(a, b)
    assert moved > 0.01
    assert apart < 1e-3 * moved


@FRAMEWORKS
def test_patience_stops_and_keeps_the_best(framework):
    history = train(framework, None, epochs=30, patience=2, learning_rate=1e-7, observe_fraction=0.0)[1]
    assert len(history.epochs) == history.best_epoch + 2 < 30


@FRAMEWORKS
def test_lower_is_better(framework):
    x, y = next(iter(digits().batches("train", 64, layout(framework))))
    data = [(x, np.eye(10, dtype=np.float32)[y])]
    options = {"epochs": 4, "loss": "mse", "metrics": ["mse", "top1"], "learning_rate": 0.01, "progress": False}
    history = qat.finetune(prepared(framework), data, data, **options)
    assert history.epochs[history.best_epoch - 1].accuracy == min(e.metrics["mse"] for e in history.epochs)
    assert set(history.epochs[0].metrics) == {"mse", "top1"}


@FRAMEWORKS
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "mae", "huber", f"{__name__}:total_error"])
def test_losses_fall(framework, loss):
    x, y = next(iter(digits().batches("train", 64, layout(framework))))
    data = [(x, np.eye(10, dtype=np.float32)[y])] * 4
    history = qat.finetune(prepared(framework), data, epochs=4, loss=loss, learning_rate=0.01, progress=False)
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_losses_are_equal_in_both_frameworks():
    from qat.trainers.keras import losses as keras_losses
    from qat.trainers.torch import losses as torch_losses

    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    random = np.random.default_rng(0)
    outputs, taught = random.normal(size=(2, 8, 10)).astype(np.float32) * 2
    classes, bits = random.integers(0, 10, 8), random.integers(0, 2, (8, 10)).astype(np.float32)
    for name in ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"):
        options = TrainingOptions(loss=name, temperature=3.0)
        labels = classes if name == "cross_entropy" else bits
        for kind, target in (("label_loss", labels), ("teacher_loss", taught)):
            a = getattr(torch_losses, kind)(options)(torch.from_numpy(outputs), torch.from_numpy(target))
            b = getattr(keras_losses, kind)(options)(tf.constant(outputs), tf.constant(target))
            assert float(a) == pytest.approx(float(b), rel=1e-5), (name, kind)


@pytest.mark.slow
@FRAMEWORKS
def test_teacher_alone_without_labels(framework):
    """Trained on inputs alone, the model comes closer to its float teacher than it was after calibration."""
    teacher = train(framework, None, net(framework), epochs=6, learning_rate=0.1)[0]
    data = digits()
    batches = [x for x, _ in data.batches("train", 32, layout(framework))]
    student = qat.calibrate(qat.prepare(teacher, batches[0]), batches)
    for variable in student.parameters() if framework == "torch" else student.trainable_variables:
        if framework == "torch":
            variable.data += 0.1 * variable.data.std() * np.sign(variable.data) if variable.dim() > 1 else 0
        else:
            variable.assign(variable + 0.1 * np.std(variable) * np.sign(variable))
    options = {"teacher": teacher, "labels": "none", "temperature": 2.0, "learning_rate": 0.02, "progress": False}
    history = qat.finetune(student, batches, batches, epochs=3, metrics=["mse", "top1"], **options)
    first, last = history.epochs[0], history.epochs[-1]
    assert last.loss < first.loss
    assert last.metrics["mse"] < first.metrics["mse"]
    assert last.metrics["top1"] > 90


@pytest.mark.slow
@FRAMEWORKS
def test_teacher_weight(framework):
    """Weight 0 is training by labels; weight 1 is no longer."""
    teacher = net(framework, seed=4)
    plain = train(framework, None, epochs=1)[0]
    none, whole = (train(framework, None, epochs=1, teacher=teacher, teacher_weight=w)[0] for w in (0.0, 1.0))
    assert difference(plain, none) < 1e-4
    assert not same(plain, whole)


def test_bf16_keeps_the_grid_exact(tmp_path):
    model, history = train("torch", None, precision="bf16", epochs=2)
    assert history.epochs[-1].loss < history.epochs[0].loss
    artifact = qat.export(model, tmp_path / "m.onnx", verify=digits().batches("test", 50, "NCHW"))
    assert artifact.parity.exact == 1.0


def test_keras_trains_in_float32():
    with pytest.raises(ConfigError, match="computes in float32"):
        train("keras", None, precision="bf16")


@pytest.mark.parametrize("gradients", ["auto", "bf16"])
def test_gradients_in_bf16_keep_the_outputs_exact(gradients, tmp_path, monkeypatch):
    from qat.adapters.torch.autograd import kernel_choice

    def last(kernel, args):
        return [form for form in kernel.forms if form.fits(*args)][-1], True  # of auto and bf16 one in bfloat16

    monkeypatch.setattr(kernel_choice, "_fastest", last)
    monkeypatch.setattr(kernel_choice, "_answers", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference, _ = train("torch", None, epochs=2)
    model, history = train("torch", None, gradients=gradients, epochs=2)
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert same(model, reference) == (gradients == "auto" and not kernel_choice.has_bf16())
    artifact = qat.export(model, tmp_path / "m.onnx", verify=digits().batches("test", 50, "NCHW"))
    assert artifact.parity.exact == 1.0


def test_gradients_in_keras_are_float32():
    with pytest.raises(ConfigError, match="'float32' or 'auto'"):
        train("keras", None, gradients="bf16")


@FRAMEWORKS
def test_artifact_is_evaluated_in_its_runtime(framework):
    """Every second epoch; what the artifact scores is what the model scores, since they are equal bit for bit."""
    history = train(framework, None, epochs=4, artifact_every=2, observe_fraction=0.0)[1]
    assert [bool(e.artifact) for e in history.epochs] == [False, True, False, True]
    for epoch in history.epochs[1::2]:
        assert epoch.artifact == epoch.metrics
    with pytest.raises(ConfigError, match=r"artifact_every .* needs a prepared model and evaluation data"):
        train(framework, None, net(framework), artifact_every=1)


@FRAMEWORKS
def test_tensorboard(framework, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = train(framework, None, tensorboard=tmp_path, epochs=2)[1]
    events = event_accumulator.EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    kind = "scalars" if tags["scalars"] else "tensors"
    assert {"train/loss", "train/learning_rate", "validation/top1"} <= set(tags[kind])
    read = events.Scalars if kind == "scalars" else events.Tensors
    assert len(read("train/loss")) == 18
    last = read("validation/top1")[-1]
    value = last.value if kind == "scalars" else float(pytest.importorskip("tensorflow").make_ndarray(last.tensor_proto))
    assert value == pytest.approx(history.epochs[-1].accuracy)


def test_tensorboard_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"qat-toolkit\[train\]"):
        train("torch", None, tensorboard=tmp_path / "logs")


def test_a_file_in_the_place_of_the_logs_is_named(tmp_path):
    (tmp_path / "logs").touch()
    with pytest.raises(ExportError, match=r"cannot write into .*logs \(File exists\): choose another folder"):
        train("torch", None, tensorboard=tmp_path / "logs")


@FRAMEWORKS
def test_loss_that_is_no_number_names_the_layer(framework):
    model = net(framework)
    if framework == "torch":
        model[2].weight.data[0, 0, 0, 0] = math.inf
    else:
        kernel = model.layers[1].get_weights()
        kernel[0][0, 0, 0, 0] = math.inf
        model.layers[1].set_weights(kernel)
    name = "2" if framework == "torch" else model.layers[1].name
    with pytest.raises(
        QatError, match=rf"at step 0 \(epoch 1\), first in the output of '{name}': lower learning_rate \(now 0.02\)"
    ):
        train(framework, None, model)


@FRAMEWORKS
def test_loss_that_is_no_number_of_a_prepared_model(framework):
    model = prepared(framework)
    before = weights(model)

    def broken(outputs, labels):
        return (outputs * math.nan).mean() if framework == "torch" else outputs * math.nan

    with pytest.raises(QatError, match=r"though every layer's output is finite.*the step changed no weight"):
        train(framework, None, model, loss=broken, observe_fraction=0.0)
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


@FRAMEWORKS
def test_labels_that_are_no_numbers_are_named(framework):
    (x, _), y = next(iter(digits().batches("train", 8, layout(framework)))), np.zeros((8, 10), np.float32)
    y[3, 1] = math.nan
    said = r"the loss is nan at step 0 \(epoch 1\): the array of labels holds nan at index \(3, 1\): clean the data"
    with pytest.raises(DataError, match=said):
        qat.finetune(net(framework), [(x, y)], loss="mse", progress=False)


@FRAMEWORKS
def test_prepared_layer_is_named_as_the_user_knows_it(framework):
    model = prepared(framework)
    if framework == "torch":
        model.get_parameter("2.weight").data[0, 0, 0, 0] = math.nan
    else:
        kernel = next(v for v in model.trainable_variables if v.shape == (3, 3, 8, 8))
        kernel.assign(np.full((3, 3, 8, 8), math.nan))
    scope = [p.op.scope for p in model.plan.ops if p.op.kind == "conv2d"][1]
    with pytest.raises(QatError, match=f"first in the output of '{scope}'"):
        train(framework, None, model, observe_fraction=0.0)


@FRAMEWORKS
def test_each_epoch_is_told_and_a_model_is_evaluated_as_training_does(framework):
    told = []
    model, history = train(framework, None, epochs=2, on_epoch=told.append)
    assert tuple(told) == history.epochs
    evaluation = digits().batches("validation", 32, layout(framework))
    before = weights(model)
    assert qat.evaluate(model, evaluation) == history.epochs[history.best_epoch - 1].metrics
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics.shown({"top1": 97.123, "mine": 0.123456}) == "top1 97.12 %, mine 0.1235"


@FRAMEWORKS
def test_evaluation_needs_nothing_to_train(framework):
    model = net(framework)
    evaluation = digits().batches("validation", 32, layout(framework))
    found = qat.evaluate(model, evaluation)
    if framework == "torch":
        model.requires_grad_(False)
    else:
        model.trainable = False
    assert qat.evaluate(model, evaluation) == found
    with pytest.raises(ConfigError, match="unfreeze some"):
        qat.finetune(model, evaluation)
