"""The data of a run: read as the configuration says, in batches as the run's framework takes them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from qat.errors import ConfigError, DataError
from qat.system.import_object import import_object
from qat.typing import Layout

from . import datasets
from .config import DataConfig, RunConfig, expand
from .dataset import Arrays, Batches, Dataset, Split
from .image_files import ImageForm
from .prefetch import Prefetched, default_workers
from .splits import missing_classes

log = logging.getLogger("qat")


class RunData:
    """A data set, and its batches by the configuration.

    Raises:
        ConfigError: the configuration lacks the key that its source needs.
        DataError: the data set cannot be read; the message names the key.
    """

    def __init__(self, config: RunConfig, base: Path) -> None:
        self.config = config
        self.layout: Layout = "NCHW" if config.framework == "torch" else "NHWC"
        c = config.data
        key = {"factory": "data.factory", "digits": "data.source"}.get(c.source, "data.path")
        try:
            dataset = _read(c, base, config.training.labelled)
            self.dataset = replace(dataset, seed=c.seed, scale=dataset.scale if c.scale is None else c.scale)
            self._check_labels()
        except OSError as error:
            raise DataError(f"{key}: {error.filename or c.path} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{key}: {error}") from error
        for sentence in missing_classes(self._labels(), self.dataset.class_names):
            log.warning("data set '%s': %s", self.name, sentence)

    def _check_labels(self) -> None:
        labels = self.dataset.train_y
        if not self.config.training.labelled or not self.config.training.classifies:
            return
        if labels is None:
            raise DataError("there are no labels: training without them learns from a teacher (training.labels: none)")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"labels must be integers, class numbers, found {labels.dtype}: training.loss chooses a loss for others, for "
                "example mse"
            )

    def _labels(self) -> dict[str, np.ndarray]:
        """Return the labels of each part of the data that has any."""
        labels = self.dataset.labels
        parts = {"training": labels("train"), "validation": labels("validation")}
        parts |= {"calibration": labels("train", self.config.calibration.samples), "test": labels("test")}
        return {name: found for name, found in parts.items() if found is not None}

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.dataset.name

    def _made(self, batches: Batches) -> Batches | Prefetched:
        """Return batches that workers make, where the configuration asks for any, or making them takes time."""
        workers = self.config.data.workers
        workers = (default_workers() if self.dataset.decoded else 0) if workers is None else workers
        return Prefetched(batches, self.config.framework, workers) if workers else batches

    def batches(self, split: Split, limit: int | None = None) -> Batches | Prefetched:
        """Return the batches of a split in order, of at most ``limit`` images."""
        return self._made(self.dataset.batches(split, self.config.data.batch_size, self.layout, limit=limit))

    def training(self, seed: int) -> Batches | Prefetched:
        """Return the training batches, shuffled."""
        c = self.config.data
        return self._made(self.dataset.batches("train", c.batch_size, self.layout, shuffle=seed, flip=c.flip))

    def calibration_pairs(self) -> list[Arrays]:
        """Return the calibration batches: a stratified sample of the training split."""
        return list(self._made(self.dataset.batches("train", 64, self.layout, limit=self.config.calibration.samples)))

    def calibration(self) -> list[np.ndarray]:
        """Return the inputs of the calibration batches."""
        return [batch[0] for batch in self.calibration_pairs()]

    def example(self) -> np.ndarray:
        """Return a batch of two inputs."""
        return next(iter(self.dataset.batches("test", 2, self.layout, limit=2)))[0]


def _read(c: DataConfig, base: Path, labelled: bool) -> Dataset:
    if c.source == "digits":
        return datasets.digits()
    if c.source == "factory":
        if c.factory is None:
            raise ConfigError("data.source is 'factory': give data.factory (package.module:function)")
        return datasets.factory(import_object(c.factory, "data.factory"), **c.kwargs)
    if c.path is None:
        raise ConfigError(f"data.source is '{c.source}': give data.path")
    path = expand(c.path, base)
    if c.source == "idx":
        return datasets.idx(path, c.name or "idx", c.mean, c.std)
    if c.source in ("npz", "npy"):
        return datasets.npz(path, c.mean, c.std, c.layout, labelled)
    form = ImageForm(c.size, c.resize, c.interpolation, c.color)
    return datasets.image_folder(path, form, c.mean, c.std, c.seed)
