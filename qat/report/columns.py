"""The columns of a comparison's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qat.trainers.metric import Metric

from .decision import shown_p
from .entry import Entry

#: A column's title, and the text of an entry in it.
Column = tuple[str, Callable[[Entry], str]]


def columns_of(entries: Sequence[Entry], measured: Sequence[Metric], against_float: bool) -> list[Column]:
    """Return the columns that hold a figure of any entry; their titles name the reference: float, or the first entry."""
    reference, metric = "float" if against_float else "first", next((m for m in measured if not m.to_float), None)
    unknown = "–"

    def shown(value: float | None, form: str) -> str:
        return unknown if value is None else format(value, form)

    def of(m: Metric, value: float | None, sign: str = "") -> str:
        return unknown if value is None else m.shown(value, sign).removesuffix(m.unit)

    def column(m: Metric) -> Column:
        return m.heading, lambda e: of(m, e.score(m))

    def p_float(e: Entry) -> str:
        return unknown if e.p_float is None else shown_p(e.p_float).removeprefix("p ").removeprefix("= ")

    columns: list[Column] = []
    if metric is not None:
        columns = [column(metric), (f"Δ {reference}", lambda e: of(metric, e.delta, "+")), (f"p {reference}", p_float)]
    columns += [column(m) for m in measured if m is not metric]
    columns += [
        ("agree %", lambda e: shown(e.agreement, ".2f")),
        ("drift", lambda e: shown(e.drift, ".4f")),
        ("MSE to " + reference, lambda e: shown(None if metric is not None else e.mse, ".3g")),
        ("SQNR dB", lambda e: shown(e.sqnr, ".1f")),
        ("KiB", lambda e: f"{e.bytes / 1024:.0f}"),
        ("ms p50", lambda e: shown(e.latency_p50, ".3f")),
        ("exact", lambda e: "" if e.parity is None else f"{100 * e.parity.exact:.2f} %"),
    ]
    ran = [e for e in entries if e.error is None]
    return [("entry", lambda e: e.name), *((title, text) for title, text in columns if {text(e) for e in ran} - {unknown, ""})]


def cells_of(columns: Sequence[Column], e: Entry) -> tuple[str, ...]:
    """Return an entry's texts, one for each column."""
    if e.error is not None:
        return (e.name, "failed", *[""] * (len(columns) - 2))
    return tuple(text(e) for _, text in columns)
