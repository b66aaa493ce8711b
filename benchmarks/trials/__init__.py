"""What `benchmarks/reliability.py` tries, a module for each kind of trial."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """What was tried, and what broke.

    Attributes:
        name: The kind of trial.
        tried: How many trials were made.
        refused: Refusals by an error of this library, by the start of their text, where such are expected.
        broken: A line for each trial that broke.
    """

    name: str
    tried: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    broken: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        refused = f", {sum(self.refused.values())} refused with a sentence" if self.refused else ""
        lines = [f"{self.name}: {self.tried} tried{refused}, {len(self.broken)} broke"]
        return "\n".join([*lines, *(f"    {line}" for line in self.broken[:20])])
