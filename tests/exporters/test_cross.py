"""Every pair of framework and format, by the same calls: nets whose every operator is an integer kernel, equal in every bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qat
from qat.errors import ConfigError, ExportError
from qat.exporters.tflite.from_torch import in_tensorflow
from qat.frameworks import adapter_for
from qat.program import interpreter as reference
from qat.program.layout import LAYOUTS, permutation, to_layout
from qat.program.program import FrameworkBlock, Program, Value
from qat.runtimes import open_session
from support.programs import NONE, Sketch
from support.rows import every_second

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
F = torch.nn.functional

PAIRS = [(framework, suffix) for framework in ("torch", "keras") for suffix in (".onnx", ".tflite")]
TARGET = {".onnx": "onnxruntime", ".tflite": "litert"}
KERNELS = {".onnx": "NCHW", ".tflite": "NHWC"}


# --- layouts -------------------------------------------------------------------------------------------------------------


def same_in_both(program: Program, feeds: list[np.ndarray], layout: str, border: str | None = None) -> Program:
    """Check a converted program against the original, value by value."""
    converted = to_layout(program, layout, border)
    before = reference.run(program, *feeds)
    laid = [converted.values[n].laid(x) for n, x in zip(converted.inputs, feeds, strict=True)]
    after = reference.run(converted, *laid)
    for name in set(before) & set(after):
        value = converted.values[name]
        assert np.array_equal(value.laid(before[name]), after[name]), name
        assert after[name].shape[1:] == value.shape[1:]
    for old, new in zip(program.outputs, converted.outputs, strict=True):
        assert np.array_equal(before[old], converted.values[new].unlaid(after[new]))
    return converted


def transposes(program: Program) -> int:
    return sum(step.kind == "transpose" for step in program.instructions)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kinds=st.lists(st.integers(0, 8), min_size=1, max_size=7), border=st.sampled_from(LAYOUTS))
def test_any_program_computes_the_same_in_the_other_layout(seed, kinds, border):
    sketch = Sketch(seed, (2, 3, 6, 6))
    value = sketch.x
    for kind in kinds:
        shape = sketch.grid[value].shape
        image = len(shape) == 4 and min(shape[2:]) > 2
        if kind == 0 and image:
            value = sketch.conv(value, 4, padding=((1, 0), (0, 1)))
        elif kind == 1 and image:
            value = sketch.conv(value, shape[1], groups=shape[1], padding=((1, 1), (1, 1)))
        elif kind == 2 and image:
            value = sketch.pool("max_pool2d", value, (3, 2), (2, 1), ((1, 1), (0, 1)))
        elif kind == 3:
            value = sketch.binary("add", value, sketch.relu(value))
        elif kind == 4 and len(shape) == 4:
            value = sketch.concat((value, value), 1 + seed % 3)
        elif kind == 5 and image:
            value = sketch.pad(value, ((1, 0), (0, 2)))
        elif kind == 6 and len(shape) == 4:
            value = sketch.mean(value, keepdims=bool(seed % 2))
        elif kind == 7:
            value = sketch.reshape(value, (int(np.prod(shape[1:])),))
        elif kind == 8:
            value = sketch.dense(value, 6)
    program = sketch.program(sketch.real(value))
    same_in_both(program, [sketch.feeds["x"]], "NHWC", border)


def test_values_are_transposed_once_as_integers_and_only_where_layouts_meet():
    sketch = Sketch(0, (2, 3, 6, 6))
    stem = sketch.conv(sketch.x, 4, padding=((1, 1), (1, 1)))
    added = sketch.binary("add", stem, sketch.conv(stem, 4, padding=((1, 1), (1, 1)), groups=4))
    program = sketch.program(sketch.real(sketch.pool("max_pool2d", added, (2, 2), (2, 2), NONE)))
    kinds = [step.kind for step in same_in_both(program, [sketch.feeds["x"]], "NHWC").instructions]
    assert kinds == [
        "quantize", "transpose", "conv2d", "depthwise_conv2d", "add", "max_pool2d", "transpose", "dequantize",
    ]  # fmt: skip
    assert transposes(same_in_both(program, [sketch.feeds["x"]], "NHWC", "NHWC")) == 0
    assert to_layout(program, "NCHW") is program


def test_flattened_image_moves_the_weight_of_the_dense_layer_instead_of_the_image():
    sketch = Sketch(1, (2, 3, 6, 6))
    flat = sketch.reshape(sketch.conv(sketch.x, 4), (64,))
    program = sketch.program(sketch.real(sketch.dense(flat, 5)))
    assert transposes(same_in_both(program, [sketch.feeds["x"]], "NHWC", "NHWC")) == 0


def test_image_of_one_pixel_is_flattened_and_unflattened_without_a_transpose():
    sketch = Sketch(2, (2, 4, 6, 6))
    row = sketch.reshape(sketch.mean(sketch.x, keepdims=True), (4,))
    gate = sketch.conv(sketch.reshape(row, (4, 1, 1)), 4, (1, 1))
    program = sketch.program(sketch.real(sketch.reshape(gate, (4,))), sketch.real(row))
    assert transposes(same_in_both(program, [sketch.feeds["x"]], "NHWC", "NHWC")) == 0


def test_permutations_are_each_others_inverse():
    for rank in (4, 5):
        there, back = permutation(rank, "NCHW", "NHWC"), permutation(rank, "NHWC", "NCHW")
        assert tuple(np.argsort(there)) == back
    assert permutation(3, "NCHW", "NHWC") is None


# --- nets ----------------------------------------------------------------------------------------------------------------


class Block(torch.nn.Module):
    """A function of a few layers, as a module."""

    def __init__(self, layers, function):
        super().__init__()
        self.layers = torch.nn.ModuleDict(layers)
        self.function = function

    def forward(self, *xs):
        return self.function(self.layers, *xs)


def torch_nets():
    conv, linear, norm = torch.nn.Conv2d, torch.nn.Linear, torch.nn.BatchNorm2d

    def residual(m, x):
        x = F.relu6(m["norm"](m["stem"](x)))
        return m["head"]((x + m["project"](F.relu6(m["depthwise"](x)))).mean((2, 3)))

    def branches(m, x):
        x = torch.cat([F.relu(m["a"](x)), m["b"](x)], 1)
        return m["head"](torch.flatten(F.max_pool2d(x, 3, 2, 1), 1))

    def pooled(m, x):
        return m["head"](F.avg_pool2d(m["stem"](x), 2).flatten(1))

    def several(m, x, v):
        return m["stem"](x).mean((2, 3)) + m["row"](v)

    def distant(m, x):
        return m["large"](x) + m["small"](x)

    small = conv(3, 4, 3)
    with torch.no_grad():
        small.weight *= 1e-4
        small.bias *= 1e-4
    return {
        "distant": ({"large": conv(3, 4, 3), "small": small}, distant),
        "residual": (
            {"stem": conv(3, 8, 3, padding=1), "norm": norm(8), "depthwise": conv(8, 8, 3, padding=1, groups=8),
             "project": conv(8, 8, 1), "head": linear(8, 5)}, residual,
        ),
        "branches": ({"a": conv(3, 8, 3, 2, 1), "b": conv(3, 4, 3, 2, 1), "head": linear(48, 5)}, branches),
        "pooled": ({"stem": conv(3, 8, 3, padding=1), "head": linear(128, 5)}, pooled),
        "floating": ({"stem": conv(3, 8, 3), "head": conv(8, 4, 3)}, lambda m, x: m["head"](torch.sin(m["stem"](x)))),
        "images": ({"stem": conv(3, 8, 3), "head": conv(8, 2, 3, padding=1)}, lambda m, x: m["head"](F.relu(m["stem"](x)))),
        "several": ({"stem": conv(3, 8, 3), "row": linear(7, 8)}, several),
    }  # fmt: skip


def keras_nets():
    layers = keras.layers

    def residual(x):
        x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x)))
        y = layers.Conv2D(8, 1)(layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(x)))
        return layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Add()([x, y])))

    def branches(x):
        a, b = layers.Conv2D(8, 3, 2, "same", activation="relu")(x), layers.Conv2D(4, 3, 2, "same")(x)
        x = layers.MaxPooling2D(3, 2, "same")(layers.Concatenate()([a, b]))
        return layers.Dense(5)(layers.Flatten()(x))

    def pooled(x):
        return layers.Dense(5)(layers.Flatten()(layers.AveragePooling2D(2)(layers.Conv2D(8, 3, padding="same")(x))))

    def several(x, v):
        return layers.Add()([layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(x)), layers.Dense(8)(v)])

    def floating(x):
        return layers.Conv2D(4, 3)(keras.ops.sin(layers.Conv2D(8, 3)(x)))

    def images(x):
        return layers.Conv2D(2, 3, padding="same")(layers.Conv2D(8, 3, activation="relu")(x))

    def distant(x):
        tiny = keras.initializers.RandomNormal(stddev=1e-5, seed=0)
        return layers.Add()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3, kernel_initializer=tiny)(x)])

    nets = (distant, residual, branches, pooled, images, several, floating)
    return {net.__name__: net for net in nets}


def samples(framework: str, name: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    image = (3, 8, 8) if framework == "torch" else (8, 8, 3)
    shapes = [image, (7,)] if name == "several" else [image]
    return tuple(rng.normal(size=(16, *shape)).astype(np.float32) for shape in shapes)


def model_of(framework: str, name: str, xs: tuple[np.ndarray, ...]):
    if framework == "torch":
        torch.manual_seed(0)
        return Block(*torch_nets()[name]).eval()
    keras.utils.set_random_seed(0)
    inputs = [keras.Input(x.shape[1:]) for x in xs]
    return keras.Model(inputs, keras_nets()[name](*inputs))


def prepared_for(framework: str, name: str, target: str):
    """Return a calibrated model, and the data that it was calibrated on."""
    xs = samples(framework, name)
    data = [xs if len(xs) > 1 else xs[0]]
    example = tuple(torch.from_numpy(x) for x in xs) if framework == "torch" else None
    return qat.calibrate(qat.prepare(model_of(framework, name, xs), example, target=target), data), data


@pytest.mark.parametrize("name", ["distant", "residual", "branches", "pooled", "images", "several"])
@pytest.mark.parametrize(("framework", "suffix"), PAIRS)
def test_integer_nets_are_equal_in_every_bit(framework, suffix, name, tmp_path):
    model, data = prepared_for(framework, name, TARGET[suffix])
    assert not model.plan.floats()
    artifact = qat.export(model, tmp_path / f"m{suffix}", verify=data)
    assert (artifact.parity.exact, artifact.parity.first_difference) == (1.0, None)
    adapter, xs = adapter_for(framework), samples(framework, name)
    program = adapter.lower(model)
    same_in_both(program, list(xs), KERNELS[suffix])
    computed, expected = adapter.grid_values(model, *xs), reference.run(program, *xs)
    assert all(np.array_equal(computed[value], expected[value]) for value in computed)


@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx")])
def test_average_that_leaves_its_padding_out_is_exact(target, suffix, tmp_path):
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.AveragePooling2D(3, 2, "same")(keras.layers.Conv2D(4, 3)(inputs))
    pooled = keras.layers.AveragePooling2D(2, 1, "same")(pooled)
    net = keras.Model(inputs, keras.layers.Conv2D(2, 1)(pooled))
    (x,) = samples("keras", "images")
    model = qat.calibrate(qat.prepare(net, target=target), [x])
    assert not model.plan.floats()
    assert qat.export(model, tmp_path / f"m{suffix}", verify=[x]).parity.exact == 1.0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("framework", "suffix"), PAIRS)
def test_layout_of_the_artifacts_images_is_the_users_choice(framework, suffix, layout, tmp_path):
    model, data = prepared_for(framework, "images", TARGET[suffix])
    artifact = qat.export(model, tmp_path / f"m{suffix}", verify=data, layout=layout)
    session = open_session(artifact.path)
    sizes = [session.inputs[0].shape[1:], session.outputs[0].shape[1:]]
    assert sizes == ([(3, 8, 8), (2, 6, 6)] if layout == "NCHW" else [(8, 8, 3), (6, 6, 2)])
    assert artifact.parity.exact == 1.0


def test_images_of_pytorch_are_nhwc_in_a_tflite_unless_said_otherwise(tmp_path, caplog):
    model, data = prepared_for("torch", "images", "litert")
    default = qat.export(model, tmp_path / "default.tflite", verify=data)
    assert "default.tflite takes and returns images as NHWC" in caplog.text
    assert "layout='NCHW' keeps them so" in caplog.text
    caplog.clear()
    kept = qat.export(model, tmp_path / "kept.tflite", verify=data, layout="NCHW")
    assert "images" not in caplog.text
    shapes = [open_session(artifact.path).inputs[0].shape[1:] for artifact in (default, kept)]
    assert shapes == [(8, 8, 3), (3, 8, 8)]
    assert default.parity.exact == kept.parity.exact == 1.0
    named = qat.export(model, tmp_path / "named.tflite", layout="NHWC")
    assert named.path.read_bytes() == default.path.read_bytes()


def test_tensors_of_four_axes_that_are_no_images_keep_their_layout(tmp_path, caplog):
    xs = np.random.default_rng(0).normal(size=(8, 2, 6, 5)).astype(np.float32)  # batch, heads, tokens, channels
    net = Block({"head": torch.nn.Linear(5, 4)}, lambda m, x: m["head"](x).relu())
    model = qat.calibrate(qat.prepare(net.eval(), torch.from_numpy(xs), target="litert"), [xs])
    artifact = qat.export(model, tmp_path / "m.tflite", verify=[xs])
    assert open_session(artifact.path).inputs[0].shape[1:] == (2, 6, 5)
    assert artifact.parity.exact == 1.0
    assert "images" not in caplog.text


def test_artifacts_of_both_layouts_are_compared_on_the_same_data(tmp_path):
    model, (x,) = prepared_for("torch", "residual", "litert")
    labels = np.arange(len(x)) % 5
    artifacts = [qat.export(model, tmp_path / f"{layout}.tflite", layout=layout) for layout in LAYOUTS]
    artifacts.append(qat.export(model, tmp_path / "default.tflite"))
    entries = qat.compare(artifacts, [(x, labels)], latency_runs=1).entries
    assert len({entry.top1 for entry in entries}) == 1
    assert entries[0].top1 is not None


def test_unknown_layout_is_named(tmp_path):
    model, _ = prepared_for("torch", "images", "onnxruntime")
    with pytest.raises(ConfigError, match=r"'nchw' is none of NCHW, NHWC \(did you mean 'NCHW'\?\)"):
        qat.export(model, tmp_path / "m.onnx", layout="nchw")


def test_path_of_another_target_names_the_targets_that_write_it(tmp_path):
    model, _ = prepared_for("torch", "images", "onnxruntime")
    with pytest.raises(ExportError, match=r"'onnxruntime', which runs \.onnx files.*a \.tflite, prepare .* target 'litert'"):
        qat.export(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


# --- what stays float ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("framework", "suffix"), PAIRS)
def test_float_operators_are_translated_and_spliced_between_the_kernels(framework, suffix, tmp_path):
    if (framework, suffix) == ("keras", ".onnx"):
        pytest.importorskip("tf2onnx")
    model, data = prepared_for(framework, "floating", TARGET[suffix])
    assert len(model.plan.floats()) == 1
    artifact = qat.export(model, tmp_path / f"m{suffix}", verify=data)
    assert artifact.parity.exact > 0.99 and artifact.parity.max_lsb <= 1  # no two libraries round a sine alike


def float_operators():
    nn = torch.nn
    return {
        "gelu": F.gelu, "hardswish": F.hardswish, "mish": F.mish, "softplus": F.softplus, "leaky": F.leaky_relu,
        "logarithm": lambda x: F.log_softmax(x, 1), "normalized": lambda x: F.normalize(x, dim=1),
        "divided": lambda x: x / (x.abs() + 1), "chosen": lambda x: torch.where(x > 0, x, 2 * x), "powers": lambda x: x.pow(2),
        "shuffled": nn.ChannelShuffle(2), "pixels": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
        "larger": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        "nearest": lambda x: F.interpolate(x, scale_factor=2),
        "rolled": lambda x: torch.roll(x, 1, 2), "flipped": lambda x: x.flip(2), "strided": lambda x: x[:, :, 1:5, ::2],
        "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        "average": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
        "groups": lambda x: F.group_norm(x, 2), "batch": lambda x: F.batch_norm(F.relu(x), torch.ones(8), torch.ones(8)),
        "rows": lambda x: F.layer_norm(x.flatten(2).transpose(1, 2), (8,)).transpose(1, 2).reshape(-1, 8, 8, 8),
        "largest": lambda x: x.flatten(2).max(2)[0][:, :, None, None] + x, "summed": lambda x: torch.stack([x, x], 1).sum(1),
        "attended": lambda x: F.scaled_dot_product_attention(x, x, x),
        "multiplied": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        "convolved": lambda x: F.conv1d(x.flatten(2), torch.ones(4, 2, 3), groups=4, padding=1),
    }  # fmt: skip


@pytest.mark.parametrize("name", every_second(float_operators()))
def test_pytorch_operators_compute_the_same_in_tensorflow(name):
    class Module(torch.nn.Module):
        def forward(self, x):
            return (float_operators()[name](x),)

    values = {"x": Value("x", (None, 8, 8, 8)), "y": Value("y", (None, 8, 8, 8))}
    program = Program("net", "NCHW", "xnnpack", "litert", "static_wi8_ai8", ("x",), ("y",), values, ())
    module = Module().eval()
    x = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    (got,) = in_tensorflow(program, FrameworkBlock("torch", module, ("x",), ("y",)))(x.numpy())
    np.testing.assert_allclose(np.asarray(got), module(x)[0].numpy(), rtol=1e-4, atol=1e-5)


def test_operator_without_a_counterpart_is_named_with_what_else_there_is():
    xs = samples("torch", "images")
    net = Block({"stem": torch.nn.Conv2d(3, 4, 3)}, lambda m, x: torch.special.bessel_j0(m["stem"](x)))
    with pytest.raises(ExportError, match=r"cannot hold aten\.special_bessel_j0.*, or prepare the part of the model before it$"):
        qat.prepare(net.eval(), torch.from_numpy(xs[0]), target="litert")


def test_a_constant_of_pytorch_is_quantized_as_litert_holds_it(tmp_path):
    """LiteRT's grid is entered by a product with the reciprocal of the scale, which rounds otherwise than a division."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.position = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.randn(1, 8, 8, 8))

        def forward(self, x):
            return self.conv(x) + self.position

    x = torch.randn(8, 3, 8, 8)
    prepared = qat.calibrate(qat.prepare(Net(), x, target="litert"), [x])
    assert prepared.plan.floats() == {}
    (constant,) = (p.op.output for p in prepared.plan.ops if p.op.kind == "constant")
    scale = np.float32(prepared.grids[prepared.plan.group_of[constant]].encoding.scale)
    halves = (np.arange(-40, 40) + 0.5).astype(np.float32) * scale
    near = np.concatenate([halves, *(np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf))])
    differing = near[np.rint(near / scale) != np.rint(near * (np.float32(1) / scale))]
    assert len(differing)
    with torch.no_grad():
        prepared.position.copy_(torch.from_numpy(np.resize(differing, (1, 8, 8, 8))))
    assert qat.export(prepared, tmp_path / "m.tflite", verify=[x]).parity.exact == 1.0


def test_float_operator_of_keras_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("tf2onnx")
    tf = pytest.importorskip("tensorflow")
    inputs = keras.Input((4,))
    net = keras.Model(inputs, keras.layers.Dense(3, activation=tf.math.lgamma)(inputs))
    prepared = qat.prepare(net, recipe="weightonly_wi8_afp32", target="onnxruntime")
    with pytest.raises(ExportError, match=r"\(lgamma\) cannot be written to ONNX: tf2onnx has no form of Lgamma.*litert"):
        qat.export(prepared, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
