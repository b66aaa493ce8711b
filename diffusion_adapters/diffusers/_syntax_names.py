"""Names in a syntax tree: what is read, what is assigned to, and what variables are computed from."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_SINKS = frozenset(
    [
        "add_noise",
        "scale_noise",
        "cache_context",
        "mark_step",
        "set_description",
        "set_postfix",
        "print",
        "warn",
        "write",
    ]
)

_QUIET = frozenset(["logger", "logging", "warnings"])


def dotted(node: ast.AST) -> str | None:
    """``a`` or ``a.b.c``, or ``None`` for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def names_of(node: ast.AST) -> set[str]:
    """Names that are read, with their attributes too: ``a`` and ``a.b``."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name | ast.Attribute):
            name = dotted(part)
            if name is not None:
                found.add(name)
    return found


def reads(node: ast.AST, name: str) -> Iterator[ast.Name]:
    """Where a variable is read."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load):
            yield part


def assigned_names(node: ast.AST) -> list[str]:
    """What a statement assigns to, itself: names, and attributes of names."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
        targets = [node.target]
    elif isinstance(node, ast.With):
        targets = [item.optional_vars for item in node.items if item.optional_vars is not None]
    else:
        return []
    flat: list[ast.expr] = []
    while targets:
        target, *targets = targets
        if isinstance(target, ast.Tuple | ast.List):
            targets = [*target.elts, *targets]
        elif isinstance(target, ast.Starred):
            targets = [target.value, *targets]
        else:
            flat.append(target)
    return [name for target in flat if (name := dotted(target)) is not None]


def is_sink(call: ast.Call) -> bool:
    """Whether a call is about progress, callbacks, logging, or noise that the stand-in for the scheduler deals with."""
    name = dotted(call.func) or ""
    first, last = name.split(".")[0], name.split(".")[-1]
    bar = last == "update" and any(word in name for word in ("bar", "progress"))
    return bar or "callback" in last or last in _SINKS or first in _QUIET


class Origins:
    """What the variables of a function are computed from, back to its parameters."""

    def __init__(self, function: ast.FunctionDef) -> None:
        arguments = function.args
        self._parameters = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        self._from: dict[str, set[str]] = {}
        for node in ast.walk(function):
            value = getattr(node, "value", None) or getattr(node, "iter", None)
            for name in assigned_names(node):
                self._from.setdefault(name, set()).update(names_of(value) if isinstance(value, ast.AST) else ())
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                self._from.setdefault(dotted(node.func.value) or "", set()).update(names_of(node))

    def parameters(self, names: set[str]) -> tuple[str, ...]:
        """Parameters that these variables are computed from, other than those of the steps themselves."""
        seen: set[str] = set(
            ["self", "timesteps", "num_inference_steps", "num_warmup_steps", "sigmas", "device", "latents", "i", "t"]
        )
        waiting = sorted(names)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            waiting.extend(self._from.get(name, ()))
            if name.startswith("self."):  # a property of what was kept under its name
                waiting.append("self._" + name.split(".")[-1].lstrip("_"))
        own = set(["self", "timesteps", "num_inference_steps", "sigmas", "latents"])
        return tuple(name for name in self._parameters if name in seen - own)
