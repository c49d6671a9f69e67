"""Free sizes: one .onnx for images and signals of any size, equal to the model at each; errors name what fixes a size."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from macs import costs, integer_share
from torch import nn

import qat
from qat.errors import CaptureError, ConfigError
from qat.runs.zoo_torch import mobilenet_v2


class Segmentation(nn.Module):
    """Down twice, up by a transposed convolution and to the size of another tensor, skips by concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.down = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.norm, self.up, self.end = nn.BatchNorm2d(4), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = F.relu(self.norm(self.stem(x)))
        b = F.relu(self.up(self.down(a)))
        b = F.interpolate(b, size=a.shape[2:])
        return F.interpolate(self.end(torch.cat([a, b], 1)), size=x.shape[2:])


class Tokens(nn.Module):
    """A row of boxes for each place, and scores of their mean."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.boxes, self.scores = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        rows = self.stem(x).flatten(2).transpose(1, 2)
        return self.boxes(rows).sigmoid(), self.scores(rows.mean(1))


class RoundedUp(nn.Module):
    """Pooling whose last windows hang over, by an amount that depends on the size, and slopes by channel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.slopes, self.end = nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Conv2d(4, 2, 1)
        nn.init.uniform_(self.slopes.weight, -0.5, 0.5)

    def forward(self, x):
        x = F.max_pool2d(self.slopes(self.stem(x)), 2, 2, ceil_mode=True)
        return self.end(F.max_pool2d(x, 3, 2, 1, ceil_mode=True))


class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.norm, self.up = nn.Conv1d(3, 4, 5, 2, 2), nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 3, 4, 2, 1)

    def forward(self, x):
        return self.up(F.relu(self.norm(self.down(x)))) + x


IMAGES = (torch.Size((2, 3, 16, 16)), torch.Size((3, 3, 20, 12)), torch.Size((1, 3, 28, 36)))
MODELS = {
    "segmentation": (Segmentation, ("height", "width"), IMAGES),
    "tokens": (Tokens, ("height", "width"), IMAGES),
    "classifier": (lambda: mobilenet_v2(classes=10), ("width", "height"), ((2, 3, 32, 32), (2, 3, 48, 64))),
    "rounded up": (RoundedUp, ("height", "width"), tuple((2, 3, 16 + n, 19 - n) for n in range(4))),
    "one axis": (Segmentation, ("width",), ((2, 3, 16, 16), (3, 3, 16, 28))),
    "signals": (Signals, ("length",), ((2, 3, 16), (3, 3, 30))),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_artifact_of_many_sizes(name, tmp_path):
    make, names, sizes = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, generator=generator) for size in sizes]
    prepared = qat.calibrate(qat.prepare(make().eval(), inputs[0], dynamic=names), inputs)
    assert not prepared.plan.floats()
    prepared.train()(inputs[1])  # trains on any size too
    artifact = qat.export(prepared.eval(), tmp_path / "m.onnx", verify=inputs)
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    assert integer_share(costs(artifact.path)) == 1.0
    shape = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 3)
    assert sum(bool(d.dim_param) for d in shape) == 1 + len(names)


class Text(nn.Module):
    """An encoder of tokens, with a mask that hides what follows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.norm = nn.Embedding(50, 16), nn.Embedding(12, 16), nn.LayerNorm(16)
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, ids, mask):
        batch, tokens = ids.shape
        x = self.norm(self.words(ids) + self.places(torch.arange(tokens, device=ids.device)))
        q, k, v = (part.view(batch, tokens, 2, 8).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        return self.head((x + attended.transpose(1, 2).reshape(batch, tokens, 16)).mean(1))


def _text(batch, tokens):
    ids = torch.randint(0, 50, (batch, tokens), generator=torch.Generator().manual_seed(tokens))
    return ids, torch.ones(batch, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.slow
@pytest.mark.ci
def test_texts_of_any_length(tmp_path):
    texts = [_text(3, 12), _text(2, 6), _text(4, 9)]  # the first has all the places
    prepared = qat.calibrate(qat.prepare(Text().eval(), texts[0], dynamic=("tokens",)), texts)
    artifact = qat.export(prepared, tmp_path / "m.onnx", verify=texts)
    assert artifact.parity.exact == 1.0, artifact.parity.first_difference
    names = [[d.dim_param for d in x.type.tensor_type.shape.dim] for x in onnx.load(artifact.path).graph.input]
    assert names == [["batch", "ids_tokens"], ["batch", "mask_tokens", "mask_length"]]


def test_a_keras_model_of_any_length_in_a_tflite(tmp_path):
    """LiteRT did not take the file: a RESHAPE named two sizes that are free."""
    import keras

    keras.utils.set_random_seed(0)
    ids, words = keras.Input((None,), dtype="int32"), keras.layers.ReversibleEmbedding(50, 8)
    x = keras.layers.RMSNormalization()(keras.layers.LayerNormalization()(words(ids)))
    model = keras.Model(ids, words(keras.layers.Dense(8, activation="relu")(x), reverse=True))
    texts = [np.random.default_rng(0).integers(0, 50, (32, tokens)).astype("int32") for tokens in (6, 9)]
    prepared = qat.calibrate(qat.prepare(model), texts)
    assert qat.export(prepared, tmp_path / "m.tflite", verify=texts).parity.exact == 1.0


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_a_deep_keras_model_of_any_size_is_tried_on_images_that_it_takes(name, tmp_path):
    """The file was tried on images of 3x3, and refused."""
    import keras

    image = keras.Input((None, None, 3))
    y = keras.layers.MaxPooling2D()(keras.layers.Conv2D(4, 3)(keras.layers.Conv2D(4, 3, activation="relu")(image)))
    x = np.random.default_rng(0).normal(size=(16, 12, 16, 3)).astype("float32")
    prepared = qat.prepare(keras.Model(image, y), target="litert" if name.endswith(".tflite") else "onnxruntime")
    images = [x, x[:, :, :10]]
    assert qat.export(qat.calibrate(prepared, images), tmp_path / name, verify=images).parity.exact == 1.0


def test_what_needs_sizes_in_keras_says_so():
    import keras

    image, entry = keras.Input((None, None, 3)), keras.Input((None, 8))
    enlarged = keras.layers.UpSampling2D(interpolation="bilinear")(keras.layers.Conv2D(4, 3)(image))
    with pytest.raises(CaptureError, match="an interpolation needs a fixed image size: pass example_inputs"):
        qat.prepare(keras.Model(image, enlarged))
    attended = keras.Model(entry, keras.layers.MultiHeadAttention(2, 4)(entry, entry))
    with pytest.raises(ConfigError, match="reads a size that the model leaves free: pass example_inputs"):
        qat.prepare(attended)
    transposed = keras.Model(image, keras.layers.Conv2DTranspose(4, 2, 2)(keras.layers.Conv2D(4, 3)(image)))
    reasons = [p.reason for p in qat.plan(transposed).ops]
    assert reasons[-1] == "target 'litert' has no integer kernel for conv_transpose2d on images of a free size"


def test_layouts_of_free_sizes(tmp_path):
    inputs = [torch.randn(size, generator=torch.Generator().manual_seed(0)) for size in IMAGES]
    prepared = qat.calibrate(qat.prepare(Segmentation().eval(), inputs[0], dynamic=("height", "width")), inputs)
    artifact = qat.export(prepared.eval(), tmp_path / "m.onnx", verify=inputs, layout="NHWC")
    assert artifact.parity.exact == 1.0
    names = [d.dim_param for d in onnx.load(artifact.path).graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "x_height", "x_width", ""]


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4 * 16 * 16, 2)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


class Numbered(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.shape[2] == 16 else x


def test_errors_name_what_fixes_a_size():
    x = torch.randn(IMAGES[0])
    with pytest.raises(CaptureError, match=r"layer 'head' \(aten.linear.default\) takes one size only.*AdaptiveAvgPool2d"):
        qat.prepare(Flattened().eval(), x, dynamic=("height", "width"))
    with pytest.raises(CaptureError, match="the height of input 'x' cannot be free: the model computes with it as the number 16"):
        qat.prepare(Numbered().eval(), x, dynamic=("height",))
    with pytest.raises(
        ConfigError, match=r"dynamic: 'heigth' \(did you mean 'height'\?\) is none of depth, height, length, tokens, width"
    ):
        qat.plan(Segmentation().eval(), x, dynamic=("heigth",))
    with pytest.raises(ConfigError, match="dynamic: no input has a length"):
        qat.plan(Segmentation().eval(), x, dynamic=("length",))
    with pytest.raises(ConfigError, match=r"dynamic sizes are for PyTorch models in \.onnx"):
        qat.plan(Segmentation().eval(), x, target="litert", dynamic=("height",))
