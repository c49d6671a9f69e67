"""What benchmarks write into documents: a part between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``, from kept figures.

Figures are kept by machine, so that those of one do not replace another's.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a document; one without them stays as it is."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    document = path.read_text()
    if begin in document:
        head, rest = document.split(begin)
        path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, ("---",) * len(titles), *rows))


def machine() -> str:
    """Return the machine in words."""
    from qat.system.machine import processor, threads

    found = processor()
    return ", ".join([f"{threads()[0]} cores of {found.name}", *(name for name, has in found.features.items() if has)])


def kept(path: Path | None) -> dict[str, Any]:
    """Return the figures that a file holds; none where there is no file yet."""
    found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    return found


def keep(figures: Any, path: Path | None) -> None:
    """Write the figures, where they are to be kept; a folder that is not there is made."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def options_of(text: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark that keeps figures, and writes a document's section of them."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument("--render", type=Path, metavar="DOCUMENT", help="write the table of --json, and measure nothing")
    return parser


def parsed(parser: argparse.ArgumentParser, models: Sequence[str] = ()) -> argparse.Namespace:
    """Return the options of a benchmark, whose ``models`` are of these names; its notices and warnings are silent from now on."""
    options = parser.parse_args()
    if unknown := set(getattr(options, "models", ())) - set(models):
        parser.error(f"unknown model: {', '.join(sorted(unknown))}; valid: {', '.join(models)}")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return options


#: The figures of one machine.
Figures = dict[str, Any]


def by_machine(of_machines: dict[str, Figures], render: Callable[[Figures], str]) -> str:
    """Return the text of each machine's figures, with its name."""
    return "\n\n".join(f"{render(figures)}\n\nMeasured on {where}." for where, figures in of_machines.items())


def render_or_measure(
    options: argparse.Namespace,
    section: str,
    render: Callable[[Figures], str],
    measure: Callable[[Figures, Callable[[], None]], None],
) -> None:
    """Write a document's section of the kept figures, or measure this machine's, keep and print them.

    Args:
        options: of :func:`options_of`.
        section: its name.
        render: returns the text of one machine's figures.
        measure: changes this machine's figures; its second argument keeps what is there so far.
    """
    of_machines = kept(options.json)
    if options.render:
        write_section(options.render, section, by_machine(of_machines, render))
        return
    here = machine()
    measure(of_machines.setdefault(here, {}), lambda: keep(of_machines, options.json))
    keep(of_machines, options.json)
    print(by_machine({here: of_machines[here]}, render))
