"""What a system's int8 models do alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qat.display.page import Displayed, Page
from qat.display.table import Column, Table
from qat.exporters import Artifact

#: The row of a system whose models are all quantized.
TOGETHER = "all"


@dataclass(frozen=True)
class PartResult:
    """One model.

    Attributes:
        name: in the configuration.
        float_bytes: of the file that it was read from; None of a model that a factory made.
        artifact: its int8 file; None where the configuration keeps it float.
        calls: how often it was called while the calibration samples flowed through the float system.
        samples: how many samples those calls had together.
        error_percent: of its own outputs on the held-out inputs of the float system
            (:func:`qat.report.statistics.error_percent`); None where it stays float or was never called.
    """

    name: str
    float_bytes: int | None
    artifact: Artifact | None
    calls: int
    samples: int
    error_percent: float | None


@dataclass(frozen=True)
class SystemResult(Displayed):
    """A system.

    Attributes:
        name: in the configuration.
        parts: its models.
        metrics: for each mixture (:data:`TOGETHER`, or the name of the one model that is quantized) the values of each metric,
            one a held-out sample.
        samples: the number of held-out samples.
    """

    name: str
    parts: tuple[PartResult, ...]
    metrics: Mapping[str, Mapping[str, np.ndarray]]
    samples: int

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return {
            "system": self.name,
            "samples": self.samples,
            "models": [
                {
                    "name": p.name,
                    "float_bytes": p.float_bytes,
                    "int8_bytes": p.artifact.bytes if p.artifact else None,
                    "path": str(p.artifact.path) if p.artifact else None,
                    "exact": p.artifact.parity.exact if p.artifact and p.artifact.parity else None,
                    "calls": p.calls,
                    "samples": p.samples,
                    "error_percent": p.error_percent,
                }
                for p in self.parts
            ],
            "quantized": {
                mixture: {
                    name: {"mean": float(v.mean()), "least": float(v.min()), "most": float(v.max())} for name, v in values.items()
                }
                for mixture, values in self.metrics.items()
            },
        }

    def page(self) -> Page:
        """Return the models' figures, then the system's."""
        columns = (
            Column("model"), Column("float, KB", right=True), Column("int8, KB", right=True),
            Column("equal to the trained", right=True), Column("error alone", right=True), Column("calls", right=True),
        )  # fmt: skip
        rows = [
            (
                p.name,
                "" if p.float_bytes is None else f"{p.float_bytes / 1e3:.1f}",
                "float" if p.artifact is None else f"{p.artifact.bytes / 1e3:.1f}",
                f"{p.artifact.parity.exact:.2%}" if p.artifact and p.artifact.parity else "",
                "" if p.error_percent is None else f"{p.error_percent:.2f} %",
                str(p.calls),
            )
            for p in self.parts
        ]
        names = list(dict.fromkeys(name for values in self.metrics.values() for name in values))
        figures = [
            (mixture, *(_figures(values[name]) if name in values else "" for name in names))
            for mixture, values in self.metrics.items()
        ]
        title = f"the system against itself in float: mean (least to most) of {self.samples} held-out samples"
        system = Table((Column("quantized"), *(Column(name, right=True) for name in names)), tuple(figures), title)
        return Page((Table(columns, tuple(rows), f"{self.name}: its models"), "", system))


def _figures(values: np.ndarray) -> str:
    return f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"
