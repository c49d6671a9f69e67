"""The journal of a search: a line for each thing that happened, written before the next begins, so that no kill loses one."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from qat.errors import ExportError
from qat.runtimes.model_file import Parity
from qat.system.atomic_files import make_folder, write_atomically

from .choices import Choices
from .evidence import Evidence
from .goal import GOOD, Figures, Verdict

Outcome = Literal["tried", "skipped", "failed"]


@dataclass(frozen=True)
class Attempt:
    """A step of a search, after it.

    Attributes:
        step: its name.
        outcome: whether it was tried, skipped, or ended in an error.
        why: it was tried or skipped; the error's message.
        seconds: that it took, in all processes that worked at it.
        artifact: the file's name in the folder of its step; empty without one.
        choices: what made it.
        figures: on the validation data.
        verdict: what the figures say of the goal.
        said: the verdict in a sentence.
        built: of the seconds, those before the figures were measured.
        parity: of the artifact with its model, on validation samples.
    """

    step: str
    outcome: Outcome
    why: str
    seconds: float = 0.0
    artifact: str = ""
    choices: Choices | None = None
    figures: Figures | None = None
    verdict: Verdict | None = None
    said: str = ""
    built: float = 0.0
    parity: Parity | None = None

    @property
    def good(self) -> bool:
        """Whether the goal is reached."""
        return self.verdict in GOOD

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; :meth:`from_dict` reads them back."""
        choices = None if self.choices is None else self.choices.to_dict()
        figures, parity = (None if x is None else asdict(x) for x in (self.figures, self.parity))
        return {**vars(self), "choices": choices, "figures": figures, "parity": parity}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Attempt:
        """Read what :meth:`to_dict` wrote."""
        choices, figures, parity = values["choices"], values["figures"], values["parity"]
        made = {
            "choices": choices and Choices.from_dict(choices), "figures": figures and Figures(**figures),
            "parity": parity and Parity(**parity),
        }  # fmt: skip
        return cls(**{**values, **made})


@dataclass
class Journal:
    """The journal of a search.

    Attributes:
        path: ``journal.jsonl`` in the folder of the search.
        lines: the events so far, in order, each a dictionary with ``event``, ``at`` (seconds since 1970) and its own keys.
    """

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def opened(cls, folder: Path, resume: bool) -> Journal:
        """Return the journal of a folder: continued, or a new one, before which an earlier search's files are moved aside.

        A line that a kill has cut is left out.
        """
        make_folder(folder)
        journal = cls(folder / "journal.jsonl")
        if not resume:
            _move_aside(folder)
        elif journal.path.is_file():
            for line in journal.path.read_text(encoding="utf-8").splitlines():
                try:
                    journal.lines.append(json.loads(line))
                except ValueError:
                    break
            whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in journal.lines)
            write_atomically(journal.path, whole, overwrite=True)
        return journal

    def add(self, event: str, **values: Any) -> None:
        """Write an event.

        Raises:
            ExportError: the disk is full, or the file cannot be written.
        """
        line = {"event": event, "at": round(time.time(), 3), **values}
        self.lines.append(line)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ExportError(f"cannot write {self.path}: {error.strerror or error}") from error

    def add_attempt(self, attempt: Attempt) -> None:
        """Write how a step ended."""
        self.add("step", **attempt.to_dict())

    def all(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a kind, in order."""
        return [line for line in self.lines if line["event"] == event]

    @property
    def attempts(self) -> list[Attempt]:
        """The steps that have ended; of a step that was skipped and later tried, the last."""
        found = {}
        for line in self.all("step"):
            found[line["step"]] = Attempt.from_dict({k: v for k, v in line.items() if k not in ("event", "at")})
        return list(found.values())

    @property
    def evidence(self) -> Evidence | None:
        """The evidence; None before it is known."""
        found = self.all("evidence")
        return Evidence(**found[-1]["found"]) if found else None

    @property
    def seconds(self) -> float:
        """The seconds of all that has ended."""
        return sum(line.get("seconds", 0.0) for line in self.lines)

    def begun(self, step: str) -> dict[str, Any] | None:
        """Return the event by which a step began that has not ended; None of another."""
        last = next((line for line in reversed(self.lines) if line["event"] in ("begin", "step")), None)
        return last if last is not None and last["event"] == "begin" and last["step"] == step else None


def _move_aside(folder: Path) -> None:
    """Move what an earlier search left into a folder beside it: its weights are not overwritten."""
    found = [folder / name for name in ("journal.jsonl", "steps", "checkpoints") if (folder / name).exists()]
    if not found:
        return
    aside = next(p for n in count(1) if not (p := folder / f"earlier.{n}").exists())
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
