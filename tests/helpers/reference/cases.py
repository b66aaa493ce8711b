"""The settings of the runs, and their equations for any kind of number; see `independent.py`.

Where a number is a decimal or a fraction it is given as a text, so that it is the same in any precision. Steps are
powers of two where nothing speaks against it: their times have no rounding then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from reference.independent import DOUBLE, METHODS, STOCHASTIC, Equation, Numbers, Propagator, Rule, State

# --- equations -------------------------------------------------------------------------------------------------------


def decay(q: Numbers) -> Equation:
    return Equation(q, matrix=[[q(-1)]])


def oscillation(q: Numbers) -> Equation:
    return Equation(q, matrix=[[q(0), q(1)], [q(-1), q(0)]])


def turning(q: Numbers) -> Equation:
    return Equation(q, matrix=[[2 * q.i]])


def heat(q: Numbers) -> Equation:
    """u_t = u_xx on 0 < x < 1, u = 0 at both ends, second differences at 15 points."""
    weight = {0: q(-512), 1: q(256), -1: q(256)}
    return Equation(q, matrix=[[weight.get(c - r, q(0)) for c in range(15)] for r in range(15)])


def upwind(q: Numbers) -> Equation:
    """u_t + u_x = 0 on 0 <= x < 1, periodic, differences to the left at 16 points."""
    weight = {0: q(-16), 15: q(16)}
    return Equation(q, matrix=[[weight.get((c - r) % 16, q(0)) for c in range(16)] for r in range(16)])


def centred(q: Numbers) -> Equation:
    """The same with centred differences, which damp nothing."""
    weight = {1: q(-8), 15: q(8)}
    return Equation(q, matrix=[[weight.get((c - r) % 16, q(0)) for c in range(16)] for r in range(16)])


def logistic(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [u[0] * (1 - u[0])])


def riccati(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [-2 * t * u[0] ** 2])


def bernoulli(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [2 * u[0] / (1 + t) - (t * u[0]) ** 2])


def lotka_volterra(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [u[0] * (1 - u[1]), u[1] * (u[0] - 1)])


def brusselator(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [1 + u[0] ** 2 * u[1] - 4 * u[0], 3 * u[0] - u[0] ** 2 * u[1]])


def fitzhugh_nagumo(q: Numbers) -> Equation:
    a, b, c = q("0.2"), q("0.2"), q(3)
    return Equation(q, lambda t, u: [c * (u[0] - u[0] ** 3 / 3 + u[1]), -(u[0] - a + b * u[1]) / c])


def lorenz(q: Numbers) -> Equation:
    s, r, b = q(10), q(28), q("8/3")
    return Equation(q, lambda t, u: [s * (u[1] - u[0]), u[0] * (r - u[2]) - u[1], u[0] * u[1] - b * u[2]])


def kepler(q: Numbers) -> Equation:
    def f(t: Any, u: State) -> State:
        x, y, vx, vy = u
        cubed = q.functions.sqrt(x * x + y * y) ** 3
        return [vx, vy, -x / cubed, -y / cubed]

    return Equation(q, f)


def arenstorf(q: Numbers) -> Equation:
    """A body in the field of earth and moon, which turn with the frame; mass of the moon mu, of both 1."""
    mu = q("0.012277471")

    def f(t: Any, u: State) -> State:
        x, y, vx, vy = u
        earth = q.functions.sqrt((x + mu) ** 2 + y * y) ** 3
        moon = q.functions.sqrt((x - 1 + mu) ** 2 + y * y) ** 3
        ax = x + 2 * vy - (1 - mu) * (x + mu) / earth - mu * (x - 1 + mu) / moon
        ay = y - 2 * vx - (1 - mu) * y / earth - mu * y / moon
        return [vx, vy, ax, ay]

    return Equation(q, f)


def double_pendulum(q: Numbers) -> Equation:
    """Equal masses and lengths; u = (angles, their velocities)."""
    g, sin, cos = q("9.81"), q.functions.sin, q.functions.cos

    def f(t: Any, u: State) -> State:
        a, b, va, vb = u
        below = 3 - cos(2 * a - 2 * b)
        first = -3 * g * sin(a) - g * sin(a - 2 * b) - 2 * sin(a - b) * (vb * vb + va * va * cos(a - b))
        second = 2 * sin(a - b) * (2 * va * va + 2 * g * cos(a) + vb * vb * cos(a - b))
        return [va, vb, first / below, second / below]

    return Equation(q, f)


def van_der_pol(q: Numbers) -> Equation:
    mu = q(100)
    return Equation(
        q,
        lambda t, u: [u[1], mu * (1 - u[0] ** 2) * u[1] - u[0]],
        lambda t, u: [[0, 1], [-2 * mu * u[0] * u[1] - 1, mu * (1 - u[0] ** 2)]],
    )


def robertson(q: Numbers) -> Equation:
    a, b, c = q("0.04"), q(30000000), q(10000)

    def f(t: Any, u: State) -> State:
        x, y, z = u
        return [-a * x + c * y * z, a * x - c * y * z - b * y * y, b * y * y]

    def jacobian(t: Any, u: State) -> list[State]:
        _, y, z = u
        return [[-a, c * z, c * y], [a, -c * z - 2 * b * y, -c * y], [0, 2 * b * y, 0]]

    return Equation(q, f, jacobian)


def geometric(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [u[0]], g=lambda t, u: [u[0] / 2])


def additive(q: Numbers) -> Equation:
    """dX = (b / sqrt(1 + t) - X / (2 (1 + t))) dt + a b / sqrt(1 + t) dW with a = b = 1/2."""
    root = q.functions.sqrt
    return Equation(
        q,
        lambda t, u: [q("1/2") / root(1 + t) - u[0] / (2 * (1 + t))],
        g=lambda t, u: [q("1/4") / root(1 + t)],
    )


def square_root(q: Numbers) -> Equation:
    return Equation(q, lambda t, u: [q.functions.sqrt(u[0] ** 2 + 2)])


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A run: equation, time, slices, and methods with their numbers of steps in each slice.

    ``crowded`` moves the points t0 + s (t1 - t0) towards both ends, s to 3 s^2 - 2 s^3. ``exact``: in fractions.
    ``seed``: of the noise; a negative one is numpy's generator, as a published run has it.
    """

    title: str
    equation: Callable[[Numbers], Equation]
    span: tuple[str | int, str | int]
    u0: tuple[str | int, ...]
    slices: int
    coarse: tuple[str, int]
    fine: tuple[str, int]
    rule: Rule | None = None
    crowded: bool = False
    exact: bool = False
    seed: int | None = None

    @property
    def points(self) -> list[Fraction]:
        """Fine points."""
        count, (t0, t1) = self.slices * self.fine[1], map(Fraction, self.span)
        parts = [Fraction(i, count) for i in range(count + 1)]
        if self.crowded:
            parts = [3 * s**2 - 2 * s**3 for s in parts]
        points = [t0 + s * (t1 - t0) for s in parts]
        return [Fraction(round(t * 2**44), 2**44) for t in points] if self.crowded else points  # floats without loss

    @property
    def noise(self) -> tuple[list[Fraction], list[Fraction]] | None:
        """Over each fine step the increment of W and the integral of W(s) - W(t): floats without loss."""
        if self.seed is None:
            return None
        points = self.points
        if self.seed < 0:
            drawn = np.random.default_rng(-1 - self.seed).normal(0, (1 / 128) ** 0.5, (8, 16)).reshape(-1)
            return [Fraction(x) for x in drawn.tolist()], [Fraction(0)] * len(drawn)
        uniform, normal = random.Random(self.seed), NormalDist()
        dw, dz = [], []
        for left, right in pairwise(points):
            h = float(right - left)
            a, b = (normal.inv_cdf(uniform.random()) for _ in range(2))
            dw.append(Fraction(round(h**0.5 * a * 2**30), 2**30))
            dz.append(Fraction(round((h**1.5 * (a / 2 + b / 12**0.5)) * 2**40), 2**40))
        return dw, dz

    def start(self, q: Numbers) -> State:
        return [q(x) for x in self.u0]

    def propagators(self, q: Numbers, rounded: Callable[[State, int], State] | None = None) -> Any:
        """F and G in numbers ``q``; ``rounded`` is applied to what they give, with the number of steps made."""
        equation, points, each = self.equation(q), self.points, self.fine[1]
        edges = points[::each]
        if self.seed is not None:
            return tuple(self._stochastic(q, equation, *way, rounded) for way in (self.fine, self.coarse))

        def propagator(method: str, steps: int, own: bool) -> Propagator:
            step = METHODS[method]

            def propagate(n: int, u: State) -> State:
                t0, t1 = edges[n], edges[n + 1]
                times = points[n * each : (n + 1) * each + 1] if own else None
                times = times or [t0 + (t1 - t0) * j / steps for j in range(steps + 1)]
                for left, right in pairwise(times):
                    u = step(equation, q(left), q(right - left), u)
                return u if rounded is None else rounded(u, steps)

            return propagate

        def exact(n: int, u: State) -> State:  # of u' = sqrt(u^2 + 2)
            m, root, length = q.functions, q.functions.sqrt(q(2)), q(edges[n + 1] - edges[n])
            u = [root * m.sinh(length + m.asinh(u[0] / root))]
            return u if rounded is None else rounded(u, 1)

        fine = exact if self.fine[0] == "exact" else propagator(*self.fine, True)
        return fine, propagator(*self.coarse, False)

    def _stochastic(self, q: Numbers, equation: Equation, method: str, steps: int, rounded: Any) -> Propagator:
        step, points, each = STOCHASTIC[method], self.points, self.fine[1]
        noise = self.noise
        assert noise is not None
        dws, dzs = noise
        together = each // steps

        def propagate(n: int, u: State) -> State:
            for first in range(n * each, (n + 1) * each, together):
                t, h = points[first], points[first + together] - points[first]
                w = area = Fraction(0)
                for i in range(first, first + together):
                    area += dzs[i] + w * (points[i + 1] - points[i])
                    w += dws[i]
                u = step(equation, q(t), q(h), u, q(w), q(area))
            return u if rounded is None else rounded(u, steps)

        return propagate


HALF = tuple(1 if i < 8 else 0 for i in range(15))
HAT = tuple(f"{max(0, 4 - abs(i - 5))}/4" for i in range(16))

INDEPENDENT = {
    "decay": Setting(
        "u' = -u, t = 0 ... 4", decay, (0, 4), (1,), 8, ("implicit_euler", 1), ("trapezoid", 8),
        Rule(0.0, 1e-6, "max"), exact=True,
    ),
    "oscillation": Setting(
        "u'' = -u, t = 0 ... 4", oscillation, (0, 4), (1, 0), 16, ("implicit_euler", 1), ("trapezoid", 8),
        Rule(0.0, 1e-2, "max"), exact=True,
    ),
    "heat": Setting(
        "heat equation, 15 points", heat, ("0", "1/2"), HALF, 8, ("implicit_euler", 1), ("trapezoid", 8),
        Rule(0.0, 1e-4, "rms"),
    ),
    "transport, upwind": Setting(
        "transport, 16 points, upwind", upwind, (0, 1), HAT, 8, ("implicit_euler", 1), ("trapezoid", 8),
        Rule(0.0, 5e-3, "rms"),
    ),
    "transport, centred": Setting(
        "transport, 16 points, centred", centred, (0, 2), HAT, 8, ("implicit_euler", 1), ("trapezoid", 8),
        Rule(1e-5, 1e-6, "max"),
    ),
    "logistic": Setting(
        "u' = u (1 - u)", logistic, (0, 8), ("1/10",), 16, ("euler", 1), ("heun", 16), Rule(1e-8, 0.0, "max")
    ),
    "Riccati": Setting(
        "u' = -2 t u^2, u(-2) = 1/5", riccati, (-2, 2), ("1/5",), 16, ("midpoint", 1), ("kutta3", 16),
        Rule(1e-6, 1e-9, "max"),
    ),
    "Lotka-Volterra, backwards": Setting(
        "Lotka-Volterra, t = 8 ... 0", lotka_volterra, (8, 0), (1, 2), 32, ("heun", 2), ("three_eighths", 8),
        Rule(1e-7, 0.0, "rms"),
    ),
    "Brusselator": Setting(
        "Brusselator, A = 1, B = 3", brusselator, (0, 8), (1, 1), 32, ("heun", 2), ("rk4", 16), Rule(1e-6, 1e-8, "rms")
    ),
    "FitzHugh-Nagumo": Setting(
        "FitzHugh-Nagumo", fitzhugh_nagumo, (0, 16), (-1, 1), 32, ("heun", 4), ("three_eighths", 16),
        Rule(0.0, 1e-8, "rms"),
    ),
    "Lorenz": Setting(
        "Lorenz 63, t = 0 ... 8", lorenz, (0, 8), (5, -5, 20), 32, ("midpoint", 4), ("rk4", 16), Rule(0.0, 1e-2, "max")
    ),
    "Kepler": Setting(
        "Kepler, eccentricity 0.6", kepler, (0, 8), ("0.4", 0, 0, 2), 32, ("rk4", 2), ("rk4", 16),
        Rule(0.0, 1e-6, "max"),
    ),
    "Arenstorf": Setting(
        "Arenstorf orbit, uneven steps", arenstorf, (0, "17.0652165601579625588917206249"),
        ("0.994", 0, 0, "-2.00158510637908252240537862224"), 64, ("rk4", 4), ("rk4", 16), Rule(0.0, 1e-1, "max"),
        crowded=True,
    ),
    "double pendulum": Setting(
        "double pendulum", double_pendulum, (0, 4), ("3/2", "3/4", 0, 0), 32, ("heun", 4), ("rk4", 16),
        Rule(0.0, 1e-8, "max"),
    ),
    "van der Pol": Setting(
        "van der Pol, mu = 100", van_der_pol, (0, 32), (2, 1), 8, ("implicit_euler", 1), ("sdirk2", 8),
        Rule(1e-8, 1e-9, "max"),
    ),
    "Robertson": Setting(
        "Robertson's reactions", robertson, (0, 32), (1, 0, 0), 8, ("implicit_euler", 1), ("implicit_euler", 8),
        Rule(1e-6, 1e-10, "max"),
    ),
    "geometric Brownian motion": Setting(
        "dX = X dt + X/2 dW, one path", geometric, (0, 2), (1,), 16, ("euler_maruyama", 1), ("milstein", 16),
        Rule(1e-6, 0.0, "max"), seed=1,
    ),
    "additive noise": Setting(
        "additive noise, one path", additive, (0, 2), (1,), 16, ("euler_maruyama", 1), ("sra1", 8),
        Rule(0.0, 1e-8, "rms"), seed=2,
    ),
}  # fmt: skip

MAX6, MAX10 = Rule(0.0, 1e-6, "max"), Rule(0.0, 1e-10, "max")

PUBLISHED = {
    "fhn_1600": Setting("", fitzhugh_nagumo, (0, 40), (-1, 1), 40, ("midpoint", 4), ("rk4", 40), MAX6),
    "lorenz_py": Setting("", lorenz, (0, 10), (5, -5, 20), 40, ("midpoint", 10), ("rk4", 100), MAX6),
    "brus_gh": Setting("", brusselator, (0, 12), (0, 1), 32, ("rk4", 1), ("rk4", 20), MAX10),
    "bernoulli": Setting("", bernoulli, (0, 10), (2,), 20, ("rk4", 1), ("rk4", 100), MAX10),
    "dahlquist_be": Setting("", decay, (0, 1), (1,), 10, ("implicit_euler", 1), ("implicit_euler", 20), exact=True),
    "oscillator_be": Setting("", turning, (0, 1), (1,), 10, ("implicit_euler", 1), ("implicit_euler", 20)),
    "oscillator_be_long": Setting("", turning, (0, 10), (1,), 10, ("implicit_euler", 1), ("implicit_euler", 20)),
    "sqrt_exact_fine": Setting("", square_root, (-1, 1), (5,), 20, ("euler", 1), ("exact", 1)),
    "lorenz_euler": Setting("", lorenz, (0, 5), (20, 5, -5), 500, ("euler", 1), ("euler", 10)),
    "gbm_frozen_noise": Setting(
        "", geometric, (0, 1), (1,), 8, ("euler_maruyama", 1), ("euler_maruyama", 16), seed=-1
    ),
}  # fmt: skip


def shifted(replica: int) -> Callable[[State, int], State]:
    """Shifts a state about as much as so many steps' rounding does; like it, by what depends on the state alone."""
    return lambda u, steps: [
        x + DOUBLE.unit * steps**0.5 * max(map(abs, u)) * DOUBLE.functions.sin(1e15 * abs(x) + replica) for x in u
    ]
