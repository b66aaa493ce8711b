"""Holds `docs/gallery.md` to what the examples print: words and counts must be the same.

Floating point numbers are passed over, wall times and figures at the level of rounding among them, and so are the
number of threads and the paths of pictures; so is all of a line such as "1024 here ...", which says what was quickest
on one machine. Counts from 10,000 on may differ by one in a thousand: whether a slice is within its tolerance may be a
matter of rounding, and so of the processor. `make examples` runs it on the output that it has kept:
`python scripts/check_gallery.py out` looks for out/lorenz.txt and the others.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"
SECTION = re.compile(r"^`examples/(?P<name>\w+)\.py`.*?^```text\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = (
    (re.compile(r"[-+]?\d*\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+"), "#"),
    (re.compile(r"\d+ threads"), "# threads"),
    (re.compile(r"^picture: .*"), "picture"),
    (re.compile(r"^(\d+ here)\b.*"), r"\1"),
    (re.compile(r"\s+"), " "),
)


def sections(page: str) -> dict[str, str]:
    """The output that the page shows of each example."""
    return {match["name"]: match["output"] for match in SECTION.finditer(page)}


def essence(line: str) -> str:
    """A line without what may differ from run to run and from machine to machine."""
    for pattern, word in VARIES:
        line = pattern.sub(word, line)
    return line.strip()


def alike(page: str, line: str) -> bool:
    """Whether two lines say the same."""
    ours, theirs = (essence(text).split() for text in (page, line))
    return len(ours) == len(theirs) and all(
        a == b or (a.isdigit() and b.isdigit() and int(a) >= 10_000 and abs(int(a) - int(b)) * 1000 <= int(a))
        for a, b in zip(ours, theirs, strict=True)
    )


def differences(shown: str, printed: str) -> list[str]:
    """What the page shows in one line and the example prints in another, as sentences."""
    ours, theirs = ([line for line in text.splitlines() if line.strip()] for text in (shown, printed))
    found = [
        f"the page has {page!r}, printed was {line!r}"
        for page, line in zip(ours, theirs, strict=False)
        if not alike(page, line)
    ]
    return found + ([f"the page has {len(ours)} lines, printed were {len(theirs)}"] if len(ours) != len(theirs) else [])


def main() -> int:
    folder = Path(sys.argv[1])
    failed = 0
    for name, shown in sections(PAGE.read_text(encoding="utf-8")).items():
        printed = (folder / f"{name}.txt").read_text(encoding="utf-8")
        for sentence in differences(shown, printed):
            failed += 1
            print(f"docs/gallery.md, {name}: {sentence}", file=sys.stderr)
    print("docs/gallery.md says what the examples print" if not failed else "copy the new output into docs/gallery.md")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
