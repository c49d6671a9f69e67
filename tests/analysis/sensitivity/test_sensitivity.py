"""Which layers hurt is measured, and the recipe that spares them is tried in its runtime."""

import json

import numpy as np
import pytest

import qat
from qat.errors import CalibrationError, ConfigError, DataError

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def outlier_net(framework, factor=400.0):
    """A net whose second layer has weights ``factor`` times as large as the others, for an input that is always zero."""
    rng = np.random.default_rng(0)
    shapes = [(16, 32), (32, 32), (32, 10)]
    weights = [rng.normal(size=shape).astype(np.float32) / np.sqrt(shape[0]) for shape in shapes]
    weights[0][:, 5] = 0
    weights[1][5] *= factor
    if framework == "torch":
        import torch
        from torch import nn

        net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
        with torch.no_grad():
            for layer, weight in zip(net[::2], weights, strict=True):
                layer.weight.copy_(torch.from_numpy(weight.T.copy()))
                layer.bias.zero_()
        return net
    import keras
    from keras import layers

    kinds = [layers.Dense(32, "relu", name="0"), layers.Dense(32, "relu", name="2"), layers.Dense(10, name="4")]
    net = keras.Sequential([keras.Input((16,)), *kinds])
    for layer, weight in zip(net.layers, weights, strict=True):
        layer.set_weights([weight, np.zeros(weight.shape[1], np.float32)])
    return net


def samples(count=512):
    return np.random.default_rng(1).normal(size=(count, 16)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "method"), [("torch", "exact"), ("keras", "fast")])
def test_the_layer_with_the_outlier_is_sensitive_and_without_it_the_recipe_is_good_in_the_runtime(framework, method):
    found = qat.sensitivity(outlier_net(framework), [samples()], method=method, threshold=8.0)
    assert [(layer.layer, layer.kind) for layer in found.sensitive] == [("2", "dense")]
    assert found.layers[0].layer == "2" and found.layers[0].drop > 20 and found.layers[0].weight_share > 0.9
    assert all(layer.loss < found.layers[0].loss / 50 for layer in found.layers[1:])
    whole, spared = found.trials
    assert not whole.pins and whole.drop > 20 and not whole.enough
    assert found.chosen is spared and spared.enough and spared.drop < 8 and [pin.layer for pin in spared.pins] == ["2"]
    assert [row["runs"] for row in qat.plan(outlier_net(framework), samples(2), spared.recipe).table()][1] == "float"
    assert "1 of 4 layers is sensitive: with the 1 sensitive left float the loss falls from" in found.decision
    assert found.evaluations <= 10 and (found.rank_correlation is None) == (method == "fast")


@FRAMEWORKS
def test_fast_estimates_the_losses_of_exact(framework):
    found = qat.sensitivity(outlier_net(framework, 1.0), [samples()], threshold=100, try_recipes=False)
    assert found.rank_correlation >= 0.8 and found.trials == () and found.chosen is None
    assert all(0.7 < layer.estimate / layer.loss < 1.4 for layer in found.layers)
    assert [layer.loss for layer in found.layers] == sorted((layer.loss for layer in found.layers), reverse=True)


@FRAMEWORKS
def test_weights_and_activations_are_measured_apart(framework):
    def losses(what):
        found = qat.sensitivity(outlier_net(framework), [samples(128)], what=what, try_recipes=False)
        return {row.layer: row.loss for row in found.layers}

    weight, activation, both = (losses(what) for what in ("weight", "activation", "both"))
    assert set(weight) == {"0", "2", "4"} and len(activation) == 4
    assert weight["2"] == pytest.approx(both["2"], rel=0.1) and activation["2"] < 0.01 * both["2"]
    assert all(max(weight[name], activation[name]) < 1.5 * both[name] for name in weight)


def test_labels_and_metrics_of_ones_own_decide():
    net, x = outlier_net("torch"), samples()
    import torch

    labels = net(torch.from_numpy(x)).argmax(1).numpy()
    data = [(x[i : i + 64], labels[i : i + 64]) for i in range(0, len(x), 64)]
    found = qat.sensitivity(net, data, metrics=["top5", "top1"], try_recipes=False)
    assert found.measured.name == "top5" and found.labelled and found.samples == 512 and found.reference == 100
    assert all(layer.drop_low <= layer.drop <= layer.drop_high for layer in found.layers)


def test_numbers_are_judged_by_their_error():
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    found = qat.sensitivity(net, [samples(64)], budget=50.0)
    assert found.measured.name == "error" and found.reference == 0
    assert 0 < found.layers[0].metric < 5 and found.layers[0].drop == found.layers[0].metric
    assert found.trials[0].enough


@pytest.mark.slow
def test_layers_are_added_until_the_budget_is_reached():
    found = qat.sensitivity(outlier_net("torch", 1.0), [samples()], recipe="static_wi4_ai8", threshold=100, budget=10)
    assert not found.sensitive and len(found.trials) > 1
    assert [trial.added for trial in found.trials] == [0, 1, 2, 4][: len(found.trials)]
    assert found.trials[-1].enough and found.chosen is found.trials[-1]
    assert "with none but the" in found.decision and "next ones left float" in found.decision


def test_sixteen_bits_are_taken_where_the_planner_keeps_them():
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    found = qat.sensitivity(net, [samples()], target="litert", threshold=0.0, metrics=["mse to float"])
    assert {trial.precision for trial in found.trials[1:]} == {"int16"}
    assert found.trials[-1].loss < found.trials[0].loss / 2
    plan = qat.plan(net, samples(2), found.trials[-1].recipe, "litert")
    assert {group.spec.bits for group in plan.groups.values()} == {16}


def test_a_prepared_model_is_measured_as_it_is():
    x = samples(64)
    model = qat.calibrate(qat.prepare(outlier_net("torch"), x), [x])
    found = qat.sensitivity(model, [x])
    assert found.trials == () and len(found.layers) == 4
    with pytest.raises(CalibrationError, match="is not calibrated"):
        qat.sensitivity(qat.prepare(outlier_net("torch"), x), [x])


def test_one_large_batch_is_the_same_as_small_ones():
    x = samples(300)
    whole, parts = (qat.sensitivity(outlier_net("torch"), data, try_recipes=False) for data in (x, [x[:150], x[150:]]))
    assert {row.layer: row.loss for row in whole.layers} == pytest.approx({row.layer: row.loss for row in parts.layers})


def test_the_result_is_json_and_text():
    found = qat.sensitivity(outlier_net("torch"), [samples(64)], try_recipes=False)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["layers"][0]["layer"] == "2" and document["chosen"] is None
    assert "SENSITIVE" in str(found) and found.decision in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exakt"}, "did you mean 'exact'"),
        ({"what": "weights"}, "did you mean 'weight'"),
        ({"threshold": -1}, "threshold and budget are percentages"),
        ({"metrics": ["top1"]}, "metric 'top1' needs labels"),
    ],
)
def test_mistakes_are_said(options, message):
    with pytest.raises(ConfigError, match=message):
        qat.sensitivity(outlier_net("torch"), [samples(8)], **options)


def test_no_data_is_said():
    with pytest.raises(DataError, match="the sensitivity got no data"):
        qat.sensitivity(outlier_net("torch"), [])


def test_a_metric_of_which_less_is_better_drops_in_percent_of_floats_value():
    import torch

    net, x = outlier_net("torch"), samples()
    labels = net(torch.from_numpy(x)).detach().numpy() + 1.0
    found = qat.sensitivity(net, [(x, labels)], metrics=["mse", "mse to float"], try_recipes=False)
    worst = found.layers[0]
    assert found.reference == pytest.approx(1.0) and worst.layer == "2" and worst.sensitive
    assert worst.drop == pytest.approx(100 * (worst.metric - found.reference) / found.reference)
    to_float = qat.sensitivity(net, [x], metrics=["mse to float"], try_recipes=False).layers[0]
    assert to_float.drop == to_float.metric > 0
