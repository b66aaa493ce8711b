"""Finds private words and wrong articles in the pages and in the docstrings of the packages.

`scripts/prose_words.txt` lists them, with what to write instead. `make prose` runs this after codespell, which finds
misspelt words. Give names of files to search these alone: ``python scripts/check_prose.py docs/index.md``.

Docstrings written before the list was made are counted, file by file, in `scripts/prose_known.txt`. A count may fall
and never rise; ``--update`` writes the file anew after it has fallen. Pages have no such allowance.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT / "scripts" / "prose_words.txt"
KNOWN = ROOT / "scripts" / "prose_known.txt"
CODE = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence)`*$|``.*?``|`[^`\n]*`|^ *(?:>>>|\.\.\.) .*?$|^:::.*?$", re.M | re.S
)


def rules(text: str) -> list[tuple[re.Pattern[str], str]]:
    """Patterns and what to write in their place."""
    found: list[tuple[re.Pattern[str], str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        pattern, tab, instead = line.partition("\t")
        if not tab or not instead.strip():
            raise ValueError(f"{WORDS.name}:{number}: {line!r} has no tab; expected PATTERN<tab>REPLACEMENT")
        # A line break of the page is a space of the sentence.
        found.append((re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE), instead.strip()))
    return found


def without_code(text: str) -> str:
    """The text with code blanked out; lines keep their numbers."""
    return CODE.sub(lambda match: re.sub(r"[^\n]", "~", match[0]), text)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The line where each docstring begins, and its text; strings below a definition or an assignment count as well."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and source.splitlines()[node.lineno - 1].lstrip().startswith(('"""', 'r"""'))
        ):
            yield node.lineno, node.value.value


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file, with the line at which each piece begins."""
    text = path.read_text(encoding="utf-8")
    yield from docstrings(text) if path.suffix == ".py" else [(1, text)]


def complaints(line: int, text: str, words: list[tuple[re.Pattern[str], str]]) -> Iterator[tuple[int, str]]:
    """What a passage has that it should not, with its line."""
    prose = without_code(text)
    for pattern, instead in words:
        for match in pattern.finditer(prose):
            found = " ".join(prose[match.start() : max(match.end(), match.start() + 24)].split())
            yield line + prose.count("\n", 0, match.start()), f"{found!r}: write {instead!r}"


def files() -> list[Path]:
    """Everything that is searched."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    packages = ROOT / "parareal", ROOT / "diffusion_adapters"
    return pages + [path for package in packages for path in sorted(package.rglob("*.py"))]


def known() -> dict[str, int]:
    """How many complaints each file of the packages may have."""
    lines = [line.split() for line in KNOWN.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return {name: int(count) for name, count in lines}


def main(arguments: list[str]) -> int:
    """Prints every complaint; the status is 1 where there are more than are known."""
    words, update = rules(WORDS.read_text(encoding="utf-8")), "--update" in arguments
    names = [Path(name).resolve() for name in arguments if name != "--update"]
    allowed = {} if names else known()
    counts: dict[str, int] = {}
    failed = False
    for path in names or files():
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        found = sorted(c for at, text in passages(path) for c in complaints(at, text, words))
        if path.suffix == ".py" and found:
            counts[name] = len(found)
        if len(found) > allowed.get(name, 0):
            failed = True
            for line, complaint in found:
                print(f"{name}:{line}: {complaint}")
            if name in allowed:
                print(f"{name}: {len(found)} of these; expected {allowed[name]} at most")
    if update and not failed:
        head = [line for line in KNOWN.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        lines = [f"{name} {count}" for name, count in sorted(counts.items())]
        KNOWN.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    if not failed:
        print(f"plain English, but for {sum(counts.values())} places that are known")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
