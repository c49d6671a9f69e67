"""What a run reports on its way: TensorBoard's logs, and the metrics of the exported artifact in its own runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

from qat.display.progress import length, tracked
from qat.errors import ConfigError, MissingDependencyError
from qat.exporters import export
from qat.frameworks import has_plan, is_prepared
from qat.runtimes import open_session
from qat.system.atomic_files import make_folder
from qat.typing import Batches, Layout

from .epoch import Epoch
from .learner import Learner
from .metric import Metric
from .metrics import measure
from .named_outputs import named
from .options import TrainingOptions


class Callbacks:
    """A context around a run. The log's file is closed at its end."""

    def __init__(self, learner: Learner, options: TrainingOptions, eval_data: Batches | None) -> None:
        self.learner, self.options, self.eval_data = learner, options, eval_data
        if options.artifact_every is not None and (eval_data is None or not is_prepared(learner.model)):
            raise ConfigError("artifact_every evaluates the exported artifact: it needs a prepared model and evaluation data")
        self.writer = None
        if options.tensorboard is not None and learner.writes:
            make_folder(Path(options.tensorboard))
            try:
                self.writer = learner.log_writer(str(options.tensorboard))
            except ImportError as error:
                raise MissingDependencyError("tensorboard logs need TensorBoard: pip install 'qat-toolkit[train]'") from error

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()

    def step(self, step: int, loss: float, rate: float) -> None:
        """Log a training step."""
        if self.writer is not None:
            self.writer.scalar("train/loss", loss, step)
            self.writer.scalar("train/learning_rate", rate, step)

    def epoch(self, epoch: Epoch, step: int) -> None:
        """Log an epoch's metrics, and call ``on_epoch``."""
        if self.options.on_epoch is not None:
            self.options.on_epoch(epoch)
        if self.writer is not None:
            for name, values in (("validation", epoch.metrics), ("artifact", epoch.artifact)):
                for metric, value in values.items():
                    self.writer.scalar(f"{name}/{metric}", value, step)

    def artifact(self, epoch: int, metrics: Sequence[Metric] | None) -> dict[str, float]:
        """Return the metrics of the exported artifact in its runtime, in the epochs that are due; else an empty dictionary."""
        every = self.options.artifact_every
        if every is None or epoch % every or not self.learner.writes:
            return {}
        assert self.eval_data is not None
        self.learner.freeze()
        model = self.learner.model
        suffix = model.plan.target.suffix if has_plan(model) else ".tflite"
        layout = cast("Layout", model.plan.graph.layout) if has_plan(model) else None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"epoch{suffix}"
            export(model, path, io_dtype="float32", layout=layout)  # its images lie as the data's and the labels' do
            session = open_session(path)
            batches = tracked(self.learner.labelled(self.eval_data), "the artifact in its runtime", length(self.eval_data))
            names = [(name,) for name in session.output_names]
            pairs = ((named(names, session.run(*inputs)), labels) for inputs, labels in batches)
            return measure(metrics, pairs)
