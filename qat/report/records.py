"""Records of files that are given by their paths: what a run wrote of them, else what the files themselves show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qat.exporters.inspection import kind_of
from qat.runtimes.model_file import ModelFile


def record_of(path: Path) -> ModelFile:
    """Return the record of a file.

    A file that a run made is called as the run's report calls it, so that both say the same of it: ``summary.json`` lies beside
    its folder. Of any other file the kind follows from its weights, and the name is the file's; one that is called
    ``float_control`` is the control.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
    """
    kind, recipe = kind_of(path)
    known = _of_run(path)
    if known is not None:
        return ModelFile(path=path, **known)
    if kind == "float" and path.stem.endswith("float_control"):
        kind = "control"
    return ModelFile(name=path.stem, kind=kind, path=path, recipe=recipe)


def distinct_names(names: Sequence[str], paths: Sequence[Path | None]) -> list[str]:
    """Return names of which no two are equal: files of one name get as much of their paths as tells them apart, others a number.

    Args:
        names: by which the entries of a comparison are called.
        paths: of the files that a user named; None for models, which have no files of their own.

    Examples:
        >>> distinct_names(["model", "model", "qat", "qat"], [Path("a/model.onnx"), Path("b/model.onnx"), None, None])
        ['a/model', 'b/model', 'qat', 'qat 2']
    """
    made = list(names)
    for name in dict.fromkeys(names):
        same = [i for i, other in enumerate(names) if other == name]
        found = [paths[i] for i in same]
        files = [path.absolute() for path in found if path is not None]
        chosen = [f"{name} {n}" if n > 1 else name for n in range(1, len(same) + 1)]
        if len(set(files)) == len(same) > 1:
            chosen = next((form for form in _forms(files) if len(set(form)) == len(same)), chosen)
        for i, own in zip(same, chosen, strict=True):
            made[i] = own
    return made


def _forms(files: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the names of files in ways that say ever more of their paths."""
    yield [path.name for path in files]
    for count in range(2, max(len(path.parts) for path in files) + 1):
        yield ["/".join(path.with_suffix("").parts[-count:]) for path in files]
        yield ["/".join(path.parts[-count:]) for path in files]


def _of_run(path: Path) -> dict[str, Any] | None:
    """Return what the report of a run says of a file that it made, if it is still that file."""
    summary = path.absolute().parent.parent / "summary.json"
    try:
        results = json.loads(summary.read_text(encoding="utf-8"))["results"]
        entries = [(result["framework"], entry) for result in results for entry in result["entries"] if entry["path"]]
        for framework, entry in entries:
            if (summary.parent / entry["path"]).resolve() == path.resolve() and entry["bytes"] == path.stat().st_size:
                return {name: entry[name] for name in ("name", "kind", "tool", "recipe", "bytes")} | {"framework": framework}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no report of a run lies there
    return None
