"""README, CONTRIBUTING and docs/ are true: their Python runs, their YAML is valid, their commands parse, what they name exists.

A block that cannot run here has ``<!-- not run: reason -->`` on the line before it.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import typer
from ruamel.yaml import YAML

import qat
from qat.cli import app
from qat.frameworks import adapter_for
from qat.graph.custom_layers import HANDLERS
from qat.planning.recipe import QuantSpec, Recipe, Rule, load_recipe
from qat.runs.config import RunConfig, load_run
from qat.system.yaml_files import load_yaml
from qat.systems.config import SystemConfig
from qat.trainers import TrainingOptions

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(<!-- not run: .+ -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    source: str
    runs: bool

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(language):
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, match[2], match[3], match[1] is None))
    return [block for block in found if block.language == language]


def spans():
    """Return the inline code of all pages, with its page."""
    for page in PAGES:
        for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
            yield page.relative_to(ROOT), " ".join(span.split())


@pytest.fixture(scope="module")
def nets():
    """The float models and data that the pages take for granted."""
    import keras
    import torch
    from torch import nn

    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    torch_model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    keras_model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    images = random.normal(size=(4, 16, 3, 8, 8)).astype(np.float32)
    pairs = [(batch, random.integers(0, 4, 16)) for batch in images]
    return {
        "torch_model": torch_model, "float_model": torch_model, "keras_model": keras_model,
        "example_inputs": torch.from_numpy(images[0, :2]), "example": torch.from_numpy(images[0, :2]), "samples": list(images),
        "train_data": pairs, "eval_data": pairs[:1], "test_data": pairs[:2], "held_out": images[0],
        "inputs": images.reshape(-1, 3, 8, 8), "images": np.ascontiguousarray(images[0].transpose(0, 2, 3, 1)),
        "small": images[0], "large": random.normal(size=(4, 3, 12, 10)).astype(np.float32),
        "recipe": "static_wi8_ai8_per_tensor",
        "model": qat.calibrate(qat.prepare(torch_model, torch.from_numpy(images[0, :2])), list(images)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tflites(nets, tmp_path_factory):
    """The files that the pages about runtimes take for granted, in a folder, and the model that they hold."""
    folder = tmp_path_factory.mktemp("files")
    model = qat.calibrate(qat.prepare(nets["torch_model"], nets["example_inputs"], target="litert"), nets["samples"])
    for dtype in ("int8", "uint8", "float32"):
        qat.export(model, folder / f"model_{dtype}.tflite", io_dtype=dtype)
    return folder, model


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
def test_lines_that_feed_a_tflite_give_the_models_scores(dtype, nets, tflites, monkeypatch):
    """The blocks of docs/python_runtime.md: equal to the prepared model in every bit."""
    folder, model = tflites
    (block,) = (b for b in blocks("python") if b.page.endswith("python_runtime.md") and f"model_{dtype}.tflite" in b.source)
    monkeypatch.chdir(folder)
    names = {"images": nets["images"]}
    exec(compile(block.source, str(block), "exec"), names)
    (want,) = adapter_for("torch").predict(model, nets["held_out"])
    assert np.array_equal(names["scores"], want)
    assert len(block.source.splitlines()) <= 12


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    HANDLERS.clear()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs(block, nets):
    if not block.runs or block.page.endswith("python_runtime.md"):  # which the test above runs
        compile(block.source, str(block), "exec")
        return
    names = {"qat": qat, **nets}
    exec(compile(block.source, str(block), "exec"), names)
    if "artifact" in names:
        assert names["artifact"].parity.exact == 1.0


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_valid(block):
    path = Path("snippet.yaml")
    text = block.source if "name:" in block.source else "name: snippet\n" + block.source
    path.write_text(text)
    if "rules" in YAML(typ="safe").load(text):
        assert load_recipe(path).rules
    else:
        assert (load_yaml(path, SystemConfig) if "\nsteps:" in text else load_run(path)).name


def parse(command):
    """Parse a ``qat ...`` command as the command line does; return the name of the subcommand."""
    words = shlex.split(command, comments=True)[1:]
    root = typer.main.get_command(app)
    group = root.make_context("qat", list(words))
    name, found, rest = root.resolve_command(group, words)
    found.make_context(name, list(rest), parent=group)
    return name


COMMANDS = [(block, line) for block in blocks("") + blocks("sh") for line in block.source.splitlines()]


@pytest.mark.parametrize("command", sorted({line for _, line in COMMANDS if line.startswith("qat ")}))
def test_a_qat_command_parses(command):
    assert parse(command) == command.split()[1]


def test_commands_in_the_text_parse():
    commands = {span for _, span in spans() if re.match(r"qat [a-z]", span)}
    assert len(commands) > 8
    known = typer.main.get_command(app).commands
    for command in commands:
        assert command.split()[1] in known, command
        if len(command.split()) > 2:
            parse(command)


def test_other_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    lines = [line for _, line in COMMANDS] + [span for _, span in spans()]
    made = {name for line in lines for name in re.findall(r"^make ([\w-]+)", line)}
    installed = {
        name for line in lines for found in re.findall(r"pip install '[\w.-]+\[([\w,-]+)\]'", line) for name in found.split(",")
    }
    scripts = {name for line in lines for name in re.findall(r"python (\w+/\S+\.py)", line)}
    assert made <= targets
    assert installed <= extras
    assert made
    assert installed
    assert scripts
    assert [name for name in scripts if not (ROOT / name).is_file()] == []


def test_every_path_in_the_text_exists():
    paths = {
        (str(page), span)
        for page, span in spans()
        if re.fullmatch(r"(qat|trainers|exporters|benchmarks|configs|docs|tests|examples)/[\w./-]*", span)
    }
    assert len(paths) > 10
    assert sorted(found for found in paths if not (ROOT / found[1]).exists()) == []


def test_every_dotted_name_in_the_text_exists():
    names = {span.split("(")[0] for _, span in spans() if re.match(r"qat(\.\w+)+(\(.*\))?$", span)}
    assert len(names) > 10
    for name in sorted(names):
        resolve_name(name)


def test_every_key_in_the_text_exists():
    options = {field.name for field in fields_of(TrainingOptions)}
    fields = {*options, *RunConfig.model_fields, *Rule.model_fields, *QuantSpec.model_fields, *Recipe.model_fields}
    for section in RunConfig.model_fields.values():
        fields |= set(getattr(section.annotation, "model_fields", ()))
    keys = {match[1] for _, span in spans() if (match := re.match(r"([a-z_]+): \S", span))}
    assert len(keys) > 10
    assert keys - fields == set()


def test_every_command_is_documented():
    page = (ROOT / "docs" / "command_line.md").read_text()
    assert [name for name in typer.main.get_command(app).commands if f"\nqat {name}" not in page] == []


def test_every_public_name_is_in_the_reference():
    reference = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert [name for name in qat.__all__ if not re.search(rf"\b{name}\b", reference) and name != "__version__"] == []


def test_the_design_has_the_rooms_in_their_order():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = next(c for c in project["tool"]["importlinter"]["contracts"] if c["containers"] == ["qat"])["layers"]
    rooms = re.search(r"\| room \| holds \|\n.*\n((?:\|.*\n)+)", (ROOT / "docs" / "design.md").read_text())[1]
    named = [name for row in rooms.splitlines() for name in re.findall(r"`(\w+)/?`", row.split("|")[1])]
    assert named == [name for layer in layers for name in layer.split(" | ")]


def test_every_link_between_pages_leads_somewhere():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())]
    assert len(links) > 20
    assert [(str(page), link) for page, link in links if not (page.parent / link).exists()] == []
