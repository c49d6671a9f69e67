"""Recipes, targets and configurations: what is valid, and what a mistake says."""

import pytest

from qat.errors import ConfigError
from qat.planning.recipe import QuantSpec, Recipe, Rule, builtin_recipes, load_recipe
from qat.planning.targets import SHORT_FORMS, TARGETS, load_target
from qat.runs.config import expand, load_run
from qat.system.import_object import import_object


def test_builtin_recipes_are_valid_and_carry_their_file_name():
    found = builtin_recipes()
    assert {"static_wi8_ai8", "static_wi4_ai8", "static_wi8_ai16", "dynamic_wi8_afp32", "dynamic_wi4_afp32"} <= set(found)
    assert {"weightonly_wi8_afp32", "weightonly_wi4_afp32", "float16", "static_wi8_ai8_per_tensor"} | {
        "static_wi8_ai8_float_residual"
    } <= set(found)
    assert all(recipe.name == name and recipe.description for name, recipe in found.items())


def test_last_matching_rule_wins():
    recipe = Recipe(name="r", rules=(Rule(), Rule(scope="head", mode="float"), Rule(scope="head.last", op="dense")))
    assert recipe.rule_for("body.conv", "conv2d").mode == "static"
    assert recipe.rule_for("head.first", "dense").mode == "float"
    assert recipe.rule_for("head.last", "dense").mode == "static"
    assert recipe.rule_for("head.last", "conv2d").mode == "float"
    assert Recipe(name="r", rules=(Rule(op="dense"),)).rule_for("x", "conv2d") is None


def test_a_rule_with_a_role_is_for_operators_of_that_role():
    recipe = Recipe(name="r", rules=(Rule(), Rule(role="residual", mode="float"), Rule(scope="last", role="residual")))
    assert recipe.rule_for("body", "add").mode == "static"
    assert recipe.rule_for("body", "add", "residual").mode == "float"
    assert recipe.rule_for("last", "add", "residual").mode == "static"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: r\nrules:\n  - scop: x\n", r"r\.yaml:3: unknown key 'scop' \(did you mean 'scope'\?\); valid here: scope"),
        (
            "name: r\nrules:\n  - weight:\n      bits: 8\n      symetric: true\n",
            r"r\.yaml:5: unknown key 'symetric' .*symmetric",
        ),
        ("name: r\nrules:\n  - activation: {bits: 99}\n", r"r\.yaml:3: .*bits.*16"),
        ("name: r\nrules:\n  - op: conf2d\n", r"r\.yaml:3: .*unknown operator 'conf2d' \(did you mean 'conv2d'\?\)"),
        ("name: r\nrules:\n  - role: residuals\n", r"r\.yaml:3: .*role.*'residual'"),
        ("name: r\nrules:\n  - scope: '('\n", r"r\.yaml:3: .*not a regular expression"),
        ("name: r\nrules: []\n", r"r\.yaml:2: .*at least 1"),
        ("rules: [{}]\n", r"r\.yaml:1: the key 'name' is missing"),
        ("name: r\nrules:\n  - weight: {symmetric: false}\n", r"r\.yaml:3: .*set weight.symmetric to true"),
        ("name: r\nrules:\n  - {mode: dynamic, activation: {bits: 16}}\n", r"r\.yaml:3: .*in 8 bits as the kernel runs"),
        ("name: r\nrules:\n  - {mode: float16, weight: {bits: 4, symmetric: true}}\n", r"r\.yaml:3: .*remove the key 'weight'"),
        (
            "name: r\nrules:\n  - {mode: weight_only, weight: {bits: 16, symmetric: true}}\n",
            r"r\.yaml:3: .*up to 8 bits: .*float16",
        ),
        ("name: [r\n", r"r\.yaml:\d: not valid YAML"),
        ("", "an empty file"),
    ],
)
def test_mistake_in_a_recipe_names_file_line_and_key(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'static_wi8_ai8'"):
        load_recipe("static_w8_a8")
    with pytest.raises(ConfigError, match="did you mean 'litert'"):
        load_target("tflitert")
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe("nowhere.yaml")


def test_short_forms_name_a_target_by_its_processor():
    assert load_target("arm").weight_qmax == 127
    assert load_target("any") is load_target("x86") is TARGETS["onnxruntime"]
    assert load_target("any").weight_qmax == 64
    assert all(load_target(form).suffix == ".onnx" for form in SHORT_FORMS)
    assert not set(SHORT_FORMS) & set(TARGETS)
    with pytest.raises(ConfigError, match=r"unknown target 'armm' \(did you mean 'arm'\?\); valid: .*litert.*arm, x86, any"):
        load_target("armm")


def test_every_target_names_its_source_and_its_suffix():
    for target in TARGETS.values():
        assert target.source.startswith("https://")
        assert target.suffix in ((".onnx", ".tflite") if target.name != "simulated" else ("",))
        assert len({row.kind for row in target.rows}) == len(target.rows)


def test_specs_refuse_impossible_bits():
    with pytest.raises(ValueError, match="less than or equal to 16"):
        QuantSpec(bits=17)


def test_run_configuration(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nframework: torch\nmodel: {factory: 'a:b'}\ntraining: {learing_rate: 1}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:4: unknown key 'learing_rate' \(did you mean 'learning_rate'\?\)"):
        load_run(path)
    path.write_text("name: x\nframework: jax\nmodel: {factory: 'a:b'}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: framework"):
        load_run(path)
    path.write_text("name: x\nframework: keras\nmodel: {}\n")
    with pytest.raises(ConfigError, match="either 'factory'"):
        load_run(path)
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand("${NOWHERE:-sub}/x", tmp_path) == tmp_path / "sub/x"
    with pytest.raises(ConfigError, match="environment variable NOWHERE"):
        expand("${NOWHERE}/x", tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nocolon", "package.module:function"), ("no_such_module:f", "cannot import"), ("json:nothing", "no function 'nothing'")],
)
def test_factory_that_cannot_be_found(spec, message):
    with pytest.raises(ConfigError, match=message):
        import_object(spec, "model.factory")


def test_shipped_runs_are_valid():
    from importlib.resources import files

    folder = files("qat.configs") / "runs"
    names = [load_run(path).name for path in folder.iterdir() if path.name.endswith(".yaml")]
    assert {"digits_torch", "digits_keras", "fashion_mnist_torch", "fashion_mnist_keras"} <= set(names)
