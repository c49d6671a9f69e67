"""What calibration, training and verification say of the data that they see."""

import logging
import re

import numpy as np
import pytest

import qat
from qat.errors import CalibrationError, DataError
from qat.planning.recipe import Recipe, Rule
from support.nets import net

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def images(framework, count=120, seed=0):
    x = np.random.default_rng(seed).uniform(0, 1, (count, 8, 8, 1)).astype(np.float32)
    return x.transpose(0, 3, 1, 2) if framework == "torch" else x


def said(caplog, framework, samples):
    """Calibrate on samples, and return what is logged: (level, message) by record."""
    model = qat.prepare(net(framework), images(framework, 2))
    caplog.clear()
    with caplog.at_level(logging.INFO, "qat"):
        qat.calibrate(model, samples)
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "qat"]
    return model, found[0], [message for _, message in found[1:]]


@FRAMEWORKS
def test_good_samples_are_described_without_a_warning(framework, caplog):
    x = images(framework)
    _, (level, text), warnings = said(caplog, framework, [(x, np.arange(120) % 10)])
    assert level == "INFO"
    assert text == f"calibration saw 120 samples, 10 classes, values from {x.min():.4g} to {x.max():.4g}"
    assert warnings == []


@FRAMEWORKS
@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        (lambda x: x[:3], None, "calibration saw 3 samples: fewer than 100"),
        (lambda x: x, np.full(120, 4), "every calibration sample is of class 4"),
        (lambda x: x * 0, None, "every calibration value of '.*' is 0"),
        (lambda x: x / 255, None, r"end at 0\.00392, at most 1/255: pixels look as if they were divided by 255 twice"),
    ],
)
def test_samples_to_distrust_are_named_in_one_sentence(framework, caplog, change, labels, message):
    x = change(images(framework))
    _, _, warnings = said(caplog, framework, [x if labels is None else (x, labels)])
    (sentence,) = warnings
    assert re.search(message, sentence), sentence


def test_a_channel_that_never_changes_is_named(caplog):
    import torch

    x = np.random.default_rng(0).uniform(0, 1, (100, 3, 8, 8)).astype(np.float32)
    x[:, 1] = 0.5
    model = qat.prepare(torch.nn.Conv2d(3, 4, 3), x[:2])
    qat.calibrate(model, [x])
    (sentence,) = [r.getMessage() for r in caplog.records if r.name == "qat"]
    assert sentence == "channel 1 of 'input' holds 0.5 in every calibration sample: is the data read rightly?"


@FRAMEWORKS
def test_training_on_another_scale_is_named(framework, caplog):
    x = images(framework)
    model = qat.calibrate(qat.prepare(net(framework), x[:2]), [255 * x])
    qat.finetune(model, [(x[:16], np.zeros(16, np.int64))], progress=False)
    (sentence,) = [m for m in caplog.messages if "training batch 0" in m]
    assert sentence.endswith("calibration saw up to 255: was one of them divided by 255, the other not?")
    caplog.clear()
    qat.finetune(qat.calibrate(model, [x]), [(x[:16], np.zeros(16, np.int64))], progress=False)
    assert not [m for m in caplog.messages if "training batch 0" in m]


@FRAMEWORKS
def test_verification_says_how_many_values_lie_beyond_the_calibrated_range(framework, caplog, tmp_path):
    x = images(framework)
    model = qat.calibrate(qat.prepare(net(framework), x[:2]), [x])
    suffix = model.plan.target.suffix
    with caplog.at_level(logging.INFO, "qat"):
        qat.export(model, tmp_path / f"a{suffix}", verify=[x])
        qat.export(model, tmp_path / f"b{suffix}", verify=[x, x + 2])
    found = [(r.levelname, r.getMessage()) for r in caplog.records if "verified input" in r.getMessage()]
    assert found == [
        ("INFO", "0.00 % of the verified input values lie beyond the calibrated range"),
        ("WARNING", "50.00 % of the verified input values lie beyond the calibrated range: calibrate on data like these"),
    ]


@FRAMEWORKS
def test_what_an_estimator_cut_off_on_purpose_is_not_beyond(framework, caplog, tmp_path):
    x = images(framework)
    x[:, :2, :2] *= 30  # an estimator that weighs may cut such tails off
    model = qat.calibrate(qat.prepare(net(framework), x[:2]), [x], "mse")
    (entering,) = (grid for grid in model.grids.values() if set(model.plan.graph.inputs) & set(grid.group.tensors))
    entering.set_range(0.0, 1.0)
    with caplog.at_level(logging.INFO, "qat"):
        qat.export(model, tmp_path / f"a{model.plan.target.suffix}", verify=[x])
    assert "0.00 % of the verified input values lie beyond" in caplog.text


def test_a_training_batch_in_bfloat16_is_looked_at_too(caplog):
    import torch

    x = images("torch")
    model = qat.calibrate(qat.prepare(net("torch"), x[:2]), [x])
    batch = torch.from_numpy(255 * x[:16]).bfloat16()
    qat.finetune(model, [(batch, torch.zeros(16, dtype=torch.int64))], progress=False)
    assert "training batch 0 has values of" in caplog.text


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_values_that_the_model_does_not_take_are_said_by_the_batch(framework):
    if framework == "torch":
        torch = pytest.importorskip("torch")
        net = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2)).eval()
        prepared = qat.prepare(net, torch.zeros((2, 3), dtype=torch.int64))
    else:
        keras = pytest.importorskip("keras")
        prepared = qat.prepare(
            keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(10, 4), keras.layers.Dense(2)])
        )
    fine, beyond = np.zeros((2, 3), np.int64), np.full((2, 3), 99)
    with pytest.raises(DataError, match="calibration batch 1: the model does not take its values: "):
        qat.calibrate(prepared, [fine, beyond])


def test_a_tensor_without_finite_values_is_named_with_what_to_do():
    import torch

    class Least(torch.nn.Module):
        """Makes minus infinity of what it reads, in a form that is not known for a mask."""

        def forward(self, x):
            return x.scatter(1, torch.arange(4).expand(len(x), 4), -torch.inf)

    class Hidden(torch.nn.Module):
        """Puts what hides scores beside them, as Longformer's code does."""

        def __init__(self):
            super().__init__()
            self.least, self.layer, self.end = Least(), torch.nn.Linear(4, 4), torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.end(torch.softmax(torch.cat([self.layer(x), self.least(x)], 1), 1))

    x = torch.rand(8, 4)
    with pytest.raises(CalibrationError, match=r"no finite values .* of layer 'layer'.*a rule \{scope: 'layer', mode: float\}"):
        qat.calibrate(qat.prepare(Hidden(), x), [x])
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope="layer", mode="float")))
    qat.calibrate(qat.prepare(Hidden(), x, recipe), [x])
