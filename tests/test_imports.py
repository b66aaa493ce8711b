"""What an import costs and who may import whom; every public name says what it is."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

NEW_MODULES = """
import json, sys
import torch
before = set(sys.modules)
import {package}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def top_levels_loaded_by(package: str) -> set[str]:
    """Top-level modules outside the standard library that a fresh `import package` adds to those of `import torch`."""
    out = subprocess.run(
        [sys.executable, "-c", NEW_MODULES.format(package=package)], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in json.loads(out)} - sys.stdlib_module_names


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a file imports, nested imports and `import_module("...")` included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def test_parareal_loads_torch_and_the_standard_library_alone() -> None:
    assert top_levels_loaded_by("parareal") == {"parareal"}


def test_parareal_never_imports_the_diffusion_adapters() -> None:
    files = sorted((ROOT / "parareal").rglob("*.py"))
    assert files, "no source files found: this test must run from a checkout"
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in imported_modules(path)
        if name.partition(".")[0] == "diffusion_adapters"
    ]
    assert offenders == []


def test_the_diffusion_adapters_import_public_modules_alone() -> None:
    public = {"parareal", "parareal.extend"}
    files = sorted((ROOT / "diffusion_adapters").rglob("*.py"))
    assert any("parareal" in {name for _, name in imported_modules(path)} for path in files), "no source files found"
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in imported_modules(path)
        if name.partition(".")[0] == "parareal" and name not in public
    ]
    private = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in names_taken_from(path, public)
        if name.startswith("_")
    ]
    assert offenders + private == []


def names_taken_from(path: Path, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of all that a file imports from these modules, or takes as an attribute of ``pr``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("pr", "pr.extend", *modules):
            yield node.lineno, node.attr


@pytest.mark.parametrize("package", ["parareal", "parareal.extend", "diffusion_adapters"])
def test_every_public_name_exists_and_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__), "a name is listed twice"
    public = {name: getattr(module, name) for name in module.__all__}
    # Type aliases and constants have no docstring of their own.
    documented = (inspect.isroutine, inspect.isclass, inspect.ismodule)
    items = {name: item for name, item in public.items() if any(kind(item) for kind in documented)}
    assert [name for name, item in items.items() if not own_docstring(item)] == []


def own_docstring(item: object) -> str | None:
    """The docstring written for this very item: neither inherited nor the one that `dataclass` makes up."""
    doc = item.__dict__.get("__doc__") if isinstance(item, type) else item.__doc__
    if doc is not None and isinstance(item, type) and doc.startswith(f"{item.__name__}("):
        return None
    return doc


@pytest.mark.parametrize("package", ["parareal", "diffusion_adapters"])
def test_the_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
