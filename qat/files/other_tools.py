"""A float file, quantized by another tool: the same command, names and figures, for comparison."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qat.baselines.baseline import Maker
from qat.errors import ConfigError, ExportError, nearest, reason_of
from qat.exporters.inspection import inspect
from qat.report.statistics import error_percent
from qat.runtimes import open_session
from qat.system.atomic_files import refuse_existing, write_atomically
from qat.trainers.output_losses import choose

from .distance import agreement_percent
from .held_out import held_out
from .inputs import BATCH, joined
from .opened import Opened, open_data
from .own import parts_of
from .request import SHORT_FORMS, Request
from .result import QuantizedFile

#: The suffixes that each tool takes.
_TAKES = {"aeq": (".tflite",), "onnxruntime": (".onnx",), "tflite": (".keras",)}
#: The endings of names, by what recipes of other tools are called; the first that fits.
_ENDINGS = (
    ("wi4", "int4"),
    ("wi2", "int2"),
    ("float16", "fp16"),
    ("dynamic", "dynamic"),
    ("weight_only", "weights_int8"),
    ("ai16", "int16x8"),
)
_FLOAT = {"float32", "float64"}


def quantized(source: str | Path, data: Any, request: Request) -> QuantizedFile:
    """Quantize one file by another tool.

    Raises:
        ConfigError: the tool does not take such a file, has no such recipe, or has quantized nothing.
        ExportError: the tool fails; the message holds its reason.
    """
    started, path = time.perf_counter(), Path(source)
    if path.suffix not in _TAKES[request.tool]:
        raise ConfigError(f"the tool '{request.tool}' quantizes {' and '.join(_TAKES[request.tool])} files, not {source}")
    if not isinstance(request.recipe, (str, Path)):
        raise ConfigError(f"the tool '{request.tool}' has recipes of its own, by name")
    recipe = SHORT_FORMS.get(str(request.recipe), str(request.recipe))
    suffix = ".onnx" if path.suffix == ".onnx" else ".tflite"
    ending = next((ending for part, ending in _ENDINGS if part in recipe), "int8")
    where = (request.out or path.parent) / f"{path.stem}_{request.tool}_{ending}{suffix}"
    if not request.overwrite:
        refuse_existing(where)
    opened = open_data(path, data, request, BATCH)
    kept, held = parts_of(opened)
    maker = _maker(request.tool, recipe, opened, kept)
    try:
        raw = maker.make()
    except Exception as error:  # any tool may fail in any way
        raise ExportError(f"{maker.tool} fails on {source}: {type(error).__name__}: {reason_of(error)}") from error
    write_atomically(where, raw, request.overwrite)
    if set(inspect(where).bits()) <= _FLOAT:
        where.unlink()
        raise ConfigError(f"{maker.tool} with the recipe '{recipe}' has quantized nothing in {source}")
    before, after = _float_outputs(opened, held), _outputs(where, opened, held)
    kinds = choose({str(i): y for i, y in enumerate(before)}, None, suffix == ".onnx")
    return QuantizedFile(
        source=str(source), path=where, tool=maker.tool, recipe=recipe, float_bytes=opened.bytes, bytes=len(raw),
        error_percent=error_percent(after, before), agreement=agreement_percent(after, before, kinds), data=opened.samples.said,
        seconds=time.perf_counter() - started, comparison=held_out(opened, where.name, held, before, after, kinds),
    )  # fmt: skip


def _maker(tool: str, recipe: str, opened: Opened, kept: list[tuple[np.ndarray, ...]]) -> Maker:
    """Return the maker of a recipe."""
    path = opened.path
    assert path is not None
    if tool == "aeq":
        return _of_ai_edge(path, recipe, kept)
    if tool == "onnxruntime":
        from qat.baselines.of_file import makers

        found = {m.name.removeprefix("onnxruntime_"): m for m in makers(path, kept, per_channel=True)}
        aliases = {"static_wi8_ai8": "static_minmax", "dynamic_wi8_afp32": "dynamic"}
        return _named({name: m for name, m in found.items() if name != "float"}, aliases.get(recipe, recipe), tool)
    from qat.baselines import tflite

    found = {
        m.name.removeprefix("tflite_"): m
        for m in tflite.makers(opened.model, kept[0], kept, True)
        if m.name.startswith("tflite_")
    }
    aliases = {"static_wi8_ai8": "int8", "dynamic_wi8_afp32": "dynamic"}
    return _named(found, aliases.get(recipe, recipe), tool)


def _of_ai_edge(path: Path, name: str, kept: list[tuple[np.ndarray, ...]]) -> Maker:
    from ai_edge_quantizer import recipe

    from qat.baselines import ai_edge
    from qat.baselines.expanded import expanded
    from qat.baselines.of_file import input_names

    own = {n: getattr(recipe, n) for n in dir(recipe) if n.startswith(("dynamic_", "static_", "weight_only_"))}
    name = name.replace("weightonly", "weight_only")
    if name not in own:
        raise ConfigError(f"AI Edge Quantizer has no recipe '{name}'{nearest(name, own)}; it has {', '.join(own)}")
    make = lambda: ai_edge.quantized(expanded(path), name, lambda: kept, input_names(path))  # noqa: E731
    return Maker(f"aeq_{name}", ai_edge.TOOL, name, make)


def _named(found: Mapping[str, Maker], name: str, tool: str) -> Maker:
    if name not in found:
        raise ConfigError(f"the tool '{tool}' has no recipe '{name}'{nearest(name, found)}; it has {', '.join(found)}")
    return found[name]


def _float_outputs(opened: Opened, held: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    if opened.path is not None and opened.path.suffix != ".keras":
        return _outputs(opened.path, opened, held)
    return opened.outputs(opened.model, held)


def _outputs(path: Path, opened: Opened, held: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    session = open_session(path)
    parts = [session.run(*batch) for batch in held]
    return joined(parts, opened.batch, opened.samples.axes)
