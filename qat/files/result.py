"""What became of the files: a row each, their totals, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qat.display.page import Displayed, Page
from qat.display.table import Column, Style, Table, facts
from qat.planning.plan import Plan
from qat.report.cards import samples_dict
from qat.report.report import Report


@dataclass(frozen=True, kw_only=True, repr=False)
class QuantizedFile(Displayed):
    """A file that was quantized, or the reason why it was not.

    Attributes:
        source: the float file, or the factory.
        path: of the quantized file; None where it failed.
        tool: that made it.
        recipe: by name.
        float_bytes: the size of the float file; 0 of a factory.
        bytes: the size of the quantized file.
        error_percent: the root mean square of the outputs' differences from float, as a share of that of the outputs about
            their mean, in percent; of several outputs the largest. On inputs that neither calibrated nor trained it.
        agreement: of outputs that are classes: the share of answers (rows, positions, pixels) that are float's, in percent.
        exact: the share of outputs that equal the trained model's in its runtime, 0 to 1; None where that was not measured.
        quantized: how many of the operators run in integers or from stored weights, and of how many; None where not known.
        data: the samples, in words.
        losses: of the training without labels, by output; empty without training.
        steps: of training.
        estimator: that found the ranges; empty where there are none, or the recipe names several.
        unrounded: the outputs that leave as float values of integer weights, since their own grid made much of their error.
        precise: the layers that are in higher precision, so that ``max_error`` and ``same_answers`` hold.
        precision: of these: ``int16`` or ``float``.
        seconds: that it took.
        failed: why it failed; None where it did not.
        parts: of a bundle: its models.
        comparison: the samples held out, float beside quantized; None of a file that failed, and of a bundle.
        plan: of this toolkit's file, by layer; None of another tool's.
    """

    source: str
    path: Path | None
    tool: str
    recipe: str
    float_bytes: int = 0
    bytes: int = 0
    error_percent: float | None = None
    agreement: float | None = None
    exact: float | None = None
    quantized: tuple[int, int] | None = None
    data: str = ""
    losses: Mapping[str, str] = field(default_factory=dict)
    steps: int = 0
    estimator: str = ""
    unrounded: tuple[str, ...] = ()
    precise: tuple[str, ...] = ()
    precision: str = ""
    seconds: float = 0.0
    failed: str | None = None
    parts: tuple[QuantizedFile, ...] = ()
    comparison: Report | None = None
    plan: Plan | None = None

    @property
    def ratio(self) -> float | None:
        """How many times smaller the file is than the float one."""
        return self.float_bytes / self.bytes if self.float_bytes and self.bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("comparison", "plan")}
        path = None if self.path is None else str(self.path)
        parts = [part.to_dict() for part in self.parts]
        return values | {
            "path": path,
            "losses": dict(self.losses),
            "unrounded": list(self.unrounded),
            "precise": list(self.precise),
            "ratio": self.ratio,
            "parts": parts,
            "samples": [] if self.comparison is None else samples_dict(self.comparison),
        }

    def __repr__(self) -> str:
        return f"QuantizedFile({self.source}: {self.failed or self.path})"

    def page(self) -> Page:
        """Return what was made, and how far it is from the float file."""
        return Page((facts(("from", self.source), *self.facts(), ("failed", self.failed or "")),))

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return what is known of the file, by name; empty texts where it is not."""
        if self.path is None:
            return (("tool", self.tool),)
        size = f"{self.bytes:,} bytes" + ("" if self.ratio is None else f", {self.ratio:.2f} times smaller")
        taught = "" if not self.losses else f"{self.steps} steps, {', '.join(f'{v} of {k}' for k, v in self.losses.items())}"
        ops = "" if self.quantized is None else f"{self.quantized[0]} of {self.quantized[1]} operators"
        return (
            ("file", str(self.path)), ("by", f"{self.tool}, {self.recipe}"), ("ranges by", self.estimator),
            ("size", size), ("quantized", ops),
            ("unrounded outputs", ", ".join(self.unrounded)),
            ("layers in higher precision", f"{self.precision}: {', '.join(self.precise)}" if self.precise else ""),
            ("data", self.data), ("trained without labels", taught), ("error against float", shown(self.error_percent, " %")),
            ("same answers as float", shown(self.agreement, " %")),
            ("equal to the trained model", "" if self.exact is None else f"{100 * self.exact:.2f} % of outputs"),
        )  # fmt: skip


def shown(value: float | None, unit: str = "") -> str:
    """Return a figure with its unit; empty without one."""
    return "" if value is None else f"{value:.2f}{unit}"


@dataclass(frozen=True, repr=False)
class Quantization(Displayed):
    """What became of several files.

    Attributes:
        files: in the order given.
    """

    files: tuple[QuantizedFile, ...]

    @property
    def exit_code(self) -> int:
        """0 where every file was quantized, else 2."""
        return 2 if any(file.failed is not None for file in self.files) else 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        made = [file for file in self.files if file.failed is None]
        total = {"files": len(made), "float_bytes": sum(f.float_bytes for f in made), "bytes": sum(f.bytes for f in made)}
        return {"files": [file.to_dict() for file in self.files], "total": total, "failed": len(self.files) - len(made)}

    def __repr__(self) -> str:
        return f"Quantization({', '.join(map(repr, self.files))})"

    def page(self) -> Page:
        """Return a row for each file, and below them the totals, the data and what failed."""
        columns = (
            Column("file"), Column("size", right=True), Column("of float", right=True), Column("error", right=True),
            Column("same answers", right=True), Column("exact", right=True),
        )  # fmt: skip
        made = [file for file in self.files if file.path is not None and file.failed is None]
        rows = [_row(row) for file in made for row in (file, *file.parts)]
        styles: list[Style] = ["" for _ in rows]
        if len(made) > 1:
            bytes_, before = sum(f.bytes for f in made), sum(f.float_bytes for f in made)
            rows.append((f"{len(made)} files", _size(bytes_), _share(bytes_, before), "", "", ""))
            styles.append("reference")
        said = dict.fromkeys(f"data: {row.data}" for file in made for row in (file, *file.parts) if row.data)
        taught = [f"{f.path.name}: {_taught(f)}" for f in made if f.losses and f.path is not None]
        failed = [f"{file.source} failed" for file in self.files if file.failed is not None]
        table = (Table(columns, tuple(rows), styles=tuple(styles)),) if rows else ()
        meaning = (
            ("error: root mean square against float, as a share of the outputs' spread, on inputs held out",) if rows else ()
        )
        unrounded = [
            f"{f.path.name}: 256 values are few for {_quoted(f.unrounded)}: float values of integer weights leave"
            for f in made
            if f.unrounded and f.path is not None
        ]
        precise = [
            f"{f.path.name}: in {f.precision}, so that the bounds hold: {_quoted(f.precise)}"
            for f in made
            if f.precise and f.path is not None
        ]
        return Page((*table, *meaning, *said, *taught, *unrounded, *precise, *failed))


def _row(file: QuantizedFile) -> tuple[str, ...]:
    exact = "" if file.exact is None else f"{100 * file.exact:.2f} %"
    return (
        str(file.path), _size(file.bytes), _share(file.bytes, file.float_bytes), shown(file.error_percent, " %"),
        shown(file.agreement, " %"), exact,
    )  # fmt: skip


def _taught(file: QuantizedFile) -> str:
    losses = ", ".join(f"{loss} of '{output}'" for output, loss in file.losses.items())
    return f"{file.steps} steps of training without labels in {file.seconds:.0f} s: {losses}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB"


def _share(count: int, of: int) -> str:
    return f"{count / of:.2f}, {of / count:.2f}x" if of and count else ""
