"""The data of a run: read as the configuration says, in batches as the run's framework takes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qat.errors import ConfigError, DataError
from qat.system.import_object import import_object
from qat.system.sample_sets import SampleBatches, as_pair
from qat.system.samples import first_of_pair
from qat.trainers.detection_labels import check_boxes
from qat.typing import Layout

from . import datasets, float_files
from .config import DataConfig, RunConfig, expand
from .data_parts import ImagePixels
from .dataset import Batches, Dataset, Split
from .image_files import ImageForm
from .own_data import OwnData, parts_of
from .prefetch import Prefetched, default_workers
from .scenes import scenes
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
        self.layout: Layout = float_files.layout_of(config, base)
        c = config.data
        key = {"factory": "data.factory", "digits": "data.source"}.get(c.source, "data.path" if c.path else "data.source")
        self.dataset: Dataset | OwnData
        try:
            dataset = _read(c, base, config.training.labelled, self.layout)
            if isinstance(dataset, Dataset):
                dataset = replace(dataset, seed=c.seed, scale=dataset.scale if c.scale is None else c.scale)
                for labels in (dataset.train_y, dataset.test_y, *([] if dataset.val_x is None else [dataset.val_y])):
                    self._check_labels(labels)
                if config.training.detects:
                    self._check_boxes(dataset)
            self.dataset = dataset
        except OSError as error:
            raise DataError(f"{key}: {error.filename or c.path} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{key}: {error}") from error
        if isinstance(dataset, OwnData):
            self._check_length()
        for sentence in missing_classes(self._labels(), self.dataset.class_names):
            log.warning("data set '%s': %s", self.name, sentence)

    def _check_length(self) -> None:
        """Raise ConfigError where the training data have no length, and the options no number of steps in its place."""
        c = self.config
        sections = {"training": c.training}
        if c.model.file is None and c.model.weights is None:
            sections["float_training"] = c.float_training
        try:
            len(self.training(0))
        except TypeError as error:
            for name, options in sections.items():
                if options.max_steps is None and options.steps is None:
                    raise ConfigError(f"{name}.max_steps: the training data are a stream of no known length: give it") from error

    def _check_labels(self, labels: np.ndarray | None) -> None:
        if not self.config.training.labelled or not self.config.training.classifies:
            return
        if labels is None:
            raise DataError("there are no labels: training without them learns from a teacher (training.labels: none)")
        if not np.issubdtype(labels.dtype, np.integer):
            advice = "training.loss chooses a loss for others, for example mse"
            if labels.dtype.kind not in "fc":
                advice = "np.unique(names, return_inverse=True) numbers the names of classes"
            raise DataError(f"labels must be integers, class numbers, found {labels.dtype}: {advice}")

    def _check_boxes(self, dataset: Dataset) -> None:
        """Raise ConfigError or DataError unless every split has boxes, and images keep their sides."""
        if self.config.data.flip:
            raise ConfigError("data.flip mirrors images, and their boxes stay: leave it out, or mirror both in data.factory")
        splits = {"training": (dataset.train_x, dataset.train_y), "test": (dataset.test_x, dataset.test_y)}
        if dataset.val_x is not None:
            splits["validation"] = (dataset.val_x, dataset.val_y)
        for split, (x, y) in splits.items():
            check_boxes(y, x.shape[1], x.shape[2], None, f"data set '{dataset.name}', {split} split")

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

    @property
    def images(self) -> Dataset:
        """The data set of images in files; not for a factory's own data."""
        assert isinstance(self.dataset, Dataset)
        return self.dataset

    @property
    def labelled(self) -> bool:
        """Whether a batch has labels."""
        if isinstance(self.dataset, Dataset):
            return self.dataset.train_y is not None
        first = as_pair(next(iter(self.dataset.batches("test", 1))))
        return isinstance(first, (tuple, list)) and len(first) == 2

    def content(self) -> str | None:
        """Return a digest of the training data; None of a factory's own, which may change from run to run."""
        return self.dataset.content() if isinstance(self.dataset, Dataset) else None

    def _made(self, batches: Any) -> Any:
        """Return batches that workers make, where the configuration asks for any, or making them takes time."""
        if not isinstance(batches, (Batches, SampleBatches)):
            return batches
        workers, c = self.config.data.workers, self.config
        if workers is None:  # threads would share the random generators of the user's transforms
            alone = isinstance(self.dataset, OwnData) and c.framework == "keras"
            workers = default_workers() if self.dataset.decoded and not alone else 0
        return Prefetched(batches, c.framework, workers) if workers else batches

    def batches(self, split: Split, limit: int | None = None) -> Any:
        """Return the batches of a split in order, of at most ``limit`` samples (of loaders and streams: rounded to batches)."""
        c = self.config.data
        if isinstance(self.dataset, OwnData):
            return self._made(self.dataset.batches(split, c.batch_size, limit=limit))
        return self._made(self.dataset.batches(split, c.batch_size, self.layout, limit=limit))

    def training(self, seed: int) -> Any:
        """Return the training batches, shuffled; streams and loaders in their own order."""
        c = self.config.data
        if isinstance(self.dataset, OwnData):
            return self._made(self.dataset.batches("train", c.batch_size, shuffle=seed))
        return self._made(self.dataset.batches("train", c.batch_size, self.layout, shuffle=seed, flip=c.flip))

    def calibration_pairs(self) -> tuple[list[Any], str]:
        """Return the calibration batches, and what they were drawn from.

        They are a stratified sample of the training split, where its labels are known; the text is empty then.
        """
        count = self.config.calibration.samples
        if isinstance(self.dataset, OwnData):
            made, source = self.dataset.calibrating(count)
            return [as_pair(batch) for batch in self._made(made)], source
        return list(self._made(self.dataset.batches("train", 64, self.layout, limit=count))), ""

    def calibration(self) -> list[Any]:
        """Return the inputs of the calibration batches."""
        return [first_of_pair(batch) for batch in self.calibration_pairs()[0]]

    def reference(self, count: int) -> Any:
        """Return batches of at most ``count`` test samples that calibration samples are held against."""
        if isinstance(self.dataset, OwnData):
            return self._made(self.dataset.reference(count))
        return self._made(self.dataset.reference(64, self.layout, count))

    def example(self) -> Any:
        """Return a batch of two inputs."""
        if isinstance(self.dataset, Dataset):
            return next(iter(self.dataset.batches("test", 2, self.layout, limit=2)))[0]
        batch = next(iter(self.dataset.batches("test", 2)), None)
        if batch is None:
            raise DataError("data.factory: the test data yield no batches")
        return _first_two(first_of_pair(batch))


def _first_two(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _first_two(x) for name, x in inputs.items()}
    return tuple(map(_first_two, inputs)) if isinstance(inputs, (tuple, list)) else np.array(inputs[:2])


def _read(c: DataConfig, base: Path, labelled: bool, layout: Layout) -> Dataset | OwnData:
    if c.source == "digits":
        return datasets.digits()
    if c.source == "factory":
        if c.factory is None:
            raise ConfigError("data.source is 'factory': give data.factory (package.module:function)")
        made = datasets.factory(import_object(c.factory, "data.factory"), **c.kwargs)
        return made if isinstance(made, Dataset) else _own(made, c, layout)
    if c.source == "scenes":
        return replace(scenes(None if c.path is None else expand(c.path, base), c.size, c.count, c.seed), mean=c.mean, std=c.std)
    if c.path is None:
        raise ConfigError(f"data.source is '{c.source}': give data.path")
    path = expand(c.path, base)
    if c.source == "idx":
        return datasets.idx(path, c.name or "idx", c.mean, c.std)
    if c.source in ("npz", "npy"):
        return datasets.npz(path, c.mean, c.std, c.layout, labelled)
    form = ImageForm(c.size, c.resize, c.interpolation, c.color)
    return datasets.image_folder(path, form, c.mean, c.std, c.seed)


#: The options of images that a factory's own batches do not need.
_OF_ARRAYS = ("flip", "layout")
_OF_IMAGES = ("mean", "std", "size", "resize", "interpolation", "color", "scale", *_OF_ARRAYS)


def _own(returned: Any, c: DataConfig, layout: Layout) -> OwnData:
    """Return what a factory returned as parts; pictures of Pillow become arrays as those of a folder do.

    Raises:
        DataError: an option would have no effect on them.
    """
    parts, unused = parts_of(returned, c.seed), list[str]()
    first = parts["train"].first_sample()
    if isinstance(first, tuple) and hasattr(first[0], "getbbox"):
        form = ImageForm(c.size, c.resize, c.interpolation, c.color)
        change = ImagePixels(form, 1 / 255 if c.scale is None else c.scale, c.mean, c.std, layout)
        parts = {name: part.mapped(change) for name, part in parts.items()}
        unused += [name for name in _OF_ARRAYS if name in c.model_fields_set]
    else:
        unused += [name for name in _OF_IMAGES if name in c.model_fields_set]
    if c.workers is not None and parts["train"].kind != "samples":
        unused.append("workers")
    if unused:
        raise DataError(f"the factory's data are passed on as they are, without data.{unused[0]}: leave it out")
    return OwnData(c.name or c.factory or "", parts, c.seed)
