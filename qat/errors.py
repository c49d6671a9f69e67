"""Errors of the toolkit: one base class, and messages that say what was found, where, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile


class QatError(Exception):
    """Base class of every error that a user can act on. The command line prints it in one sentence and exits with its code."""

    exit_code = 2


class ConfigError(QatError, ValueError):
    """A configuration file, recipe, target or option is not what the toolkit accepts."""


class OptionError(ConfigError):
    """One of several options is unknown or has a value that it cannot have; ``option`` is its name."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class DataError(QatError, ValueError):
    """A data set cannot be read, is empty, or holds values that cannot be trained on."""


class CaptureError(QatError):
    """The model's graph cannot be captured."""


class ConversionError(CaptureError):
    """A layer of a ``tf_keras`` model has no like in Keras 3."""


class CustomOperatorError(QatError):
    """A file has an operator of its maker's own, which the runtime of its format does not have."""


class CalibrationError(QatError):
    """Ranges are missing or cannot be estimated."""


class ExportError(QatError):
    """The artifact cannot be written."""


class RuntimeMismatchError(QatError):
    """An artifact computes other values in its runtime than the model that it was exported from."""


class MissingDependencyError(QatError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def at(where: str, error: QatError, path: str = "", name: str = "") -> QatError:
    """Return an error of the same class whose message begins with where it arose, and calls the file of a path by a name."""
    message = f"{where}: {str(error).replace(path, name) if path else error}"
    # Not by the class itself, which may take more than a message.
    located = type(error).__new__(type(error), message)
    located.__dict__.update(error.__dict__)
    located.args = (message,)
    if isinstance(located, ImportError):
        located.msg = message
    return located


def reason_of(error: BaseException) -> str:
    """Return the telling line of another library's message, cut to 200 characters; without any, the error's type."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras' colours
    lines = [line.strip() for line in text.splitlines()]
    whole = lines[:1] == ["in user code:"]  # TensorFlow's traceback: the reason ends it
    # Keras says behind the reason what the layer was given.
    lines = list(takewhile(lambda line: not re.match("(Call a|A)rguments received by", line), lines))
    if whole:
        lines.reverse()
    said = (line for line in lines if line and not line.startswith("Exception encountered when calling"))
    return next(said, type(error).__name__)[:200]


def nearest(word: str, valid: Iterable[object]) -> str:
    """Return `` (did you mean 'x'?)`` for the entry of ``valid`` that is closest to ``word``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, [str(v) for v in valid], n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
