"""Errors of the toolkit: one base class, and messages that say what was found, where, and what to do next."""

from __future__ import annotations


class QatError(Exception):
    """Base class of every error that a user can act on. The command line prints it in one sentence and exits with its code."""

    exit_code = 2


class ConfigError(QatError, ValueError):
    """A configuration file, recipe, target or option is not what the toolkit accepts."""


class DataError(QatError, ValueError):
    """A data set cannot be read, is empty, or holds values that cannot be trained on."""


class CaptureError(QatError):
    """The model's graph cannot be captured."""


class CalibrationError(QatError):
    """Ranges are missing or cannot be estimated."""


class ExportError(QatError):
    """The artifact cannot be written."""


class RuntimeMismatchError(QatError):
    """An artifact does not do in its runtime what was trained."""


class MissingDependencyError(QatError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def nearest(word: str, valid: object) -> str:
    """Return `` (did you mean 'x'?)`` for the entry of ``valid`` that is closest to ``word``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, [str(v) for v in valid], n=1, cutoff=0.5)  # type: ignore[attr-defined]
    return f" (did you mean '{close[0]}'?)" if close else ""
