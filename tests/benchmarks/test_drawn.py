"""The draw of public models: its order, what it counts, and what it says of a model that ends its process."""

import types

import catalogues
import drawn
import pytest


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
