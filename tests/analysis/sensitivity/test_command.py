"""`qat sensitivity`: the document has the page's keys, the recipe is one, and a mistake is said before the work."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from qat.planning.recipe import load_recipe
from support.command_line import CommandLine, tiny_run

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_results_of_a_configuration(tmp_path, capfd):
    qat = CommandLine(tmp_path, capfd)
    config = tiny_run(tmp_path)
    arguments = ("sensitivity", config, "--method", "fast", "--out", tmp_path / "out", "--samples", "64", "--json")
    done = qat(*arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    page = (ROOT / "docs" / "json.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| `qat sensitivity`"))
    assert set(found) == set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert json.loads((tmp_path / "out" / "sensitivity.json").read_text())["layers"] == found["layers"]
    assert load_recipe(tmp_path / "out" / "recipe.yaml").name == found["chosen"]
    losses = {layer["layer"]: layer["loss"] for layer in found["layers"]}
    nodes = json.loads((tmp_path / "out" / "model_explorer.json").read_text())["results"]
    assert {node["value"] for node in nodes.values()} <= set(losses.values()) and len(nodes) >= len(losses) - 1
    assert found["decision"] in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    assert found["evaluations"] <= 10 and found["method"] == "fast"
    again = qat(*arguments)
    assert again.returncode == 2 and "exists" in again.stderr and "done data" not in again.stderr  # before the work
    assert qat(*arguments, "--overwrite").returncode == 0


def test_a_mistake_is_said_before_the_work(tmp_path, capfd):
    done = CommandLine(tmp_path, capfd)("sensitivity", tiny_run(tmp_path), "--what", "weights")
    assert done.returncode == 2 and "did you mean 'weight'" in done.stderr and "done data" not in done.stderr


NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        for layer in net[1::2]:
            layer.weight.normal_(std=layer.in_features**-0.5)
            layer.bias.zero_()
        net[1].weight[5], net[1].bias[5] = 0, 0
        net[3].weight[:, 5] *= 400  # of an input that is always zero
    return net
"""


@pytest.mark.slow
def test_pins_are_written_as_other_tools_take_them(tmp_path, capfd):
    (tmp_path / "outlier_net.py").write_text(NET)
    made: dict = {}
    exec(NET, made)
    net, x = made["make"](), 255 * np.random.default_rng(0).integers(0, 2, (512, 4, 4), np.uint8).repeat(2, 1).repeat(2, 2)
    labels = net(torch.from_numpy(x[:, None].astype(np.float32) / 255)).argmax(1).numpy()
    np.savez(tmp_path / "d.npz", x_train=x, y_train=labels, x_test=x[:32], y_test=labels[:32])
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "run.yaml").write_text(
        "name: pinned\nframework: torch\nmodel: {factory: 'outlier_net:make', weights: w.safetensors}\n"
        "data: {source: npz, path: d.npz, batch_size: 64}\n"
    )
    done = CommandLine(tmp_path, capfd)("sensitivity", "run.yaml", "--threshold", "10", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["layer"] for row in found["layers"] if row["sensitive"]] == ["3"]
    names = json.loads((tmp_path / "out" / "onnxruntime_nodes_to_exclude.json").read_text())
    graph = onnx.load(found["files"]["float"]).graph
    kinds = {node.name: node.op_type for node in graph.node}
    assert "Gemm" in [kinds[name] for name in names]
    assert (tmp_path / "out" / "tensorrt_layer_precisions.txt").read_text() == ",".join(f"{n}:fp16" for n in names) + "\n"
    assert load_recipe(tmp_path / "out" / "recipe.yaml").rules[-1].mode == "float"
