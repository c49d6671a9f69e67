"""The state of a run: where it is, its best weights, and the random states by which a resumed run sees the same batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qat.errors import DataError
from qat.typing import Batches

from . import checkpoint
from .checkpoint import Checkpoint, Progress
from .continuation import check_same, identity, move_aside, new_length
from .epoch import Epoch
from .learner import Arrays, Learner, part
from .options import TrainingOptions

log = logging.getLogger("qat")


class RunState:
    """The state of a run, written to and read from its folder.

    Attributes:
        progress: where the run is.
        best: the best weights so far; empty before the first epoch ends.
        best_path: the file that holds them, where one is written.
        folder: of the checkpoints; None for none.
    """

    def __init__(self, learner: Learner, data: Batches, options: TrainingOptions, batches: int) -> None:
        self.learner, self.data, self.options = learner, data, options
        self._decisive = options.decisive() | {"batches": batches} | identity(learner.model)
        self.folder = None if options.checkpoint_dir is None else Path(options.checkpoint_dir)
        self.progress = Progress()
        self.best: Arrays = {}
        self.best_path: Path | None = None
        self._epoch_random: Arrays = {}
        self._resumed_random: Arrays | None = None

    def keep_best(self, epoch: Epoch) -> None:
        """Keep the weights of an epoch, if its first metric is the best so far; without metrics the last epoch is the best.

        Number 0 is the model before training.
        """
        p = self.progress
        score = epoch.accuracy if epoch.accuracy is not None else float(epoch.number)
        if epoch.metrics and not self.options.higher_is_better(next(iter(epoch.metrics))):
            score = -score
        if not self.best or score > p.best_score:
            p.best_score, p.best_epoch, self.best = score, epoch.number, self.learner.weights()
            self.best_path = self.learner.save("best")

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Return the epoch's batches; after a resume, those that were not seen yet."""
        p = self.progress
        for owner in (self.data, getattr(self.data, "sampler", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(p.epoch - 1)
        if self._resumed_random is None:
            self._epoch_random = self.learner.random_state(self.data)
        else:
            self.learner.restore_random(self.data, self._epoch_random)
        start_at = getattr(self.data, "start_at", None)
        if start_at is not None:
            start_at(p.batch)
        batches = self.learner.pairs(self.data)
        for index in range(0 if start_at is not None else p.batch):
            if next(batches, None) is None:
                raise DataError(f"the training data yields {index} batches, fewer than the {p.batch} that were done before")
        if self._resumed_random is not None:
            self.learner.restore_random(self.data, self._resumed_random)
            self._resumed_random = None
        return batches

    def write(self) -> None:
        """Write a checkpoint, where the run has a folder and this process writes files."""
        if self.folder is None or not self.learner.writes:
            return
        arrays, values = self.learner.state()
        parts = {"": arrays, "best/": self.best, "epoch_random/": self._epoch_random}
        parts["random/"] = self.learner.random_state(self.data)
        named = {prefix + name: array for prefix, found in parts.items() for name, array in found.items()}
        checkpoint.write(self.folder, Checkpoint(self.progress, named, values, self._decisive))

    def resume(self) -> None:
        """Continue from the folder's last checkpoint, where there is one and the options ask for it.

        Otherwise the files of an earlier run are moved aside: its best weights are not overwritten.

        Raises:
            ConfigError: the run was started with other options, with another model, or has done more than is asked for.
            DataError: no checkpoint is whole, or it is of another model.
        """
        if self.folder is None:
            return
        if not self.options.resume or not checkpoint.holds_run(self.folder):
            aside = move_aside(self.folder) if self.learner.writes else None
            if aside is not None:
                log.warning("%s held a run: its files are kept in %s; resume=True (--resume) continues a run", self.folder, aside)
            return
        found = checkpoint.read(self.folder)
        assert found is not None
        check_same(found.options, self._decisive)
        self.progress = found.progress
        changed = new_length(found.options, self._decisive)
        if changed:
            self.progress.finished = False
            log.warning(
                "the run goes on with %s: schedules are those of that length, from the step where the run stands", changed
            )
        self.best, self._epoch_random = part(found.arrays, "best/"), part(found.arrays, "epoch_random/")
        self.learner.restore(dict(found.arrays), found.values)
        self.learner.restore_random(self.data, part(found.arrays, "random/"))
        if self.progress.batch:
            self._resumed_random = part(found.arrays, "random/")
