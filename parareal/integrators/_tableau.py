"""A Runge-Kutta method is a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parareal._core.checks import described


@dataclass(frozen=True)
class ButcherTableau:
    """A Runge-Kutta method: k_i = f(t + c_i h, u + h sum_j a_ij k_j), u' = u + h sum_i b_i k_i.

    Attributes:
        a: Rows of weights of the stages. Row i of an explicit method holds the i weights of the stages before stage i;
            zeros at the end of a row may be left out. An implicit method is kept as s rows of s weights.
        b: Weights of the stages in the step.
        c: Nodes; ``None`` takes the row sums of ``a``.
        order: Order of accuracy where it is known.

    Raises:
        ValueError: Row lengths do not fit, a row does not sum to its node, or ``b`` does not sum to one.

    Source:
        J. C. Butcher, Numerical Methods for Ordinary Differential Equations (Wiley, 2016), section 23.

    Examples:
        >>> ralston = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)
        >>> ralston.c
        (0.0, 0.6666666666666666)
        >>> ButcherTableau(a=((0.5,),), b=(1.0,), order=2).explicit
        False
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...] | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        b = tuple(float(x) for x in self.b)
        if not b:
            raise ValueError("b is empty; expected one weight for each stage")
        if len(self.a) != len(b):
            raise ValueError(f"a has {len(self.a)} rows and b has {len(b)} weights; expected one row for each weight")
        a = tuple(_full_row(row, i, len(b)) for i, row in enumerate(self.a))
        sums = tuple(float(sum(row)) for row in a)
        c = sums if self.c is None else tuple(float(x) for x in self.c)
        if len(c) != len(b):
            raise ValueError(f"c has {len(c)} nodes and b has {len(b)} weights; expected one node for each weight")
        for i, (node, total) in enumerate(zip(c, sums, strict=True)):
            if not abs(node - total) <= 1e-12 * max(1.0, sum(map(abs, a[i]))):
                raise ValueError(f"row {i} of a sums to {total!r} and c[{i}]={node!r}; expected them equal")
        if not abs(sum(b) - 1.0) <= 1e-12 * max(1.0, sum(map(abs, b))):
            raise ValueError(f"b sums to {sum(b)!r}; expected 1, else the method is not consistent")
        if not any(any(row[i:]) for i, row in enumerate(a)):
            a = tuple(row[:i] for i, row in enumerate(a))
        for name, value in (("a", a), ("b", b), ("c", c)):
            object.__setattr__(self, name, value)

    @property
    def nodes(self) -> tuple[float, ...]:
        """The nodes ``c``, computed if not given."""
        return self.c or ()

    @property
    def explicit(self) -> bool:
        """Whether every stage needs only those before it."""
        return not self.a[0]

    @property
    def diagonal(self) -> bool:
        """Whether no stage needs a later one, so that they can be solved one after another."""
        return not any(any(row[i + 1 :]) for i, row in enumerate(self.a))


def _full_row(row: Sequence[float], i: int, stages: int) -> tuple[float, ...]:
    row = tuple(float(x) for x in row)
    if len(row) < i:
        raise ValueError(f"row {i} of a holds {len(row)} weights; expected {i}, one for each stage before it")
    if len(row) > stages:
        raise ValueError(f"row {i} of a holds {len(row)} weights; expected at most {stages}, one for each stage")
    return row + (0.0,) * (stages - len(row))


def as_tableau(value: Any) -> ButcherTableau:
    """A tableau from itself, or from its ``(a, b)`` or ``(a, b, c)`` as nested sequences; raises TypeError."""
    if isinstance(value, tuple | list) and len(value) in (2, 3):  # pyright: ignore[reportUnknownArgumentType]
        value = ButcherTableau(*value)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(value, ButcherTableau):
        raise TypeError(f"tableau is {described(value)}; expected a ButcherTableau or its (a, b) or (a, b, c)")
    return value
