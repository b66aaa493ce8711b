"""Text of tables."""

from __future__ import annotations

import textwrap


def say(text: str) -> None:
    """Prints a paragraph after an empty line."""
    print("\n" + textwrap.fill(" ".join(text.split()), 118, break_on_hyphens=False))
