"""`qat check CONFIG`, and what `qat run`, `qat ptq` and `qat quantize` say of calibration data: each fact once."""

import json

import numpy as np
import pytest

from support.command_line import CommandLine
from support.pictures import flipped, pictures

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def config(folder, framework="torch", change=lambda x, y: (x, y), more=""):
    """Write a run on pictures of which the training part is changed, and return its path."""
    (x, y), (r, s) = pictures(900), pictures(300, 1)
    x, y = change(x, y)
    bytes_of = [np.clip(255 * images, 0, 255).astype(np.uint8) for images in (x, r)]
    np.savez(folder / "d.npz", x_train=bytes_of[0], y_train=y, x_test=bytes_of[1], y_test=s)
    path = folder / "run.yaml"
    path.write_text(
        f"name: checked\nframework: {framework}\nmodel: {{factory: 'qat.runs.zoo_{framework}:mobilenet_tiny'}}\n"
        f"data: {{source: npz, path: d.npz}}\nlatency_runs: 2\nfloat_training: {{epochs: 1}}\n{more}"
    )
    return path


def notices(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "qat" and record.levelname == "WARNING"]


@FRAMEWORKS
def test_clean_data_pass_and_the_document_is_that_of_the_page(framework, tmp_path, capfd):
    qat, path = CommandLine(tmp_path, capfd), config(tmp_path, framework)
    done = qat("check", path, "--strict")
    assert done.returncode == 0, done.stderr
    assert "512 calibration samples, held against 300: 11 passed" in done.stdout
    document = json.loads(qat("check", path, "--json").stdout)
    assert [check["status"] for check in document["checks"]] == ["passed"] * 11
    assert not list(tmp_path.glob("runs"))


@pytest.mark.slow
@FRAMEWORKS
def test_a_warning_ends_with_2_under_strict_alone(framework, tmp_path, capfd):
    qat, path = CommandLine(tmp_path, capfd), config(tmp_path, framework, lambda x, y: (flipped(x), y))
    done = qat("check", path)
    assert done.returncode == 0
    assert "augmentation: calibrate without augmentation (flips, crops" in done.stdout
    assert qat("check", path, "--strict").returncode == 2


def test_a_failure_ends_with_2_always(tmp_path, capfd):
    path = config(tmp_path, change=lambda x, y: (np.random.default_rng(0).random(x.shape), y))
    done = CommandLine(tmp_path, capfd)("check", path)
    assert done.returncode == 2
    assert "they look like noise" in done.stdout


def test_the_folder_gets_the_page_and_the_figures(tmp_path, capfd):
    qat, path = CommandLine(tmp_path, capfd), config(tmp_path, change=lambda x, y: (flipped(x), y))
    done = qat("check", path, "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "found" / "report.html").read_text()
    checks = json.loads((tmp_path / "found" / "checks.json").read_text())["checks"]
    assert "checked: calibration data" in page
    assert all(check["name"] in page and check["status"] in page for check in checks)
    again = qat("check", path, "--out", tmp_path / "found")
    assert again.returncode == 2 and "exists" in again.stderr
    assert qat("check", path, "--out", tmp_path / "found", "--overwrite").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ptq", "run"])
def test_a_run_says_once_what_is_not_fine(command, tmp_path, capfd, caplog):
    def few_of_one_class(x, y):
        return x[y == 9][:60], y[y == 9][:60]

    path = config(tmp_path, change=few_of_one_class, more="control: false\ntraining: {epochs: 1}\n")
    done = CommandLine(tmp_path, capfd)(command, path)
    assert done.returncode == 0, done.stderr
    assert [said for said in notices(caplog) if "calibration" in said] == [
        "calibration saw 54 samples: fewer than 100 may not show the values that come later; a few hundred are usual",
        "every calibration sample is of class 9: take samples of every class",
    ]


def test_quantize_says_once_what_is_not_fine(tmp_path, capfd, caplog):
    import keras

    x = keras.Input((8, 8, 1))
    keras.Model(x, keras.layers.Conv2D(2, 3)(x)).save(tmp_path / "net.keras")
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).random((200, 8, 8, 1), np.float32))
    np.save(tmp_path / "real.npy", pictures(200)[0])
    qat = CommandLine(tmp_path, capfd)
    found = {}
    for data in ("noise.npy", "real.npy", "random"):
        caplog.clear()
        done = qat("quantize", "net.keras", "--data", data, "--out", tmp_path / data[:4])
        assert done.returncode == 0, done.stderr
        found[data] = notices(caplog)
    (said,) = found["noise.npy"]
    assert "they look like noise: calibrate on real samples" in said
    assert found["real.npy"] == []
    assert not any("look like noise" in said for said in found["random"])  # it was said that they are random
