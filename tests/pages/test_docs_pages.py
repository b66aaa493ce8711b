"""Pages that say what the code says: signatures, folders and their imports, and names in running text."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusion_adapters as da
import diffusion_adapters.diffusers
import parareal as pr

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CALLS: dict[str, Callable[..., Any]] = {
    "pr.solve": pr.solve,
    "pr.odeint": pr.odeint,
    "da.sample": da.sample,
    "da.diffusers.parallelize": diffusion_adapters.diffusers.parallelize,
}


def section(name: str) -> str:
    """The part of `docs/arguments.md` about a call."""
    page = (DOCS / "arguments.md").read_text(encoding="utf-8")
    (found,) = [part for part in page.split("\n## ")[1:] if part.startswith(f"`{name}`\n")]
    return found


@pytest.mark.parametrize("name", CALLS)
def test_the_page_has_the_signature(name: str) -> None:
    code = re.search(r"^```\{\.python \.no-run\}\n(.*?)^```", section(name), re.MULTILINE | re.DOTALL)
    assert code is not None
    (function,) = ast.parse(code[1]).body
    assert isinstance(function, ast.FunctionDef)
    assert function.name == name.rpartition(".")[2]
    signature = inspect.signature(CALLS[name])
    positional = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    arguments = function.args
    assert [a.arg for a in arguments.args] == [p.name for p in positional]
    assert [a.arg for a in arguments.kwonlyargs] == [p.name for p in by_name]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults, *arguments.kw_defaults]
    for parameter, default in zip([*positional, *by_name], defaults, strict=True):
        if parameter.default is parameter.empty:
            assert default is None, parameter.name
        else:
            assert default is not None, parameter.name
            assert eval(ast.unparse(default), {"torch": torch}) == parameter.default, parameter.name


@pytest.mark.parametrize("name", CALLS)
def test_the_table_has_every_argument_with_its_default(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section(name), re.MULTILINE)
    parameters = inspect.signature(CALLS[name]).parameters
    assert [row[0] for row in rows] == list(parameters)
    for argument, default, meaning in rows:
        given = parameters[argument].default
        if given is inspect.Parameter.empty:
            assert default == "required", argument
        else:
            assert eval(default.strip("`"), {"torch": torch}) == given, argument
        assert meaning.endswith("."), argument


LAYERS = re.compile(r"^\| (\d+) \| `((?:parareal|diffusion_adapters)/[^|]*)` \| ", re.MULTILINE)


def layers() -> dict[str, int]:
    """The layer of each folder, or file at the top of a package, as `docs/architecture.md` has it."""
    found: dict[str, int] = {}
    for layer, names in LAYERS.findall((DOCS / "architecture.md").read_text(encoding="utf-8")):
        first, *more = [name.strip("`") for name in names.split(", ")]
        package = first.partition("/")[0]
        for name in (first, *(f"{package}/{name}" for name in more)):
            found[name.removesuffix(".py")] = int(layer)
    return found


def room(module: str) -> str:
    """The folder, or file at the top of a package, that a module is in."""
    return "/".join(module.split(".")[:2])


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_architecture_has_every_folder_and_no_other() -> None:
    folders = {
        f"{package}/{path.name}"
        for package in ("parareal", "diffusion_adapters")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").exists()
    }
    assert {name for name in layers() if (ROOT / name).is_dir()} == folders
    assert all((ROOT / name).is_dir() or (ROOT / f"{name}.py").exists() for name in layers())


@pytest.mark.parametrize("name", sorted(name for name in layers() if (ROOT / name).is_dir()))
def test_a_folder_imports_only_from_layers_below(name: str) -> None:
    table = layers()
    for path in (ROOT / name).rglob("*.py"):
        for module in imports(path):
            other = room(module)
            if other in table and other != name:
                assert table[other] < table[name], f"{path.relative_to(ROOT)} imports {module}"


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_running_text_exist(page: Path) -> None:
    """`pr.Name` and `da.name` in backticks are public."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        for short, name in re.findall(r"\b(pr|da)\.(\w+)", code):
            assert hasattr({"pr": pr, "da": da}[short], name), f"{short}.{name} in `{code}`"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_pages_outside_docs_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_extras_that_are_named_exist_and_earlier_names_are_aliases() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for old, new in {"save": "files", "diffusion": "files", "pandas": "tables"}.items():
        assert extras[old] == [f"torch-parareal[{new}]"]
    sources = [path for package in ("parareal", "diffusion_adapters", "docs") for path in (ROOT / package).rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in sources if path.suffix in (".py", ".md")]
    texts.append((ROOT / "README.md").read_text(encoding="utf-8"))
    named = {
        name
        for text in texts
        for names in re.findall(r"(?:torch-parareal|'\.)\[([\w,]+)\]", text)
        for name in names.split(",")
    }
    assert named <= set(extras)
    assert {"files", "plot"} <= named
