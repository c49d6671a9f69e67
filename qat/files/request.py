"""What is asked of a file: the recipe with its exceptions, the training, the tool, and how the result is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import ValidationError

from qat.errors import ConfigError, OptionError, nearest
from qat.planning.recipe import Recipe, Rule, load_recipe
from qat.trainers.time_budget import seconds_of
from qat.typing import Estimator, IoDtype

#: Whether outputs may leave unrounded: where their own grid makes much of their error, never, or wherever a kernel allows that.
Outputs: TypeAlias = Literal["auto", "int8", "float"]
OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)

Tool: TypeAlias = Literal["qat", "aeq", "onnxruntime", "tflite"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
#: What follows calibration: the methods by which roundings are learned, see :mod:`qat.calibration`.
Start: TypeAlias = Literal["adaround", "brecq"]
STARTS: tuple[Start, ...] = get_args(Start)

#: The short forms of recipes.
SHORT_FORMS = {"int8": "static_wi8_ai8", "fp16": "float16", "dynamic": "dynamic_wi8_afp32"}
#: The recipe where none is named.
DEFAULT_RECIPE = "static_wi8_ai8"

#: The keys of a rule that is written on the command line, each with its place in a rule.
_RULE_KEYS = {
    "scope": ("scope",), "op": ("op",), "mode": ("mode",), "bits": ("weight", "bits"), "granularity": ("weight", "granularity"),
    "activation": ("activation", "bits"), "estimator": ("activation", "estimator"),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The options of :func:`qat.quantize`, which says what each does.

    Raises:
        ConfigError: one of them is unknown or not what it can be.
    """

    recipe: str | Path | Recipe = DEFAULT_RECIPE
    exclude: Sequence[str] = ()
    rules: Sequence[str | Rule] = ()
    train: str | int | None = None
    start: Start | None = None
    tool: Tool = "qat"
    io_dtype: IoDtype = "float32"
    out: Path | None = None
    target: str | None = None
    estimator: Estimator | None = None
    scale: str | None = None
    size: tuple[int, int] | None = None
    samples: int = 512
    seed: int = 0
    overwrite: bool = False
    progress: bool = True
    outputs: Outputs = "auto"
    max_error: float | None = None
    same_answers: float | None = None

    def __post_init__(self) -> None:
        if self.tool not in TOOLS:
            raise OptionError("tool", f"unknown tool '{self.tool}'{nearest(self.tool, TOOLS)}; valid: {', '.join(TOOLS)}")
        if self.outputs not in OUTPUTS:
            raise OptionError("outputs", f"outputs is {', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}, not {self.outputs!r}")
        if self.outputs == "float" and self.io_dtype != "float32":
            raise OptionError("outputs", f"outputs that leave as float have no io_dtype {self.io_dtype}: leave one out")
        if self.max_error is not None and not self.max_error > 0:
            raise OptionError("max_error", f"max_error is a percentage above 0, not {self.max_error!r}")
        if self.same_answers is not None and not 0 < self.same_answers <= 100:
            raise OptionError("same_answers", f"same_answers is a percentage, above 0 to 100, not {self.same_answers!r}")
        for bound in ("max_error", "same_answers") if self.tool != "qat" else ():
            if getattr(self, bound) is not None:
                raise OptionError(bound, f"{bound} is not an option of the tool '{self.tool}': leave it out")
        if self.samples < 1:
            raise OptionError("samples", f"samples must be a whole number of at least 1, not {self.samples!r}")
        if self.trains and self.tool != "qat":
            raise OptionError("train", f"the tool '{self.tool}' cannot train: leave out train, or take the tool 'qat'")
        if self.start is not None and self.start not in STARTS:
            raise OptionError("start", f"unknown start '{self.start}'{nearest(self.start, STARTS)}; valid: {', '.join(STARTS)}")
        if self.start is not None and self.tool != "qat":
            raise OptionError(
                "start", f"a start is the tool qat's: leave it out, or take the tool 'qat' in place of '{self.tool}'"
            )
        if (self.exclude or self.rules) and self.tool != "qat":
            raise OptionError("exclude", f"exclude and rules are the tool qat's: '{self.tool}' has recipes of its own")
        self.training_length()

    @property
    def trains(self) -> bool:
        """Whether the model is trained after calibration."""
        return self.train not in (None, "none", 0, "0")

    def training_length(self) -> dict[str, Any]:
        """Return the option of :func:`qat.finetune` that ends the training: ``steps``, or ``time_budget``; none without any."""
        if not self.trains:
            return {}
        text = str(self.train).strip()
        if text.isdigit():
            return {"steps": int(text)}
        try:
            seconds_of(text)
        except OptionError as error:
            raise OptionError(
                "train", f"train is a time (10m, 90s, 1h), a number of steps, or none, not {self.train!r}"
            ) from error
        return {"time_budget": text}

    def full_recipe(self, found: Sequence[Rule] = ()) -> Recipe:
        """Return the recipe with the rules and exceptions of one's own behind its rules, and behind those that were found.

        Raises:
            ConfigError: there is no such recipe, or a rule is wrong.
        """
        chosen = load_recipe(SHORT_FORMS.get(self.recipe, self.recipe) if isinstance(self.recipe, str) else self.recipe)
        own = [rule if isinstance(rule, Rule) else rule_of(rule) for rule in self.rules]
        own += [_rule({"scope": scope, "mode": "float"}, f"exclude '{scope}'") for scope in self.exclude]
        return chosen.model_copy(update={"rules": (*chosen.rules, *found, *own)})


def rule_of(text: str) -> Rule:
    """Return the rule that is written ``scope=^head,bits=4``.

    Raises:
        ConfigError: a key is unknown, or has a value that it cannot have.

    Examples:
        >>> rule_of("scope=^head,bits=4").weight.bits
        4
    """
    found: dict[str, Any] = {}
    for part in re.split(r",(?=\w+=)", text):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in _RULE_KEYS:
            keys = ", ".join(_RULE_KEYS)
            raise ConfigError(f"rule '{text}': '{part}' is no key=value{nearest(key.strip(), _RULE_KEYS)}; keys: {keys}")
        *sections, name = _RULE_KEYS[key.strip()]
        place = found
        for section in sections:
            place = place.setdefault(section, {"symmetric": True, "granularity": "channel"} if section == "weight" else {})
        place[name] = int(value) if value.isdigit() else value
    return _rule(found, f"rule '{text}'")


def _rule(values: dict[str, Any], where: str) -> Rule:
    try:
        return Rule.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from error


def ending_of(recipe: Recipe) -> str:
    """Return the ending of a file's name that the field uses for a recipe: ``int8``, ``int4``, ``fp16``, ``dynamic``, ...

    Examples:
        >>> ending_of(load_recipe("static_wi4_ai8"))
        'int4'
    """
    quantized = [rule for rule in recipe.rules if rule.mode != "float"]
    modes, bits = [rule.mode for rule in quantized], min((rule.weight.bits for rule in quantized), default=8)
    if modes[:1] == ["float16"]:
        return "fp16"
    if bits < 8:
        return f"int{bits}"
    if modes[:1] == ["dynamic"]:
        return "dynamic"
    if modes[:1] == ["weight_only"]:
        return "weights_int8"
    return "int16x8" if quantized and quantized[0].activation.bits == 16 else "int8"
