"""How a pipeline's denoising loop depends on the number of its step, read from its source.

Many timesteps share one turn of the loop here, so a turn has no single number ``i``. Most loops use ``i`` for progress
and callbacks only. Other uses (``i < stop``, ``keep[i]``, ``timesteps[i + 1]``) are found in the syntax
tree: for every use the largest expression around it that can be computed before the loop runs. Steps for which all
these expressions have the same values may share a turn; see `_loop_steps`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from types import CodeType

from diffusion_adapters.diffusers._loop_syntax import Tree
from diffusion_adapters.diffusers._syntax_names import Origins, assigned_names, dotted, is_sink, names_of, reads

Guard = tuple[CodeType, bool]
"""A test around a use, and the value with which the use is reached."""


@dataclass(frozen=True)
class Use:
    """A place in a loop where something depends on the number of the step, or decides on the timestep.

    Attributes:
        line: In the file.
        end: Last line of the expression.
        text: The expression.
        value: Computes it, with the loop's variables; ``None`` where only the loop itself can.
        guards: Tests under which it is reached.
        persists: What it changes for the steps that follow; ``None`` where the steps are independent.
        arguments: Parameters of the function that it is computed from.
        by_index: Whether it depends on the loop's number, and not on the timestep alone.
    """

    line: int
    end: int
    text: str
    value: CodeType | None
    guards: tuple[Guard, ...]
    persists: str | None
    arguments: tuple[str, ...]
    by_index: bool


@dataclass(frozen=True)
class LoopSource:
    """A loop over timesteps.

    Attributes:
        file: Where it stands.
        function: In which function.
        index: Name of its number, ``None`` where it has none.
        timestep: Name of its timestep.
        uses: What depends on either, beyond progress, callbacks and the network's timestep.
    """

    file: str
    function: str
    index: str | None
    timestep: str | None
    uses: tuple[Use, ...]


@cache
def read_loop(code: CodeType, line: int, owner: type | None) -> LoopSource | None:
    """The loop of a function whose header is at ``line``; ``None`` where there is no source.

    Args:
        code: The function's.
        line: Of the file, somewhere in ``for ... in ...``.
        owner: Class whose methods ``self`` has.
    """
    function = function_tree(code)
    if function is None:
        return None
    for loop in reversed([node for node in ast.walk(function) if isinstance(node, ast.For)]):
        if loop.lineno <= line <= (loop.iter.end_lineno or loop.lineno):
            return read_tree(function, loop, code.co_filename, owner)
    return None


def function_tree(code: CodeType) -> ast.FunctionDef | None:
    """The syntax tree of a function, with the lines of its file; ``None`` where there is no source."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    found = tree.body[0] if tree.body else None
    if not isinstance(found, ast.FunctionDef) or found.name != code.co_name:
        return None
    ast.increment_lineno(found, max(first, 1) - 1)
    return found


def read_tree(function: ast.FunctionDef, loop: ast.For, file: str, owner: type | None) -> LoopSource:
    """The result of `read_loop`, from the syntax tree."""
    index, timestep = _targets(loop)
    reader = _Reader(function, loop, index, timestep, owner)
    uses = [*reader.uses(), *reader.carried()]
    unique = {(use.line, use.text, use.persists): use for use in uses}
    return LoopSource(file, function.name, index, timestep, tuple(sorted(unique.values(), key=lambda u: u.line)))


def _targets(loop: ast.For) -> tuple[str | None, str | None]:
    """The loop variables that hold the number of the step and the timestep."""
    counted = (
        isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Name) and loop.iter.func.id == "enumerate"
    )
    if isinstance(loop.target, ast.Name):
        return None, loop.target.id
    parts = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
    names = [part.id if isinstance(part, ast.Name) else None for part in parts]
    if counted and len(names) == 2:
        return names[0], names[1]
    return None, None


class _Reader:
    """Finds the uses in one loop."""

    def __init__(
        self, function: ast.FunctionDef, loop: ast.For, index: str | None, timestep: str | None, owner: type | None
    ) -> None:
        self.index, self.timestep, self.owner = index, timestep, owner
        self.origins = Origins(function)
        self.symbols = {name for name in (index, timestep) if name is not None}
        inside = set(ast.walk(loop))
        self._outside = frozenset(
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in inside
        )
        self.tree = Tree(self._inlined(loop), self.symbols, self._outside)
        self.sample = self._sample_names()

    def uses(self) -> Iterator[Use]:
        """Uses of the number and of the timestep."""
        for node in ast.walk(self.tree.loop):
            if not isinstance(node, ast.Name) or node.id not in self.symbols or not isinstance(node.ctx, ast.Load):
                continue
            if not self.tree.in_body(node) or self.tree.shadowed(node) or self.tree.goes_nowhere(node):
                continue
            use = self._use(node)
            if use is not None:
                yield use

    def _use(self, node: ast.Name) -> Use | None:
        tree, top = self.tree, self.tree.largest(node)
        by_index = self.index in names_of(top)
        if not by_index and not _decides(top):
            return None  # a timestep on its way to the network, or one whose use is found when it runs
        if by_index and self._only_passed_on(top):
            return None
        guided = self.tree.guider_state(top)
        if guided is not None:
            return self._made(guided, None, True, guided)
        persists = self._persists(top)
        return self._made(top, persists, by_index, None if persists and tree.is_stored(top) else top)

    def _made(self, at: ast.AST, persists: str | None, by_index: bool, value: ast.expr | None) -> Use:
        line = getattr(at, "lineno", 0)
        guards = self.tree.guards(at)
        names = names_of(at)
        for test, _ in guards:
            names |= names_of(test)
        return Use(
            line,
            getattr(at, "end_lineno", None) or line,
            ast.unparse(at),
            None if value is None else _compiled(value),
            tuple((_compiled(test), wanted) for test, wanted in guards),
            persists,
            self.origins.parameters(names - self.symbols),
            by_index,
        )

    # --- what stays behind --------------------------------------------------------------------------------------------

    def _persists(self, top: ast.expr) -> str | None:
        """What later steps see of a branch that only some steps take, or of an entry that a step writes."""
        tree = self.tree
        if tree.is_stored(top):
            return f"writes {ast.unparse(tree.statement(top)).splitlines()[0]}"
        branch = tree.branch(top)
        if branch is None:
            return None
        for statement in (*branch.body, *branch.orelse):
            for part in ast.walk(statement):
                found = self._leaves(part, branch)
                if found:
                    return found
        return None

    def _leaves(self, part: ast.AST, branch: ast.If) -> str | None:
        tree = self.tree
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call) and not is_sink(part.value):
            return f"calls {ast.unparse(part.value.func)}"
        if isinstance(part, ast.Break | ast.Return):
            return "ends the loop"
        for target in assigned_names(part):
            if isinstance(part, ast.For) or tree.only_sinks(target):
                continue
            other = branch.orelse if part in _within(branch.body) else branch.body
            if target in self.sample and not tree.assigned_before(target, branch):
                if not self._takes_step(part):
                    return f"changes {target}"
                continue
            stays = not any(target in assigned_names(s) for s in other) and tree.read_outside(target, branch)
            if not tree.assigned_before(target, branch) and (isinstance(part, ast.AugAssign) or stays):
                return f"changes {target}"
        return None

    def _takes_step(self, part: ast.AST) -> bool:
        return any(isinstance(node, ast.Attribute) and node.attr == "step" for node in ast.walk(part))

    def carried(self) -> Iterator[Use]:
        """Variables other than the sample that a step reads from the step before."""
        for name, statement in self.tree.carried():
            if name in self.sample or name in self.symbols:
                continue
            persists = f"carries {name} from each step to the next"
            yield self._made(statement, persists, True, None)
        for name, statement in self.tree.collected():
            yield self._made(statement, f"adds to {name} in the order of the steps", True, None)

    # --- the loop's own variables -------------------------------------------------------------------------------------

    def _inlined(self, loop: ast.For) -> ast.For:
        """The loop, with variables that are computed from the number or the timestep replaced by their expressions."""
        loop = deepcopy(loop)
        for _ in range(8):
            tree = Tree(loop, self.symbols, self._outside)
            found = next(self._aliases(tree), None)
            if found is None:
                break
            name, statement = found
            loop = _Inline(name, statement, tree).visit(loop)
            ast.fix_missing_locations(loop)
        return loop

    def _aliases(self, tree: Tree) -> Iterator[tuple[str, ast.Assign]]:
        for node in ast.walk(tree.loop):
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 or getattr(node, "inlined", False):
                continue
            name = dotted(node.targets[0])
            if name is None or "." in name or name in self.symbols or tree.count(name) != 1:
                continue
            known = names_of(node.value) & self.symbols and tree.computable(node.value)
            if known and tree.read_only_after(name, node):
                yield name, node

    def _sample_names(self) -> set[str]:
        """Names of what the scheduler's step returns, under which the loop continues with it."""
        found: set[str] = set()
        for _ in range(3):
            for node in ast.walk(self.tree.loop):
                if isinstance(node, ast.Assign) and self._is_sample(node.value, found):
                    found |= set(assigned_names(node))
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                    given = [*node.args[2:3], *(k.value for k in node.keywords if k.arg == "sample")]
                    found |= {_root(value) for value in given} - {""}
        return found

    def _is_sample(self, value: ast.expr, known: set[str]) -> bool:
        return _root(value) in {*known, ".step"}

    def _only_passed_on(self, top: ast.expr) -> bool:
        """Whether it is passed to a method of the pipeline that does not use it."""
        call = self.tree.call_with(top)
        if call is None or self.owner is None or not isinstance(call.func, ast.Attribute):
            return False
        if not isinstance(call.func.value, ast.Name) or call.func.value.id != "self":
            return False
        method = inspect.unwrap(getattr(self.owner, call.func.attr, None))  # pyright: ignore[reportArgumentType]
        tree = function_tree(method.__code__) if inspect.isfunction(method) else None
        if tree is None:
            return False
        names = [arg.arg for arg in (*tree.args.posonlyargs, *tree.args.args)][1:]
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        taken = [name for name, value in (*zip(names, call.args, strict=False), *keywords.items()) if value is top]
        if len(taken) != 1 or taken[0] is None:
            return False
        body = Tree(tree, {taken[0]})
        return all(body.goes_nowhere(node) for node in reads(tree, taken[0]))


def _within(statements: list[ast.stmt]) -> set[ast.AST]:
    return {node for statement in statements for node in ast.walk(statement)}


def _root(value: ast.expr) -> str:
    """The variable behind an attribute, an entry or a method's result; ``".step"`` for a scheduler's step."""
    while True:
        if isinstance(value, ast.Name):
            return value.id
        if isinstance(value, ast.Attribute | ast.Subscript):
            value = value.value
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            if value.func.attr == "step":
                return ".step"
            value = value.func.value
        else:
            return ""


def _decides(top: ast.expr) -> bool:
    """Whether an expression of the timestep is a test."""
    return any(isinstance(node, ast.Compare) for node in ast.walk(top))


def _compiled(expression: ast.expr) -> CodeType:
    return compile(ast.fix_missing_locations(ast.Expression(deepcopy(expression))), "<loop>", "eval")


class _Inline(ast.NodeTransformer):
    """Replaces the readings of a variable by its expression."""

    def __init__(self, name: str, statement: ast.Assign, tree: Tree) -> None:
        self.name, self.statement, self.tree = name, statement, tree

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Keeps the statement itself, which no longer counts."""
        if node is self.statement:
            node.inlined = True  # pyright: ignore[reportAttributeAccessIssue]
            return node
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replaces a name where it is read."""
        if node.id != self.name or not isinstance(node.ctx, ast.Load) or self.tree.shadowed(node):
            return node
        made = deepcopy(self.statement.value)
        for part in ast.walk(made):
            ast.copy_location(part, node)
        return made
