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


def _torch(name: str, builder: str, module: str = "architectures.torch_mobile", **rest: Any) -> Architecture:
    return Architecture(name, "torch", module, builder, **rest)


def _keras(name: str, size: int = 64, framework: str = "keras", **rest: Any) -> Architecture:
    arguments = {"name": name, "size": size, **rest}
    return Architecture(name, framework, f"architectures.{framework}_models", "application", arguments, (("image", 3, size),))


_ZOO = "qat.zoo.torch"
ARCHITECTURES: tuple[Architecture, ...] = (
    _torch("MobileNetV2", "mobilenet_v2", _ZOO, arguments={"classes": 10}),
    _torch("ResNet-18", "resnet18", _ZOO, arguments={"classes": 10}),
    _torch("U-Net", "UNet", "architectures.torch_dense", scores=False),
    _keras("MobileNet"),
    _keras("MobileNetV2"),
    _keras("ResNet50"),
)
