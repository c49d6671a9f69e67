"""docs/configuration.md names every key, and none that does not exist."""

import re
from pathlib import Path

from pydantic import BaseModel

from qat.runs.config import RunConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(model=RunConfig, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{name}.")
        else:
            yield prefix + name


def documented():
    """Return the keys that the table's rows name: ``a.b``, ``.c`` after it, and bare words in the row of a whole section."""
    found = set()
    for line in re.findall(r"^\| (`.*)", PAGE.read_text(), re.MULTILINE):
        named, default, meaning = (cell.strip() for cell in line.split("|", 2))
        section = ""
        for key in re.findall(r"`([\w.]+)`", named):
            section = section if key.startswith(".") else key.split(".")[0]
            found.add(section + key if key.startswith(".") else key)
        if named.strip("`") in RunConfig.model_fields:
            found |= {f"{section}.{word}" for word in re.findall(r"`([a-z_0-9]+)`", default + meaning)} & set(keys())
    return found - {"model", "data", "training", "float_training", "calibration"}


def test_every_key_is_documented_and_every_documented_key_exists():
    assert documented() == set(keys())
