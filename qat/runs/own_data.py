"""The data of a configuration's own factory: data sets, loaders and streams of its framework, as they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from qat.errors import DataError
from qat.system.sample_sets import SampleBatches, kind_of, stacked

from .data_parts import RETURNS, ArrayPair, Part, class_numbers_of
from .dataset import Split
from .reading import Read, drawn
from .splits import missing_classes, mixed_order

log = logging.getLogger("qat")

#: The names under which a dictionary may hold each part.
_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def parts_of(returned: Any, seed: int) -> dict[Split, Part]:
    """Return the parts of what a factory returned: training, validation and test data.

    Without test data the validation data are reported on. Validation data are then held out of the training data, where these
    have samples by number: a tenth of them. A stream has none to hold out, so that the data that are reported on also choose the
    checkpoint.

    Raises:
        DataError: the factory returned something else.
    """
    parts = {name: Part.of(data, name) for name, data in _named(returned).items()}
    if "train" not in parts:
        raise DataError(f"the factory returned no training data: {RETURNS}")
    train = parts["train"]
    if len(parts) == 1:
        if train.chosen is None:
            raise DataError(f"the factory returned training data alone, of which none can be held out by number: {RETURNS}")
        log.warning("the factory returned training data alone: a fifth of them, each class in its share, are the test data")
        parts["train"], parts["test"] = train.divided(5, seed)
    elif "test" not in parts:
        log.warning("there are no test data: the validation data are reported on")
        parts["test"] = parts.pop("validation")
    if "validation" not in parts and train.chosen is not None:
        parts["train"], parts["validation"] = parts["train"].divided(10, seed)
    elif "validation" not in parts:
        log.warning("there are no validation data: the data that are reported on also choose the checkpoint")
        parts["validation"] = parts["test"]
    return {name: part.mixed(seed) if name == "train" else part for name, part in parts.items()}


def _named(returned: Any) -> dict[Split, Any]:
    if isinstance(returned, Mapping):
        found: dict[Split, Any] = {}
        for key, data in returned.items():
            name = next((name for name, words in _NAMES.items() if str(key).lower() in words), None)
            if name is None or name in found:
                raise DataError(f"the factory's dictionary has the key '{key}': the keys are train, validation and test")
            found[name] = data
        return found
    if isinstance(returned, tuple) and not all(hasattr(x, "shape") and kind_of(x) == "batches" for x in returned):
        if len(returned) not in (2, 3):
            raise DataError(f"the factory returned a tuple of {len(returned)}: {RETURNS}")
        names: tuple[Split, ...] = ("train", "validation", "test") if len(returned) == 3 else ("train", "test")
        return dict(zip(names, returned, strict=True))
    return {"train": returned}


@dataclass
class OwnData:
    """The parts of the user's data; the same calls as :class:`qat.runs.dataset.Dataset` has."""

    name: str
    parts: dict[Split, Part]
    seed: int = 0
    class_names: tuple[str, ...] = ()
    _seen: dict[str, np.ndarray] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    @property
    def classes(self) -> int | None:
        """The number of classes, where labels are known ahead."""
        labels = [part.labels for part in self.parts.values() if part.labels is not None]
        return max(int(y.max()) for y in labels) + 1 if labels else None

    @property
    def decoded(self) -> bool:
        """Whether samples are made as they are asked for."""
        return self.parts["train"].kind == "samples" and not isinstance(self.parts["train"].data, ArrayPair)

    def labels(self, split: Split, limit: int | None = None) -> np.ndarray | None:
        """Return the labels of a part's first samples, where they are known without reading the samples."""
        part = self.parts[split]
        return None if part.labels is None or part.chosen is None else part.labels[part.chosen[:limit]]

    def batches(self, split: Split, size: int, shuffle: int | None = None, limit: int | None = None) -> Any:
        """Return the batches of a part, of at most ``limit`` samples; of loaders and streams the first ones, to be read once."""
        what = f"the {'training' if split == 'train' else split} data"
        made = self.parts[split].batches(size, what, shuffle, limit)
        if isinstance(made, SampleBatches):
            return made
        if limit is not None:
            return islice(Read(made, what, None), -(-limit // size))
        return Read(made, what, None if split == "train" else lambda labels: self._note(split, labels))

    def calibrating(self, count: int) -> tuple[Any, str]:
        """Return batches of calibration samples, and what they were drawn from; an empty text for a sample of everything.

        Samples by number, those of a DataLoader too, are a sample of all. Of other data the first ones are read, four times as
        many, and a random part of them is kept.
        """
        return self._drawn("train", count, "the calibration data")

    def reference(self, count: int) -> Any:
        """Return batches of test samples, drawn as those of calibration are, to hold these against."""
        return self._drawn("test", count, "the test data")[0]

    def _drawn(self, split: Split, count: int, what: str) -> tuple[Any, str]:
        part = self.parts[split]
        if part.chosen is not None:
            return (part if split == "train" else part.mixed(self.seed)).batches(64, what, limit=count), ""
        samples = getattr(part.data, "dataset", None)
        if samples is not None and hasattr(samples, "__getitem__") and hasattr(samples, "__len__"):
            chosen = mixed_order(class_numbers_of(samples), len(samples), self.seed)[:count]
            collate = getattr(part.data, "collate_fn", None)
            return SampleBatches(samples, 64, None, chosen, collate, what), ""
        name = "training" if split == "train" else split
        kept, read = drawn(self.batches(split, 64), count, self.seed, f"the {name} data")
        labels = [np.asarray(s[1]) for s in kept if isinstance(s, tuple) and len(s) == 2 and hasattr(s[1], "shape")]
        if split == "train":
            self._note("calibration", [np.stack(labels)] if labels and all(y.shape == () for y in labels) else [])
        batches = [stacked(kept[i : i + 64], what) for i in range(0, len(kept), 64)]
        return batches, f"drawn from the first {read} of the {name} data"

    def _note(self, part: str, labels: list[np.ndarray]) -> None:
        """Remember the labels that a part was read with, and name the classes that it or another part lacks."""
        if not labels or part in self._seen:
            return
        self._seen[part] = np.concatenate(labels)
        for sentence in missing_classes(self._seen):
            if sentence not in self._said:
                self._said.add(sentence)
                log.warning("data set '%s': %s", self.name, sentence)
