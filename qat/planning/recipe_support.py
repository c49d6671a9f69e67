"""The modes and the widths of a recipe that a target's kernels support."""

from __future__ import annotations

from qat.errors import ConfigError

from .modes import STORED
from .recipe import QuantSpec, Recipe
from .targets import TARGETS, Target


def able_targets(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the targets that have kernels for every mode and width of a recipe."""
    return tuple(target.name for target in TARGETS.values() if not _missing(recipe, target))


def _missing(recipe: Recipe, target: Target) -> str:
    """Return the kernels that a recipe needs and a target lacks altogether; empty where there are some."""
    for rule in recipe.rules:
        if rule.mode in STORED and not target.modes.stored.get(rule.mode):
            return f"{rule.mode} kernels"
        if rule.mode == "static" and rule.activation.bits == 16 and not target.modes.int16:
            return "16-bit kernels"
        if rule.mode == "static" and rule.activation.bits < 8 and rule.activation.bits not in target.activation_bits:
            return f"kernels for {rule.activation.bits}-bit activations"
    return ""


def check_modes(recipe: Recipe, target: Target) -> None:
    """Raise ConfigError for a mode or width that no kernel of the target has, naming the pairs that have it."""
    missing, able = _missing(recipe, target), able_targets(recipe)
    if missing:
        runtimes = [name for name in able if TARGETS[name].suffix]
        pairs = f"keras or torch -> {', '.join(runtimes)}" if runtimes else "no target"
        trained = f"; target='{able[0]}' trains it, without an artifact" if able and not runtimes else ""
        raise ConfigError(
            f"recipe '{recipe.name}' needs {missing}, which target '{target.name}' lacks; it can be exported by: {pairs}{trained}"
        )


def check_activation(spec: QuantSpec, recipe: Recipe, target: Target) -> None:
    """Raise ConfigError for a width of activations that no kernel of the target has."""
    widths = (*target.activation_bits, *((16,) if target.modes.int16 else ()))
    if spec.bits not in widths:
        raise ConfigError(
            f"recipe '{recipe.name}' asks for {spec.bits}-bit activations, but target '{target.name}' has kernels for "
            f"{' and '.join(map(str, widths))} bits only: set activation.bits to 8"
        )


def weight_qmax(spec: QuantSpec, target: Target) -> int:
    """Return the largest magnitude of a weight: that of its type below 8 bits, that of the target's kernels at 8."""
    if spec.bits > 8:
        raise ConfigError(f"target '{target.name}' has kernels for weights of up to 8 bits, not {spec.bits}: set weight.bits")
    return min(2 ** (spec.bits - 1) - 1, target.weight_qmax) if spec.bits < 8 else target.weight_qmax
