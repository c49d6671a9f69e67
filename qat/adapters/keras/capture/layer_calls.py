"""How a layer that keeps its implementation is called: its arguments, with placeholders for tensors."""

from __future__ import annotations

from typing import Any


def placeholder(index: int) -> str:
    """Return what stands for an operator's input ``index`` in the arguments of a call."""
    return f"@tensor:{index}"


def fill(arguments: Any, values: list[Any]) -> Any:
    """Return arguments with each placeholder replaced by its value."""
    if isinstance(arguments, dict):
        return {key: fill(value, values) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(fill(value, values) for value in arguments)
    if isinstance(arguments, str) and arguments.startswith("@tensor:"):
        return values[int(arguments.removeprefix("@tensor:"))]
    return arguments
