"""Configurations by name."""

from pathlib import Path

import pytest

from qat.errors import ConfigError
from qat.runs.config import load_run
from qat.runs.job import results_folder
from qat.runs.shipped import find, purpose, shipped


def test_every_shipped_configuration_is_valid_and_says_what_it_is_for():
    for name, path in shipped().items():
        assert load_run(path).name == name
        assert len(purpose(path)) > 20
        assert path.read_text().startswith("# ")


def test_a_name_is_found_from_any_folder_and_its_results_go_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find(Path("digits_torch"))
    assert found.is_file()
    assert results_folder(load_run(found), found.parent).absolute() == tmp_path / "runs" / "digits_torch"


def test_a_file_of_that_name_comes_first_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits_torch").mkdir()
    assert find(Path("digits_torch")).suffix == ".yaml"
    Path("digits_keras").touch()
    assert find(Path("digits_keras")) == Path("digits_keras")


@pytest.mark.parametrize("wrong", ["digits_torhc", "configs/runs/digits_torch.yaml", "digits_torch.yaml"])
def test_a_wrong_name_leads_to_the_nearest(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file: .*did you mean 'digits_torch'\?.*qat configs"):
        find(Path(wrong))
