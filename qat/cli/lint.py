"""The command that holds a file against the demands of a runtime's builder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .result import Result

#: How many places of a rule a person is shown.
_SHOWN = 3


def lint(
    file: Annotated[Path, typer.Argument(help="A .onnx file with Q/DQ, of any tool.")],
    target: Annotated[str, typer.Option(help="The runtime that will build an engine of the file: tensorrt.")] = "tensorrt",
) -> Result:
    """Hold a file with Q/DQ against the rules of TensorRT's builder. Exit with 1 where the builder would refuse the file."""
    from qat.errors import ConfigError

    if target != "tensorrt":
        raise ConfigError(f"qat lint knows the rules of target 'tensorrt' alone, not of '{target}'")
    from dataclasses import asdict

    from qat.display.page import Page
    from qat.exporters.tensorrt import check_placement
    from qat.exporters.tensorrt.placement import RULES

    found = check_placement(file)
    lines: list[str] = []
    for rule in RULES:
        places = [finding for finding in found if finding.rule == rule.name]
        if not places:
            continue
        lines.append(f"{rule.level}: {rule.demands} ({rule.name}, {len(places)} {'place' if len(places) == 1 else 'places'})")
        lines += [f"  {finding.node}: {finding.says}" for finding in places[:_SHOWN]]
        if len(places) > _SHOWN:
            lines.append(f"  and {len(places) - _SHOWN} more; --json lists them all")
    page = Page(tuple(lines or [f"{file}: nothing to mend for {target}"]))
    refused = any(finding.level == "error" for finding in found)
    return Result({"path": str(file), "target": target, "findings": [asdict(f) for f in found]}, page, int(refused))
