"""The draw of public models: its order, what it counts, and what it says of a model that ends its process."""

import types

import catalogues
import drawn
import pytest
from catalogues import keras_smaller


@pytest.fixture
def two_catalogues(monkeypatch):
    """Two small catalogues in the place of the packages."""
    small = {n: types.SimpleNamespace(names=lambda n=n: [f"{n}{i}" for i in range(4 if n == "a" else 2)]) for n in "ab"}
    monkeypatch.setitem(catalogues.TURNS, "torch", ("a", "b", "a"))
    monkeypatch.setattr(drawn, "catalogue", small.__getitem__)


def test_a_seed_gives_one_order_in_which_the_catalogues_take_turns(two_catalogues):
    first, again, other = (list(drawn.order("torch", seed, set())) for seed in (1, 1, 2))
    assert first == again != other
    assert [package for package, _ in first] == ["a", "b", "a", "a", "b", "a"]
    assert sorted(first) == sorted(other)


def test_a_model_that_was_drawn_before_is_not_drawn(two_catalogues):
    assert ("a", "a0") not in drawn.order("torch", 1, {"a/a0"})


def test_a_row_counts_once_it_runs_and_is_exact_where_all_values_are_equal():
    results = {
        "a/exact": {"onnx": {"exact": 1.0}, "tflite": {"exact": 1.0}},
        "a/near": {"onnx": {"exact": 0.999}, "tflite": {"error": "QatError: no"}},
        "b/large": {"unsuitable": "too large"},
    }
    assert drawn.summary(results).splitlines() == [
        "2 models counted, 1 drawn names not",
        ".onnx: 2 of 2 end in a running artifact, 1 exact",
        ".tflite: 1 of 2 end in a running artifact, 1 exact",
    ]


def test_a_name_that_builds_no_float_model_is_not_counted():
    assert "unsuitable" in drawn.measured("torch", "no_such_catalogue", "net", 60)


def test_the_least_of_a_family_is_drawn():
    names = ["ConvNeXtTiny", "ConvNeXtBase", "ConvNeXtAtto", "NetV2B1", "NetV2B0", "NetB0", "RegNetX016", "RegNetX002", "YOLO_S"]
    assert keras_smaller.least(names) == ["ConvNeXtAtto", "NetB0", "NetV2B0", "RegNetX002", "YOLO_S"]


def test_a_constructor_is_made_small_by_its_parameters_names():
    def net(
        vocab_size, num_layers=12, num_heads=16, hidden_dim=1024, depths=(3, 3, 9), channels=(96, 192), image_size=224, rate=0.1
    ):
        return None

    small = keras_smaller.arguments(net, {"rate": 0.2}, narrow=True, side=64)
    assert small == {
        "vocab_size": 200, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "depths": (1, 1, 1), "channels": (24, 48),
        "image_size": 64, "rate": 0.2,
    }  # fmt: skip
