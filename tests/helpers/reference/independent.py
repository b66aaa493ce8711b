"""Parareal written once more from its definition, for any kind of number: exact fractions, 40 digits, or floats.

States are lists of numbers, methods are formulas, nothing is shared with the library and nothing but this page and
`cases.py` is needed to check a figure. Given u_0 and propagators F_n (fine) and G_n (coarse) of the slices 0 ... N-1,

    U_{n+1}^0 = G_n(U_n^0),        U_{n+1}^{k+1} = F_n(U_n^k) + G_n(U_n^{k+1}) - G_n(U_n^k).
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, prod
from typing import Any

from mpmath.ctx_mp import MPContext

State = list[Any]
Propagator = Callable[[int, State], State]


@dataclass(frozen=True)
class Numbers:
    """A kind of number: how a fraction becomes one, the functions of it, and when Newton's method has arrived."""

    name: str
    of: Callable[[Any], Any]
    functions: Any
    i: Any
    unit: float

    def __call__(self, text: Any) -> Any:
        """A number from an int, a float (taken exactly) or a text such as ``"8/3"`` or ``"0.2"``."""
        return self.of(Fraction(text))


def multiprecision(digits: int) -> Numbers:
    """Numbers of so many decimal digits."""
    mp = MPContext()
    mp.dps = digits
    return Numbers(f"{digits} digits", lambda x: mp.mpf(x.numerator) / x.denominator, mp, mp.mpc(0, 1), 10.0**-digits)


EXACT = Numbers("fractions", lambda x: x, None, None, 0.0)
DIGITS = multiprecision(40)
DOUBLE = Numbers("float64", float, math, 1j, 2.0**-52)


# --- steps -----------------------------------------------------------------------------------------------------------


def plus(u: State, *terms: tuple[Any, State]) -> State:
    """u + a v + b w + ..., from pairs (a, v)."""
    out = list(u)
    for weight, v in terms:
        out = [x + weight * y for x, y in zip(out, v, strict=True)]
    return out


def solve(matrix: list[State], right: State) -> State:
    """Gaussian elimination, the largest pivot of each column first."""
    rows, n = [[*row, b] for row, b in zip(matrix, right, strict=True)], len(right)
    for c in range(n):
        pivot = max(range(c, n), key=lambda r: abs(rows[r][c]))
        rows[c], rows[pivot] = rows[pivot], rows[c]
        for r in range(c + 1, n):
            if rows[r][c] != 0:
                factor = rows[r][c] / rows[c][c]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[c], strict=True)]
    x: State = [0] * n
    for r in reversed(range(n)):
        x[r] = (rows[r][n] - sum(rows[r][c] * x[c] for c in range(r + 1, n))) / rows[r][r]
    return x


@dataclass
class Equation:
    """u' = f(t, u), its Jacobian, and for an SDE the diffusion g(t, u) of one Brownian motion.

    A linear equation u' = A u gives ``matrix`` alone.
    """

    q: Numbers
    f: Callable[[Any, State], State] | None = None
    jacobian: Callable[[Any, State], list[State]] | None = None
    g: Callable[[Any, State], State] | None = None
    matrix: list[State] | None = None

    def __post_init__(self) -> None:
        self._inverses: dict[Any, list[State]] = {}
        if self.matrix is not None:
            self.f = lambda t, u: times(self.matrix, u)

    def implicit(self, t: Any, weight: Any, base: State) -> State:
        """The x with x = base + weight f(t, x), by Newton's method from base."""
        if self.matrix is not None:
            if weight not in self._inverses:
                system, n = identity_minus(weight, self.matrix), len(base)
                columns = [solve(system, [self.q(int(r == c)) for r in range(n)]) for c in range(n)]
                self._inverses[weight] = [list(row) for row in zip(*columns, strict=True)]
            return times(self._inverses[weight], base)
        x = base
        for _ in range(50):
            residual = plus(base, (weight, self.f(t, x)), (-1, x))
            delta = solve(identity_minus(weight, self.jacobian(t, x)), residual)
            x = plus(x, (1, delta))
            if max(map(abs, delta)) <= 8 * self.q.unit * max(map(abs, x)):
                return x
        raise ArithmeticError("Newton's method did not arrive")


def times(matrix: list[State], u: State) -> State:
    return [sum(a * x for a, x in zip(row, u, strict=True) if a != 0) for row in matrix]


def identity_minus(weight: Any, matrix: list[State]) -> list[State]:
    return [[int(r == c) - weight * a for c, a in enumerate(row)] for r, row in enumerate(matrix)]


def euler(e: Equation, t: Any, h: Any, u: State) -> State:
    return plus(u, (h, e.f(t, u)))


def midpoint(e: Equation, t: Any, h: Any, u: State) -> State:
    return plus(u, (h, e.f(t + h / 2, plus(u, (h / 2, e.f(t, u))))))


def heun(e: Equation, t: Any, h: Any, u: State) -> State:
    k1 = e.f(t, u)
    return plus(u, (h / 2, k1), (h / 2, e.f(t + h, plus(u, (h, k1)))))


def kutta3(e: Equation, t: Any, h: Any, u: State) -> State:
    k1 = e.f(t, u)
    k2 = e.f(t + h / 2, plus(u, (h / 2, k1)))
    k3 = e.f(t + h, plus(u, (-h, k1), (2 * h, k2)))
    return plus(u, (h / 6, k1), (2 * h / 3, k2), (h / 6, k3))


def rk4(e: Equation, t: Any, h: Any, u: State) -> State:
    k1 = e.f(t, u)
    k2 = e.f(t + h / 2, plus(u, (h / 2, k1)))
    k3 = e.f(t + h / 2, plus(u, (h / 2, k2)))
    k4 = e.f(t + h, plus(u, (h, k3)))
    return plus(u, (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4))


def three_eighths(e: Equation, t: Any, h: Any, u: State) -> State:
    k1 = e.f(t, u)
    k2 = e.f(t + h / 3, plus(u, (h / 3, k1)))
    k3 = e.f(t + 2 * h / 3, plus(u, (-h / 3, k1), (h, k2)))
    k4 = e.f(t + h, plus(u, (h, k1), (-h, k2), (h, k3)))
    return plus(u, (h / 8, k1), (3 * h / 8, k2), (3 * h / 8, k3), (h / 8, k4))


def implicit_euler(e: Equation, t: Any, h: Any, u: State) -> State:
    return e.implicit(t + h, h, u)


def trapezoid(e: Equation, t: Any, h: Any, u: State) -> State:
    return e.implicit(t + h, h / 2, plus(u, (h / 2, e.f(t, u))))


def sdirk2(e: Equation, t: Any, h: Any, u: State) -> State:
    gamma = 1 - 1 / e.q.functions.sqrt(e.q(2))
    first = e.implicit(t + gamma * h, gamma * h, u)
    k1 = e.f(t + gamma * h, first)
    return e.implicit(t + h, gamma * h, plus(u, ((1 - gamma) * h, k1)))


# Of an SDE; dw is the increment of W over the step and dz the integral of W(s) - W(t) over it.


def euler_maruyama(e: Equation, t: Any, h: Any, u: State, dw: Any, dz: Any) -> State:
    return plus(u, (h, e.f(t, u)), (dw, e.g(t, u)))


def milstein(e: Equation, t: Any, h: Any, u: State, dw: Any, dz: Any) -> State:
    root, f, g = e.q.functions.sqrt(h), e.f(t, u), e.g(t, u)
    moved = e.g(t, plus(u, (h, f), (root, g)))
    return plus(u, (h, f), (dw, g), ((dw * dw - h) / (2 * root), plus(moved, (-1, g))))


def sra1(e: Equation, t: Any, h: Any, u: State, dw: Any, dz: Any) -> State:
    f, left, right = e.f(t, u), e.g(t, u), e.g(t + h, u)
    late = e.f(t + 3 * h / 4, plus(u, (3 * h / 4, f), (3 * dz / (2 * h), right)))
    return plus(u, (h / 3, f), (2 * h / 3, late), (dw - dz / h, right), (dz / h, left))


METHODS: dict[str, Any] = {
    f.__name__: f for f in (euler, midpoint, heun, kutta3, rk4, three_eighths, implicit_euler, trapezoid, sdirk2)
}
STOCHASTIC: dict[str, Any] = {f.__name__: f for f in (euler_maruyama, milstein, sra1)}


# --- Parareal --------------------------------------------------------------------------------------------------------


def serial(fine: Propagator, u0: State, slices: int) -> list[State]:
    """F slice after slice: the states at the edges 0 ... N."""
    states = [u0]
    for n in range(slices):
        states.append(fine(n, states[n]))
    return states


def parareal(
    fine: Propagator,
    coarse: Propagator,
    u0: State,
    slices: int,
    iterations: int,
    accept: Callable[[list[State], list[State]], int] = lambda new, old: 0,
) -> tuple[list[list[State]], list[list[State]]]:
    """Iterates ``U[k][n]`` and fine solutions ``F[k][n] = F_n(U[k][n])``.

    ``accept(new, old)`` says after an iteration how many slices, from the first on, are accepted and kept as they are.
    """
    U = [[u0]]
    for n in range(slices):
        U[0].append(coarse(n, U[0][n]))
    F: list[list[State]] = []
    accepted = 0
    for k in range(iterations):
        old, new = U[-1], U[-1][: accepted + 1]
        before = [old[n + 1] if n < accepted else fine(n, old[n]) for n in range(slices)]
        for n in range(accepted, slices):
            # Where the input has not moved, as that of slice k, both coarse solutions are the same: F alone is left.
            if n <= max(k, accepted):
                new.append(before[n])
            else:
                new.append(plus(before[n], (1, coarse(n, new[n])), (-1, coarse(n, old[n]))))
        U.append(new)
        F.append(before)
        accepted = accept(new, old)
        if accepted == slices:
            break
    return U, F


def largest(u: State) -> Any:
    return max(map(abs, u))


def root_mean_square(u: State) -> Any:
    return float(sum(abs(x) ** 2 for x in u) / len(u)) ** 0.5


NORMS: dict[str, Any] = {"max": largest, "rms": root_mean_square}


def distance(a: list[State], b: list[State]) -> Any:
    """Largest modulus of any component's difference at any edge."""
    return max(largest(plus(x, (-1, y))) for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Rule:
    """An edge U has settled where |change of U| <= atol + rtol |U|; a run has converged where all edges have."""

    rtol: float
    atol: float
    norm: str

    def ratio(self, change: State, u: State) -> float:
        """The change over what is allowed."""
        size = NORMS[self.norm]
        return float(size(change)) / (self.atol + self.rtol * float(size(u)))

    def count(self, U: list[list[State]], compared: list[list[State]]) -> tuple[int, float]:
        """First k at which ``compared[k] - U[k-1]`` has settled, and the nearest miss of a verdict.

        To be compared with the edges of iterate k - 1 are, for the increment, U[k], and for the defect F(U[k-1]).
        """
        margin = math.inf
        for k in range(1, len(U)):
            pairs = zip(compared[k], U[k - 1], U[k], strict=True)
            worst = max(self.ratio(plus(a, (-1, b)), new) for a, b, new in pairs)
            margin = min(margin, abs(worst - 1))
            if worst <= 1:
                return k, margin
        return len(U) - 1, margin

    def prefix_frozen(self, fine: Propagator, coarse: Propagator, u0: State, slices: int) -> tuple[int, State, float]:
        """Iterations, end and nearest miss where a prefix of settled slices is accepted after each iteration."""
        margins: list[float] = []

        def accept(new: list[State], old: list[State]) -> int:
            ratios = [self.ratio(plus(a, (-1, b)), a) for a, b in zip(new[1:], old[1:], strict=True)]
            run = next((n for n, ratio in enumerate(ratios) if ratio > 1), slices)
            margins.extend(abs(ratio - 1) for ratio in ratios[: run + 1])
            return run

        U, _ = parareal(fine, coarse, u0, slices, slices, accept)
        return len(U) - 1, U[-1][-1], min(margins)


# --- bounds ----------------------------------------------------------------------------------------------------------
# M. J. Gander, S. Vandewalle, Analysis of the Parareal Time-Parallel Time-Integration Method, SIAM J. Sci. Comput. 29
# (2007): for u' = lambda u, F and G the factors of a slice, |G| <= 1, errors relative to the largest of iteration 0.


STABILITY: dict[str, Callable[[complex], complex]] = {
    "implicit_euler": lambda z: 1 / (1 - z),
    "trapezoid": lambda z: (1 + z / 2) / (1 - z / 2),
}


def factor(method: str, steps: int, z: complex) -> complex:
    """What a slice of length H multiplies u by, z = lambda H."""
    return STABILITY[method](z / steps) ** steps


def exact_factor(z: complex) -> complex:
    """The exact factor of a slice."""
    return cmath.exp(z)


def superlinear(F: complex, G: complex, slices: int, k: int) -> float:
    return abs(F - G) ** k / factorial(k) * prod(slices - j for j in range(1, k + 1))


def linear(F: complex, G: complex, k: int) -> float:
    return (abs(F - G) / (1 - abs(G))) ** k if abs(G) < 1 else math.inf
