"""The architectures of the coverage table: which there are, where each is built, what goes in. No framework is imported here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

#: ``("image", channels, size)``, ``("tokens", vocabulary, length)``, ``("audio", channels, samples)``.
Input = tuple[str, int, int]


@dataclass(frozen=True)
class Architecture:
    """One row: ``module.builder(**arguments)`` gives the float model. ``scores``: whether its output is a row of class scores."""

    name: str
    framework: str
    module: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = (("image", 3, 64),)
    scores: bool = True

    @property
    def key(self) -> str:
        """What names the row in the results."""
        return f"{self.framework}/{self.name}"

    def build(self) -> Any:
        """Return the float model, weights random unless its builder says otherwise."""
        return getattr(importlib.import_module(self.module), self.builder)(**self.arguments)


_MOBILE, _RESIDUAL, _DENSE, _TRANSFORMERS = (f"architectures.torch_{m}" for m in ("mobile", "residual", "dense", "transformers"))
_ZOO = "qat.runs.zoo_torch"
#: PyTorch: name, module, builder, and what is not as usual.
_TORCH: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("MobileNetV2", _ZOO, "mobilenet_v2", {"arguments": {"classes": 10}}),
    ("MobileNetV3-Large", _MOBILE, "mobilenet_v3", {}),
    ("MobileNetV3-Small", _MOBILE, "mobilenet_v3", {"arguments": {"size": "small"}}),
    ("ResNet-18", _ZOO, "resnet18", {"arguments": {"classes": 10}}),
    ("ResNet-50", _RESIDUAL, "resnet50", {}),
    ("RegNetY-400MF", _RESIDUAL, "regnet_y_400mf", {}),
    ("EfficientNet-B0", _MOBILE, "efficientnet_b0", {}),
    ("EfficientNet-Lite0", _MOBILE, "efficientnet_lite0", {"inputs": (("image", 3, 96),)}),
    ("DenseNet-121", _RESIDUAL, "densenet121", {}),
    ("ShuffleNetV2", _RESIDUAL, "shufflenet_v2", {}),
    ("ConvNeXt-tiny", _TRANSFORMERS, "convnext_tiny", {}),
    ("ViT-tiny", _TRANSFORMERS, "ViT", {}),
    ("Swin-tiny", "architectures.torch_swin", "SwinTiny", {}),
    ("BERT-mini", _TRANSFORMERS, "Bert", {"inputs": (("tokens", 1000, 32),)}),
    ("U-Net", _DENSE, "UNet", {"scores": False}),
    ("Detector", _DENSE, "Detector", {"scores": False}),
    ("Audio-M5", _RESIDUAL, "audio", {"inputs": (("audio", 1, 4096),)}),
)
#: keras.applications by name, with the least size that suits each.
_KERAS: dict[str, int] = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "MobileNetV3Large": 64, "EfficientNetB0": 64,
    "EfficientNetV2B0": 64, "ResNet50": 64, "ResNet50V2": 64, "DenseNet121": 64, "NASNetMobile": 64, "Xception": 72,
    "InceptionV3": 75, "InceptionResNetV2": 75, "ConvNeXtTiny": 64, "VGG16": 64,
}  # fmt: skip
_TF_KERAS: dict[str, int] = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "EfficientNetB0": 64, "ResNet50": 64, "ResNet50V2": 64,
    "DenseNet121": 64, "NASNetMobile": 64, "Xception": 72, "VGG16": 64,
}  # fmt: skip


def _application(framework: str, name: str, size: int) -> Architecture:
    arguments = {"name": name, "size": size}
    return Architecture(name, framework, f"architectures.{framework}_models", "application", arguments, (("image", 3, size),))


ARCHITECTURES: tuple[Architecture, ...] = (
    *(Architecture(name, "torch", module, builder, **rest) for name, module, builder, rest in _TORCH),
    *(_application("keras", name, size) for name, size in _KERAS.items()),
    Architecture("U-Net", "keras", "architectures.keras_models", "unet", scores=False),
    Architecture("Transformer", "keras", "architectures.keras_models", "transformer", inputs=(("tokens", 1000, 32),)),
    *(_application("tf_keras", name, size) for name, size in _TF_KERAS.items()),
)
