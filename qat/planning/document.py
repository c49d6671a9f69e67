"""The tables of docs/targets.md, written from the code. ``python -m qat.planning.document docs/targets.md`` rewrites them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from qat.errors import ConfigError

from .modes import STORED
from .targets import TARGETS, Fixed, Row, Target

#: A table stands between two comments that name its target; all else on the page is written by hand.
_BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """Return a page with each of its tables written anew.

    Raises:
        ConfigError: a target has no table on the page, or a table names no target.
    """
    found = [match[2] for match in _BLOCK.finditer(text)]
    if sorted(found) != sorted(TARGETS):
        raise ConfigError(f"the page has tables of {', '.join(found)}, and there are the targets {', '.join(TARGETS)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{table(TARGETS[match[2]])}{match[3]}", text)


def table(target: Target) -> str:
    """Return a target's facts and its operators as Markdown."""
    same = next((other for other in TARGETS.values() if other.rows == target.rows), target)
    return _facts(target) + (_operators(target.rows) if same is target else f"Its operators are those of `{same.name}`.\n")


def _facts(target: Target) -> str:
    widths = f" at 8 bits; {', '.join(map(str, target.activation_bits))} bits" if len(target.activation_bits) > 1 else ""
    low, high = target.activation
    facts = {
        "artifact": f"`{target.suffix}`" if target.suffix else "none",
        "activations": f"{low}..{high}{widths}" + (", symmetric" if target.symmetric_activations else ""),
        "weights": f"symmetric, at most {target.weight_qmax} in magnitude at 8 bits",
        "bias": target.bias,
        "arithmetic": f"`{target.kernels}`",
        **{f"{mode} kernels": _names(target.modes.stored.get(mode, ())) for mode in STORED},
        **{f"{mode} kernels slower than float's": _names(kinds) for mode, kinds in target.modes.slow.items()},
        "kernels for 4-bit weights": "; ".join(f"{mode}: {_names(of)}" for mode, of in target.modes.packed.items()) or "none",
        "kernels for 16-bit activations": _names(target.modes.int16),
        "source": f"<{target.source}>",
    }
    return f"{target.description}.\n\n" + "".join(f"- {name}: {value}\n" for name, value in facts.items()) + "\n"


def _names(kinds: Iterable[str]) -> str:
    return ", ".join(kinds) or "none"


def _operators(rows: Sequence[Row]) -> str:
    lines: dict[str, list[str]] = {}
    for row in rows:
        lines.setdefault(f"{_scale(row)} | {', '.join(row.fuses) or '–'} | {_entry(row)} | {_limits(row)}", []).append(row.kind)
    head = "| operator | output scale | absorbs | starts a region | limits and form |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {', '.join(kinds)} | {line} |\n" for line, kinds in lines.items())


def _scale(row: Row) -> str:
    if isinstance(row.output, Fixed):
        return f"1/{1 / row.output.scale:.0f}, zero point {row.output.zero_point}"
    return {"own": "its own", "as_input": "that of its inputs", "probabilities": "its own, 1/256 or finer"}[row.output]


def _entry(row: Row) -> str:
    return "yes" if row.starts else "no"


def _limits(row: Row) -> str:
    limits = [
        f"on {' or '.join(map(str, row.ranks))} axes" if row.ranks else "",
        "" if row.padding else "without padding",
        "with padding of at most half a window" if row.half_padding else "",
        "" if row.groups else "without groups",
        f"the zero point of input {', '.join(str(i + 1) for i in row.symmetric)} is 0" if row.symmetric else "",
        f"where a {' or '.join(row.readers)} reads it" if row.readers else "",
        "" if row.leaves else "of several tensors, float where the result only leaves the model",
        row.note,
    ]
    return "; ".join(limit for limit in limits if limit) or "–"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
