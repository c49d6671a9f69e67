"""What a run began with: one that is resumed has the same model, data and options, or is refused by the key's name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qat.errors import ConfigError
from qat.system.atomic_files import write_atomically
from qat.trainers.continuation import LENGTH

from .job import Job

#: Beside the checkpoints.
FILE = "configuration.json"

#: The keys of ``data`` that no weight depends on.
_FREE = ("name", "workers")


def hold_to_beginning(job: Job) -> None:
    """Write down what a run begins with; of a run that is resumed, compare it.

    Raises:
        ConfigError: a key has another value than when the run began; the message has both.
    """
    file, now = job.checkpoints / FILE, dict(_flat(_decisive(job)))
    if not job.resume or not file.is_file():
        write_atomically(file, json.dumps(now, indent=1) + "\n", overwrite=True)
        return
    then = json.loads(file.read_text())
    for key, value in json.loads(json.dumps(now)).items():
        if key in then and then[key] != value:
            raise ConfigError(
                f"{key} was {then[key]!r} when this run began, and is {value!r}: put it back, or leave --resume out, which "
                "starts again and keeps the earlier weights"
            )


def _decisive(job: Job) -> dict[str, Any]:
    c = job.config
    training = {name: value for name, value in c.training.decisive().items() if name not in LENGTH}
    return {
        "framework": c.framework, "model": c.model.model_dump(mode="json"),
        "data": {name: value for name, value in c.data.model_dump(mode="json").items() if name not in _FREE},
        "recipe": c.recipe, "target": job.target.name, "equalize": c.equalize,
        "replace": sorted(c.replace.items()), "keep_zeros": c.keep_zeros, "dropout": c.dropout,
        "calibration": c.calibration.model_dump(mode="json"), "float_training": c.float_training.decisive(),
        "training": training,
    }  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and name != "kwargs":
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
