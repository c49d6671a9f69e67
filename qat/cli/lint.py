"""The command that holds a file against the demands of a runtime's builder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console


def lint(
    file: Annotated[Path, typer.Argument(help="A .onnx file with Q/DQ, of any tool.")],
    target: Annotated[str, typer.Option(help="The runtime that will build an engine of the file: tensorrt.")] = "tensorrt",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Hold a file with Q/DQ against the rules of TensorRT's builder. Exit with 1 where the builder would refuse the file."""
    from qat.errors import ConfigError

    if target != "tensorrt":
        raise ConfigError(f"qat lint knows the rules of target 'tensorrt' alone, not of '{target}'")
    from dataclasses import asdict
    from json import dumps

    from qat.exporters.tensorrt import check_placement
    from qat.exporters.tensorrt.placement import RULES

    found = check_placement(file)
    out = console()
    if json:
        print(dumps([asdict(finding) for finding in found], indent=2))
    for rule in () if json else RULES:
        places = [finding for finding in found if finding.rule == rule.name]
        if not places:
            continue
        out.print(f"{rule.level}: {rule.demands} ({rule.name}, {len(places)} {'place' if len(places) == 1 else 'places'})")
        for finding in places[:3]:
            out.print(f"  {finding.node}: {finding.says}", soft_wrap=True)
        if len(places) > 3:
            out.print(f"  and {len(places) - 3} more; --json lists them all")
    if not found and not json:
        out.print(f"{file}: nothing to mend for {target}")
    raise typer.Exit(1 if any(finding.level == "error" for finding in found) else 0)
