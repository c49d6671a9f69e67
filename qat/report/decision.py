"""The decision of a comparison, in one sentence: PTQ is enough, QAT is needed, or neither can be said, and why."""

from __future__ import annotations

from collections.abc import Sequence

from .entry import Entry

#: The share of float's accuracy that is as good as float: MLPerf Inference's quality target for most of its tasks.
KEPT = 0.99
#: Below this McNemar's p a difference is more than noise.
SIGNIFICANT = 0.05


def shown_p(p: float | None) -> str:
    """Return a p-value as text; below 1e-9 its size says nothing more."""
    if p is None:
        return "p unknown"
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"


def decide(entries: Sequence[Entry], samples: int | None = None, commonest: float = 0.0) -> str:
    """Say in one sentence whether PTQ is enough.

    PTQ is enough where the best int8 PTQ is not below float beyond noise (McNemar's p at least 0.05), and the data would have
    shown a loss of a hundredth. Otherwise QAT is worth its training where it is above that PTQ beyond noise. Nothing is decided
    against a float model that has not learned its task.

    Args:
        entries: the artifacts' figures.
        samples: how many samples they come from.
        commonest: the share of the most frequent label, in percent: the accuracy of a model that always gives that answer.
    """
    base = next((e for e in entries if e.kind == "float" and e.top1 is not None), None)
    ptq = [e for e in entries if e.kind == "ptq" and e.top1 is not None and "float16" not in e.recipe]
    trained = [e for e in entries if e.kind == "qat" and e.top1 is not None]
    if base is None or base.top1 is None or not ptq or ptq[0].p_float is None:
        return "No decision: it needs a float artifact and a PTQ one."
    best = max(ptq, key=lambda e: e.top1 or 0.0)
    assert best.top1 is not None and best.p_float is not None and best.delta is not None
    facts = f"the best PTQ ({best.name}) has {best.top1:.2f} %, {best.delta:+.2f} to float ({shown_p(best.p_float)})"
    untrained = _untrained(entries, base.top1, commonest)
    if untrained:
        return f"No decision: {untrained}; train the float model first. On it {facts}."
    if best.delta >= 0 or best.p_float >= SIGNIFICANT:
        margin = (1 - KEPT) * base.top1
        if best.delta_low is not None and best.delta_low < -margin:
            return (
                f"No decision: {facts}, yet {'these' if samples is None else f'{samples:,}'} samples cannot tell it from "
                f"{best.delta_low:+.2f} (95 % interval), and a loss of {margin:.2f} would matter; compare on more samples."
            )
        return f"PTQ is enough: {facts}."
    if not trained:
        return f"QAT is worth a try: {facts}."
    qat = max(trained, key=lambda e: e.top1 or 0.0)
    assert qat.top1 is not None
    gained = f"QAT has {qat.top1:.2f} % ({shown_p(qat.p_best_ptq)} against that PTQ)"
    if qat.top1 > best.top1 and qat.p_best_ptq is not None and qat.p_best_ptq < SIGNIFICANT:
        return f"QAT is needed: {facts}; {gained}."
    return f"Neither is enough: {facts}; {gained}. Train longer, or leave sensitive layers float."


def _untrained(entries: Sequence[Entry], top1: float, commonest: float) -> str | None:
    """Return the sign that the float model has not learned its task, or None."""
    if top1 <= commonest:
        return f"float has {top1:.2f} %, and always answering the most frequent class has {commonest:.2f} %"
    control = next((e for e in entries if e.kind == "control" and e.delta is not None), None)
    if control is None or control.delta is None or control.p_float is None or control.p_float >= SIGNIFICANT:
        return None
    if control.delta < (1 - KEPT) * top1:
        return None
    gained = f"{control.delta:+.2f} after QAT's extra steps ({shown_p(control.p_float)})"
    return f"float has {top1:.2f} %, and {gained}, so that it had not learned all"
