"""Functions that a user names in a configuration, as ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qat.errors import ConfigError


def find_modules_in(folder: Path) -> None:
    """Let the modules of users be found in a folder first, then in the working folder."""
    _find_in_working_folder()
    first = str(folder.resolve())
    if first in sys.path:
        sys.path.remove(first)
    sys.path.insert(0, first)


def _find_in_working_folder() -> None:
    if os.getcwd() not in sys.path:  # as `python -m qat` has it, so that both commands find the user's modules
        sys.path.insert(0, os.getcwd())


def import_object(spec: str, what: str) -> Callable[..., Any]:
    """Return the function of ``package.module:function``.

    Raises:
        ConfigError: it cannot be imported; the message says which part.
    """
    module, _, name = spec.partition(":")
    if not name:
        raise ConfigError(f"{what} '{spec}' must be written package.module:function")
    _find_in_working_folder()
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the user's module raises
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ConfigError(f"{what} '{spec}': cannot import {module}: {kind}{error}") from error
    if not callable(found):
        raise ConfigError(f"{what} '{spec}': module {module} has no function '{name}'")
    result: Callable[..., Any] = found
    return result
