"""The models of Ultralytics that its configuration files describe, at the least scale of each file."""

from __future__ import annotations

from pathlib import Path

import torch
from architectures import Architecture, Input
from architectures.torchvision_operators import declare_operators
from torch import nn

from . import PARAMETERS, Unsuitable


def names() -> list[str]:
    """Return the names of the files, each of which describes one model."""
    declare_operators()
    import ultralytics

    return sorted(file.stem for file in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml"))


def net(name: str) -> nn.Module:
    """Return a model with random weights: its outputs of an image, as in evaluation."""
    declare_operators()
    import yaml
    from ultralytics.nn import tasks
    from ultralytics.utils.checks import check_yaml

    described = yaml.safe_load(Path(check_yaml(f"{name}.yaml")).read_text())
    scales = described.get("scales") or {}
    if scales:
        described["scale"] = next(iter(scales))
    task = described.get("task") or tasks.guess_model_task(described)
    kinds = {"detect": tasks.DetectionModel, "segment": tasks.SegmentationModel, "classify": tasks.ClassificationModel}
    kinds |= {"pose": tasks.PoseModel, "obb": tasks.OBBModel}
    if task not in kinds:
        raise Unsuitable(f"a model for {task} takes more than an image")
    kind = tasks.RTDETRDetectionModel if "rtdetr" in name and task == "detect" else kinds[task]
    torch.manual_seed(0)
    model: nn.Module = kind(described, verbose=False)
    if sum(p.numel() for p in model.parameters()) > PARAMETERS:
        raise Unsuitable(f"more than {PARAMETERS} parameters")
    return model


def architecture(name: str, format: str) -> Architecture:
    """Return a model on an image of 64 pixels, the largest stride of any; its constructor runs it, which needs memory."""
    arguments, inputs = {"name": name}, (Input("image", 3, 64),)
    return Architecture(f"Ultralytics {name}", "torch", format, "catalogues.ultralytics_nets", "net", arguments, inputs, False)
