"""Systems of several models: what feeds what, what each one learns from, how they are judged together."""

import json
import sys

import numpy as np
import pytest

from qat.errors import ConfigError, QatError
from qat.systems.wiring import Step, System, check, in_batches, record
from support.command_line import CommandLine

MODULE = """
import numpy as np
import torch


def samples(count=40):
    random = np.random.default_rng(0)
    for _ in range(count):
        image = random.normal(size=(1, 3, 24, 24)).astype(np.float32)
        y, x = random.integers(0, 16, 2)
        image[:, :, y : y + 8, x : x + 8] += 4
        yield image


def detector():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 3, padding=1))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(0.05)
    return net.eval()


def classifier():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 5)).eval()


def crops(image, heat):
    y, x = np.unravel_index(heat[0, 0].argmax(), heat.shape[2:])
    y, x = min(max(y - 4, 0), 16), min(max(x - 4, 0), 16)
    return image[:, :, y : y + 8, x : x + 8]


def twice(image, net):
    return [net(image[:, :, :16, :16]), net(image)]


def no_crops(image, heat):
    return image[:0, :, :8, :8]


def fails(image, heat):
    return heat["boxes"]


def nobody():
    return 0


def right(expected, got):
    return {"class kept": float(expected["class"].argmax() == got["class"].argmax())}
"""

CONFIG = """
name: faces
data: my_system:samples
inputs: [image]
models:
  detector: {factory: "my_system:detector"}
  classifier: {factory: "my_system:classifier", train: 4}
steps:
  heat: {model: detector, reads: [image]}
  crop: {function: "my_system:crops", reads: [image, heat]}
  class: {model: classifier, reads: [crop]}
outputs: [heat, class]
calibration: 24
held_out: 16
"""

PYRAMID = """
name: pyramid
data: my_system:samples
inputs: [image]
models:
  net: {factory: "my_system:detector", dynamic: [height, width]}
steps:
  heat: {function: "my_system:twice", models: [net], reads: [image]}
calibration: 24
held_out: 16
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_system.py").write_text(MODULE)
    (tmp_path / "system.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_system", None)
    yield tmp_path
    sys.modules.pop("my_system", None)


@pytest.fixture
def qat(folder, capfd):
    return CommandLine(folder, capfd)


def test_models_alone_and_together(folder, qat):
    done = qat("system", folder / "system.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "runs" / "faces" / "system.json").read_text())
    assert found["samples"] == 16
    detector, classifier = found["models"]
    assert (detector["name"], detector["calls"], detector["samples"]) == ("detector", 24, 24)
    assert detector["exact"] == classifier["exact"] == 1
    assert 0 < classifier["error_percent"] < 10
    mixtures = found["quantized"]
    assert set(mixtures) == {"all", "detector", "classifier"}
    assert mixtures["classifier"]["heat: error, %"]["mean"] == 0  # the model that makes it is in float
    assert mixtures["detector"]["heat: error, %"]["mean"] == mixtures["all"]["heat: error, %"]["mean"] > 0
    files = {path.name for path in (folder / "runs" / "faces").glob("*.onnx")}
    assert files == {"detector_int8.onnx", "classifier_int8.onnx"}


def test_the_table_and_a_metric_of_ones_own(folder, qat):
    text = CONFIG.replace("outputs:", 'metric: "my_system:right"\noutputs:').replace("train: 4", "keep_float: true")
    (folder / "system.yaml").write_text(text)
    done = qat("system", folder / "system.yaml", "--output", folder / "there")
    assert done.returncode == 0, done.stderr
    assert "class kept" in done.stdout
    assert not (folder / "runs").exists()
    found = json.loads((folder / "there" / "system.json").read_text())
    assert list(found["quantized"]) == ["all"]
    assert found["models"][1]["path"] is None


def test_a_function_that_calls_a_model_at_several_sizes(folder, qat):
    (folder / "system.yaml").write_text(PYRAMID)
    done = qat("system", folder / "system.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (net,) = json.loads(done.stdout)["models"]
    assert (net["calls"], net["samples"], net["exact"]) == (48, 48, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("reads: [crop]", "reads: [crops]"), "'class' reads 'crops' (did you mean 'crop'?)"),
        (("model: detector", "model: detectr"), "'heat' calls the model 'detectr' (did you mean 'detector'?)"),
        (("class: {model: classifier", "class: {model: detector"), "no step calls 'classifier'"),
        (("outputs: [heat, class]", "outputs: [heet]"), "outputs: 'heet' (did you mean 'heat'?)"),
        (("my_system:crops", "my_system:nothing"), "has no function 'nothing'"),
        (("my_system:crops", "my_system:fails"), "step 'crop' fails: IndexError"),
        (("my_system:crops", "my_system:no_crops"), "'classifier' was never called with anything"),
        (("my_system:samples", "my_system:nobody"), "returned int: return the samples"),
        (("inputs: [image]", "inputs: [image, more]"), "sample 0 has 1 values, inputs names 2"),
        (('{factory: "my_system:detector"}', "{file: none.onnx}"), "models.detector: "),
        (('{factory: "my_system:detector"}', "{file: none.h5}"), "is none of .onnx, .tflite, .keras"),
        (('{factory: "my_system:detector"}', "{}"), "give either 'file'"),
        (("train: 4", "trian: 4"), "unknown key 'trian'"),
        (("calibration: 24", "kwargs: {count: 1}"), "gives 1 samples"),
        (("calibration: 24", "kwargs: {number: 1}"), "data 'my_system:samples' fails: TypeError"),
        (('"my_system:classifier"', '"my_system:fails"'), "models.classifier.factory 'my_system:fails'"),
    ],
)
def test_mistakes_end_in_a_sentence(folder, qat, change, said):
    assert change[0] in CONFIG
    (folder / "system.yaml").write_text(CONFIG.replace(*change))
    done = qat("system", folder / "system.yaml")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_few_samples_keep_their_shares(folder, qat):
    (folder / "system.yaml").write_text(CONFIG.replace("inputs:", "kwargs: {count: 10}\ninputs:").replace(", train: 4", ""))
    done = qat("system", folder / "system.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 4


def test_a_step_reads_earlier_ones_alone():
    steps = (Step("a", ("b",), None, ("m",)), Step("b", ("x",), None, ("m",)))
    with pytest.raises(ConfigError, match="'a' reads 'b'"):
        check(System(("x",), steps, ("b",)), ["m"])


def test_the_error_of_a_model_names_its_step():
    def model(x):
        raise QatError("no")

    with pytest.raises(QatError, match="step 'a': no"):
        System(("x",), (Step("a", ("x",), None, ("m",)),), ("a",)).run([np.zeros(1)], {"m": model})


def test_calls_are_joined_by_their_sizes_and_empty_ones_left_out():
    system = System(("x",), (Step("a", ("x",), None, ("m",)),), ("a",))
    sizes = [(3, 2), (1, 5), (0, 2), (4, 2)]
    samples = [(np.full(shape, index, np.float64),) for index, shape in enumerate(sizes)]
    recordings, outputs = record(system, samples, {"m": lambda x: x})
    recording = recordings["m"]
    assert [output["a"].shape for output in outputs] == sizes
    assert [call[0].shape for call in recording.calls] == [(3, 2), (1, 5), (4, 2)]
    batches = in_batches(recording.calls, 5)
    assert [batch[0].shape for batch in batches] == [(5, 2), (2, 2), (1, 5)]
    assert batches[0][0][:, 0].tolist() == [0, 0, 0, 3, 3]
