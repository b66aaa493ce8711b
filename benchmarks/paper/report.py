"""Where results go: tables as Markdown, printed row by row and kept in a folder, and pictures beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Table:
    """A table that is being filled; every row is printed and kept as soon as it is known."""

    def __init__(self, path: Path, title: str, header: Sequence[str], note: str) -> None:
        self.path = path
        lines = [f"**{title}**", "", *([note, ""] if note else [])]
        self._say("\n" + "\n".join(lines), new=True)
        self._say("| " + " | ".join(header) + " |\n|" + "---|" * len(header))

    def add(self, *cells: Any) -> None:
        self._say("| " + " | ".join(str(cell) for cell in cells) + " |")

    def _say(self, text: str, new: bool = False) -> None:
        print(text, flush=True)
        with self.path.open("w" if new else "a", encoding="utf-8") as file:
            file.write(text.lstrip("\n") + "\n")


class Report:
    """A folder of tables and pictures.

    Args:
        folder: Is made if it is not there.
        quick: Whether experiments take few seeds and networks.
        samples: Of which the quality is measured.
        steps: For the quality after some iterations; by default what the experiment says.
        guidance: The same for its scales of guidance.
        default: Whether that stands beside them.
    """

    def __init__(
        self,
        folder: Path,
        quick: bool,
        samples: int = 1000,
        steps: Sequence[int] | None = None,
        guidance: Sequence[float] | None = None,
        default: bool = True,
    ) -> None:
        self.folder, self.quick, self.samples = folder, quick, samples
        self.steps, self.guidance, self.default = steps, guidance, default
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, title: str, header: Sequence[str], note: str = "") -> Table:
        return Table(self.folder / f"{name}.md", title, header, note)

    def picture(self, name: str, figure: Any) -> None:
        """Kept with a palette of 128 colours, which is all that these need."""
        import matplotlib.pyplot as plt
        from PIL import Image

        path, buffer = self.folder / f"{name}.png", io.BytesIO()
        figure.savefig(buffer, dpi=90)
        drawn = Image.open(buffer).convert("RGB")
        drawn.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        plt.close(figure)
        print(f"\npicture: {path}", flush=True)


def small(value: float) -> str:
    """An error."""
    return f"{value:.1e}"
