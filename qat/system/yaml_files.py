"""YAML files into pydantic models, with errors that name the file, the line, the key and the nearest valid one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from qat.errors import ConfigError, OptionError, nearest

M = TypeVar("M", bound=BaseModel)
#: Files that may stand where a configuration is wanted.
_MODELS = (".onnx", ".tflite", ".keras")


def load_yaml(path: str | Path, model: type[M]) -> M:
    """Read a YAML file into a model.

    Raises:
        ConfigError: no such file, invalid YAML, or a key or value that the model does not take; one sentence.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        data = YAML(typ="rt").load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"no such file: {path}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder: give a .yaml file") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        made = f"; `qat init --from {path} --data DATA` writes one of a model's file" if path.suffix in _MODELS else ""
        raise ConfigError(f"{path} is no text: give a .yaml file{made}") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected 'key: value' lines, found {'an empty file' if data is None else type(data).__name__}"
        )
    try:
        return model.model_validate(_plain(data))
    except ValidationError as error:
        raise ConfigError(_first_problem(path, data, model, error)) from error


def _plain(data: Any) -> Any:
    """Strip ruamel's containers, which carry the line numbers."""
    if isinstance(data, dict):
        return {k: _plain(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_plain(v) for v in data]
    return data


def _first_problem(path: Path, data: Any, model: type[BaseModel], error: ValidationError) -> str:
    # A misspelt key is also a missing one; the spelling is what the user wants to hear of.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = _in_file(data, problem["loc"])
    if problem["type"] == "missing":
        location.append(problem["loc"][-1])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):  # its message names the option
        return f"{path}:{_line(data, [*location, cause.option])}: {cause}"
    where = f"{path}:{_line(data, location)}"
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        valid = _fields(model, location[:-1])
        return f"{where}: unknown key '{location[-1]}'{nearest(str(location[-1]), valid)}; valid here: {', '.join(valid)}"
    if problem["type"] == "missing":
        return f"{where}: the key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {key or 'the file'}: {message} (found {problem['input']!r})" if key else f"{where}: {message}"


def _in_file(data: Any, location: Sequence[Any]) -> list[Any]:
    """Return the parts of a key path that the file has; pydantic names the types of a union between them."""
    found: list[Any] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        found.append(part)
    return found


def _line(data: Any, location: Sequence[Any]) -> int:
    """Return the 1-based line of the deepest part of a key path that exists."""
    line = 1
    for part in location:
        try:
            marks = data.lc
            line = (marks.key(part) if isinstance(data, dict) else marks.item(part))[0] + 1
            data = data[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def _fields(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the field names of the (nested) model that a key path leads to."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue
        current = _model_in(field.annotation)
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)
