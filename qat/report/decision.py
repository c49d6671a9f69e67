"""The decision of a comparison, in one sentence: PTQ is enough, QAT is needed, or neither can be said, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from qat.trainers.metric import Metric
from qat.trainers.metrics import METRICS

from .entry import Entry

#: The share of float's accuracy that is as good as float: MLPerf Inference's quality target for most of its tasks.
KEPT = 0.99
#: Below this p a difference is more than noise.
SIGNIFICANT = 0.05

Verdict = Literal["enough", "unsure", "below"]


def shown_p(p: float | None) -> str:
    """Return a p-value as text; below 1e-9 its size says nothing more."""
    if p is None:
        return "p unknown"
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"


def ptq_kind(entry: Entry) -> str:
    """Return the kind of a PTQ by its recipe: ``static int8``, ``dynamic``, ``weight-only`` or ``float16``."""
    recipe = entry.recipe.lower().replace("-", "").replace("_", "").replace(" ", "")
    for word, kind in (("float16", "float16"), ("weightonly", "weight-only"), ("dynamic", "dynamic")):
        if word in recipe:
            return kind
    return "static" if any(bits in recipe for bits in ("wi2", "wi3", "wi4", "ai16")) else "static int8"


def best_of(entries: Iterable[Entry], metric: Metric) -> Entry | None:
    """Return the best entry; of equally good ones the quicker, of equally quick ones the smaller."""
    inf = float("inf")

    def rank(e: Entry) -> tuple[float, float, int]:
        return _sign(metric) * (e.score(metric) or 0.0), -(inf if e.latency_p50 is None else e.latency_p50), -e.bytes

    return max((e for e in entries if e.score(metric) is not None), key=rank, default=None)


def integer_ptq(entries: Iterable[Entry]) -> list[Entry]:
    """Return the PTQ that stores integers: all but float16."""
    return [e for e in entries if e.kind == "ptq" and ptq_kind(e) != "float16"]


def decide(
    entries: Sequence[Entry],
    samples: int | None = None,
    commonest: float = 0.0,
    metric: Metric | None = METRICS["top1"],
    hits: bool = True,
) -> str:
    """Say in one sentence whether PTQ is enough.

    PTQ is enough where it is not below float beyond noise (p at least 0.05), and the data would have shown a loss of a
    hundredth. A metric that is no share of hits has little noise: there a loss that is surely less than a hundredth is none.
    Static PTQ in integers is judged first, for its files are of QAT's own kind; where it falls short, dynamic PTQ. Otherwise QAT
    is worth its training where it is above the best PTQ beyond noise. Nothing is decided against a float model that has not
    learned its task.

    Args:
        entries: the artifacts' figures.
        samples: how many samples they come from.
        commonest: the share of the most frequent label, in percent: the accuracy of a model that always gives that answer.
        metric: in which the entries are judged; None where there is none.
        hits: whether a sample is right or wrong in it.
    """
    if metric is None:
        return (
            "No decision: no metric of labels. Without labels, or with labels that no metric fits, only the distances to float "
            "are known; name metrics, or look at SQNR and agreement."
        )
    return _Judge(entries, samples, commonest, metric, hits).decision()


def _sign(metric: Metric) -> float:
    return 1.0 if metric.higher_is_better else -1.0


@dataclass(frozen=True)
class _Judge:
    """The arguments of :func:`decide`."""

    entries: Sequence[Entry]
    samples: int | None
    commonest: float
    metric: Metric
    hits: bool

    def decision(self) -> str:
        metric = self.metric
        base = next((e for e in self.entries if e.kind == "float" and e.score(metric) is not None), None)
        ptq = [e for e in integer_ptq(self.entries) if e.delta is not None and e.score(metric) is not None]
        if base is None or not ptq:
            return "No decision: it needs a float artifact and a PTQ one."
        score = base.score(metric)
        assert score is not None
        margin = (1 - KEPT) * abs(score)
        statics = best_of((e for e in ptq if ptq_kind(e).startswith("static")), metric)
        others = best_of((e for e in ptq if not ptq_kind(e).startswith("static")), metric)
        first, second = (statics, others) if statics is not None else (others, None)
        assert first is not None
        facts, judged = self._facts(first), self._verdict(first, margin)
        untrained = self._untrained(score)
        if untrained:
            return f"No decision: {untrained}; train the float model first. On it {facts}."
        if judged == "enough":
            return f"PTQ is enough: {facts}{self._beside(first, second)}."
        if judged == "unsure":
            return f"No decision: {facts}{self._doubt(first, margin)}."
        if second is not None:
            facts = f"{facts}, and {self._facts(second)}"
            judged = self._verdict(second, margin)
            if judged == "enough":
                kind = "Weight-only" if ptq_kind(second) == "weight-only" else "Dynamic"
                trained = best_of(self._trained(), metric)
                return f"{kind} PTQ is enough, static is not: {facts}{self._beside(second, trained)}."
            if judged == "unsure":
                return f"No decision: {facts}{self._doubt(second, margin)}."
        return self._against_qat(facts, ptq)

    def _trained(self) -> list[Entry]:
        return [e for e in self.entries if e.kind == "qat" and e.score(self.metric) is not None]

    def _against_qat(self, facts: str, ptq: Sequence[Entry]) -> str:
        qat, best = best_of(self._trained(), self.metric), best_of(ptq, self.metric)
        if qat is None or best is None:
            return f"QAT is worth a try: {facts}."
        mine, theirs = qat.score(self.metric), best.score(self.metric)
        assert mine is not None and theirs is not None
        gained = f"QAT has {self.metric.shown(mine)} ({shown_p(qat.p_best_ptq)} against {best.name})"
        better = _sign(self.metric) * (mine - theirs) > 0
        if better and qat.p_best_ptq is not None and qat.p_best_ptq < SIGNIFICANT:
            return f"QAT is needed: {facts}; {gained}."
        return f"Neither is enough: {facts}; {gained}. Train longer, or leave sensitive layers float."

    def _facts(self, e: Entry) -> str:
        score = e.score(self.metric)
        assert score is not None and e.delta is not None
        change = self.metric.shown(e.delta, "+").removesuffix(self.metric.unit)
        figures = f"{self.metric.title or self.metric.name} {self.metric.shown(score)}, {change} to float ({shown_p(e.p_float)})"
        return f"the best {ptq_kind(e)} PTQ ({e.name}) has {figures}"

    def _beside(self, chosen: Entry, other: Entry | None) -> str:
        """Return the latencies of two entries, where both are known."""
        if other is None or chosen.latency_p50 is None or other.latency_p50 is None:
            return ""
        score = other.score(self.metric)
        assert score is not None
        what = "QAT" if other.kind == "qat" else f"the best {ptq_kind(other)} PTQ ({other.name})"
        times = f"{other.latency_p50:.3g} ms against {chosen.latency_p50:.3g} ms of {chosen.name}"
        return f"; {what} has {self.metric.shown(score)}, in {times}"

    def _verdict(self, e: Entry, margin: float) -> Verdict:
        assert e.delta is not None
        gain = _sign(self.metric) * e.delta
        worst = self._worst(e)
        small = worst is not None and worst >= -margin
        if e.p_float is None:
            return "enough" if gain >= 0 and small else "unsure"
        if gain >= 0 or e.p_float >= SIGNIFICANT:
            return "unsure" if worst is not None and not small else "enough"
        return "enough" if small and not self.hits else "below"

    def _worst(self, e: Entry) -> float | None:
        """Return the lowest gain within the 95 % interval."""
        if self.metric.higher_is_better:
            return e.delta_low
        return None if e.delta_high is None else -e.delta_high

    def _doubt(self, e: Entry, margin: float) -> str:
        worst = self._worst(e)
        if worst is None:
            why = "one value a batch, of too few batches, or of too many samples to be drawn again"
            return f", yet there is no interval to say how much of that is noise: {self.metric.name} has {why}"
        many = "these" if self.samples is None else f"{self.samples:,}"
        shown = self.metric.shown
        end = shown(_sign(self.metric) * worst, "+").removesuffix(self.metric.unit)
        loss = shown(margin).removesuffix(self.metric.unit)
        return (
            f", yet {many} samples cannot tell it from {end} (95 % interval), and a loss of {loss} would matter; compare on more "
            "samples"
        )

    def _untrained(self, score: float) -> str | None:
        """Return the sign that the float model has not learned its task, or None."""
        shown = self.metric.shown
        if self.commonest and score <= self.commonest:
            return f"float has {shown(score)}, and always answering the most frequent class has {self.commonest:.2f} %"
        if self.metric.floor is not None and score <= self.metric.floor:
            return f"float has {self.metric.title or self.metric.name} {shown(score)}, no more than a model that knows nothing"
        control = next((e for e in self.entries if e.kind == "control" and e.delta is not None), None)
        if control is None or control.delta is None or control.p_float is None or control.p_float >= SIGNIFICANT:
            return None
        if _sign(self.metric) * control.delta < (1 - KEPT) * abs(score):
            return None
        change = shown(control.delta, "+").removesuffix(self.metric.unit)
        gained = f"{change} after QAT's extra steps ({shown_p(control.p_float)})"
        return f"float has {shown(score)}, and {gained}, so that it had not learned all"
