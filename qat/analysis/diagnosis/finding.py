"""A cause that was found, with its evidence, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Remedy:
    """Options of :func:`qat.quantize` by which the float file is quantized anew, on the data of the diagnosis.

    Attributes:
        says: the advice, in words.
        recipe: by name; empty for the default.
        estimator: of the ranges; empty for the recipe's.
        target: empty for the file's own.
        rules: behind the recipe's, as on the command line.
        applies: whether quantizing anew can help at all.
    """

    says: str
    recipe: str = ""
    estimator: str = ""
    target: str = ""
    rules: tuple[str, ...] = ()
    applies: bool = True

    def command(self, float_path: str, data: str) -> str:
        """Return the command line; empty where there is none."""
        if not self.applies:
            return ""
        options = {"--recipe": self.recipe, "--estimator": self.estimator, "--target": self.target}
        said = [f" {name} {value}" for name, value in options.items() if value] + [f" --rule '{rule}'" for rule in self.rules]
        return f"qat quantize {float_path} --data {data}{''.join(said)}"


@dataclass(frozen=True)
class Evidence:
    """Why a cause is held to be there.

    Attributes:
        steps: the names of the steps where it is.
        figure: that was measured, at the worst of them.
        threshold: beyond which it is held to be there.
        says: figure and place in words.
    """

    steps: tuple[str, ...]
    figure: float
    threshold: float
    says: str


@dataclass(frozen=True)
class Finding:
    """A cause of the error.

    Attributes:
        cause: by name.
        title: in a few words.
        share: of the outputs' error that its steps make, 0 to 1.
        evidence: why.
        remedy: the one option that mends it.
    """

    cause: str
    title: str
    share: float
    evidence: Evidence
    remedy: Remedy = field(compare=False)

    def to_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        e, r = self.evidence, self.remedy
        remedy = {
            "says": r.says, "recipe": r.recipe or None, "estimator": r.estimator or None, "target": r.target or None,
            "rules": list(r.rules),
        }  # fmt: skip
        return {
            "cause": self.cause, "title": self.title, "share": self.share, "steps": list(e.steps), "figure": e.figure,
            "threshold": e.threshold, "says": e.says, "remedy": remedy,
        }  # fmt: skip
