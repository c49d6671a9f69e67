"""The command that looks at the installation."""

from __future__ import annotations

from pathlib import Path

import typer

from .terminal import console


def doctor() -> None:
    """List the packages that are installed and missing, and the CPU's features that matter."""
    from importlib.metadata import PackageNotFoundError, version

    from rich.text import Text

    out = console()
    names = {"torch": "torch", "keras": "tensorflow keras", "onnx": "onnx onnxruntime", "litert": "ai-edge-litert flatbuffers"}
    missing = False
    for extra, packages in names.items():
        for package in packages.split():
            try:
                out.print(Text.assemble(("  yes", "green"), f" {package} {version(package)}"))
            except PackageNotFoundError:
                missing = True
                out.print(Text.assemble(("  no", "red"), f"  {package}: pip install 'qat-toolkit[{extra}]'"))
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        vnni = "vnni" in flags.read_text()
        out.print(f"  CPU: {'with' if vnni else 'without'} VNNI; target onnxruntime is exact on both")
    raise typer.Exit(1 if missing else 0)
