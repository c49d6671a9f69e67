"""Checkpoints that training continues from: one ``.safetensors`` file with JSON in its header, checked by a digest.

``training.safetensors`` is the last one and ``training.previous.safetensors`` the one before it. Nothing in them is ever
unpickled. A file is written whole under another name, synced and renamed, so that a crash or a full disk leaves
the last good one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import DataError, ExportError
from qat.system.atomic_files import write_atomically

from .divergence import Trend
from .preparation import Preparation

log = logging.getLogger("qat")

#: The layout of the file; a reader refuses others.
FORMAT = 5
CURRENT, PREVIOUS, NEXT = (f"training.{part}safetensors" for part in ("", "previous.", "next."))


@dataclass
class Progress:
    """Where a run is, between two steps.

    Attributes:
        epoch, batch: the epoch (from 1) and how many of its batches are done.
        step: steps done in all.
        loss_sum, seen: of the epoch so far: the sum of losses over samples, and the samples.
        trend: where the loss came from, and where it is.
        epochs: the records of the finished epochs, JSON-ready.
        best_score, best_epoch: of the best weights so far; the epoch is 0 before there are any.
        finished: whether nothing is left to do.
        seconds: the time that the run took so far.
        preparation: what was decided before the first step; None where nothing had to be.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    trend: Trend = field(default_factory=Trend)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_score: float = 0.0
    best_epoch: int = 0
    finished: bool = False
    seconds: float = 0.0
    preparation: Preparation | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run continues from.

    Attributes:
        progress: where it is.
        arrays: weights, ranges, optimizer and random states, best weights, by name.
        values: the part of the state that is no array, JSON-ready.
        options: what decides the result, JSON-ready: options of training, the model, the number of batches in an epoch.
    """

    progress: Progress
    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any]
    options: Mapping[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; the last one becomes the one before it.

    Raises:
        ExportError: the disk is full or the folder cannot be written; the last good checkpoint is intact then, and named.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in checkpoint.arrays.items()}
    content = json.dumps(
        {"progress": asdict(checkpoint.progress), "values": checkpoint.values, "options": checkpoint.options}, sort_keys=True
    )
    header = {"format": str(FORMAT), "content": content, "sha256": _digest(content, arrays)}
    current = folder / CURRENT
    try:
        written = write_atomically(folder / NEXT, save(arrays, header), overwrite=True)
        if current.is_file():
            os.replace(current, folder / PREVIOUS)
        os.replace(written, current)
    except (ExportError, OSError) as error:
        good = f"the last good checkpoint, {current}, is intact" if current.is_file() else "there is no checkpoint before it"
        raise ExportError(f"no checkpoint of step {checkpoint.progress.step}: {error}; {good}") from error
    return current


def read(folder: Path) -> Checkpoint | None:
    """Return the last intact checkpoint of a folder, or None. A damaged one is named in a warning, and the one before it is read.

    Raises:
        DataError: there are checkpoints, and all are damaged.
    """
    found = [path for path in (folder / CURRENT, folder / PREVIOUS) if path.is_file()]
    for path in found:
        try:
            return _read_file(path)
        except DataError as error:
            log.warning("%s: passed over for the checkpoint before it", error)
    if found:
        raise DataError(f"no checkpoint in {folder} is whole: start again without resume")
    return None


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that training can continue from."""
    return any((folder / name).is_file() for name in (CURRENT, PREVIOUS))


def _read_file(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is truncated or damaged ({error})") from error
    if header.get("format") != str(FORMAT) or "content" not in header:
        raise DataError(f"{path} is no training checkpoint of this version")
    if _digest(header["content"], arrays) != header.get("sha256"):
        raise DataError(f"{path} is damaged: its content does not have the digest it was written with")
    content = json.loads(header["content"])
    progress = content["progress"]
    progress["trend"] = Trend(**progress["trend"])
    if progress.get("preparation") is not None:
        progress["preparation"] = Preparation(**progress["preparation"])
    return Checkpoint(Progress(**progress), arrays, content["values"], content["options"])


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
