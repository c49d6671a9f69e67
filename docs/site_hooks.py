"""Hooks of the site: README, CONTRIBUTING and CHANGELOG as pages, and links from the roles in docstrings."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root to those of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=site_text((ROOT / source).read_text(encoding="utf-8"))))
    return files


def site_text(text: str) -> str:
    """Return a root page with its links as the site has them."""
    text = text.replace("](docs/", "](")
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def on_page_content(html: str, **_: object) -> str:
    """Turn Sphinx's roles in docstrings, ``:func:`qat.prepare```, into links where the site documents the name."""
    role = r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)</code>"
    return re.sub(role, r'<autoref identifier="\1" optional><code>\1</code></autoref>', html)
