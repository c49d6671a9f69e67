"""Whether a run may continue from a checkpoint: as it began, of any length that is not shorter than what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from qat.errors import ConfigError
from qat.frameworks import has_plan

#: The options that say how long a run is. A run that continues may be given others.
LENGTH = ("epochs", "max_steps")

#: What a run writes into its folder, without the ending.
_FILES = ("training", "training.previous", "best", "last")


def identity(model: Any) -> dict[str, Any]:
    """Return, JSON-ready, what makes a prepared model the one that a run began with; nothing of a float model."""
    if not has_plan(model):
        return {}
    plan = model.plan
    # Without names: Keras numbers the layers of each model that is made.
    ops = [(p.op.kind, p.mode, p.activation, None if p.weight is None else p.weight.model_dump()) for p in plan.ops]
    groups = [(g.spec.model_dump(), g.qmin, g.qmax, g.learned) for g in plan.groups.values()]
    digest = hashlib.sha256(json.dumps([ops, groups], sort_keys=True, default=str).encode()).hexdigest()[:8]
    return {"recipe": plan.recipe.name, "target": plan.target.name, "model": f"{len(ops)} operators (digest {digest})"}


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError where a run would continue with other options, or another model, than it was started with.

    Its length may be another: see :data:`LENGTH`.
    """
    for name in sorted({*stored, *now} - set(LENGTH), key=lambda name: (name == "model", name)):
        if stored.get(name) != now.get(name):
            raise ConfigError(
                f"the run was started with {name}={stored.get(name)!r} and would continue with {now.get(name)!r}: resume with "
                "what it was started with, or start again in another checkpoint_dir"
            )


def new_length(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the options of the length that are not those of before, in words; empty where all are."""
    changed = [name for name in LENGTH if stored.get(name) != now.get(name)]
    return ", ".join(f"{name}={now.get(name)} in place of {stored.get(name)}" for name in changed)


def move_aside(folder: Path) -> Path | None:
    """Move the files of an earlier run into a folder beside theirs, and return that folder; None where there are none."""
    found = [path for path in folder.glob("*.*") if path.is_file() and path.stem in _FILES]
    if not found:
        return None
    here = folder.resolve()
    aside = next(p for n in count(1) if not (p := here.with_name(f"{here.name}.{n}")).exists())
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    return aside
