"""Stochastic differential equations: a drift, a diffusion, and the path of the noise, which belongs to the problem.

A method asks the problem for three things: the two functions, and the increments of the noise over its step, which are
looked up in the path and cost nothing. That is why a coarse and a fine propagator see the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, described
from parareal._core.names import one_of
from parareal._core.references import duplicate
from parareal._core.trees import State
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.problem._brownian_path import BrownianPath, brownian_keys
from parareal.problem._lane_calls import Batching
from parareal.problem._noise_path import NoisePath
from parareal.problem._ode import Problem, check_rows
from parareal.problem._sde_calls import Terms
from parareal.problem._traits import ProblemTraits

Noise: TypeAlias = Literal["diagonal", "scalar", "additive", "general"]
Calculus: TypeAlias = Literal["ito", "stratonovich"]
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True, eq=False)
class SDE(Problem):
    """The initial value problem dU = drift(t, U) dt + diffusion(t, U) dW.

    Args:
        drift: ``drift(t, u)`` returns a tree of the structure, shapes and dtypes of ``u``.
        diffusion: ``diffusion(t, u)``, whose value depends on ``noise``:

            - ``"diagonal"``: like ``u``. Each element has a Brownian motion of its own, and its diffusion depends on
              that element of the state alone.
            - ``"scalar"``: like ``u``. One Brownian motion moves the whole state.
            - ``"additive"``: like ``u``, as diagonal, or leaves ``(*state, channels)``; it does not depend on ``u``.
            - ``"general"``: leaves ``(*state, channels)``: one column for each Brownian motion, which all leaves share.
        noise: See ``diffusion``.
        calculus: ``"ito"`` or ``"stratonovich"``: what the integral means. Nothing is converted from one to the other.
        batching: How both are called for many lanes; see `ODE`.
        per_sample: Data that belongs to the samples of a batch; see `ODE`. Both are then called with it.
        channels: Number of Brownian motions of general, or of additive, noise.
        generator: Where the seed of the path is drawn from, once, here: a `torch.Generator`, or one for each sample,
            or ``None`` for torch's default. The same problem always has the same path.
        path: The path, in place of one whose atoms are the steps of the fine propagator: a `BrownianPath` with finer
            points, which several step sizes can share, or a `FrozenPath`.

    Brownian motions are real, also where the state is complex. Where time falls, the integrals run in its direction:
    dU = drift dt + diffusion dW with dt < 0, dW of variance ``|dt|`` and independent of all that was passed before.

    Raises:
        TypeError: ``drift`` or ``diffusion`` is not callable, or another argument of the wrong type.
        ValueError: ``noise``, ``calculus`` or ``batching`` is unknown, ``channels`` is not compatible with ``noise``,
            or ``generator`` came with ``path``; from `solve`, that the path does not cover the grid, or has other
            shapes.

    Source:
        P. E. Kloeden, E. Platen, Numerical Solution of Stochastic Differential Equations (Springer, 1992).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.SDE(lambda t, u: u, lambda t, u: 0.5 * u, generator=torch.Generator().manual_seed(0))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)
        >>> u0 = torch.ones(3, dtype=torch.float64)
        >>> sol = pr.solve(problem, u0, grid, fine=pr.Milstein(), coarse=pr.EulerMaruyama())
        >>> ref = pr.serial(problem, u0, grid, fine=pr.Milstein())
        >>> bool(sol.converged), torch.allclose(sol.u, ref.u, rtol=1e-3)
        (True, True)
    """

    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    noise: Noise = "diagonal"
    calculus: Calculus = "ito"
    batching: Batching = "vmap"
    per_sample: State = None
    channels: int | None = None
    generator: InitVar[Generators] = None
    path: NoisePath | None = None
    seed: int | tuple[int, ...] = field(default=0, init=False, repr=False)
    _grid: TimeGrid | None = field(default=None, init=False, repr=False)

    def __post_init__(self, generator: Generators) -> None:
        for name, kinds in (("noise", Noise), ("calculus", Calculus)):
            one_of(getattr(self, name), get_args(kinds), name)
        _check_channels(self.noise, self.channels)
        check_rows(self.per_sample)
        if self.path is not None and not isinstance(self.path, NoisePath):
            raise TypeError(
                f"path is {described(self.path)}; expected a pr.BrownianPath(points, seed) or pr.FrozenPath"
            )
        if self.path is not None and generator is not None:
            raise ValueError(
                "generator came with path, which has a seed of its own; expected one of them: "
                "pr.BrownianPath(points, seed=...)"
            )
        self._calls  # noqa: B018 - raises where the functions are none
        if self.path is None:
            object.__setattr__(self, "seed", draw_seeds(generator))

    @cached_property
    def _calls(self) -> Terms:
        return Terms(self.drift, self.diffusion, self.noise, self.channels, self.batching)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_calls"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def traits(self) -> ProblemTraits:
        """Steps draw noise."""
        return replace(super().traits, stochastic=True)

    # --- made ready -----------------------------------------------------------------------------------------------

    def rows(self, samples: int | None, device: torch.device) -> State:
        """The keys of the path of each sample and, if given, ``per_sample``."""
        keys = brownian_keys(self.seed, samples) if self.path is None else self.path.keys(samples)
        return (keys.to(device),) if self.per_sample is None else (keys.to(device), self.per_sample)

    def compared(self) -> dict[str, Any]:
        """The noise: its kind, its calculus and the path, of which `rows` has the seed."""
        path = None if self.path is None else {type(self.path).__name__: self.path.compared()}
        return {"noise": self.noise, "calculus": self.calculus, "channels": self.channels, "path": path}

    def bind(self, u0: State, grid: Any, fine: Any) -> SDE:
        """This equation with a path over the grid, checked by a call."""
        path = self.path
        if path is None:
            points = Mesh.build(grid, fine.steps, torch.device("cpu")).points
            path = BrownianPath(points.unique_consecutive(), self.seed)  # a mesh has both sides of each slice boundary
        path.most_atoms(grid.points[:-1], grid.points[1:])
        path.check(self.like(grid.points[:1], trees.map(lambda leaf: leaf.unsqueeze(0), u0)))
        bound = duplicate(self)
        for name, value in (("path", path), ("_grid", grid)):
            object.__setattr__(bound, name, value)
        return bound

    # --- what methods ask for ---------------------------------------------------------------------------------------

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """The drift alone on L lanes, leaves ``(L, *state)``."""
        return self._calls.drift(t, u, _given(rows))

    def terms(self, t: Tensor, u: State, rows: State = None) -> State:
        """Drift and diffusion on L lanes, as a pair: one evaluation."""
        return self._calls.both(t, u, _given(rows))

    def amplitudes(self, t: Tensor, u: State, rows: State = None) -> State:
        """The diffusion alone on L lanes."""
        return self._calls.diffusion(t, u, _given(rows))

    def increments(self, steps: int | None = None, area: bool = False) -> Increments:
        """The function to request for the noise: a step yields ``(problem.increments(...), t0, t1, u)``, at no cost.

        Args:
            steps: Steps of the method in each slice.
            area: Whether the integrals of the path over time are returned as well.

        Returns:
            A function of ``(t0, t1, u)`` that returns dW, or ``(dW, dZ)``: trees like ``u``, or for scalar noise
            tensors ``(L,)``, or for channels ``(L, channels)``. `product` multiplies a diffusion with them.
        """
        return Increments(self, steps, area)

    def product(self, g: State, dw: State) -> State:
        """The product g dW: leaves ``(L, *state)``.

        Products are added one by one: the rounding of matrix products and long sums may depend on the other lanes.
        """
        if self.channels is not None:
            columns = dw.unbind(1)
            return trees.map(lambda leaf: _add_up(leaf, columns), g)
        if self.noise == "scalar":
            return trees.map(lambda leaf: leaf * trees.per_lane(dw, leaf), g)
        return trees.map(torch.mul, g, dw)

    def like(self, t: Tensor, u: State) -> State:
        """A tree with an element for each Brownian motion, on L lanes; its values mean nothing."""
        if self.channels is not None:
            return t.unsqueeze(1).expand(-1, self.channels)
        return t if self.noise == "scalar" else u

    def most_atoms(self, steps: int | None) -> int | None:
        """Most points of the fine grid in a step, for a method of ``steps`` steps a slice; ``None`` if not known.

        A method without ``steps`` may make the grid's own steps or one a slice.
        """
        if self._grid is None or self.path is None:
            return None
        if steps not in self._most:
            points = Mesh.build(self._grid, steps or 1, torch.device("cpu")).points
            self._most[steps] = self.path.most_atoms(points[:-1], points[1:])
        return self._most[steps]

    @cached_property
    def _most(self) -> dict[int | None, int]:
        return {}


@dataclass(frozen=True, eq=False)
class Increments:
    """A free request: the increments of a problem's path on L lanes; see `SDE.increments`."""

    problem: SDE
    steps: int | None
    area: bool
    free = True

    def __call__(self, t0: Tensor, t1: Tensor, u: State, rows: State = None) -> Any:
        """dW, or ``(dW, dZ)``, of the steps from ``t0`` to ``t1``."""
        path = self.problem.path
        if path is None:
            raise ValueError(
                "the problem has no path yet; expected problem.bind(u0, grid, fine), which makes one, before steps are "
                "made by hand, or pr.SDE(..., path=pr.BrownianPath(points, seed))"
            )
        keys = None if rows is None else rows[0].squeeze(1)
        # On a device the host must not wait for the values of t0 and t1.
        most = None if t0.device.type == "cpu" else self.problem.most_atoms(self.steps)
        return path.increments(t0, t1, self.problem.like(t0, u), keys, self.area, most)


def draw_seeds(generator: Generators) -> int | tuple[int, ...]:
    """A seed of 63 bits from a generator, or one from each of some.

    Raises:
        TypeError: ``generator`` is something else.
    """
    if isinstance(generator, list | tuple):
        return tuple(_draw_seed(one) for one in generator)
    return _draw_seed(generator)


def _draw_seed(generator: Any) -> int:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is {described(generator)}; expected a torch.Generator, a list of them, one for each "
            "sample, or None: torch.Generator().manual_seed(0)"
        )
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(0, (1 << 63) - 1, (), generator=generator, device=device))


def _check_channels(noise: Noise, channels: Any) -> None:
    if channels is not None:
        check_count(channels, "channels")
    if noise == "general" and channels is None:
        raise ValueError(
            'noise="general" came without channels; expected the number of Brownian motions: channels=2 for a '
            "diffusion(t, u) whose leaves are (*state, 2)"
        )
    if noise in ("diagonal", "scalar") and channels is not None:
        raise ValueError(
            f"channels={channels} came with noise={noise!r}, which has a Brownian motion for "
            f'{"each element" if noise == "diagonal" else "the whole state"}; expected noise="general", or no channels'
        )


def _given(rows: State) -> State:
    """The user's part of the rows that the engine hands to every request."""
    return rows[1] if rows is not None and len(rows) == 2 else None


def _add_up(leaf: Tensor, columns: Sequence[Tensor]) -> Tensor:
    total: Tensor | None = None
    for g, dw in zip(leaf.unbind(-1), columns, strict=True):
        term = g * trees.per_lane(dw, g)
        total = term if total is None else total + term
    assert total is not None  # there is a channel at least
    return total
