"""The plan of a model: which operators run on the integer grid, and which tensors share a scale. It is all that adapters read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from qat.arithmetic.encoding import Encoding, from_range, of_probabilities
from qat.arithmetic.range_estimators import FOLLOWED
from qat.arithmetic.saturation import Bounds
from qat.display.page import Displayed, Page
from qat.display.table import Column, Table
from qat.graph.graph import Graph, Op
from qat.graph.kinds import KINDS
from qat.graph.residual_stream import residual_stream
from qat.graph.training_acts import TrainingAct

from .modes import STORED, Mode
from .recipe import QuantSpec, Recipe
from .targets import Fixed, Target

#: The form of a weight that is stored alone, and the kernel that reads it, by mode.
_STORED_HOW = {
    "dynamic": "integer kernel, activation quantized in 8 bits as it runs",
    "weight_only": "float kernel on the dequantized weight",
    "float16": "weight in float16, float kernel",
}


@dataclass(frozen=True)
class PlannedOp:
    """One operator of the plan.

    Attributes:
        op: the graph's operator; ``op.output`` is already that of the fused ``activation``.
        integer: whether an integer kernel runs it.
        reason: why it stays float; empty for one that does not, or has nothing to quantize.
        activation: the fused activation (``relu``, ``relu6``) or None.
        weight: how its weight is quantized; None without a weight of its own scale or in float.
        qmax: the largest magnitude of its integer weight, 0 without one.
        mode: ``static`` for an integer kernel, ``float``, or one of :data:`qat.planning.modes.STORED`.
        packed: whether the artifact holds the weight in 4 bits.
        kernels: the arithmetic of its kernel where it is not the target's, see :mod:`qat.arithmetic.kernels`.
        unwritable: whether the target's format cannot hold it; ``reason`` says so.
        tied: of an embedding: the name of the dense layer whose integer weight is its table, see :mod:`.tied_weights`; empty
            where it has a table of its own.
    """

    op: Op
    integer: bool
    reason: str = ""
    activation: str | None = None
    weight: QuantSpec | None = None
    qmax: int = 0
    mode: Mode = "float"
    packed: bool = False
    kernels: str = ""
    unwritable: bool = False
    tied: str = ""

    @property
    def stored(self) -> bool:
        """Whether it reads and writes float tensors, and its weight alone is stored in another form."""
        return self.mode in STORED

    @property
    def grid_inputs(self) -> tuple[str, ...]:
        """The inputs that an integer kernel reads as activations: all but an embedding's indices."""
        return () if KINDS[self.op.kind].indices else self.op.inputs

    @property
    def keeps_framework(self) -> bool:
        """Whether the operator keeps its framework's implementation: a float one, or one that moves integers about."""
        return not (self.integer or self.stored) or KINDS[self.op.kind].framework

    def to_dict(self) -> dict[str, Any]:
        """Return the operator as JSON-ready values; :meth:`from_dict` reads it back."""
        weight = None if self.weight is None else self.weight.model_dump()
        return {**vars(self), "op": self.op.to_dict(), "weight": weight}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlannedOp:
        """Read what :meth:`to_dict` wrote."""
        weight = None if data["weight"] is None else QuantSpec.model_validate(data["weight"])
        return cls(**{**data, "op": Op.from_dict(data["op"]), "weight": weight})


@dataclass(frozen=True)
class Group:
    """Tensors that share one activation scale, held as integers in ``[qmin, qmax]``.

    ``fixed`` where a kernel prescribes the scale; ``learned`` where the range is a parameter. ``bounds`` where every reader is a
    function that is constant below the first and above the second: no range needs to reach beyond. ``probabilities`` where a
    softmax wrote them, whose kernel wants a scale of :func:`qat.arithmetic.encoding.of_probabilities`.
    """

    name: str
    tensors: tuple[str, ...]
    spec: QuantSpec
    qmin: int
    qmax: int
    symmetric: bool
    fixed: Fixed | None = None
    learned: bool = False
    bounds: Bounds = (None, None)
    probabilities: bool = False

    def encoding(self, low: float, high: float) -> Encoding:
        """Return the encoding of a range."""
        if self.probabilities:
            return of_probabilities(high, self.qmin, self.qmax)
        return from_range(low, high, self.qmin, self.qmax, self.symmetric)

    def within_bounds(self, values: np.ndarray) -> np.ndarray:
        """Return values, those beyond the bounds on them."""
        return values if self.bounds == (None, None) else np.clip(values, *self.bounds)

    @property
    def fixed_range(self) -> tuple[float, float] | None:
        """The range of a prescribed scale, or None where calibration finds it."""
        if self.fixed is None:
            return None
        return tuple((q - self.fixed.zero_point) * self.fixed.scale for q in (self.qmin, self.qmax))  # type: ignore[return-value]

    def follows(self, estimator: str) -> bool:
        """Return whether training moves a range that an estimator found: not one learned, prescribed, or that left values out."""
        free = self.fixed is None and not self.learned
        return free and (self.probabilities or estimator in FOLLOWED)

    def to_dict(self) -> dict[str, Any]:
        """Return the group as JSON-ready values; :meth:`from_dict` reads it back."""
        fixed = None if self.fixed is None else asdict(self.fixed)
        return {
            **vars(self),
            "tensors": list(self.tensors),
            "spec": self.spec.model_dump(),
            "fixed": fixed,
            "bounds": list(self.bounds),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Group:
        """Read what :meth:`to_dict` wrote."""
        fixed = None if data["fixed"] is None else Fixed(**data["fixed"])
        spec, bounds = QuantSpec.model_validate(data["spec"]), tuple(data.get("bounds", (None, None)))
        return cls(**{**data, "tensors": tuple(data["tensors"]), "spec": spec, "fixed": fixed, "bounds": bounds})


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """The plan of a model, which the adapters build.

    Attributes:
        graph: the graph the plan was made for, BatchNorm folded.
        ops: the operators in order, fused activations merged into the operator before them.
        groups: the activation scales, by name.
        group_of: the group of every tensor on the integer grid.
        quantize: float tensors that an integer kernel reads.
        dequantize: tensors on the grid that are read in float: by a float operator or as a model output.
        acts: what training adds, and the artifact has not: dropout, stochastic depth, augmentation.
    """

    graph: Graph
    recipe: Recipe
    target: Target
    ops: tuple[PlannedOp, ...]
    groups: Mapping[str, Group]
    group_of: Mapping[str, str]
    quantize: tuple[str, ...]
    dequantize: tuple[str, ...]
    acts: tuple[TrainingAct, ...] = ()

    def table(self) -> list[dict[str, str]]:
        """Return one row an operator: ``scope``, ``op``, ``runs`` (integer, float or a mode), ``how`` and ``reason``."""
        rows = []
        layers = {planned.op.name: planned.op.layer for planned in self.ops}
        for planned in self.ops:
            op = planned.op
            how = []
            if planned.tied:
                how.append(f"rows of the weight of '{layers[planned.tied]}'")
            elif planned.weight is not None:
                held = " held in int8" if planned.weight.bits <= 4 and not planned.packed else ""
                how.append(f"weight int{planned.weight.bits}{held} per {planned.weight.granularity}, |q| <= {planned.qmax}")
            how += [f"in training: {act.what}" for act in self.acts if act.tensor in op.outputs]
            if planned.stored and not planned.tied:
                how.append(_STORED_HOW[planned.mode])
            if planned.integer:
                group = self.groups[self.group_of[op.output]]
                shared = len(group.tensors) > 1
                how.append(f"output {group.qmin}..{group.qmax}" + (f", scale of '{group.name}'" if shared else ""))
            rows.append(
                {
                    "scope": op.layer,
                    "op": op.label + (f" + {planned.activation}" if planned.activation else ""),
                    "runs": "integer" if planned.integer else planned.mode,
                    "how": "; ".join(how),
                    "reason": planned.reason,
                }
            )
        return rows

    def __repr__(self) -> str:
        return f"Plan({self._summary()})"

    def page(self) -> Page:
        """Return one row an operator: its scope, its kind, how it runs, and why or how it does."""
        columns = (Column("scope"), Column("operator"), Column("runs"), Column("how / why", prose=True))
        rows = tuple((row["scope"], row["op"], row["runs"], row["reason"] or row["how"]) for row in self.table())
        return Page((Table(columns, rows, self._summary()),))

    def _summary(self) -> str:
        runs = Counter("integer" if p.integer else p.mode for p in self.ops)
        parts = ", ".join(f"{count} {how}" for how, count in runs.most_common())
        trained = f"; in training alone, {len(self.acts)} x dropout or the like" if self.acts else ""
        return f"recipe {self.recipe.name} for {self.target.name}: {len(self.ops)} operators, {parts}{trained}"

    def few_bit_weights(self) -> tuple[PlannedOp, ...]:
        """Return the operators with an integer weight of fewer than 8 bits; of those that share a weight, the first."""
        found: dict[str, PlannedOp] = {}
        for planned in self.ops:
            if planned.integer and KINDS[planned.op.kind].linear and planned.weight is not None and planned.weight.bits < 8:
                found.setdefault(planned.op.params["weight"], planned)
        return tuple(found.values())

    def residual_stream(self) -> tuple[PlannedOp, ...]:
        """Return the operators of the residual stream, in order: :func:`qat.graph.residual_stream.residual_stream`."""
        stream = set(residual_stream(self.graph))
        return tuple(planned for planned in self.ops if planned.op.name in stream)

    def floats(self) -> dict[str, str]:
        """Return the operators that stay float and why, by name."""
        return {p.op.name: p.reason for p in self.ops if not p.integer and p.reason}

    def slow(self) -> list[PlannedOp]:
        """Return the operators whose kernels take a multiple of the float kernel's time."""
        return [p for p in self.ops if p.op.kind in self.target.modes.slow.get(p.mode, ())]

    def unwritable(self) -> dict[str, str]:
        """Return the operators that the target's format cannot hold, and what it lacks, by the paths of their layers."""
        return {p.op.layer: p.reason for p in self.ops if p.unwritable}

    def without(self, unheld: Mapping[str, str]) -> Plan:
        """Return the plan with the operators marked that the target's format cannot hold; ``unheld`` says why, by their names."""
        ops = tuple(
            replace(p, reason=unheld[p.op.name], unwritable=True) if p.op.name in unheld and not p.stored else p for p in self.ops
        )
        return replace(self, ops=ops)

    def returning(self, outputs: Sequence[str]) -> Plan:
        """Return the plan of what some of the outputs need, in the order of the graph; all scales stay."""
        needed, kept = set(outputs), []
        for planned in reversed(self.ops):
            if needed.intersection(planned.op.outputs):
                needed |= set(planned.op.inputs)
                kept.append(planned)
        returned = tuple(name for name in self.graph.outputs if name in outputs)
        in_float = {t for p in kept for t in p.op.inputs if t not in p.grid_inputs or not p.integer} | set(returned)
        on_grid = {t for p in kept if p.integer for t in p.grid_inputs}
        return replace(
            self,
            graph=replace(self.graph, outputs=returned),
            ops=tuple(reversed(kept)),
            quantize=tuple(t for t in self.quantize if t in on_grid),
            dequantize=tuple(t for t in self.dequantize if t in in_float),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values: the target with all its fields, so that one of the user's own survives."""
        return {
            "graph": self.graph.to_dict(),
            "recipe": self.recipe.model_dump(mode="json"),
            "target": self.target.to_dict(),
            "ops": [planned.to_dict() for planned in self.ops],
            "groups": [group.to_dict() for group in self.groups.values()],
            "group_of": dict(self.group_of),
            "quantize": list(self.quantize),
            "dequantize": list(self.dequantize),
            "acts": [act.to_dict() for act in self.acts],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_dict` wrote."""
        groups = [Group.from_dict(group) for group in data["groups"]]
        return cls(
            graph=Graph.from_dict(data["graph"]),
            recipe=Recipe.model_validate(data["recipe"]),
            target=Target.from_dict(data["target"]),
            ops=tuple(PlannedOp.from_dict(planned) for planned in data["ops"]),
            groups={group.name: group for group in groups},
            group_of=dict(data["group_of"]),
            quantize=tuple(data["quantize"]),
            dequantize=tuple(data["dequantize"]),
            acts=tuple(TrainingAct.from_dict(act) for act in data.get("acts", ())),
        )
