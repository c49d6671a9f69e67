"""What a run's artifacts say of themselves: as the configuration says, and as the data are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qat.errors import ConfigError
from qat.exporters import Metadata
from qat.exporters.metadata import check_content

from .config import MetadataConfig, expand
from .data import RunData
from .dataset import Dataset


def metadata_of(data: RunData, base: Path) -> Metadata | None:
    """Return the metadata of a run's artifacts; None where the configuration asks for none.

    Labels are by default the names of the data's class folders, and the normalization that of its pixels.

    Raises:
        ConfigError: the file of labels cannot be read, there are fewer labels than classes, or a value is wrong.
    """
    c = data.config.metadata
    if c is None:
        return None
    labels = _labels(c, base) if c.labels is not None else data.dataset.class_names
    mean, std = (c.mean, c.std) if (c.mean, c.std) != (None, None) else _normalization(data)
    texts = {"description": c.description, "version": c.version, "author": c.author, "license": c.license}
    made = Metadata(name=c.name or data.config.name, labels=tuple(labels), mean=mean, std=std, **texts)
    check_content(made)
    classes = data.dataset.classes
    if made.labels and classes is not None and len(made.labels) < classes:
        raise ConfigError(f"metadata.labels has {len(made.labels)} names, and the data {classes} classes: give one for each")
    return made


def check_labels(metadata: Metadata | None, outputs: tuple[int, ...]) -> None:
    """Raise ConfigError unless the outputs of a model, by the sizes of their last axes, can have these labels."""
    if metadata is not None and metadata.labels and len(metadata.labels) not in outputs:
        raise ConfigError(
            f"metadata.labels has {len(metadata.labels)} names, and the model returns {', '.join(map(str, outputs))} values: "
            "give one for each"
        )


def _labels(c: MetadataConfig, base: Path) -> tuple[str, ...]:
    if not isinstance(c.labels, str):
        return c.labels or ()
    path = expand(c.labels, base)
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"metadata.labels: {path} cannot be read as a text of one label a line: {error}") from error


def _normalization(data: RunData) -> tuple[float | tuple[float, ...] | None, float | tuple[float, ...] | None]:
    """Return the mean and the std of pixels from 0 to 255, where the data are such: a pixel becomes (x scale - mean) / std."""
    d = data.dataset
    if not isinstance(d, Dataset) or d.train_x.dtype != np.uint8:
        return None, None
    mean, std = (tuple(float(x) for x in np.ravel(np.asarray(value)) / d.scale) for value in (d.mean, d.std))
    return mean, std
