"""The findings of `check_propagator`, as a report that prints as a table."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parareal.planning._lyapunov import Lyapunov

COLUMNS = 120
"""Characters of a line of a report."""

FindingStatus: TypeAlias = Literal["ok", "warning", "failure", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """The finding of one check.

    Attributes:
        name: Name of the check.
        status: ``"ok"``; ``"warning"``: Parareal works, with a limitation; ``"failure"``: its result will be
            wrong; ``"not applicable"``.
        measured: What was seen, or why nothing could be.
        consequence: What it does to a parallel run; empty where all is well.
        fix: What to do about it; empty where all is well.
        value: The figure that ``measured`` is about, where there is one.
    """

    name: str
    status: FindingStatus
    measured: str
    consequence: str = ""
    fix: str = ""
    value: float | None = None


@dataclass(frozen=True)
class PropagatorReport:
    """The result of `check_propagator`. It prints as a table.

    Attributes:
        propagator: What was checked.
        findings: One for each check, always the same ones in the same order.
        slices: Numbers of the slices that were checked.
        evaluations: Evaluations of the right-hand side, or calls of a black box, that the checks took in all.
        lyapunov: How fast neighbouring solutions part over these slices; ``None`` where a check has failed before.
    """

    propagator: str
    findings: tuple[Finding, ...]
    slices: tuple[int, ...]
    evaluations: int
    lyapunov: Lyapunov | None = None

    @property
    def ok(self) -> bool:
        """Whether no check has failed; warnings may remain."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are failures."""
        return tuple(one for one in self.findings if one.status == "failure")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(one for one in self.findings if one.status == "warning")

    def __getitem__(self, name: str) -> Finding:
        """The finding of one check.

        Raises:
            KeyError: There is no check of that name.
        """
        for one in self.findings:
            if one.name == name:
                return one
        raise KeyError(f"{name!r} is no check; expected one of {', '.join(repr(one.name) for one in self.findings)}")

    def raise_if_failed(self) -> None:
        """Raises ValueError, with the report as its text, where a check has failed."""
        if not self.ok:
            raise ValueError(str(self))

    def __str__(self) -> str:
        rows = [("check", "status", "measured"), *((one.name, one.status, one.measured) for one in self.findings)]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        indent = widths[0] + widths[1] + 4
        lines = [_wrapped(f"{name:<{widths[0]}}  {status:<{widths[1]}}  {said}", indent) for name, status, said in rows]
        remarks = [
            _wrapped(f"{one.status.capitalize()}, {one.name}: {one.consequence} Fix: {one.fix}", 4)
            for one in (*self.failures, *self.warnings)
        ]
        verdict = f"{_short(self.propagator)} {'is' if self.ok else 'is not'} valid for Parareal"
        verdict += f": {len(self.failures)} failed." if self.failures else " as far as was tried."
        tried = f"Slices {', '.join(map(str, self.slices))} were tried; {self.evaluations} evaluations."
        tried, verdict = _wrapped(tried, 4), _wrapped(verdict, 4)
        apart = [] if self.lyapunov is None else [_wrapped(str(self.lyapunov), 4)]
        return "\n".join([*lines, "", *remarks, *([""] if remarks else []), *apart, verdict, tried])


def _short(text: str, most: int = 3 * COLUMNS) -> str:
    """A propagator's name; of one that holds large tables, its beginning."""
    return text if len(text) <= most else f"{text[:most]} ..."


def _wrapped(text: str, indent: int) -> str:
    """Lines that fit on a screen; words are never torn apart."""
    return textwrap.fill(text, COLUMNS, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
