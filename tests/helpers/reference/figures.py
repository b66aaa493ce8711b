"""What the runs of `cases.py` come to in independent arithmetic, and how far rounding may move each figure.

The figures are those of 40 digits, or of fractions. Rounding is measured, not guessed: the same formulas run in float64
once as they are and eight times with every propagated state shifted by about as much as rounding shifts it. A figure
may be off by twice the widest spread of these around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import comb, exp, sqrt
from typing import Any

import numpy as np
from reference import cases, independent
from reference.independent import DIGITS, DOUBLE, EXACT, Equation, Numbers, Rule

Figures = dict[str, Any]
REPLICAS = 8
FLOOR = 1e-13
"""Iterations are made until the error is below this part of the largest state: what float64 can still tell."""


def compute(setting: cases.Setting, q: Numbers, iterations: int | None = None, replica: int = 0) -> Figures:
    """Errors and increments by iteration, the end of the serial solution, and the iterations under each rule."""
    fine, coarse = setting.propagators(q, cases.shifted(replica) if replica else None)
    u0, N = setting.start(q), setting.slices
    serial = independent.serial(fine, u0, N)
    scale = max(float(independent.largest(u)) for u in serial)
    if iterations is None:
        iterations = enough(fine, coarse, u0, serial, scale, N)
    U, F = independent.parareal(fine, coarse, u0, N, iterations)
    found: Figures = {
        "errors": [float(independent.distance(u, serial)) for u in U],
        "increments": [float(independent.distance(new, old)) for old, new in pairwise(U)],
        "end": [complex(x) if isinstance(x, complex | type(DIGITS.i)) else float(x) for x in serial[-1]],
    }
    return found | (counts(setting.rule, fine, coarse, U, F, serial) if setting.rule else {})


def enough(fine: Any, coarse: Any, u0: Any, serial: Any, scale: float, N: int) -> int:
    """Iterations to the floor, found by doubling."""
    k = 4
    while True:
        k = min(k, N)
        U, _ = independent.parareal(fine, coarse, u0, N, k)
        errors = [float(independent.distance(u, serial)) for u in U]
        below = [i for i, e in enumerate(errors) if e <= FLOOR * scale]
        if below or k == N:
            return below[0] if below else N
        k *= 2


def counts(rule: Rule, fine: Any, coarse: Any, U: Any, F: Any, serial: Any) -> Figures:
    """Iterations under each rule, how far the frozen run ends from the serial one, and how near a verdict was."""
    N = len(serial) - 1
    defects = [None, *([U[0][0], *states] for states in F)]
    increment, first = rule.count(U, U)
    defect, second = rule.count(U, defects)
    frozen, end, third = rule.prefix_frozen(fine, coarse, U[0][0], N)
    off = float(independent.largest(independent.plus(end, (-1, serial[-1]))))
    return {
        "increment": increment,
        "frozen": frozen,
        "defect": defect,
        "frozen_error": off,
        "nearest": min(first, second, third),
    }


def with_rounding(setting: cases.Setting, iterations: int | None = None) -> Figures:
    """The figures, and beside each ``name`` its rounding as ``name_rounding``."""
    figures = compute(setting, EXACT if setting.exact else DIGITS, iterations)
    k = len(figures["increments"])
    replicas = [compute(setting, DOUBLE, k, r) for r in range(REPLICAS + 1)]
    for name in ("errors", "increments", "end", "frozen_error"):
        if name in figures:
            spread = np.abs(np.array([r[name] for r in replicas]) - np.array(figures[name]))
            figures[f"{name}_rounding"] = (2 * spread.max(axis=0)).tolist()
    if setting.rule is not None and figures["nearest"] < 1e-3:
        raise ValueError(f"{setting.title}: a figure is within 0.1% of the tolerance; take another tolerance")
    if isinstance(figures["end"][0], complex):
        figures["end"] = [[z.real, z.imag] for z in figures["end"]]
    return figures


# --- convergence factors: exact F, u' = lambda u ---------------------------------------------------------------------

GAMMA = 1 + 0.5**0.5
COARSE: dict[str, Callable[[float], float]] = {
    "implicit Euler": lambda z: 1 / (1 - z),
    "Radau IIA, 2 stages": lambda z: (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6),
    "Radau IIA, 3 stages": lambda z: (1 + 2 * z / 5 + z**2 / 20) / (1 - 3 * z / 5 + 3 * z**2 / 20 - z**3 / 60),
    "SDIRK2 gamma=1+1/sqrt2": lambda z: (1 + (1 - 2 * GAMMA) * z) / (1 - GAMMA * z) ** 2,
    "Lobatto IIIC, 2 stages": lambda z: 1 / (1 - z + z**2 / 2),
}
"""Stability functions R(z), z = lambda times the length of a slice."""


def convergence_factors(R: Callable[[float], float]) -> list[float]:
    """Largest |e^z - R| and |e^z - R| / (1 - |R|) over z < 0, by narrowing a logarithmic grid down."""

    def gap(z: float) -> float:
        return abs(exp(z) - R(z))

    def highest(f: Callable[[float], float]) -> float:
        low, high = -2.0, 4.0
        for _ in range(8):
            grid = np.linspace(low, high, 401)
            best = int(np.argmax([f(-(10.0**x)) for x in grid]))
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, 400)]
        return f(-(10.0 ** grid[best]))

    return [highest(gap), highest(lambda z: gap(z) / (1 - abs(R(z))))]


# --- strong orders of methods ----------------------------------------------------------------------------------------

STEPS = (32, 64, 128, 256)
ATOMS, PATHS = 2048, 1000


def geometric_end(dw: Any, dz: Any) -> Any:
    """X(1) of dX = X/2 dW, X(0) = 1."""
    return np.exp(dw.sum(0) / 2 - 1 / 8)


def growth_end(dw: Any, dz: Any) -> Any:
    """X(1) of dX = (1 - e^X) dt + dW, X(0) = 0: e^X = Y / (1 + integral of Y) with Y = e^(t + W).

    The integral over an atom is known up to the mean zero part of the squares, of order 3/2 in the atoms' length.
    """
    h = 1 / ATOMS
    exponent = np.concatenate([np.zeros_like(dw[:1]), (h + dw).cumsum(0)])
    area = (np.exp(exponent[:-1]) * (h + dz + 1.5 * h * h / 2)).sum(0)
    return exponent[-1] - np.log(1 + area)


@dataclass(frozen=True)
class Strong:
    """An equation with a known solution, and a method's strong order there."""

    title: str
    order: float
    u0: float
    equation: Equation
    exact: Callable[[Any, Any], Any]


GEOMETRIC = Equation(DOUBLE, lambda t, u: [0 * u[0]], g=lambda t, u: [u[0] / 2])
GROWTH = Equation(DOUBLE, lambda t, u: [1 - np.exp(u[0])], g=lambda t, u: [np.ones_like(u[0])])
ORDERS = {
    "euler_maruyama": Strong("dX = X/2 dW", 0.5, 1.0, GEOMETRIC, geometric_end),
    "milstein": Strong("dX = X/2 dW", 1.0, 1.0, GEOMETRIC, geometric_end),
    "sra1": Strong("dX = (1 - e^X) dt + dW", 1.5, 0.0, GROWTH, growth_end),
}


@cache
def paths() -> tuple[Any, Any]:
    """Increments over the atoms of time 1, and integrals of W(s) - W(t) over each, ``(ATOMS, PATHS)``."""
    a, b = np.random.default_rng(5).standard_normal((2, ATOMS, PATHS))
    h = 1 / ATOMS
    return sqrt(h) * a, h * sqrt(h) * (a / 2 + b / sqrt(12))


@cache
def ends(method: str, steps: int) -> Any:
    """X(1) in so many steps, on each path."""
    dws, dzs = paths()
    together, h = ATOMS // steps, 1 / steps
    u = [np.full(PATHS, ORDERS[method].u0)]
    for n in range(steps):
        w = area = 0.0
        for i in range(n * together, (n + 1) * together):
            area = area + dzs[i] + w / ATOMS
            w = w + dws[i]
        u = independent.STOCHASTIC[method](ORDERS[method].equation, n * h, h, u, w, area)
    return u[0]


def strong_order(method: str, end: Callable[[str, int], Any] = ends) -> float:
    """Of the root mean square error at time 1."""
    exact = ORDERS[method].exact(*paths())
    errors = [float(np.sqrt(np.mean((end(method, steps) - exact) ** 2))) for steps in STEPS]
    return float(-np.polyfit(np.log(STEPS), np.log(errors), 1)[0])


# --- strong orders of iterations -------------------------------------------------------------------------------------
# Euler-Maruyama on both levels, 1 and S = 16 steps a slice on the same paths; mean squares in closed form, not sampled.

SLICES, S = (8, 16, 32, 64), 16


def geometric_mean_squares(N: int, S: int = S) -> list[float]:
    """Of dX = X dt + X/2 dW after 0 ... 3 iterations on N slices up to time 1.

    U_N^k is the part of degree at most k in x of the product of all G_n + x (F_n - G_n), so that the error is the rest.
    Slices are independent: with g = E[G^2], c = E[G (F - G)], d = E[(F - G)^2], the mean of the product of two such
    polynomials, in x and in y, is (g + c (x + y) + d x y)^N, and the mean square adds up its coefficients of degrees
    above k in both.
    """
    H, h = Fraction(1, N), Fraction(1, N * S)
    FF, GG = ((1 + h) ** 2 + h / 4) ** S, (1 + H) ** 2 + H / 4
    FG = (1 + h) ** S * (1 + H) + S * h / 4 * (1 + h) ** (S - 1)
    g, c, d = (DIGITS.of(x) for x in (GG, FG - GG, FF - 2 * FG + GG))
    out = []
    for k in range(4):
        few = 0  # both degrees above k is all, less x up to k, less y up to k, plus both up to k
        for i in range(k + 1):
            for j in range(k + 1 - i):  # i pairs x y, j of x alone, then any number of y alone
                ways = comb(N, i) * comb(N - i, j) * d**i * c**j
                few += 2 * ways * (g + c) ** (N - i - j)
                few -= sum(ways * comb(N - i - j, m) * c**m * g ** (N - i - j - m) for m in range(k + 1 - i))
        out.append(float((g + 2 * c + d) ** N - few))
    return out


def additive_mean_squares(N: int, S: int = S) -> list[float]:
    """Of dX = -X dt + dW/2: states are affine in the increments, one row of coefficients each."""
    H, h = 1 / N, 1 / (N * S)

    def step(u: Any, h: float, n: slice) -> Any:
        u = (1 - h) * u
        u[1:][n] += 0.5
        return u

    def fine(n: int, u: Any) -> Any:
        for i in range(S * n, S * n + S):
            u = [step(u[0], h, slice(i, i + 1))]
        return u

    u0 = [np.eye(1, 1 + N * S)[0]]
    U, _ = independent.parareal(fine, lambda n, u: [step(u[0], H, slice(S * n, S * n + S))], u0, N, 3)
    off = [u[-1][0] - independent.serial(fine, u0, N)[-1][0] for u in U]
    return [float(e[0] ** 2 + h * (e[1:] ** 2).sum()) for e in off]


MEAN_SQUARES = {
    "geometric Brownian motion": geometric_mean_squares,
    "Ornstein-Uhlenbeck (additive)": additive_mean_squares,
}


def orders_of_iterations(equation: str) -> list[float]:
    """Strong orders of iterates 0 ... 3 against the serial solution as slices get shorter."""
    squares = [MEAN_SQUARES[equation](N) for N in SLICES]
    return (-np.polyfit(np.log(SLICES), 0.5 * np.log(squares), 1)[0]).tolist()
