"""torchdiffeq's methods by name: which integrator steps, where the slices end, and which options there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parareal._core.names import METHOD_HINTS, one_of
from parareal.compat._arguments import Arguments, least
from parareal.compat._dense_output import points_of
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import (
    RK4,
    SDIRK2,
    Adaptive,
    ButcherTableau,
    GaussLegendre,
    ImplicitEuler,
    ImplicitMidpoint,
    ImplicitRungeKutta,
    Integrator,
    RadauIIA,
    RungeKutta,
    SciPy,
    TorchDiffEq,
    Trapezoid,
)
from parareal.integrators._embedded import EMBEDDED
from parareal.integrators._timed import timed
from parareal.integrators.external._checks import check_options

ADAPTIVE = tuple(EMBEDDED)
_EXPLICIT = {
    "euler": ButcherTableau(a=((),), b=(1.0,), order=1),
    "midpoint": ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2),
    "heun2": ButcherTableau(a=((), (1.0,)), b=(0.5, 0.5), order=2),
    "heun3": ButcherTableau(a=((), (1 / 3,), (0.0, 2 / 3)), b=(0.25, 0.0, 0.75), order=3),
    "rk4": ButcherTableau(a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), b=(1 / 8, 3 / 8, 3 / 8, 1 / 8), order=4),
}
"""The explicit fixed-step methods of torchdiffeq by name; its rk4 is the 3/8 rule."""
_GAMMA, _BETA = 1 - 2**-0.5, 2**0.5 / 4
_TRBDF2 = ButcherTableau(
    a=((0.0, 0.0, 0.0), (_GAMMA, _GAMMA, 0.0), (_BETA, _BETA, _GAMMA)), b=(_BETA, _BETA, _GAMMA), order=2
)
_IMPLICIT: dict[str, Callable[[], Integrator]] = {
    "implicit_euler": ImplicitEuler,
    "implicit_midpoint": ImplicitMidpoint,
    "trapezoid": Trapezoid,
    "radauIIA3": lambda: RadauIIA(2),
    "radauIIA5": lambda: RadauIIA(3),
    "gl2": lambda: GaussLegendre(1),
    "gl4": lambda: GaussLegendre(2),
    "gl6": lambda: GaussLegendre(3),
    "sdirk2": SDIRK2,
    "trbdf2": lambda: ImplicitRungeKutta(_TRBDF2),
}
FIXED = (*_EXPLICIT, *_IMPLICIT)
FOREIGN = ("explicit_adams", "implicit_adams", "fixed_adams", "scipy_solver")
"""Methods with a history, and SciPy's: without ``slices`` they run as in torchdiffeq."""
METHODS = (*ADAPTIVE, *FIXED, *FOREIGN)

SLICES = 16
"""Slices for a few output times; the page "From torchdiffeq" has the cost of other numbers."""

_ADAPTIVE_OPTIONS = (
    *("norm", "dtype", "safety", "ifactor", "dfactor", "max_num_steps", "first_step", "min_step", "max_step"),
    *("step_t", "jump_t", "grid_points", "eps"),
)
_FOREIGN_OPTIONS = (
    *("step_size", "grid_constructor", "interp", "perturb", "max_order", "max_iters", "norm", "grid_points", "eps"),
    *("solver", "min_step", "max_step"),
)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a call is solved in parallel in time.

    Attributes:
        grid: Its slices.
        points: Points of the grid, float64, with the graph of the times.
        fine: The method.
        coarse: The correction's propagator.
        interp: The interpolation between fixed steps, ``None`` where there is none.
        adaptive: The adaptive method, if it is one.
    """

    grid: TimeGrid
    points: Tensor
    fine: Integrator
    coarse: Integrator
    interp: str | None = None
    adaptive: Adaptive | None = None


def check_method(method: str | Integrator) -> None:
    """Raises unless it is an integrator or a known name."""
    if isinstance(method, str):
        other = (
            "an integrator such as pr.SciPy('Radau') or pr.TorchDiffEq('implicit_adams', options={'step_size': 0.1})"
        )
        one_of(method, METHODS, "method", other, METHOD_HINTS)


def adaptive_of(args: Arguments) -> Adaptive | None:
    """The adaptive method of a call, ``None`` for other methods."""
    if isinstance(args.method, Adaptive):
        return args.method
    if isinstance(args.method, Integrator) or args.method not in ADAPTIVE:
        return None
    options = dict(args.options)
    check_options(options, _ADAPTIVE_OPTIONS, f"torchdiffeq's {args.method!r}")
    for name in ("dtype", "eps"):  # time is float64 here whatever the first says, and torchdiffeq ignores the second
        options.pop(name, None)
    points = options.pop("grid_points", None)  # an old name
    if points is not None:
        options.setdefault("step_t", points)
    return Adaptive(args.method, args.rtol, args.atol, **options)


def plan_of(args: Arguments, slices: int | None) -> Plan:
    """The slices and propagators of a call.

    Raises:
        TypeError, ValueError: A method, or an option of it, is wrong.
    """
    check_method(args.method)
    adaptive = adaptive_of(args)
    if adaptive is not None:
        edges = _edges(args, slices or SLICES)
        fine = replace(adaptive, land=True)
        return Plan(_grid(edges), edges, timed(fine, edges), timed(RK4(), edges), adaptive=fine)
    if isinstance(args.method, Integrator):
        if args.options:
            raise ValueError(f"options came with method={args.method!r}; expected them in the integrator")
        edges = cut(args.t, slices or SLICES)
        return Plan(_grid(edges), edges, timed(args.method, edges), timed(RK4(), edges))
    if args.method in FOREIGN:
        return _foreign(args, slices or SLICES)
    points, interp = points_of(args.method, args.options, args.func, args.y0, args.t)
    steps, perturb = len(points) - 1, bool(args.options.get("perturb", False))
    grid = TimeGrid.from_points(points.detach(), None if slices is None else min(slices, steps))
    method = RungeKutta(_EXPLICIT[args.method]) if args.method in _EXPLICIT else _IMPLICIT[args.method]()
    return Plan(grid, points, timed(method, points, perturb), timed(method, points, perturb), interp)


def _foreign(args: Arguments, slices: int) -> Plan:
    """The methods of torchdiffeq that are not here, restarted in each slice."""
    check_options(args.options, _FOREIGN_OPTIONS, f"torchdiffeq's {args.method!r}")
    edges = cut(args.t, slices)
    options = {key: value for key, value in args.options.items() if key not in ("norm", "eps", "grid_points")}
    rtol, atol = least(args.rtol), least(args.atol)
    if args.method == "scipy_solver":
        solver = options.pop("solver", "LSODA")
        fine: Integrator = SciPy(solver, rtol, atol, **options)
    else:
        method = "implicit_adams" if args.method == "fixed_adams" else str(args.method)
        fine = TorchDiffEq(method, rtol, atol, options)
    return Plan(_grid(edges), edges, timed(fine, edges), timed(RK4(), edges))


def _grid(edges: Tensor) -> TimeGrid:
    return TimeGrid.from_edges(edges.detach())


def _edges(args: Arguments, slices: int) -> Tensor:
    """Slice boundaries for an adaptive method: at all times, or where these are many at equal distances."""
    return cut(args.t if len(args.t) <= slices + 1 else args.t[[0, -1]], slices)


def cut(times: Tensor, slices: int) -> Tensor:
    """Slice boundaries that contain ``times``, at least ``slices`` intervals: longer ones are cut into more."""
    lengths = times.detach().diff().abs()
    parts = (slices * lengths / lengths.sum()).round().clamp(min=1).long()
    while int(parts.sum()) < slices:
        parts[(lengths / parts).argmax()] += 1
    pieces = [
        a + (b - a) * torch.arange(int(n), dtype=times.dtype) / n
        for a, b, n in zip(times[:-1], times[1:], parts, strict=True)
    ]
    edges = torch.cat([*pieces, times[-1:]])
    new = torch.ones(len(edges), dtype=torch.bool)
    new[:-1] = edges.detach().diff() != 0  # float64 may hold fewer times between two
    return edges[new]
