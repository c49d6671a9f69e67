"""Node data in the form that Model Explorer reads."""

import json

import pytest

from qat.errors import ExportError
from qat.report.model_explorer import by_tensor, node_data, write_node_data

#: The fields of GraphNodeData, NodeDataResult and GradientItem in ai-edge-model-explorer's node_data_builder.py.
FIELDS = {"name", "results", "gradient"}


def test_the_form_is_that_of_the_package(tmp_path):
    path = write_node_data(tmp_path / "error.json", "error", {"conv": 0.5, "größe": 2, "lost": float("inf")})
    found = json.loads(path.read_text())
    assert set(found) == FIELDS
    assert found["results"] == {"conv": {"value": 0.5}, "größe": {"value": 2.0}}
    assert [item["stop"] for item in found["gradient"]] == [0, 0.5, 1]
    assert all(set(item) == {"stop", "bgColor", "textColor"} for item in found["gradient"])
    with pytest.raises(ExportError, match="exists already"):
        write_node_data(path, "error", {})


def test_the_worst_is_red():
    ends = [node_data("x", {"a": 1.0}, less_is_worse)["gradient"] for less_is_worse in (False, True)]
    assert ends[0][-1]["bgColor"] == ends[1][0]["bgColor"]
    assert ends[0][0]["bgColor"] == ends[1][-1]["bgColor"] != ends[0][-1]["bgColor"]


def test_the_package_reads_it(tmp_path):
    builder = pytest.importorskip("model_explorer.node_data_builder", reason="pip install ai-edge-model-explorer")
    found = node_data("error", {"conv": 0.5})
    results = {name: builder.NodeDataResult(**value) for name, value in found["results"].items()}
    gradient = [builder.GradientItem(**item) for item in found["gradient"]]
    made = builder.GraphNodeData(results=results, name=found["name"], gradient=gradient)
    assert json.loads(made.to_json_string())["results"] == found["results"]


def test_layers_become_tensors():
    assert by_tensor({"a": "x", "a.weight": "x", "b": "y"}, {"x": 1.0}) == {"a": 1.0, "a.weight": 1.0}
