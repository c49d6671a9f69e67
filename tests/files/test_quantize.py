"""`qat quantize`: float files in, quantized files out, with their sizes and their distance from float."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import qat
from qat.errors import ConfigError, DataError, ExportError
from qat.exporters.inspection import inspect
from qat.files.calibrated import TRIED
from qat.files.inputs import Wanted, batches
from qat.files.request import Request, ending_of, rule_of
from qat.files.result import Quantization
from qat.planning.recipe import builtin_recipes
from qat.runtimes import open_session
from qat.trainers.output_losses import choose
from support.command_line import CommandLine

RNG = np.random.default_rng(0)


def tensor(name, *shape):
    return numpy_helper.from_array(RNG.normal(0, 0.3, shape).astype(np.float32), name)


def write_onnx(path, opset=17):
    """An image to five scores, 3 x 8 x 8, with a free batch."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["c"], "features", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["scores"], "head", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])]
    weights = [tensor("w", 8, 3, 3, 3), tensor("b", 8), tensor("w2", 5, 288), tensor("b2", 5)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def write_keras(path):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(5),
    ])  # fmt: skip
    net.save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a net of each format, and samples for them."""
    made = tmp_path_factory.mktemp("files")
    write_onnx(made / "net.onnx")
    write_onnx(made / "old.onnx", opset=11)
    write_keras(made / "net.keras")
    x = RNG.normal(size=(96, 3, 8, 8)).astype(np.float32)
    np.savez(made / "nchw.npz", pixels=x)
    np.save(made / "nhwc.npy", x.transpose(0, 2, 3, 1))
    from PIL import Image

    (made / "photos" / "a").mkdir(parents=True)
    for i in range(24):
        Image.fromarray(RNG.integers(0, 256, (10, 12, 3), np.uint8)).save(made / "photos" / "a" / f"{i}.png")
    return made


@pytest.fixture(scope="module")
def tflite(folder):
    """The float .tflite of the Keras net, with its weights in float16 behind DEQUANTIZE and without a signature."""
    import keras  # not tf.keras, which is tf_keras once another test has imported tensorflow-model-optimization
    import tensorflow as tf

    from support.tflite_files import without_signature

    converter = tf.lite.TFLiteConverter.from_keras_model(keras.models.load_model(folder / "net.keras"))
    converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    path = folder / "half.tflite"
    path.write_bytes(without_signature(converter.convert()))
    return path


def test_an_onnx_becomes_an_int8_onnx_that_equals_the_model(folder, tmp_path):
    made = qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path)
    assert made.path == tmp_path / "net_int8.onnx" and made.path.is_file()
    assert made.exact == 1.0 and made.quantized == (3, 3)
    assert made.bytes == made.path.stat().st_size and made.ratio == made.float_bytes / made.bytes
    assert set(inspect(made.path).bits()) == {"int8"}
    # The figures are those of the file in its runtime, on the samples that were held out.
    x = np.load(folder / "nchw.npz")["pixels"][-12:][:8]
    real, got = (open_session(p).run(x)[0].astype(np.float64) for p in (folder / "net.onnx", made.path))
    off = 100 * np.sqrt(np.square(got - real).mean()) / np.sqrt(np.square(real - real.mean()).mean())
    assert made.error_percent == pytest.approx(off, rel=1e-3)
    assert made.agreement == pytest.approx(100 * (real.argmax(1) == got.argmax(1)).mean())
    with pytest.raises(ExportError, match=r"net_int8\.onnx exists"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path)


@pytest.mark.slow
def test_training_brings_it_nearer_to_float(folder, tmp_path):
    options = {"recipe": "static_wi4_ai8", "progress": False}
    plain = qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path / "plain", **options)
    trained = qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path / "trained", train=60, **options)
    assert trained.path == tmp_path / "trained" / "net_int4.onnx"
    assert trained.steps == 60 and list(trained.losses.values()) == ["kl"]
    assert trained.exact == 1.0
    x = np.load(folder / "nchw.npz")["pixels"][-12:][:8]
    real, before, after = (open_session(p).run(x)[0] for p in (folder / "net.onnx", plain.path, trained.path))
    loss = choose({"scores": real}, "kl", channels_second=True)
    assert loss.values([after], [real]).mean() < loss.values([before], [real]).mean()


def test_a_keras_file_becomes_a_tflite(folder, tmp_path):
    made = qat.quantize(folder / "net.keras", folder / "nhwc.npy", out=tmp_path, io_dtype="int8")
    assert made.path.name == "net_int8.tflite" and made.exact == 1.0
    assert inspect(made.path).inputs[0].dtype == "int8"


def test_a_half_precision_tflite_becomes_an_int8_one(tflite, folder, tmp_path):
    made = qat.quantize(tflite, folder / "nhwc.npy", out=tmp_path)
    assert made.path.name == "half_int8.tflite" and made.exact == 1.0 and made.ratio > 1.2


@pytest.mark.parametrize("recipe", ["static_wi8_ai8", "dynamic_wi8_afp32", "weight_only_wi8_afp32"])
def test_ai_edge_quantizer_does_what_its_recipes_say(recipe, tflite, folder, tmp_path):
    """Of float16 weights, without a signature: the tool alone returns the file unchanged, or refuses it."""
    made = qat.quantize(tflite, folder / "nhwc.npy", tool="aeq", recipe=recipe, out=tmp_path)
    assert "int8" in inspect(made.path).bits() and "float16" not in inspect(made.path).bits()
    assert made.error_percent < 10


def test_expansion_keeps_the_function(tflite, folder):
    from qat.baselines.expanded import expanded

    x = np.load(folder / "nhwc.npy")[:1]
    (before,) = open_session(tflite).run(x)
    session = open_session_of(expanded(tflite))
    (after,) = session.run(x)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert "DEQUANTIZE" not in session.ops()


def open_session_of(raw):
    from qat.runtimes import TFLITE

    return TFLITE.open(raw)


def test_other_tools_by_the_same_call(folder, tmp_path):
    made = qat.quantize(folder / "old.onnx", folder / "nchw.npz", tool="onnxruntime", out=tmp_path)
    assert made.path.name == "old_onnxruntime_int8.onnx" and made.error_percent < 20
    made = qat.quantize(folder / "net.keras", folder / "nhwc.npy", tool="tflite", recipe="fp16", out=tmp_path)
    assert made.path.name == "net_tflite_fp16.tflite" and made.error_percent < 1
    with pytest.raises(ConfigError, match=r"the tool 'aeq' quantizes .tflite files, not .*net.onnx"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", tool="aeq")
    with pytest.raises(ConfigError, match=r"has no recipe 'static_min' \(did you mean"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", tool="onnxruntime", recipe="static_min", out=tmp_path)


def test_baselines_of_a_file(folder, tflite, tmp_path):
    x = [np.load(folder / "nchw.npz")["pixels"][:16]]
    names = [b.name for b in qat.ptq_baselines(folder / "old.onnx", x, tmp_path) if b.error is None]
    assert names == ["float", "onnxruntime_dynamic", *(f"onnxruntime_static_{m}" for m in ("minmax", "entropy", "percentile"))]
    made = qat.ptq_baselines(tflite, [np.load(folder / "nhwc.npy")[:16]], tmp_path)
    assert [b.name for b in made if b.error is None] == [
        "float", "aeq_dynamic_wi8_afp32", "aeq_weight_only_wi8_afp32", "aeq_static_wi8_ai8",
    ]  # fmt: skip


def test_a_run_that_quantizes_nothing_is_an_error(folder, tmp_path):
    with pytest.raises(ConfigError, match="quantizes nothing"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", exclude=[".*"], out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_rules_and_exceptions(folder, tmp_path):
    made = qat.quantize(folder / "net.onnx", folder / "nchw.npz", exclude=["head"], rules=["op=conv2d,bits=4"], out=tmp_path)
    assert made.quantized == (2, 3) and made.path.name == "net_int4.onnx"
    assert rule_of("scope=^a,b$,bits=4").scope == "^a,b$"
    for text, message in (("bit=4", r"no key=value \(did you mean 'bits'\?\)"), ("bits=40", "less than or equal to 16")):
        with pytest.raises(ConfigError, match=message):
            rule_of(text)


def test_names_by_the_convention_of_the_field():
    endings = {name: ending_of(recipe) for name, recipe in builtin_recipes().items()}
    assert endings["static_wi8_ai8"] == endings["static_wi8_ai8_per_tensor"] == "int8"
    assert (endings["static_wi4_ai8"], endings["float16"], endings["dynamic_wi8_afp32"]) == ("int4", "fp16", "dynamic")
    assert endings["static_wi8_ai16"] == "int16x8"


def test_data(folder, tmp_path, caplog):
    options = {"out": tmp_path, "overwrite": True}
    made = qat.quantize(folder / "net.onnx", folder / "photos", scale="-1..1", **options)
    assert made.data == f"24 of 24 images of {folder / 'photos'}, 8x8, values from -1 to 1"
    made = qat.quantize(folder / "net.onnx", [(np.zeros((8, 3, 8, 8)) + i, None) for i in range(4)], samples=16, **options)
    assert made.data == "16 of 16 samples of the arrays given"
    made = qat.quantize(folder / "net.onnx", "random", **options)
    assert "its answers are not" in caplog.text and made.data == "64 random samples"
    wrong = [
        (None, DataError, "no data to run the model on"),
        (folder / "photos", ConfigError, "in which range it wants its pixels: give scale, one of 0..1"),
        (
            folder / "nhwc.npy",
            DataError,
            r"data for input 'pixels' have the shape \(96, 8, 8, 3\), the model wants \(samples, 3, 8, 8\)",
        ),
        (folder / "none.npz", DataError, "no such file"),
        ("nonsense", DataError, "is no folder, no .npz or .npy file"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, DataError, "has no array 'pixels'"),
    ]
    for data, kind, message in wrong:
        with pytest.raises(kind, match=message):
            qat.quantize(folder / "net.onnx", data, **options)


def test_a_folder_and_encodings_that_lie_there_are_said_before_the_work(folder, tmp_path):
    given = tmp_path / "given.onnx"
    given.mkdir()
    with pytest.raises(DataError, match="is a folder, not a file"):
        qat.quantize(given, "random")
    (tmp_path / "net_int8.onnx.encodings.json").write_text("{}")
    with pytest.raises(ExportError, match=r"encodings\.json exists already"):
        qat.quantize(folder / "net.onnx", out=tmp_path)  # nor are data asked for


def test_free_sizes_are_set():
    wanted = Wanted("x", (None, 3, None, None))
    assert wanted.sized((48, 320)).shape == (None, 3, 48, 320)
    with pytest.raises(DataError, match="a size of 10 does not fit"):
        Wanted("x", (None, 3, 8, 8)).sized((10, 8))
    assert [len(b[0]) for b in batches((np.zeros((20, 2)),), 8, (0,))] == [8, 8]
    assert [len(b[0]) for b in batches((np.zeros((5, 2)),), 8, (0,))] == [5]


def write_two_inputs(path, x, state):
    """A product of ``x`` and a matrix, plus a state, of the given sizes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "dense"), helper.make_node("Add", ["m", "state"], ["y"], "add")]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("state", state))]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("m", "y")]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [tensor("w", 4, 4)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_batch_that_one_input_fixes_is_that_of_all(tmp_path):
    path = write_two_inputs(tmp_path / "net.onnx", ["frames", 4], [1, 4])
    made = qat.quantize(path, {name: RNG.normal(size=(32, 4)) for name in ("x", "state")}, out=tmp_path, estimator="minmax")
    assert made.exact == 1 and made.quantized == (2, 2)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (["n", "t", 4], ["n", 1, 4], r"input 'x' takes \(samples, any, 4\): random data need them: give an .npz with arrays of"),
        (["n", 2**31, 4], ["n", 1, 4], r"input 'x' takes \(samples, 2147483648, 4\): one sample is more than random data are"),
        ([1, "t", 4], [2, 1, 1, 4], r"input 'x' takes \(samples, any, 4\): random data need them"),
    ],
)
def test_inputs_that_cannot_be_sampled_are_named(x, state, message, tmp_path):
    with pytest.raises(DataError, match=message):
        qat.quantize(write_two_inputs(tmp_path / "net.onnx", x, state), "random", out=tmp_path)


@pytest.mark.parametrize(
    ("x", "state", "axis"),
    [(["n", 4], [2, "n", 4], 1), ([1, 4], [2, 1, 4], 1), ([1, 4], [2, 4], None), (["n", 4], [], None)],
)
def test_states_have_their_samples_on_any_axis(x, state, axis, tmp_path):
    path = write_two_inputs(tmp_path / "net.onnx", x, state)
    sizes = [n if isinstance(n, int) else 2 for n in state]
    stacked = RNG.normal(size=(32, *(1 if place == axis else n for place, n in enumerate(sizes))))
    frames = RNG.normal(size=(32, 4))
    forms = [stacked] if axis is None else [stacked, np.concatenate(list(stacked), axis)]
    made = [qat.quantize(path, {"x": frames, "state": y}, out=tmp_path, estimator="minmax", overwrite=True) for y in forms]
    assert all(one.exact == 1 and one.quantized == (2, 2) for one in made) and len({one.error_percent for one in made}) == 1
    artifact = open_session(made[0].path)
    assert [i.shape for i in artifact.inputs] == [i.shape for i in open_session(path).inputs]


def test_a_file_with_a_state_is_ranked_and_trained(tmp_path):
    path = write_two_inputs(tmp_path / "net.onnx", ["n", 4], [2, "n", 4])
    data = {"x": RNG.normal(size=(24, 4)), "state": RNG.normal(size=(2, 24, 4))}
    with pytest.raises(ConfigError, match="no recipe that quantizes anything keeps an error"):
        qat.quantize(path, data, max_error=0.1, estimator="minmax")
    made = qat.quantize(path, data, start="brecq", train=1, estimator="importance", progress=False)
    assert made.exact == 1 and made.steps == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "10x"}, "train is a time"), ({"tool": "onnx"}, "unknown tool 'onnx'"), ({"samples": 0}, "at least 1"),
        ({"train": 3, "tool": "aeq"}, "cannot train"), ({"rules": ["bits=4"], "tool": "aeq"}, "recipes of its own"),
    ],
)  # fmt: skip
def test_wrong_options_are_said_before_the_work(options, message):
    with pytest.raises(ConfigError, match=message):
        Request(**options)


# --- the command ---


@pytest.mark.slow
def test_the_command_goes_on_after_a_file_that_fails(folder, tmp_path, capfd):
    qat_command = CommandLine(folder, capfd)
    done = qat_command("quantize", "net.onnx", "none.onnx", "old.onnx", "--data", "nchw.npz", "--out", tmp_path)
    assert done.returncode == 2
    assert "none.onnx failed" in done.stdout
    assert "error: no such file: none.onnx\n" in done.stderr
    assert "2 files" in done.stdout and {p.name for p in tmp_path.glob("*.onnx")} == {"net_int8.onnx", "old_int8.onnx"}
    done = qat_command("quantize", "net.onnx", "--data", "nchw.npz", "--out", tmp_path, "--json")
    assert done.returncode == 2 and "exists" in json.loads(done.stdout)["files"][0]["failed"]
    done = qat_command("quantize", "net.onnx", "--data", "nchw.npz", "--out", tmp_path, "--force", "--json", "--quantize", "fp16")
    (file,) = json.loads(done.stdout)["files"]
    assert done.returncode == 0 and file["path"].endswith("net_fp16.onnx") and file["error_percent"] < 1
    done = qat_command("quantize", "net.onnx", "--data", "nchw.npz", "-o", "net.onnx", "--train", "10m")
    assert done.returncode == 2 and "cannot write into net.onnx" in done.stderr  # before the ten minutes
    done = qat_command("quantize", "net.onnx", "--size", "8")
    assert done.returncode == 2 and done.stderr.startswith("error: --size is HEIGHTxWIDTH")


def test_files_are_compared_without_a_configuration(folder, tmp_path, capfd):
    qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path)
    command = CommandLine(folder, capfd)
    done = command("compare", "net.onnx", tmp_path / "net_int8.onnx", "--data", "nchw.npz", "--json")
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)["results"][0]["entries"]
    assert [e["name"] for e in entries] == ["net", "net_int8"] and entries[1]["agreement"] > 80 and entries[1]["sqnr_db"] > 15
    done = command("compare", "net.onnx", "net.keras", "--data", "nchw.npz")
    assert done.returncode == 2 and "'net.keras' is no artifact" in done.stderr
    done = command("compare", "net.onnx", tmp_path / "net_int8.onnx")
    assert done.returncode == 2 and "no data to" in done.stderr


@pytest.mark.slow
def test_a_page_shows_the_samples_and_the_plan(folder, tmp_path, capfd):
    command, page = CommandLine(folder, capfd), tmp_path / "report.html"
    done = command("quantize", "net.onnx", "old.onnx", "--data", "nchw.npz", "--out", tmp_path, "--report", page, "--json")
    made = json.loads(done.stdout)["files"]
    text = page.read_text()
    for file in made:
        assert file["samples"] and text.count(f">{file['error_percent']:.2f} %<") >= 1
        assert all(f">{sample['output_mse']:.3g}<" in text for sample in file["samples"])
    assert "The plan, layer by layer" in text and "2 files are quantized" in text
    done = command("quantize", "net.onnx", "--data", "nchw.npz", "--out", tmp_path / "again", "--report", page)
    assert done.returncode == 2 and "exists already" in done.stderr
    assert not (tmp_path / "again").exists()  # said before the work


def test_a_factory(folder, tmp_path, capfd):
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)\n"
        "    return torch.nn.Sequential(*layers).eval()\n"
        "def data():\n"
        "    return torch.rand(32, 3, 8, 8)\n"
    )
    sys.modules.pop("my_nets", None)
    done = CommandLine(tmp_path, capfd)("quantize", "my_nets:make", "--data", folder / "nchw.npz")
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "make_int8.onnx").is_file()
    done = CommandLine(tmp_path, capfd)("quantize", folder / "net.onnx", "--data", "my_nets:data", "--out", ".", "--train", "8")
    assert done.returncode == 0 and "8 steps of training without labels" in done.stdout


def landmarks_onnx(path):
    """An image to 24 coordinates between 0 and 200, each near a place of its own, and to a number with a larger error."""
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["c"], "features", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "places"], ["points"], "head", transB=1),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["age"], "other", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n]) for name, n in (("points", 24), ("age", 1))]
    places = numpy_helper.from_array(np.linspace(5, 195, 24, dtype=np.float32), "places")
    weights = [tensor("w", 8, 3, 3, 3), tensor("b", 8), tensor("w2", 24, 288), places, tensor("w3", 1, 288), tensor("b3", 1)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def landmarks_keras(path):
    import keras

    keras.utils.set_random_seed(0)
    head, x = keras.layers.Dense(24, name="points"), keras.Input((8, 8, 3))
    y = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    net = keras.Model(x, [head(y), keras.layers.Dense(1, name="age")(y)])
    head.bias.assign(np.linspace(5, 195, 24))
    net.save(path)
    return path


def points_off(made, source, data):
    """Return how far the 24 coordinates of an artifact are from float's, on average."""
    x = np.load(data)
    x = x["pixels"] if str(data).endswith("npz") else x
    (points,) = (y for y in open_session(made).run(x) if y.shape[-1] == 24)
    if source.suffix == ".onnx":
        (real,) = (y for y in open_session(source).run(x) if y.shape[-1] == 24)
    else:
        import keras

        real = keras.models.load_model(source).predict(x, verbose=0)[0]
    return float(np.abs(points - real).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("write", "name"), [(landmarks_onnx, "net.onnx"), (landmarks_keras, "net.keras")])
def test_coordinates_leave_unrounded_where_their_grid_makes_the_error(write, name, folder, tmp_path):
    data = folder / "nhwc.npy" if name.endswith("keras") else folder / "nchw.npz"
    path = write(tmp_path / name)
    rounded = qat.quantize(path, data, outputs="int8", out=tmp_path / "rounded")
    free = qat.quantize(path, data)
    assert rounded.unrounded == () and "points" in free.unrounded
    assert points_off(free.path, path, data) < points_off(rounded.path, path, data) / 2
    assert free.exact == rounded.exact == 1.0
    assert free.bytes < rounded.bytes + 4096  # the weights stay integers
    assert "256 values are few" in str(Quantization((free,)).page())


@pytest.mark.slow
def test_the_estimator_nearest_to_float_is_taken(folder, tmp_path):
    """A few pixels lie far beyond all others: the whole range leaves few integers for the rest."""
    x = np.random.default_rng(1).normal(size=(160, 3, 8, 8)).astype(np.float32)
    x[::16, 0, 0, 0] = 400
    path = folder / "net.onnx"
    tried = {name: qat.quantize(path, x, estimator=name, out=tmp_path / name) for name in TRIED}
    made = qat.quantize(path, x, out=tmp_path)
    assert made.estimator != "minmax" and tried["minmax"].estimator == "minmax"
    assert made.path.read_bytes() == tried[made.estimator].path.read_bytes()
    assert qat.quantize(path, x, rules=["estimator=ema"], out=tmp_path / "own").estimator == ""


def test_scores_and_integer_outputs_are_rounded(folder, tmp_path):
    assert qat.quantize(folder / "net.onnx", folder / "nchw.npz", out=tmp_path).unrounded == ()
    made = qat.quantize(landmarks_keras(tmp_path / "net.keras"), folder / "nhwc.npy", io_dtype="int8")
    assert made.unrounded == ()


def test_a_rule_of_ones_own_keeps_an_output_on_its_grid(folder, tmp_path):
    path = landmarks_onnx(tmp_path / "net.onnx")
    made = qat.quantize(path, folder / "nchw.npz", rules=["op=dense,mode=static"])
    assert made.unrounded == ()


def test_all_outputs_leave_unrounded_where_that_is_wished(folder, tmp_path):
    """Scores never leave so by themselves: they are rounded where a class is chosen, and where a detector's threshold decides."""
    source, data = folder / "net.onnx", folder / "nchw.npz"
    made = qat.quantize(source, data, outputs="float", out=tmp_path)
    assert made.unrounded == ("scores",) and made.exact == 1.0
    rounded = qat.quantize(source, data, estimator=made.estimator, out=tmp_path / "rounded")
    assert made.error_percent < 1.2 * rounded.error_percent  # whose last biases are corrected; those of a dynamic kernel are not
    (scores,) = open_session(made.path).run(np.load(data)["pixels"])
    assert len(np.unique(scores)) > 256


def test_an_output_that_no_kernel_leaves_unrounded_is_named(tmp_path, caplog):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    torch.onnx.export(net, (torch.zeros(1, 3, 8, 8),), tmp_path / "net.onnx", output_names=["means"], dynamo=False)
    x = RNG.normal(size=(64, 3, 8, 8)).astype(np.float32)
    assert qat.quantize(tmp_path / "net.onnx", x, outputs="float", estimator="minmax").unrounded == ()
    assert "net: no kernel leaves the outputs 'means' unrounded: their last operators have no weights" in caplog.text


def test_outputs_that_cannot_be_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="outputs is auto, int8 or float, not 'uint8'"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", outputs="uint8", out=tmp_path)
    with pytest.raises(ConfigError, match="outputs that leave as float have no io_dtype int8: leave one out"):
        qat.quantize(folder / "net.onnx", folder / "nchw.npz", outputs="float", io_dtype="int8", out=tmp_path)


def test_a_file_that_grows_says_why(tmp_path, caplog):
    weight, x = (RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "only")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx")
    made = qat.quantize(tmp_path / "net.onnx", np.tile(x, (40, 1)))
    assert made.bytes > made.float_bytes
    assert "net_int8.onnx is larger than the float file: its 16 weights are few" in caplog.text
