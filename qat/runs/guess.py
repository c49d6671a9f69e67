"""A guessed key of a configuration, and why it was guessed so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guess:
    """One key of a configuration.

    Attributes:
        key: with its section, as ``data.scale``.
        value: of the key.
        why: it is so, in one sentence; what else it might be.
    """

    key: str
    value: Any
    why: str = ""


def as_config(guesses: Iterable[Guess]) -> dict[str, Any]:
    """Return the guesses as a configuration is read."""
    found: dict[str, Any] = {}
    for guess in guesses:
        section, _, name = guess.key.rpartition(".")
        (found.setdefault(section, {}) if section else found)[name] = guess.value
    return found


def as_yaml(guesses: Iterable[Guess], title: str) -> str:
    """Return the guesses as YAML, each below its reason."""
    from io import StringIO

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    root = CommentedMap()
    root.yaml_set_start_comment(title)
    for guess in guesses:
        section, _, name = guess.key.rpartition(".")
        within = root if not section else root.setdefault(section, CommentedMap())
        within[name] = _flow(guess.value)
        if guess.why:
            within.yaml_set_comment_before_after_key(name, before=_wrapped(guess.why), indent=2 if section else 0)
    text = StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(root, text)
    return text.getvalue()


def _flow(value: Any) -> Any:
    """Return a list or a dictionary that is written in one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if not isinstance(value, (list, dict)):
        return value
    made = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    made.fa.set_flow_style()
    return made


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 110, break_long_words=False, break_on_hyphens=False)
