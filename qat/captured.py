"""A float model, captured once: its plan by any recipe, and the prepared model of that plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qat.graph.decompose.batch_norm import norms_over_images
from qat.graph.decompose.conv1d import signals_as_images
from qat.graph.decompose.for_target import for_target
from qat.graph.decompose.reductions import means_over_images
from qat.graph.decompose.transposes import transposes_of_few_axes
from qat.graph.equalization import equalize as equalized
from qat.graph.equalization import upper_ends
from qat.graph.even_norms import even_norms
from qat.graph.fold_batch_norm import fold_batch_norm
from qat.graph.graph import Op
from qat.graph.kept_zeros import masks_of
from qat.graph.recognition.recognise import recognise
from qat.graph.replacement import replaced
from qat.graph.training_acts import placed
from qat.planning.placement import float_by_role
from qat.planning.plan import Plan
from qat.planning.planner import plan as make_plan
from qat.planning.recipe import Recipe
from qat.planning.targets import Target, load_target
from qat.program.file_origin import origin_of

from .errors import CaptureError, ConfigError, ExportError
from .frameworks import adapter_for, framework_of
from .typing import Adapter, Inputs, Model, PreparedModel, Runner, Traced

log = logging.getLogger("qat")


@dataclass(frozen=True)
class Captured:
    """A float model as it was when it was captured: one whose weights have changed since then is captured anew.

    Attributes:
        adapter: of its framework.
        traced: its graph and parameters.
        target: that it is planned for.
    """

    adapter: Adapter
    traced: Traced
    target: Target

    def plan(self, recipe: Recipe, equalize: bool = False) -> Plan:
        """Return the plan by a recipe. Raises ConfigError where it would quantize nothing."""
        return self._planned(recipe, equalize)[1]

    def prepare(self, recipe: Recipe, equalize: bool = False, keep_zeros: bool = False) -> PreparedModel:
        """Return the prepared model by a recipe, which shares nothing with the float model: see :func:`qat.prepare`.

        Raises:
            ConfigError: the recipe would quantize nothing.
            ExportError: the target's format cannot hold an operator.
        """
        traced, made, params = self._planned(recipe, equalize)
        self._refuse_unwritable(made)
        floats = made.floats()
        if floats:
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(floats.items())[:3])
            more = f" and {len(floats) - 3} more" if len(floats) > 3 else ""
            log.warning("%d of %d operators stay float (%s%s)", len(floats), len(made.ops), shown, more)
        if slow := made.slow():
            log.warning(
                "mode %s of %s in this runtime takes a multiple of float's time (%d operators, '%s' first): mode weight_only "
                "makes a file as small, at about float's speed", slow[0].mode, slow[0].op.kind, len(slow), slow[0].op.layer,
            )  # fmt: skip
        return self.adapter.insert(traced, made, params, masks_of(made.graph, params) if keep_zeros else {})

    def _refuse_unwritable(self, plan: Plan) -> None:
        if not (unheld := plan.unwritable()):
            return
        lacking = "; ".join(f"'{layer}': {reason}" for layer, reason in unheld.items())
        names = {p.op.name for p in plan.ops if p.unwritable}
        others = [load_target(name) for name in ("onnxruntime", "litert")]
        holding = [
            t.name for t in others if t.suffix != self.target.suffix and not self.adapter.unheld(self.traced, names, t.suffix)
        ]
        advice = "replace the operator, or prepare the part of the model before it"
        if holding:
            advice = f"replace the operator, prepare the part of the model before it, or choose the target '{holding[0]}'"
        raise ExportError(f"this model cannot become a {self.target.suffix}: {lacking}: {advice}")

    def _planned(self, recipe: Recipe, equalize: bool) -> tuple[Traced, Plan, Mapping[str, np.ndarray]]:
        traced, target = self.traced, self.target
        composed = target.row("composed")

        def admits(op: Op) -> bool:
            rule = recipe.rule_for(op.layer, op.kind)
            return rule is not None and rule.mode == "static" and rule.activation.bits < 16

        pieced, known, fixed = recognise(traced.graph, traced.params, traced.fixed, admits, composed.holds if composed else ())
        images = means_over_images(signals_as_images(pieced))
        graph, params, fixed = fold_batch_norm(images, known, fixed)
        apart = norms_over_images(graph)
        if len(apart.ops) > len(graph.ops):
            graph, params, fixed = fold_batch_norm(apart, params, fixed)
        if equalize:
            params = equalized(graph, params, upper_ends(images, known))
        graph, params = even_norms(graph, params, float_by_role(graph, recipe))

        def of_one(op: Op) -> str:
            # A function of 16 bits has no kernel, and the 16-bit product of a tensor with itself stays a product.
            row, rule = target.row(op.kind), recipe.rule_for(op.layer, op.kind)
            return row.of_one if row is not None and rule is not None and rule.activation.bits < 16 else ""

        graph = for_target(replaced(graph, recipe.replace), target.kinds, of_one)
        turned = target.row("transpose")
        if turned is not None and turned.ranks:
            graph = transposes_of_few_axes(graph, max(turned.ranks))
        made = make_plan(graph, recipe, target)
        kept = {p.op.name for p in made.ops if p.keeps_framework}
        made = made.without(self.adapter.unheld(traced, kept, target.suffix))
        acts = placed(traced.acts, traced.graph, [p.op for p in made.ops])
        return traced.fixing(fixed), replace(made, acts=acts), params


def captured(
    model: Model,
    example_inputs: Inputs | None = None,
    target: str | Target | None = None,
    dynamic: Sequence[str] = (),
    dropout: bool = True,
) -> Captured:
    """Capture a float model. The arguments are those of :func:`qat.prepare`; one of ``tf_keras`` is converted.

    Raises:
        CaptureError: its graph cannot be captured, or a layer of a ``tf_keras`` model has no like in Keras 3.
        ConfigError: the target is unknown, or has no dynamic sizes.
    """
    framework = framework_of(model)
    if framework == "tf_keras":
        model, framework = adapter_for(framework).as_keras3(model), "keras"
    adapter = adapter_for(framework)
    chosen = target_for(adapter, model, target)
    if dynamic and (framework != "torch" or chosen.suffix != ".onnx"):
        raise ConfigError("dynamic sizes are for PyTorch models in .onnx: leave out dynamic")
    return Captured(adapter, _traced(adapter, model, example_inputs, dynamic, chosen, dropout), chosen)


def target_for(adapter: Runner, model: Model, target: str | Target | None) -> Target:
    """Return the target of a model: by default that of its framework, or of the file that it was read from."""
    if target is None:
        origin = origin_of(model)
        target = adapter.DEFAULT_TARGET if origin is None or origin.suffix == ".onnx" else "litert"
    return load_target(target)


def _traced(
    adapter: Adapter, model: Model, example: Inputs | None, dynamic: Sequence[str], target: Target, dropout: bool
) -> Traced:
    """Trace a model; that of a file with the free sizes that the file has, wherever its layers allow that."""
    if dynamic:
        return adapter.trace(model, example, dynamic, dropout=dropout)
    origin = origin_of(model)
    free = origin.free_axes if origin is not None and target.suffix == ".onnx" else ()
    alone = [(name,) for name in reversed(free)] if len(free) > 1 else []  # lines of text have one height and any width
    for axes in ([free] if free else []) + alone:
        try:
            traced = adapter.trace(model, example, axes, dropout=dropout)
        except CaptureError as error:
            log.info("the %s cannot stay free: %s", " and the ".join(axes), error)
            continue
        if axes != free:
            log.warning("the artifact takes any %s, and of the other free sizes of the file the example's alone", axes[0])
        return traced
    if free:
        log.warning("the artifact takes the example's size alone, where the file leaves the %s free", " and the ".join(free))
    return adapter.trace(model, example, dropout=dropout)
