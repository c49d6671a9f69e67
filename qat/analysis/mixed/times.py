"""Where milliseconds come from: kernels that are timed on this machine, or a table that the user gives."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.errors import ConfigError, nearest
from qat.program.program import Instruction, Program, Value

from .single_layers import SingleFile, conversion_file, layer_file
from .stopwatch import Stopwatch

#: The names of a conversion to integers and of one back to float in a table, in the place of a choice.
CONVERSIONS = ("quantize", "dequantize")


class Times(Protocol):
    """Gives milliseconds."""

    def of_layer(self, layer: str, choice: str, held: Sequence[tuple[Instruction, Program]]) -> float | None:
        """Return those of a layer's kernels; ``held`` has each of its operators with a program that holds it.

        None where they are not known: nothing holds a layer that no mode but float has.
        """

    def of_conversion(self, value: Value, writer: str, back: bool) -> float:
        """Return those of a conversion to integers, or ``back`` to float, of a tensor that layer or input ``writer`` writes."""


class TimedHere:
    """The medians of kernels on this machine, each of which is a file of its own in the target's runtime.

    Args:
        suffix: of the target's files.
    """

    def __init__(self, suffix: str) -> None:
        self._suffix, self._stopwatch = suffix, Stopwatch()
        self._skeleton: Program | None = None

    def of_layer(self, layer: str, choice: str, held: Sequence[tuple[Instruction, Program]]) -> float | None:
        """Return the time of the layer's operators, less that of the calls. A kernel of the same shape is timed once."""
        if not held:
            return None
        self._skeleton = held[0][1]
        return sum(self._less_call(_key(i, program), layer_file(program, [i], self._suffix)) for i, program in held)

    def of_conversion(self, value: Value, writer: str, back: bool) -> float:
        """Return the time of a conversion of a tensor of this shape."""
        into = self._conversion(value, False)
        return max(self._conversion(value, True) - into, 0.0) if back else into

    def _conversion(self, value: Value, back: bool) -> float:
        assert value.encoding is not None and self._skeleton is not None
        file = conversion_file(self._skeleton, value, self._suffix, back)
        return self._less_call(("conversion", value.example_shape, value.encoding.dtype, back), file)

    def _less_call(self, key: tuple[object, ...], file: SingleFile) -> float:
        assert self._skeleton is not None
        one = Value("one", (None, 1), Encoding(np.asarray(f32(0.1)), 0, -128, 127))
        call = self._stopwatch.ms("call", conversion_file(self._skeleton, one, self._suffix, False))
        return max(self._stopwatch.ms(str(key), file) - call, 0.0)


def _key(i: Instruction, program: Program) -> tuple[object, ...]:
    """Return what the time of an instruction depends on."""
    ends = [program.values[name] for name in (*i.inputs, *i.outputs)]
    shapes = [(v.example_shape, v.dtype if v.encoding is None else v.encoding.dtype) for v in ends]
    weight = None if i.weight is None else (i.weight.shape, str(i.weight.dtype))
    scales = None if i.weight_encoding is None else np.ndim(i.weight_encoding.scale)
    return (i.kind, i.mode, i.packed, i.kernels, i.activation, sorted(i.attrs.items()), shapes, weight, scales, i.bias is None)


class GivenTimes:
    """The milliseconds of a table: of layers by choice, and of the conversions of what a layer or an input writes.

    Attributes:
        rows: by layer and choice; ``quantize`` and ``dequantize`` in the place of a choice are conversions, which cost nothing
            where they are not in the table.
        source: the table's name, for messages.
    """

    def __init__(self, rows: Mapping[tuple[str, str], float], source: str = "the table of latencies") -> None:
        self.rows, self.source = rows, source

    def check(self, options: Mapping[str, Iterable[str]], writers: Iterable[str]) -> None:
        """Raise ConfigError where a choice of a layer has no row, or a row names nothing of the model."""
        wanted = {(layer, choice) for layer, choices in options.items() for choice in choices}
        missing = sorted(wanted - set(self.rows))
        if missing:
            layer, choice = missing[0]
            more = f" ({len(missing)} rows are missing)" if len(missing) > 1 else ""
            raise ConfigError(f"{self.source}: there is no row for layer '{layer}' in '{choice}'{more}: add its milliseconds")
        names = {*options, *writers}
        for layer, choice in self.rows:
            if layer not in names:
                raise ConfigError(f"{self.source}: the model has no layer '{layer}'{nearest(layer, names)}")
            valid = (*options.get(layer, ()), *CONVERSIONS)
            if choice not in valid:
                raise ConfigError(f"{self.source}: '{choice}' is no choice of layer '{layer}'; it has {', '.join(valid)}")

    def of_layer(self, layer: str, choice: str, held: Sequence[tuple[Instruction, Program]]) -> float:
        """Return the table's row of a layer and choice."""
        return self.rows[layer, choice]

    def of_conversion(self, value: Value, writer: str, back: bool) -> float:
        """Return the table's row of a conversion; 0 without one."""
        return self.rows.get((writer, CONVERSIONS[back]), 0.0)


def read_times(path: str | Path) -> GivenTimes:
    """Read a table of latencies: a ``.csv`` with the columns ``layer``, ``choice``, ``ms``, or a ``.yaml`` list of such rows.

    Raises:
        ConfigError: there is no such file, or a row is not of this form; the message has the row's number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the table of latencies {path} cannot be read: {error}") from error
    read = _yaml_rows if path.suffix in (".yaml", ".yml") else _csv_rows
    rows: dict[tuple[str, str], float] = {}
    for number, row in enumerate(read(text, path), 1):
        try:
            layer, choice, ms = str(row["layer"]), str(row["choice"]), float(row["ms"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: row {number} needs layer, choice and ms, a number: found {row}") from error
        if not 0 <= ms < float("inf"):
            raise ConfigError(f"{path}: row {number}: ms is {ms:g}, and a time is 0 or more")
        if (layer, choice) in rows:
            raise ConfigError(f"{path}: row {number}: layer '{layer}' in '{choice}' has two rows")
        rows[layer, choice] = ms
    return GivenTimes(rows, str(path))


def _csv_rows(text: str, path: Path) -> list[Any]:
    return [dict(row) for row in csv.DictReader(text.splitlines())]


def _yaml_rows(text: str, path: Path) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        rows = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a list of rows with layer, choice and ms")
    return rows
