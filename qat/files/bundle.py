"""A MediaPipe bundle (``.task``) in, a bundle of quantized models out; everything else in it keeps its bytes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from qat.errors import ConfigError, DataError, QatError, at, nearest
from qat.planning.recipe import Recipe
from qat.sources.bundle import models_of, with_models
from qat.system.atomic_files import refuse_existing, write_atomically
from qat.system.given_files import check_file
from qat.typing import FileData

from .request import DEFAULT_RECIPE, SHORT_FORMS, Request, ending_of
from .result import QuantizedFile

SUFFIX = ".task"
#: In place of a recipe: the model stays as it is.
KEEP = "float"

#: Quantizes one file: its path, its data, the request.
QuantizeOne: TypeAlias = Callable[[Path, "FileData | None", Request], QuantizedFile]


def quantized(path: Path, data: FileData | None, request: Request, quantize_one: QuantizeOne) -> QuantizedFile:
    """Quantize the models of a bundle, each by its own recipe.

    Args:
        path: of the bundle.
        data: for all models, or for each: a dict by model, or a folder that holds ``<model>.npz`` for each model.
        request: the options. Its recipe is one for all models, or ``"hand_detector=fp16,hand_landmarks_detector=int8"``; a model
            that is not named gets ``int8``, and ``float`` leaves a model as it is.
        quantize_one: that quantizes a ``.tflite``.

    Raises:
        DataError: the bundle cannot be read.
        ConfigError: a recipe names no model of the bundle, or leaves all of them as they are.
        QatError: a model cannot be quantized; the message names it.
    """
    check_file(path)
    raw = path.read_bytes()
    models = models_of(raw, str(path))
    recipes = _recipes(request, list(models), str(path))
    endings = {ending_of(replace(request, recipe=recipe).full_recipe()) for recipe in recipes.values() if recipe != KEEP}
    if not endings:
        raise ConfigError(f"{path}: every model of the bundle stays float: name a recipe for one of {', '.join(models)}")
    where = (path.parent if request.out is None else request.out) / f"{path.stem}_{'_'.join(sorted(endings))}{SUFFIX}"
    if not request.overwrite:
        refuse_existing(where)
    parts, made = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, content) in enumerate(models.items()):
            if recipes[name] == KEEP:
                continue
            float_file = Path(folder) / str(index) / PurePosixPath(name).name
            float_file.parent.mkdir()
            float_file.write_bytes(content)
            own = replace(request, recipe=recipes[name], out=float_file.parent, overwrite=True)
            try:
                part = quantize_one(float_file, _data_of(name, data), own)
            except QatError as error:  # which names the file on the way by its path
                raise at(f"{path}: '{name}'", error, str(float_file), float_file.name) from error
            assert part.path is not None
            made[name] = part.path.read_bytes()
            parts.append(replace(part, source=f"{path}/{name}", path=where / name))
    bundle = with_models(raw, made, str(path))
    write_atomically(where, bundle, request.overwrite)
    return _together(path, where, len(raw), len(bundle), request, parts)


def _recipes(request: Request, models: list[str], where: str) -> dict[str, str | Path | Recipe]:
    """Return the recipe of each model."""
    if not isinstance(request.recipe, str) or "=" not in request.recipe:
        return dict.fromkeys(models, request.recipe)
    short = {PurePosixPath(name).stem: name for name in models}
    found: dict[str, str | Path | Recipe] = dict.fromkeys(models, DEFAULT_RECIPE)
    for part in re.split(r",(?=[^,]+=)", request.recipe):
        name, _, recipe = part.partition("=")
        model = name.strip() if name.strip() in models else short.get(name.strip())
        if model is None:
            raise ConfigError(f"{where}: the bundle holds no model '{name}'{nearest(name, short)}; models: {', '.join(models)}")
        found[model] = SHORT_FORMS.get(recipe.strip(), recipe.strip())
    return found


def _data_of(name: str, data: FileData | None) -> FileData | None:
    """Return the data of one model."""
    stem = PurePosixPath(name).stem
    if isinstance(data, Mapping):
        found = next((data[key] for key in (name, stem) if key in data), None)
        if found is None:
            raise DataError(f"there are no data for it: name them by '{stem}'")
        return found
    if isinstance(data, (str, Path)) and (Path(data) / f"{stem}.npz").is_file():
        return Path(data) / f"{stem}.npz"
    return data


def _together(path: Path, where: Path, before: int, after: int, request: Request, parts: list[QuantizedFile]) -> QuantizedFile:
    """Return the row of a bundle: of its models the largest error and the smallest agreement."""
    errors = [part.error_percent for part in parts if part.error_percent is not None]
    agreements = [part.agreement for part in parts if part.agreement is not None]
    exact = [part.exact for part in parts if part.exact is not None]
    return QuantizedFile(
        source=str(path), path=where, tool=request.tool, recipe=str(request.recipe), float_bytes=before, bytes=after,
        error_percent=max(errors, default=None), agreement=min(agreements, default=None), exact=min(exact, default=None),
        steps=sum(part.steps for part in parts), seconds=sum(part.seconds for part in parts), parts=tuple(parts),
    )  # fmt: skip
