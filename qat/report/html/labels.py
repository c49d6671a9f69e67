"""Names in plots, which have less room than tables: in two lines at most, without their middle where they are longer."""

from __future__ import annotations

import re

#: The letters in a line of a name beside a plot.
_LINE = 24


def short_lines(name: str) -> list[str]:
    """Return a name in one or two lines, broken where it has a space, a dot, a slash, a dash or an underscore.

    Examples:
        >>> short_lines("model.layers.3.attention.output.dense")
        ['model.layers.3.', 'attention.output.dense']
    """
    if len(name) > 2 * _LINE - 8:
        kept = _LINE - 5
        name = f"{name[:kept]}…{name[-kept:]}" if len(name) > 2 * kept + 1 else name
    if len(name) <= _LINE:
        return [name]
    breaks = [m.end() for m in re.finditer(r"[\s./_…-]", name) if m.end() <= _LINE and len(name) - m.end() <= _LINE]
    at = max(breaks, default=min(_LINE, len(name) - len(name) // 2))
    return [name[:at].rstrip(), name[at:].lstrip()]
