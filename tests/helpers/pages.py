"""What the pages of the docs say, and the scripts that look after them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def table(header: str) -> list[list[str]]:
    """The rows of the one table of the docs that has this header."""
    pages = [page.read_text() for page in sorted(ROOT.glob("docs/**/*.md"))]
    (page,) = [page for page in pages if header in page]
    rows = page[page.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def load(name: str) -> Any:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
