"""What the pages of the docs say."""

from __future__ import annotations

import re
from pathlib import Path


def table(header: str) -> list[list[str]]:
    """The rows of the one table of the docs that has this header."""
    pages = [page.read_text() for page in sorted(Path(__file__).parents[2].glob("docs/**/*.md"))]
    (page,) = [page for page in pages if header in page]
    rows = page[page.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
