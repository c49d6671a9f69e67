"""What benchmarks/step_cost.py measures: the models, and a training step of each kind for them.

A kind is built by a function from (model, example, labels) to a step; a peer is imported by the function that builds its kind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import qat

Step = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        title: what the table calls it.
        build: returns the step.
        base: the kind that its cost is a multiple of.
        package: the distribution whose version the table names.
        rival: whether it is a float step that a user may have; the fastest one is what all are held against.
    """

    title: str
    build: Callable[[Any, Any, Any], Step]
    base: str = "float"
    package: str | None = None
    rival: bool = False


# --- PyTorch -----------------------------------------------------------------------------------------------------------


def torch_model(name: str) -> tuple[Any, Any, Any]:
    """Return a float model whose BatchNorm has seen data, 32 images of 64x64 and their labels: of images, or of their pixels."""
    import torch
    from architectures import torch_dense, torch_mobile, torch_transformers

    from qat.runs import zoo_torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, labels = torch.randn(32, 3, 64, 64), torch.randint(0, 10, (32,))
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "mobilenet_v2": lambda: zoo_torch.mobilenet_v2(classes=10),
        "resnet18": lambda: zoo_torch.resnet18(classes=10),
        "efficientnet_b0": torch_mobile.efficientnet_b0,
        "mobilenet_v3": torch_mobile.mobilenet_v3,
        "unet": torch_dense.UNet,
        "vit": lambda: torch_transformers.ViT(patch=8),
    }
    model = makers[name]()
    if isinstance(model, torch.nn.Sequential):
        model = whole(model)
    scores = model.train()(x)
    return model.eval(), x, labels if scores.ndim == 2 else torch.randint(0, scores.shape[1], (32, *scores.shape[2:]))


def whole(layers: Any) -> Any:
    """Return a module that calls the layers: a Sequential would call what a peer adds to it."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self, layers: Any) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    return Whole(layers)


def torch_step(model: Any, x: Any, labels: Any) -> Step:
    """Return forward, backward and SGD with momentum."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def channels_last(build: Callable[..., Step]) -> Callable[..., Step]:
    """Return the same kind with model and images in channels_last."""

    def last(model: Any, x: Any, labels: Any) -> Step:
        import torch

        layout = torch.channels_last
        return build(copy.deepcopy(model).to(memory_format=layout), x.to(memory_format=layout), labels)

    return last


def floating(model: Any, x: Any, labels: Any) -> Step:
    """Float training as users do it."""
    return torch_step(copy.deepcopy(model).train(), x, labels)


def folded(model: Any, x: Any, labels: Any) -> Step:
    """Float training with BatchNorm folded: the limit."""
    from torch.fx.experimental.optimization import fuse

    return torch_step(fuse(copy.deepcopy(model)).train(), x, labels)


def ours(model: Any, x: Any, labels: Any) -> Step:
    """This toolkit; ranges are frozen, as they are in nine tenths of a training."""
    return torch_step(qat.calibrate(qat.prepare(model, x), [x]).train(), x, labels)


def ours_in_float32(model: Any, x: Any, labels: Any) -> Step:
    """This toolkit without the processor's instructions for 8-bit integers: what they bring."""
    from qat.adapters.torch.autograd.kernel_choice import Choices, Form, Kernel, computing_with

    class WithoutBytes(Choices):
        def form(self, kernel: Kernel[Any], args: tuple[Any, ...]) -> Form[Any]:
            return kernel.forms[0] if "bytes" in kernel.by_name else super().form(kernel, args)

    step, choices = ours(model, x, labels), WithoutBytes()

    def without() -> None:
        with computing_with(choices):
            step()

    return without


def autocast(build: Callable[..., Step]) -> Callable[..., Step]:
    """Return the same kind under PyTorch's autocast to bfloat16."""

    def narrow(model: Any, x: Any, labels: Any) -> Step:
        import torch

        step = build(model, x, labels)

        def narrowed() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                step()

        return narrowed

    return narrow


def ours_auto(model: Any, x: Any, labels: Any) -> Step:
    """This toolkit with the training option ``gradients: auto``."""
    from qat.adapters.torch.autograd.kernel_choice import Choices, computing_with

    step, choices = ours(model, x, labels), Choices("auto")

    def chosen() -> None:
        with computing_with(choices):
            step()

    return chosen


def ours_compiled(model: Any, x: Any, labels: Any) -> Step:
    """This toolkit under torch.compile."""
    import torch

    return torch_step(torch.compile(qat.calibrate(qat.prepare(model, x), [x]).train()), x, labels)


def torchao(model: Any, x: Any, labels: Any) -> Step:
    """PT2E with the quantizer for x86; it takes no module that a model calls twice."""
    import torch
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    exported = torch.export.export(copy.deepcopy(model).train(), (x,)).module()
    return torch_step(move_exported_model_to_train(prepare_qat_pt2e(exported, quantizer)), x, labels)


def torch_fx(model: Any, x: Any, labels: Any) -> Step:
    """torch.ao's FX graph mode."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    mapping = get_default_qat_qconfig_mapping("x86")
    return torch_step(prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,)), x, labels)


def brevitas(model: Any, x: Any, labels: Any) -> Step:
    """Brevitas' own quantization of a graph, BatchNorm merged by it."""
    from brevitas.graph.quantize import preprocess_for_quantize, quantize

    return torch_step(quantize(preprocess_for_quantize(copy.deepcopy(model))).train(), x, labels)


def nncf(model: Any, x: Any, labels: Any) -> Step:
    """NNCF: fine-tuning of what its quantize returns."""
    from nncf import Dataset, quantize

    return torch_step(quantize(copy.deepcopy(model), Dataset([x]), subset_size=1).train(), x, labels)


def modelopt(model: Any, x: Any, labels: Any) -> Step:
    """ModelOpt: training of what its quantize returns."""
    from modelopt.torch.quantization import INT8_DEFAULT_CFG, quantize

    return torch_step(quantize(copy.deepcopy(model), INT8_DEFAULT_CFG, lambda quantized: quantized(x)).train(), x, labels)


def tinynn(model: Any, x: Any, labels: Any) -> Step:
    """TinyNeuralNetwork, int8 with one scale per channel; it writes a model's code into a folder."""
    from tempfile import TemporaryDirectory

    from tinynn.graph.quantization.quantizer import QATQuantizer
    from tinynn.graph.tracer import model_tracer

    config = {"asymmetric": True, "per_tensor": False}
    with TemporaryDirectory() as folder, model_tracer():
        prepared = QATQuantizer(copy.deepcopy(model).train(), x, work_dir=folder, config=config).quantize()
    return torch_step(prepared.train(), x, labels)


TORCH_KINDS = {
    "float": Kind("float, BatchNorm in training mode", floating, rival=True),
    "float_bf16": Kind("float, bf16 autocast", autocast(floating), rival=True),
    "folded": Kind("float, BatchNorm folded", folded),
    "qat": Kind("**qat**", ours),
    "qat_auto": Kind("**qat, `gradients: auto`**", ours_auto),
    "qat_float32": Kind("qat, accumulators in float32", ours_in_float32),
    "compiled": Kind("qat, torch.compile", ours_compiled),
    "float_last": Kind("float, channels_last", channels_last(floating), rival=True),
    "float_last_bf16": Kind("float, channels_last, bf16 autocast", channels_last(autocast(floating)), rival=True),
    "folded_last": Kind("float, BatchNorm folded, channels_last", channels_last(folded), "float_last"),
    "qat_last": Kind("**qat, channels_last**", channels_last(ours), "float_last"),
    "qat_last_float32": Kind("qat, channels_last, accumulators in float32", channels_last(ours_in_float32), "float_last"),
    "torchao": Kind("torchao PT2E", torchao, package="torchao"),
    "fx": Kind("torch.ao FX", torch_fx, package="torch"),
    "brevitas": Kind("Brevitas", brevitas, package="brevitas"),
    "nncf": Kind("NNCF", nncf, package="nncf"),
    "modelopt": Kind("ModelOpt", modelopt, package="nvidia-modelopt"),
    "tinynn": Kind("TinyNeuralNetwork", tinynn),
}

#: Rows of BatchNorm and of images in channels_last, which say nothing of a transformer.
OF_CONVOLUTIONS = ("folded", "float_last", "float_last_bf16", "folded_last", "qat_last", "qat_last_float32")

# --- Keras -------------------------------------------------------------------------------------------------------------


def keras_model(name: str) -> tuple[Any, Any, Any]:
    """Return a float model, 32 images of 64x64 and their labels."""
    import keras

    from qat.runs import zoo_keras as zoo

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(32, 64, 64, 3)).astype(np.float32)
    return getattr(zoo, name)(size=64, classes=10), x, np.arange(32) % 10


def keras_step(model: Any, x: Any, labels: Any) -> Step:
    """Return forward, backward and SGD with momentum, as Keras 3 trains."""
    import keras

    model.compile(keras.optimizers.SGD(1e-3, 0.9), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    return lambda: model.train_on_batch(x, labels)


def folded_in_keras(model: Any, x: Any, labels: Any) -> Step:
    """Float training without BatchNorm, with biases in its place: the limit, whatever the numbers."""
    import keras

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.Identity(name=config["name"])
        return type(layer).from_config(config | ({"use_bias": True} if "use_bias" in config else {}))

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(*args)  # without the mask that BatchNorm was given

    return keras_step(keras.models.clone_model(model, clone_function=clone, call_function=call), x, labels)


def ours_in_keras(model: Any, x: Any, labels: Any) -> Step:
    """This toolkit, ranges frozen."""
    return keras_step(qat.calibrate(qat.prepare(model), [x]), x, labels)


def tf_keras_step(model: Any, x: Any, labels: Any) -> Step:
    """Return forward, backward and SGD with momentum, as Keras 2 trains."""
    import tf_keras

    model.compile(tf_keras.optimizers.SGD(1e-3, 0.9), tf_keras.losses.SparseCategoricalCrossentropy(True))
    return lambda: model.train_on_batch(x, labels)


def tf_keras_float(model: Any, x: Any, labels: Any) -> Step:
    """The MobileNetV2 of tf_keras' applications, logits."""
    import tf_keras

    options = {"weights": None, "classes": 10, "classifier_activation": None}
    return tf_keras_step(tf_keras.applications.MobileNetV2((64, 64, 3), **options), x, labels)


def tfmot(model: Any, x: Any, labels: Any) -> Step:
    """tensorflow-model-optimization on the same."""
    import tf_keras
    from tensorflow_model_optimization.quantization.keras import quantize_model

    options = {"weights": None, "classes": 10, "classifier_activation": None}
    return tf_keras_step(quantize_model(tf_keras.applications.MobileNetV2((64, 64, 3), **options)), x, labels)


KERAS_KINDS = {
    "float": Kind("float", keras_step, package="keras", rival=True),
    "folded": Kind("float, BatchNorm folded", folded_in_keras),
    "qat": Kind("**qat**", ours_in_keras),
    "tf_keras": Kind("float, tf_keras", tf_keras_float, "tf_keras", "tf_keras"),
    "tfmot": Kind("tensorflow-model-optimization, tf_keras", tfmot, "tf_keras", "tensorflow-model-optimization"),
}

#: (title, maker of model and data, its argument, kinds) by the name on the command line.
MODELS: dict[str, tuple[str, Callable[[str], tuple[Any, Any, Any]], str, dict[str, Kind]]] = {
    "mobilenet_v2": ("MobileNetV2 1.0", torch_model, "mobilenet_v2", TORCH_KINDS),
    "resnet18": ("ResNet-18", torch_model, "resnet18", TORCH_KINDS),
    "efficientnet_b0": ("EfficientNet-B0", torch_model, "efficientnet_b0", TORCH_KINDS),
    "mobilenet_v3": ("MobileNetV3-Large", torch_model, "mobilenet_v3", TORCH_KINDS),
    "unet": ("U-Net", torch_model, "unet", TORCH_KINDS),
    "vit": ("ViT-tiny, patches of 8x8", torch_model, "vit", {k: v for k, v in TORCH_KINDS.items() if k not in OF_CONVOLUTIONS}),
    "keras": ("MobileNetV2 1.0, Keras", keras_model, "mobilenet_v2", KERAS_KINDS),
}
