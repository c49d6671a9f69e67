"""A whole ``.tflite`` becomes a module: its names, its layout, what it refuses."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

import qat
from qat.errors import CaptureError, CustomOperatorError, DataError, QatError
from qat.runtimes.litert import LiteRTSession
from qat.sources.tflite.read import read_tflite
from support.tflite_files import TFLiteFile

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("f") / np.sqrt(np.prod(shape[1:]))


def net(file: TFLiteFile, half: bool = False) -> list[int]:
    """Images of 16 x 12: convolutions with PReLU, a larger number of channels, two heads of boxes, one of classes."""

    def constant(array: np.ndarray, name: str) -> int:
        if not half:
            return file.constant(array, name=name)
        stored = file.constant(array, "float16", name)
        return file.operator("DEQUANTIZE", [stored], version=3, name=f"{name}_dequantized", shape=array.shape)

    def conv(x: int, name: str, inputs: int, outputs: int, stride: int = 1) -> int:
        return file.operator(
            "CONV_2D",
            [x, constant(weights(outputs, 3, 3, inputs), f"{name}/kernel"), constant(weights(outputs), f"{name}/bias")],
            options="Conv2D", padding=0, strideH=stride, strideW=stride, name=name,
        )  # fmt: skip

    x = file.input((1, 16, 12, 3))
    stem = file.operator("PRELU", [conv(x, "stem", 3, 8, 2), constant(weights(1, 1, 8) / 4, "stem/slopes")], name="stem/prelu")
    pooled = file.operator(
        "MAX_POOL_2D", [stem], options="Pool2D", padding=0, filterHeight=2, filterWidth=2, strideH=2, strideW=2
    )
    wide = file.operator("PAD", [pooled, file.constant([[0, 0], [0, 0], [0, 0], [0, 4]])], options="Pad")
    block = file.operator("ADD", [conv(pooled, "block", 8, 12), wide], options="Add", fusedActivationFunction=1, name="block/add")
    boxes = [
        file.operator("RESHAPE", [conv(y, f"boxes{i}", n, 8), file.constant([1, -1, 4])], options="Reshape")
        for i, (y, n) in enumerate(((stem, 8), (block, 12)))
    ]
    joined = file.operator("CONCATENATION", boxes, options="Concatenation", axis=1, name="boxes")
    mean = file.operator("MEAN", [block, file.constant([1, 2])], options="Reducer")
    classes = file.operator(
        "FULLY_CONNECTED", [mean, constant(weights(5, 12), "head/weight"), constant(weights(5), "head/bias")],
        options="FullyConnected", name="classes",
    )  # fmt: skip
    return [joined, classes, stem]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = TFLiteFile()
    return file.save(tmp_path / "net.tflite", net(file))


def images(count: int) -> np.ndarray:
    return RNG.random((count, 16, 12, 3)).astype("f")


@pytest.mark.parametrize("half", [False, True])
def test_a_net_computes_what_its_file_does(tmp_path: Path, half: bool) -> None:
    file = TFLiteFile()
    path, x = file.save(tmp_path / "net.tflite", net(file, half)), images(3)
    with torch.no_grad():
        found = read_tflite(path)(torch.from_numpy(x))
    for have, want in zip(found, LiteRTSession(path).run(x), strict=True):
        np.testing.assert_allclose(have.numpy(), want, atol=1e-5)


def test_an_output_of_one_value_is_held_against_the_runtime_by_its_size(tmp_path: Path) -> None:
    file = TFLiteFile()
    x, weight = file.input((1, 300)), file.constant(np.abs(weights(1, 300)))
    y = file.operator("FULLY_CONNECTED", [x, weight, file.constant(np.array([1000.0]))], options="FullyConnected")
    model = qat.load(file.save(tmp_path / "score.tflite", [y]))
    assert model.meta["qat_agreement"].worst < 1e-6  # its rounding alone is 6e-5


@pytest.mark.parametrize("half", [False, True])
def test_parameters_and_operators_are_named_after_the_file(tmp_path: Path, half: bool) -> None:
    file = TFLiteFile()
    module = read_tflite(file.save(tmp_path / "net.tflite", net(file, half)))
    assert {"stem.kernel", "stem.slopes", "head.weight"} <= {name for name, _ in module.named_parameters()}
    scopes = {op.scope for op in qat.plan(module, torch.from_numpy(images(2)), target="litert").graph.ops}
    assert {"block.add", "boxes0", "classes"} <= {scope.removesuffix("_1") for scope in scopes}


def test_the_artifact_takes_and_returns_images_as_the_file_and_transposes_nothing(path: Path, tmp_path: Path) -> None:
    x = images(8)
    model = qat.calibrate(qat.prepare(read_tflite(path), torch.from_numpy(x[:2]), target="litert"), [x])
    assert not model.plan.floats()
    made = qat.export(model, tmp_path / "int8.tflite", verify=[x], io_dtype="float32")
    assert made.parity is not None and made.parity.exact == 1.0
    session, original = LiteRTSession(made.path), LiteRTSession(path)
    assert "TRANSPOSE" not in session.ops()
    assert session.ops()["PAD"] == 1  # that of the channels: SAME padding is the convolutions' own
    for mine, theirs in ((session.inputs, original.inputs), (session.outputs, original.outputs)):
        assert [t.shape[1:] for t in mine] == [t.shape[1:] for t in theirs]
        assert [t.name for t in mine] == [t.name for t in theirs]
    assert all(np.abs(a - b).max() < 0.1 for a, b in zip(session.run(x), original.run(x), strict=True))


def test_averages_without_their_padding_are_integers(tmp_path: Path) -> None:
    file = TFLiteFile()
    stem = [file.input((1, 7, 8, 3)), file.constant(weights(4, 1, 1, 3)), file.constant(weights(4))]
    y = file.operator("CONV_2D", stem, options="Conv2D", padding=0, strideH=1, strideW=1)
    pool = file.operator("AVERAGE_POOL_2D", [y], options="Pool2D", padding=0, filterHeight=3, filterWidth=3, strideH=2, strideW=2)
    path, x = file.save(tmp_path / "pool.tflite", [pool]), RNG.random((8, 7, 8, 3)).astype("f")
    model = qat.calibrate(qat.prepare(read_tflite(path), torch.from_numpy(x[:2]), target="litert"), [x])
    assert not model.plan.floats()
    made = qat.export(model, tmp_path / "int8.tflite", verify=[x], io_dtype="float32")
    assert made.parity is not None and made.parity.exact == 1.0
    assert np.abs(LiteRTSession(made.path).run(x)[0] - LiteRTSession(path).run(x)[0]).max() < 0.05


def sparse(array: np.ndarray) -> Any:
    """Return the parameters of a matrix whose rows are dense and whose columns are compressed."""
    rows, columns = np.nonzero(array)
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap = [0, 1], []
    dense, compressed = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    dense.format, dense.denseSize = schema.DimensionType.DENSE, len(array)
    compressed.format = schema.DimensionType.SPARSE_CSR
    compressed.arraySegments, compressed.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    compressed.arraySegmentsType = compressed.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    compressed.arraySegments.values = np.searchsorted(rows, np.arange(len(array) + 1)).tolist()
    compressed.arrayIndices.values = columns.tolist()
    sparsity.dimMetadata = [dense, compressed]
    return sparsity


def test_sparse_weights_become_dense(tmp_path: Path) -> None:
    weight = np.where(RNG.random((6, 8)) < 0.4, weights(6, 8), 0).astype(np.float16)
    file = TFLiteFile()
    x, number = file.input((1, 8)), file.constant(weight[weight != 0], "float16", "weight")
    file.graph.tensors[number].shape, file.graph.tensors[number].sparsity = [6, 8], sparse(weight)
    dense = file.operator("DENSIFY", [number], dtype="float16", shape=(6, 8))
    expanded = file.operator("DEQUANTIZE", [dense], version=3, shape=(6, 8))
    y = file.operator("FULLY_CONNECTED", [x, expanded, file.constant(weights(6))], options="FullyConnected")
    module = read_tflite(file.save(tmp_path / "sparse.tflite", [y]))
    np.testing.assert_array_equal(module.get_parameter("weight").detach(), weight.astype("f"))


def test_constants_behind_the_flatbuffer_are_read_as_in_a_file_beyond_2_gb(tmp_path: Path) -> None:
    weight = weights(6, 8).astype("f")
    file = TFLiteFile()
    y = file.operator("FULLY_CONNECTED", [file.input((1, 8)), file.constant(weight, name="weight")], options="FullyConnected")
    buffer = file.model.buffers[1]
    buffer.data, buffer.offset, buffer.size = None, 2, weight.nbytes
    path = file.save(tmp_path / "large.tflite", [y])
    buffer.offset = path.stat().st_size
    file.graph.inputs, file.graph.outputs = [0], [y]
    path = file.save(path, [y])
    path.write_bytes(path.read_bytes() + weight.tobytes())
    np.testing.assert_array_equal(read_tflite(path).get_parameter("weight").detach(), weight)


def test_constants_are_folded(tmp_path: Path) -> None:
    file = TFLiteFile()
    x = file.input((1, 4))
    scale = file.operator("SQRT", [file.operator("ADD", [file.constant(weights(4) ** 2), file.constant(1.0)], options="Add")])
    path = file.save(tmp_path / "folded.tflite", [file.operator("MUL", [x, scale], options="Mul")])
    module, given = read_tflite(path), RNG.normal(size=(2, 4)).astype("f")
    assert [p.numel() for p in module.parameters()] == [4]
    np.testing.assert_allclose(module(torch.from_numpy(given)).detach(), LiteRTSession(path).run(given)[0], rtol=1e-6)


def test_an_operator_without_a_row_is_named_with_its_place(tmp_path: Path) -> None:
    file = TFLiteFile()
    y = file.operator("RFFT2D", [file.input((1, 4, 4)), file.constant([4, 4])], name="net/spectrum")
    with pytest.raises(CaptureError, match=r"operator RFFT2D.*, which writes 'net/spectrum', cannot be read: cut"):
        read_tflite(file.save(tmp_path / "unknown.tflite", [y]))


@pytest.mark.parametrize("code", ["MaxUnpooling2D", "TransformLandmarks"])
def test_a_custom_operator_is_named_as_one_wherever_the_file_is_opened(code: str, tmp_path: Path) -> None:
    """LiteRT's session called such a file truncated or corrupt."""
    file = TFLiteFile()
    y = file.operator(code, [file.input((1, 4))], custom=b"\0", name="decoder/unpooled")
    path = file.save(tmp_path / "custom.tflite", [y])
    place = rf"custom operator {code}, which writes 'decoder/unpooled', cannot be read: TFLite has no such operator.*; cut the"
    for read in (read_tflite, qat.load, lambda path: qat.quantize(path, np.zeros((4, 4), np.float32))):
        with pytest.raises(CaptureError, match=place):
            read(path)
    with pytest.raises(CustomOperatorError, match=rf"LiteRT cannot run .*: it has no kernel for the custom operator {code}; run"):
        LiteRTSession(path)


def test_a_file_with_a_custom_operator_that_is_read_is_quantized(tmp_path: Path) -> None:
    """Its inputs come from the flatbuffer: LiteRT, which does not load it, used to end ``qat quantize``."""
    file = TFLiteFile()
    bias, weight = file.constant(weights(3)), file.constant(weights(3, 2, 2, 4))
    options = struct.pack("<3i", 1, 2, 2)
    y = file.operator(
        "Convolution2DTransposeBias", [file.input((1, 6, 5, 4)), weight, bias], custom=options, shape=(1, 12, 10, 3)
    )
    samples = np.random.default_rng(0).uniform(-1, 1, (32, 6, 5, 4)).astype(np.float32)
    path = file.save(tmp_path / "hair.tflite", [y])
    made = qat.quantize(path, samples, estimator="minmax", progress=False)
    assert made.exact == 1
    assert made.quantized is not None and made.quantized[0] == made.quantized[1]
    assert made.error_percent is not None and made.error_percent < 2
    assert LiteRTSession(made.path).run(samples[:1])[0].shape == (1, 12, 10, 3)


def test_a_quantized_file_is_refused(tmp_path: Path) -> None:
    file = TFLiteFile()
    weight = file.constant(np.ones((3, 4)), "int8", "weight")
    file.graph.tensors[weight].quantization = schema.QuantizationParametersT()
    file.graph.tensors[weight].quantization.scale = [0.1]
    y = file.operator("FULLY_CONNECTED", [file.input((1, 4)), weight], options="FullyConnected", name="head")
    with pytest.raises(
        CaptureError, match="quantized already: tensor 'weight' of FULLY_CONNECTED 'head' is int8; load the float"
    ):
        read_tflite(file.save(tmp_path / "int8.tflite", [y]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:4] + b"ABCD" + raw[8:], "is not a .tflite file"),
        (lambda raw: raw[: len(raw) // 2], "truncated or corrupt"),
        (lambda raw: b"", "is not a .tflite file"),
        (lambda raw: raw[:8] + bytes(len(raw) - 8), "truncated or corrupt"),
    ],
)
def test_a_damaged_file_is_one_sentence(path: Path, change: Any, message: str) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        read_tflite(path)


def test_bytes_changed_at_random_are_one_sentence(path: Path) -> None:
    raw, rng = path.read_bytes(), np.random.default_rng(3)
    for _ in range(15):
        damaged = bytearray(raw)
        for place in rng.integers(0, len(raw), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(QatError):
            read_tflite(path)


def test_a_signature_is_chosen_by_its_key(tmp_path: Path) -> None:
    file = TFLiteFile()
    path = file.save(tmp_path / "net.tflite", [file.operator("RELU", [file.input((1, 4))])])
    with pytest.raises(DataError, match="has no signature 'serve': it has none"):
        read_tflite(path, "serve")


def _converted(model: Any, kind: str, path: Path) -> Path:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


@pytest.mark.slow
def test_a_keras_net_by_the_converter(tmp_path: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((24, 20, 3))
    x = layers.Rescaling(2.0, -1.0)(inputs)
    x = layers.Activation("hard_swish")(layers.BatchNormalization()(layers.Conv2D(16, 3, 2, "same", use_bias=False)(x)))
    gate = layers.Conv2D(16, 1, activation="hard_sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    x = layers.Add()([x, layers.DepthwiseConv2D(5, padding="same", activation="relu6")(x)])
    x = layers.Conv2DTranspose(8, 3, 2, "same", activation="gelu")(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = layers.AveragePooling2D(3, 2, "same")(layers.UpSampling2D(2, interpolation="bilinear")(x))
    tokens = layers.Reshape((-1, 8))(x)
    tokens = layers.LayerNormalization()(tokens + layers.MultiHeadAttention(2, 4)(tokens, tokens))
    outputs = layers.Dense(7, activation="softmax")(layers.Flatten()(tokens[:, ::9]))
    model = keras.Model(inputs, [outputs, x])
    given = RNG.random((2, 24, 20, 3)).astype("f")
    for kind in ("float", "float16"):
        path = _converted(model, kind, tmp_path / f"{kind}.tflite")
        expected = {tuple(v.shape): v for v in LiteRTSession(path).run(given)}
        with torch.no_grad():
            for value in read_tflite(path)(torch.from_numpy(given)):
                np.testing.assert_allclose(value, expected[tuple(value.shape)], atol=2e-4)
    with pytest.raises(
        CaptureError, match=r"is quantized already: tensor '.*' is int8; load the float file that it was made from"
    ):
        read_tflite(_converted(model, "dynamic", tmp_path / "dynamic.tflite"))


@pytest.mark.slow
def test_a_file_of_one_sample_is_loaded_and_quantized_by_batches_of_many(tmp_path: Path) -> None:
    """LiteRT resizes such a file without a word, and merges the samples with the boxes."""
    file = TFLiteFile()
    path = file.save(tmp_path / "net.tflite", net(file))
    x = RNG.normal(size=(24, 16, 12, 3)).astype("f")
    assert qat.load(path, x[:8]).meta["qat_agreement"].worst < 1e-5
    made = qat.quantize(path, x, progress=False)
    assert made.exact == 1.0
