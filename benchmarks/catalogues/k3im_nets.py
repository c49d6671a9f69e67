"""The models of k3im: transformers and mixers of signals, images and clips."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, fitting, row

#: What the models ask for and give no default, beside what their names tell.
ASKED: dict[str, Any] = {
    "patch_size": 8, "image_patch_size": 8, "frame_patch_size": 2, "frames": 4, "num_frames": 4, "seq_len": 64, "dim": 64,
    "depth": 2, "cls_depth": 1, "spatial_depth": 1, "temporal_depth": 1, "heads": 4, "dim_head": 16, "mlp_dim": 128,
    "embedding_dim": 64, "num_blocks": 2, "dropout_rate": 0.0, "dropout": 0.0, "image_size": 32, "img_size": 32,
    "num_classes": CLASSES, "pool": "mean", "hidden_units": 64, "projection_dim": 64, "num_heads": 4, "transformer_layers": 2,
    "transformer_units": [128, 64], "stochastic_depth_rate": 0.0, "kernel_size": 3, "stride": 1, "padding": 1,
    "input_shape": (32, 32, 3), "embed_dim": 64, "window_size": 2, "num_mlp": 128, "qkv_bias": True, "shift_size": 1,
    "filters": 64, "channels": 3, "num_channels": 3, "in_channels": 3,
}  # fmt: skip


def functions() -> dict[str, Any]:
    """Return what builds a model of each module, by its name."""
    import k3im

    modules = [importlib.import_module(f"k3im.{m.name}") for m in pkgutil.iter_modules(k3im.__path__)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isfunction(value) and name.endswith("Model")
    }


def names() -> list[str]:
    """Return the names of all models."""
    return sorted(functions())


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    build: Callable[..., Any] = functions()[name]
    return build


def architecture(name: str, format: str) -> Architecture:
    """Return a small model."""
    build = constructor(name)
    taken = inspect.signature(build).parameters
    return row("k3im", name, format, *fitting(build, {k: v for k, v in ASKED.items() if k in taken}))
