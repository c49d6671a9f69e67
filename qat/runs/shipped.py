"""The configurations that ship with the toolkit, by name: ``qat run digits_torch`` runs one from any folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qat.errors import ConfigError, nearest


def folder() -> Path:
    """Return the folder of the shipped configurations."""
    return Path(str(files("qat.configs"))) / "runs"


def shipped() -> dict[str, Path]:
    """Return the shipped configurations by name."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def find(config: Path) -> Path:
    """Return the file of a configuration that a user names: a file's path, or the name of a shipped configuration.

    Raises:
        ConfigError: there is neither; the message has the nearest shipped name.
    """
    known = shipped()
    if not config.is_file() and str(config) in known:
        return known[str(config)]
    if config.exists():
        return config
    raise ConfigError(
        f"no such file: {config}; nor does a configuration of that name ship with qat{nearest(config.stem, known)}: qat configs "
        "lists those that do, and qat init writes one"
    )


def purpose(config: Path) -> str:
    """Return what a shipped configuration says of itself: the first line of its comment."""
    return config.read_text().partition("\n")[0].lstrip("# ")
