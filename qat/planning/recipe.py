"""Recipes: which operators are quantized, and how. A recipe is data: ordered rules, the last match wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qat.errors import ConfigError, nearest
from qat.graph.kinds import KINDS
from qat.graph.replacement import fault_of

from .modes import STORED, Mode

#: The part of an operator in the model. ``residual``: it is of the residual stream, see :mod:`qat.graph.residual_stream`.
Role = Literal["residual"]

Estimator = Literal["minmax", "ema", "percentile", "mse", "importance", "entropy"]


class QuantSpec(BaseModel):
    """How one tensor is quantized.

    ``granularity`` is ``tensor`` (one scale) or ``channel`` (one scale per output channel; weights only). ``estimator`` says
    how calibration finds the range of an activation; a weight's range is its largest magnitude. With ``learned`` the scale is a
    parameter that is trained (LSQ), from where calibration, or the least squared error of a weight, left it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: int = Field(default=8, ge=2, le=16)
    symmetric: bool = False
    granularity: Literal["tensor", "channel"] = "tensor"
    estimator: Estimator = "minmax"
    learned: bool = False


class Rule(BaseModel):
    """A rule for the operators whose scope matches ``scope`` (a regular expression, searched), kind is ``op`` and role ``role``.

    The scope of an operator is its layer's path, else its name; ``qat plan`` and ``qat inspect`` show it. A rule without a role
    is for all operators.
    ``mode`` is one of :data:`qat.planning.modes.Mode`: ``static`` quantizes weights and activations, ``dynamic``, ``weight_only``
    and ``float16`` the stored weights alone. ``float`` keeps the operator as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: str = ".*"
    op: str = "*"
    role: Role | None = None
    mode: Mode = "static"
    weight: QuantSpec = QuantSpec(bits=8, symmetric=True, granularity="channel")
    activation: QuantSpec = QuantSpec(bits=8)

    @field_validator("scope")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"'{value}' is not a regular expression: {error}") from error
        return value

    @field_validator("op")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "*" and value not in KINDS:
            raise ValueError(f"unknown operator '{value}'{nearest(value, KINDS)}; valid: *, {', '.join(KINDS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if not self.weight.symmetric:
            raise ValueError("weights are quantized symmetrically by every runtime: set weight.symmetric to true")
        if self.activation.granularity == "channel":
            raise ValueError("activations have one scale per tensor in every runtime: set activation.granularity to tensor")
        if self.mode in STORED and self.activation != QuantSpec():
            what = "are quantized in 8 bits as the kernel runs" if self.mode == "dynamic" else "stay float"
            raise ValueError(f"in mode {self.mode} activations {what}: remove the key 'activation', or set mode to static")
        if self.mode == "float16" and self.weight != Rule.model_fields["weight"].default:
            raise ValueError("in mode float16 weights are stored in float16: remove the key 'weight', or set another mode")
        if self.weight.learned and (self.mode != "static" or self.activation.bits == 16):
            raise ValueError("scales are learned in mode static with activations of up to 8 bits: set weight.learned to false")
        if self.activation.learned and self.activation.bits == 16:
            raise ValueError("ranges are learned for activations of up to 8 bits: set activation.learned to false")
        if self.mode in STORED and self.weight.bits > 8:
            raise ValueError(f"in mode {self.mode} weights have up to 8 bits: set weight.bits to 8 or 4, or mode to float16")
        return self

    def matches(self, scope: str, kind: str, role: Role | None = None) -> bool:
        """Whether the rule applies to an operator."""
        return self.op in ("*", kind) and self.role in (None, role) and re.search(self.scope, scope) is not None

    def __str__(self) -> str:
        given = {"scope": self.scope, "op": self.op} | ({"role": self.role} if self.role else {})
        return " ".join(f"{key}='{value}'" for key, value in given.items() if not self.role or value not in (".*", "*"))


class Recipe(BaseModel):
    """An ordered list of rules. An operator that no rule matches stays float.

    ``prefer: speed`` leaves operators float where that is quicker, by the times of :mod:`qat.planning.operator_costs`; any other
    recipe runs in integers what it can.
    ``replace`` names activations that another stands for, such as ``{"silu": "hard_swish"}``; the rules see the new one. See
    :mod:`qat.graph.replacement`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1)
    prefer: Literal["integers", "speed"] = "integers"
    replace: Mapping[str, str] = {}

    @field_validator("replace")
    @classmethod
    def _replaceable(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if fault := next(filter(None, map(fault_of, value, value.values())), ""):
            raise ValueError(f"replace: {fault}")
        return value

    def rule_for(self, scope: str, kind: str, role: Role | None = None) -> Rule | None:
        """Return the last rule that matches, or None."""
        return next((r for r in reversed(self.rules) if r.matches(scope, kind, role)), None)

    def replacing(self, replace: Mapping[str, str]) -> Recipe:
        """Return the recipe with more activations replaced.

        Raises:
            ConfigError: there is no such activation, or it cannot stand for another.
        """
        if not isinstance(replace, Mapping):
            raise ConfigError(f"replace names activations by those that they replace, {{'silu': 'hard_swish'}}, not {replace!r}")
        if fault := next(filter(None, map(fault_of, replace, replace.values())), ""):
            raise ConfigError(f"replace: {fault}")
        return self if not replace else self.model_copy(update={"replace": {**self.replace, **replace}})


def _builtin_folder() -> Path:
    return Path(str(files("qat.configs") / "recipes"))


def builtin_recipes() -> dict[str, Recipe]:
    """Return the recipes shipped in ``configs/recipes``, by name."""
    from qat.system.yaml_files import load_yaml

    return {path.stem: load_yaml(path, Recipe) for path in sorted(_builtin_folder().glob("*.yaml"))}


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """Return a recipe given as an object, a built-in name or the path of a YAML file.

    Raises:
        ConfigError: there is no such recipe, or the file is not a valid one; the message names key and line.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, (str, Path)):
        raise ConfigError(f"a recipe is a name, the path of a .yaml file or a Recipe, not {type(recipe).__name__}")
    from qat.system.yaml_files import load_yaml

    if Path(recipe).suffix in (".yaml", ".yml"):
        return load_yaml(Path(recipe), Recipe)
    path = _builtin_folder() / f"{recipe}.yaml"
    if not path.is_file():
        names = [p.stem for p in sorted(_builtin_folder().glob("*.yaml"))]
        raise ConfigError(
            f"unknown recipe '{recipe}'{nearest(str(recipe), names)}; built-in: {', '.join(names)}; "
            "or give the path of a .yaml file"
        )
    return load_yaml(path, Recipe)
