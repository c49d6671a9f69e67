"""What makes an artifact of a float model: the recipe, and the methods around calibration and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from qat.planning.recipe import Recipe, Rule
from qat.runs.config import CalibrationConfig, OwnFloatModel, RunConfig
from qat.typing import Estimator

Training = Literal["none", "labels", "teacher"]


@dataclass(frozen=True)
class Choices:
    """What makes an artifact.

    Attributes:
        recipe: the configuration's, or one with further rules.
        estimator: of the ranges; None takes the recipe's.
        equalize: whether neighbouring layers share their channels' ranges first.
        bias_correction: whether each channel's mean error is taken off its bias.
        adaround: whether the rounding of weights is learned, layer by layer.
        reconstruct: whether roundings and scales are learned, block by block.
        training: none, to the configuration's loss, or to the float model's outputs too.
    """

    recipe: Recipe
    estimator: Estimator | None = None
    equalize: bool = False
    bias_correction: bool = False
    adaround: bool = False
    reconstruct: bool = False
    training: Training = "none"

    @classmethod
    def of(cls, config: RunConfig, recipe: Recipe) -> Choices:
        """Return what a configuration asks for, without training; its recipe is read already."""
        calibration = config.calibration
        return cls(
            recipe, calibration.estimator, config.equalize, calibration.bias_correction, reconstruct=calibration.reconstruction
        )

    def with_rules(self, name: str, *rules: Rule) -> Choices:
        """Return the choices with further rules behind the recipe's, which is called by a name then."""
        recipe = self.recipe.model_copy(update={"name": f"{self.recipe.name}_{name}", "rules": (*self.recipe.rules, *rules)})
        return replace(self, recipe=recipe)

    def configured(self, config: RunConfig, **training: Any) -> RunConfig:
        """Return a configuration with these choices, all but the recipe, and with other options of training."""
        options = {**vars(config.training), **training}
        if self.training == "teacher":
            options["teacher"] = OwnFloatModel()
        calibration = {**config.calibration.model_dump(), "estimator": self.estimator, "bias_correction": self.bias_correction}
        changed = {
            "equalize": self.equalize, "calibration": CalibrationConfig(**calibration),
            "training": type(config.training)(**options),
        }  # fmt: skip
        return config.model_copy(update=changed)

    def written(self, path: Path) -> str:
        """Return the recipe as YAML, the chosen estimator in its rules; what no recipe can say stands in a comment above it."""
        from io import StringIO

        from ruamel.yaml import YAML

        document = self.recipe.model_dump(mode="json", exclude_unset=True)
        for rule in document["rules"]:
            if self.estimator is not None and rule.get("mode", "static") == "static":
                rule.setdefault("activation", {})["estimator"] = self.estimator
        text = StringIO()
        yaml = YAML()
        yaml.width = 130
        yaml.dump({**document, "name": path.stem}, text)
        beside = [f"# In a run's configuration beside it: {line}\n" for line in self.beside()]
        return "# Chosen by qat auto.\n" + "".join(beside) + text.getvalue()

    def beside(self) -> list[str]:
        """Return, as keys of a run's configuration, what no recipe can say."""
        keys = {
            "equalize: true": self.equalize, "calibration: {bias_correction: true}": self.bias_correction,
            "adaround: true": self.adaround, "calibration: {reconstruction: true}": self.reconstruct,
            "training: {...}": self.training == "labels",
            "training: {teacher: float, ...}": self.training == "teacher",
        }  # fmt: skip
        return [key for key, chosen in keys.items() if chosen]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; :meth:`from_dict` reads them back."""
        return {**vars(self), "recipe": self.recipe.model_dump(mode="json", exclude_unset=True)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choices:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**values, "recipe": Recipe.model_validate(values["recipe"])})
