"""Every Python snippet of the README and the docs runs, so that a page cannot fall behind the code.

The blocks of one page are one script: they share a namespace and run in order, in an empty working directory. A block
whose fence says ``python no-run``, or ``{.python .no-run}`` as the pages are rendered, is only compiled. `make docs`
runs it: ``pytest scripts/check_snippets.py``.
"""

import re
import subprocess
import sys
import textwrap
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPENING = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its code, the line of the page that its first line is, and whether it runs."""

    code: str
    line: int
    runs: bool


def python_blocks(text: str) -> Iterator[Block]:
    """The blocks fenced as Python, in order; those of other languages, and what stands inside them, are passed over."""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        opening = OPENING.match(line)
        if opening is None:
            continue
        fence = opening["fence"]
        body: list[str] = []
        for _, inner in lines:
            stripped = inner.strip()
            if len(stripped) >= len(fence) and set(stripped) == {fence[0]}:
                break
            body.append(inner)
        else:
            raise ValueError(f"line {number}: the block that opens here is never closed")
        words = [word.lstrip(".") for word in opening["info"].replace("{", " ").replace("}", " ").split()]
        if words and words[0] in ("python", "py"):
            yield Block(textwrap.dedent("\n".join(body)) + "\n", number + 1, "no-run" not in words)


def run(page: Path, text: str) -> None:
    """Run the blocks of a page as one module; the failure names the page, the line and what stands there."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else str(page)
    lines = text.splitlines()
    for block in python_blocks(text):
        try:
            # Blank lines in front: the line numbers of tracebacks are then those of the page.
            code = compile("\n" * (block.line - 1) + block.code, name, "exec", dont_inherit=True)
            if block.runs:
                exec(code, namespace)
        except Exception as error:
            frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
            number = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else block.line
            at = number if number is not None else block.line
            shown = lines[at - 1].strip() if at <= len(lines) else ""
            pytest.fail(f"{name}:{at}: {shown}\n\n{traceback.format_exc()}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, page.read_text(encoding="utf-8"))
    plt.close("all")


ONLY = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"{{name}} is not installed by the README's own line", name=name)

sys.meta_path.insert(0, Absent())
runpy.run_path({script!r}, run_name="__main__")
"""


def test_the_readme_runs_after_its_own_install_line(tmp_path: Path) -> None:
    """What its extras do not bring cannot be imported."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    line = re.search(r"^    pip install '\.\[(?P<extras>[\w,]+)\]'$", text, re.MULTILINE)
    assert line is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def modules(name: str) -> set[str]:
        return {re.split(r"[>=<\[]", requirement)[0] for requirement in extras[name]} - {"torch-parareal"}

    brought = {module for name in line["extras"].split(",") for module in modules(name)}
    absent = {module for name in extras for module in modules(name)} - brought
    assert "safetensors" in brought
    assert "matplotlib" in absent
    script = tmp_path / "readme.py"
    script.write_text("\n".join(block.code for block in python_blocks(text) if block.runs), encoding="utf-8")
    code = ONLY.format(absent=absent, script=str(script))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("fence", ["python no-run", "{.python .no-run}", "{ .python .no-run }"])
def test_blocks_share_a_namespace_and_no_run_is_only_compiled(tmp_path: Path, fence: str) -> None:
    text = f"```python\na = 1\n```\n\n```{fence}\na = 1 / 0\n```\n\n```python\nassert a == 1\n```\n"
    run(tmp_path / "page.md", text)


def test_a_block_in_a_list_and_one_shown_as_text() -> None:
    text = "- item\n\n    ```python\n    a = 1\n    ```\n\n````text\n```python\nb\n```\n````\n"
    assert list(python_blocks(text)) == [Block("a = 1\n", 4, True)]


@pytest.mark.parametrize("broken", ["1 / 0", "a ="])
def test_a_failure_names_page_and_line(tmp_path: Path, broken: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"page\.md:5: {re.escape(broken)}"):
        run(tmp_path / "page.md", f"# Title\n\n```python\na = 0\n{broken}\n```\n")
