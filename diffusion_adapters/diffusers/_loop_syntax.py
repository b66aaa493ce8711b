"""Questions about the syntax tree of a loop: what is computed from what, read where, and under which tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from diffusion_adapters.diffusers._syntax_names import assigned_names, dotted, is_sink, names_of

_PURE = frozenset(
    [
        "int",
        "float",
        "bool",
        "str",
        "len",
        "min",
        "max",
        "abs",
        "round",
        "sum",
        "any",
        "all",
        "isinstance",
        "hasattr",
        "getattr",
        "range",
        "tuple",
        "list",
        "sorted",
        "set",
    ]
)
_PURE_METHODS = frozenset(
    ["item", "tolist", "keys", "values", "items", "get", "index", "cpu", "float", "int", "long", "numpy", "startswith"]
)
_SAME = frozenset(["to", "contiguous", "repeat", "expand", "type", "float", "half", "detach", "clone"])
_COLLECTS = frozenset(["append", "extend", "insert", "add", "update", "setdefault"])
GUIDANCE = "guidance_in"
"""The name of the function that computes a guider's state in a step, see `_loop_steps`."""


class Tree:
    """A loop, or a function, and the questions about it.

    Args:
        loop: Its syntax tree.
        symbols: Names of number and timestep, which are known beforehand for every step.
        outside: Variables that are read outside of it, too.
    """

    def __init__(
        self, loop: ast.For | ast.FunctionDef, symbols: set[str], outside: frozenset[str] = frozenset()
    ) -> None:
        self.loop, self.symbols, self._outside = loop, symbols, outside
        self._up: dict[ast.AST, ast.AST] = {}
        self._assigned: dict[str, list[ast.AST]] = {}
        self._reads: dict[str, list[ast.Name]] = {}
        self._loads: dict[str, list[ast.expr]] = {}
        for node in ast.walk(loop):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._loads.setdefault(dotted(node) or "", []).append(node)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._reads.setdefault(node.id, []).append(node)
            for child in ast.iter_child_nodes(node):
                self._up[child] = node
            if node is not loop:
                for name in assigned_names(node):
                    self._assigned.setdefault(name, []).append(node)
        self._find_quiet_names()

    def above(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Pairs of a node and its parent, upwards."""
        while node in self._up:
            yield node, self._up[node]
            node = self._up[node]

    def in_body(self, node: ast.AST) -> bool:
        """Whether it is part of the loop's body, and not of a statement that was inlined."""
        at = node
        for child, parent in self.above(node):
            if getattr(child, "inlined", False):
                return False
            at = child if parent is self.loop else at
        return at in self.loop.body

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement around it."""
        while not isinstance(node, ast.stmt):
            node = self._up[node]
        return node

    def shadowed(self, node: ast.Name) -> bool:
        """Whether a comprehension around it has a variable of that name."""
        for _, parent in self.above(node):
            if isinstance(parent, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                bound = {n.id for g in parent.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
                if node.id in bound:
                    return True
        return False

    def count(self, name: str) -> int:
        """How many statements of the body assign to a variable."""
        return len(self._assigned.get(name, ()))

    # --- what can be computed beforehand ------------------------------------------------------------------------------

    def computable(self, node: ast.AST) -> bool:
        """Whether an expression needs nothing but numbers, timesteps and what the loop does not change."""
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.NamedExpr):
            return False
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.Starred | ast.JoinedStr):
            return False
        if isinstance(node, ast.Call) and not self._pure(node.func):
            return False
        name = dotted(node)
        if name is not None:
            head, last = name.split(".")[0], name.split(".")[-1]
            changed = {name, f"{head}._{last}"} & self._assigned.keys() or head in self._assigned
            return not changed or name in self.symbols
        return all(
            self.computable(child) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)
        )

    def _pure(self, func: ast.expr) -> bool:
        if isinstance(func, ast.Name):
            return func.id in _PURE
        return isinstance(func, ast.Attribute) and (func.attr in _PURE_METHODS or dotted(func.value) == "math")

    def largest(self, node: ast.expr) -> ast.expr:
        """The largest computable expression around it."""
        top = node
        for child, parent in self.above(node):
            called = isinstance(parent, ast.Attribute) and isinstance(self._up.get(parent), ast.Call)
            if called and self._up[parent].func is parent:  # pyright: ignore[reportAttributeAccessIssue]
                continue
            if not isinstance(parent, ast.expr) or isinstance(parent, ast.Tuple | ast.List | ast.Dict | ast.Set):
                break
            if not self.computable(parent) or not isinstance(getattr(parent, "ctx", ast.Load()), ast.Load):
                break
            top = parent
            del child
        return top

    def guards(self, node: ast.AST) -> list[tuple[ast.expr, bool]]:
        """Computable tests that it stands under, with what they must be."""
        found: list[tuple[ast.expr, bool]] = []
        for child, parent in self.above(node):
            if isinstance(parent, ast.If | ast.IfExp) and child is not parent.test:
                body = parent.body if isinstance(parent.body, list) else [parent.body]
                found += self._tests(parent.test, child in body)
            elif isinstance(parent, ast.BoolOp):
                wanted = isinstance(parent.op, ast.And)
                for value in parent.values[: parent.values.index(child)]:  # pyright: ignore[reportArgumentType]
                    found += self._tests(value, wanted)
        return list(reversed(found))

    def _tests(self, test: ast.expr, wanted: bool) -> list[tuple[ast.expr, bool]]:
        if self.computable(test):
            return [(test, wanted)]
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._tests(test.operand, not wanted)
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) == wanted:
            return [pair for value in test.values for pair in self._tests(value, wanted)]
        return []

    # --- where it goes ------------------------------------------------------------------------------------------------

    def goes_nowhere(self, node: ast.AST) -> bool:
        """Whether it ends in progress, callbacks, logging or the scheduler's noise, and changes nothing else."""
        for child, parent in self.above(node):
            if isinstance(parent, ast.Call) and child is not parent.func and is_sink(parent):
                return True
            if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and parent.func.attr == "step":
                return False
            if isinstance(parent, ast.If) and child is parent.test:
                return all(self._quiet(part) for part in (*parent.body, *parent.orelse))
            if isinstance(child, ast.stmt):
                return self._quiet(child)
        return False

    def _quiet(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Pass):
            return True
        if isinstance(statement, ast.Expr):
            value = statement.value
            return isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and is_sink(value))
        if isinstance(statement, ast.If):
            return all(self._quiet(part) for part in (*statement.body, *statement.orelse))
        if isinstance(statement, ast.For | ast.With):
            return all(self._quiet(part) for part in statement.body)
        if isinstance(statement, ast.Assign):
            if any("callback" in name for name in names_of(statement)):
                return True
            if isinstance(statement.value, ast.Call) and is_sink(statement.value):
                return True
            names = assigned_names(statement)
            return bool(names) and all(name in self._quiet_names for name in names)
        return False

    def only_sinks(self, name: str) -> bool:
        """Whether a variable is read for progress, callbacks, logging or the scheduler's noise alone."""
        return name in self._quiet_names

    def _find_quiet_names(self) -> None:
        """Finds the variables that nothing but progress, callbacks and logging depends on."""
        self._quiet_names = {name for name in self._assigned if "." not in name and name not in self._outside}
        while True:
            loud = {n for n in self._quiet_names if not all(self.goes_nowhere(r) for r in self._reads.get(n, ()))}
            if not loud:
                return
            self._quiet_names -= loud

    def call_with(self, node: ast.expr) -> ast.Call | None:
        """The call whose argument it is."""
        parent = self._up.get(node)
        parent = self._up.get(parent) if isinstance(parent, ast.keyword) else parent
        return parent if isinstance(parent, ast.Call) and parent.func is not node else None

    def guider_state(self, node: ast.expr) -> ast.expr | None:
        """Where a guider receives the step: an expression for what it does in that step."""
        call = self.call_with(node)
        if call is None or not isinstance(call.func, ast.Attribute) or call.func.attr != "set_state":
            return None
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        state = ("step", "num_inference_steps", "timestep")
        if set(keywords) != set(state) or not self.computable(call.func.value):
            return None
        made = ast.Call(ast.Name(GUIDANCE, ast.Load()), [call.func.value, *(keywords[name] for name in state)], [])
        self._up[made] = self._up[call]
        return ast.fix_missing_locations(ast.copy_location(made, call))

    def is_stored(self, node: ast.AST) -> bool:
        """Whether it is the index of an entry that is written."""
        for child, parent in self.above(node):
            if isinstance(parent, ast.Subscript) and child is parent.slice and isinstance(parent.ctx, ast.Store):
                return True
            if isinstance(child, ast.stmt):
                return False
        return False

    def branch(self, node: ast.AST) -> ast.If | None:
        """The ``if`` whose test it is part of."""
        for child, parent in self.above(node):
            if isinstance(parent, ast.If) and child is parent.test:
                return parent
            if isinstance(child, ast.stmt):
                return None
        return None

    # --- from step to step --------------------------------------------------------------------------------------------

    def assigned_before(self, name: str, at: ast.stmt) -> bool:
        """Whether each step assigns to a variable before that statement, whatever its branches."""
        around = [at, *(parent for _, parent in self.above(at))]
        for node in self._assigned.get(name, ()):
            if node is not at and self._up.get(node) in around and _line(node) < _line(at) and not _in_else(node, at):
                return True
        return False

    def read_outside(self, name: str, branch: ast.If) -> bool:
        """Whether a variable is read elsewhere than in a branch, other than for callbacks."""
        inside = set(ast.walk(branch))
        head, *rest = name.split(".")
        for node in self._reads.get(head, ()):
            full = self._up.get(node) if rest else node
            if node not in inside and (not rest or dotted(full) == name) and not self.goes_nowhere(node):  # pyright: ignore
                return True
        return False

    def read_only_after(self, name: str, statement: ast.Assign) -> bool:
        """Whether all readings of a variable come after that statement, within its block."""
        block = self._up[statement]
        for node in self._reads.get(name, ()):
            inside = block is self.loop or any(parent is block for _, parent in self.above(node))
            if not inside or _line(node) <= _line(statement):
                return False
        return True

    def collected(self) -> Iterator[tuple[str, ast.stmt]]:
        """Lists and the like from outside of the loop that each step adds to."""
        for node in ast.walk(self.loop):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not is_sink(node.value):
                func = node.value.func
                if isinstance(func, ast.Attribute) and func.attr in _COLLECTS and self.in_body(node):
                    name = dotted(func.value)
                    if name is not None and name.split(".")[0] not in self._assigned:
                        yield name, node

    def carried(self) -> Iterator[tuple[str, ast.stmt]]:
        """Variables that a step reads before it assigns to them, and the statement that leaves them."""
        for name, nodes in self._assigned.items():
            own = [n for n in nodes if isinstance(n, ast.stmt) and not self._quiet(n) and _keeps(n, name)]
            own = [n for n in own if not isinstance(n, ast.For | ast.With)]
            if not own or name in self.symbols:
                continue
            first = min(nodes, key=_line)
            for node in self._loads.get(name, ()):
                if not self.in_body(node) or (isinstance(node, ast.Name) and self.shadowed(node)):
                    continue
                early = _line(node) < _line(first) or self.statement(node) is first
                if (early or isinstance(first, ast.AugAssign)) and not self.goes_nowhere(node):
                    yield name, own[0]
                    break
            else:
                if isinstance(first, ast.AugAssign) and not self.only_sinks(name.split(".")[0]):
                    yield name, first


def _keeps(node: ast.AST, name: str) -> bool:
    """Whether an assignment is more than another dtype, device or number of rows of the variable itself."""
    if not isinstance(node, ast.Assign):
        return True
    value = node.value
    while True:
        if isinstance(value, ast.Subscript):  # what was repeated may be cut to size
            value = value.value
            if not isinstance(value, ast.Call):
                return True
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _SAME:
            value = value.func.value
        else:
            return dotted(value) != name


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _in_else(node: ast.AST, at: ast.AST) -> bool:
    return isinstance(at, ast.If) and (node in at.body or node in at.orelse)
