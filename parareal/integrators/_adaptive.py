"""Embedded Runge-Kutta methods with a step size for each lane, in the steps of torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.checks import check_count, check_flag, described
from parareal._core.host import index_to, known, values_of
from parareal._core.multistep_state import Carried, Memory, Moving
from parareal._core.norms import rms
from parareal._core.trees import State
from parareal.integrators._adaptive_parts import all_finite, check_numbers, chosen, finite_lanes, moved, to_lanes, why
from parareal.integrators._base import Multistep
from parareal.integrators._embedded import EMBEDDED, EmbeddedTableau
from parareal.integrators._paced import COUNT, PHASE, SAMPLE, SIZE, TIME, Failures, Pace, Paced, fresh_numbers
from parareal.integrators._quartic import Tried
from parareal.integrators._step_control import Control, as_times
from parareal.integrators._tolerances import Tolerances, checked_tolerance
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages

START, SELECT, STEP, JUMPED = range(4)
"""Phases: the slope at the start, the size of the first step, a step, and the slope behind a jump."""


@dataclass(frozen=True, eq=False, repr=False)
class Adaptive(Paced):
    """An embedded Runge-Kutta method, with a step size for each lane.

    All lanes share the calls of the right-hand side, and each has its own steps: accepted and rejected ones lie side by
    side in one call, and a lane that has arrived leaves. Step size control, norm, first step and interpolation are
    those of torchdiffeq, so that a lane takes the steps that ``torchdiffeq.odeint`` takes over its slice, with as many
    evaluations. As in torchdiffeq the last step goes beyond the end of the slice, and the state there is interpolated
    by a quartic; with ``land=True`` it ends there.

    Where a lane's step size underflows, its state is no longer finite or it has made ``max_num_steps``, its state
    becomes NaN, and the run says where that was. Gradients flow through the steps, whose sizes count as constants.

    Args:
        tableau: ``"dopri5"``, ``"tsit5"``, ``"bosh3"``, ``"fehlberg2"``, ``"adaptive_heun"`` or ``"dopri8"``.
        rtol: Relative tolerance: a number, or a tensor that broadcasts against the state; for a tuple of tensors also
            a tuple of these.
        atol: Absolute tolerance, likewise.
        first_step: Size of the first step in each slice; ``None`` to select it, which takes an evaluation.
        min_step: Least size; a step of that size is always accepted.
        max_step: Largest size.
        step_t: Times at which a step ends.
        jump_t: Times at which the right-hand side jumps: a step ends there, and the slope is evaluated anew.
        max_num_steps: Most steps in a slice, accepted or not.
        safety: By how much the next step falls short of what the error allows.
        ifactor: Most that a step grows by.
        dfactor: Most that it shrinks to, after a rejected step.
        norm: ``norm(state)``, a number from one state, in place of the root mean square (of tuples, the largest of
            their tensors).
        land: Whether the last step in a slice ends at its boundary.
        carry: Whether a slice begins with the step size that the slice before would have taken next.
        per_sample: With ``samples=True`` in `solve`: ``rtol`` and ``atol`` may hold one number for each sample,
            shape ``(B,)``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An unknown name, or a number that is no tolerance, step size or factor.

    Source:
        R. T. Q. Chen, torchdiffeq, https://github.com/rtqichen/torchdiffeq, for the control of steps.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 6.0, slices=6)
        >>> problem, u0 = pr.ODE(lambda t, u: torch.cos(t) * u), torch.ones(1, dtype=torch.float64)
        >>> sol = pr.solve(problem, u0, grid, fine=Adaptive("tsit5"), coarse=Adaptive("bosh3", rtol=1e-2, atol=1e-3))
        >>> abs(sol.u.log() - torch.sin(torch.tensor(6.0))).item() < 1e-4
        True
    """

    tableau: str = "dopri5"
    rtol: Any = 1e-7
    atol: Any = 1e-9
    first_step: float | None = field(default=None, kw_only=True)
    min_step: float = field(default=0.0, kw_only=True)
    max_step: float = field(default=math.inf, kw_only=True)
    step_t: Any = field(default=None, kw_only=True)
    jump_t: Any = field(default=None, kw_only=True)
    max_num_steps: int = field(default=2**31 - 1, kw_only=True)
    safety: float = field(default=0.9, kw_only=True)
    ifactor: float = field(default=10.0, kw_only=True)
    dfactor: float = field(default=0.2, kw_only=True)
    norm: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    land: bool = field(default=False, kw_only=True)
    carry: bool = field(default=False, kw_only=True)
    per_sample: bool = field(default=False, kw_only=True)
    steps: int | None = field(default=1, init=False)
    traits = IntegratorTraits(evaluations=None, shares_first_stage=True)

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("land", "carry", "per_sample"):
            check_flag(getattr(self, name), name)
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, checked_tolerance(getattr(self, name), name, self.per_sample))
        if self.norm is not None and not callable(self.norm):
            raise TypeError(f"norm is {described(self.norm)}; expected a function of a state, or None")
        check_count(self.max_num_steps, "max_num_steps")
        both = np.intersect1d(self.control.step_t, self.control.jump_t)
        if len(both):
            raise ValueError(f"step_t and jump_t share {both.tolist()}; expected each time in one of them, jump_t")

    def __repr__(self) -> str:
        parts = [repr(self.tableau)]
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if one.init and (one.name in ("rtol", "atol") or (value is not one.default and value != one.default)):
                parts.append(f"{one.name}={value!r}")
        return f"Adaptive({', '.join(parts)})"

    @cached_property
    def table(self) -> EmbeddedTableau:
        """The embedded method."""
        return EMBEDDED[self.tableau]

    @cached_property
    def control(self) -> Control:
        """Its step size control."""
        return Control(
            order=self.table.order,
            safety=float(self.safety),
            ifactor=float(self.ifactor),
            dfactor=float(self.dfactor),
            min_step=float(self.min_step),
            max_step=float(self.max_step),
            step_t=as_times(self.step_t),
            jump_t=as_times(self.jump_t),
        )

    @cached_property
    def tolerances(self) -> Tolerances:
        """Its tolerances, as the lanes of a step need them."""
        return Tolerances(self.rtol, self.atol, self.per_sample)

    def bind(self, problem: Any, u0: State, grid: Any) -> Paced:
        """Returns itself, or with ``carry`` the method whose boundaries hold step sizes."""
        self.tolerances.check(u0)
        return Carrying(self) if self.carry else self

    def enter(self, u: State, t: Floats, samples: Ints) -> tuple[Moving, Floats]:
        """Lanes that start, without a step size; see `Paced.enter`."""
        return Moving(u, u), fresh_numbers(t, samples)

    def leave(self, u: State, number: Floats) -> State:
        """The states alone."""
        return u

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Moving, number: Floats | None = None) -> Stages:
        """One phase of L lanes; see `Paced.step`."""
        assert number is not None
        end = np.asarray(values_of(t1).detach().cpu())
        sign = 1.0 if end[0] > number[0, TIME] else -1.0
        phase = int(number[0, PHASE])
        if phase == STEP:
            return (yield from self._step(problem, t0, t1, u, number, end, sign))
        number, left = number.copy(), u.u
        if phase == START:
            slope = yield problem.rhs, t0, left
            self._after_start(number)
        elif phase == JUMPED:
            slope = yield problem.rhs, self._beside(t0, u.u, np.ones(len(end), dtype=bool), sign), left
            number[:, PHASE] = STEP
        else:
            slope = u.slope
            number[:, SIZE] = yield from self._first_size(problem, t0, u, number, sign)
            number[:, PHASE] = STEP
        unsure = phase == START  # of a state from outside: later ones are checked where they come from
        finite = finite_lanes(u.u) if unsure else np.ones(len(end), dtype=bool)
        return self._settled(Moving(u.u, slope), t0, number, finite, np.zeros(len(end), dtype=bool), None, t1, sign)

    # --- phases -----------------------------------------------------------------------------------------------------

    def _after_start(self, number: Floats) -> None:
        """Lanes without a step size select one."""
        if self.first_step is not None:
            number[:, SIZE] = np.where(np.isnan(number[:, SIZE]), float(self.first_step), number[:, SIZE])
        number[:, PHASE] = np.where(np.isnan(number[:, SIZE]), SELECT, STEP)

    def _first_size(self, problem: Any, t: Tensor, u: Moving, number: Floats, sign: float) -> Any:
        """Sizes of first steps: one request."""
        with torch.no_grad():
            scale = self.tolerances.scale(u.u, None, number[:, SAMPLE])
            d0, d1 = self._norms(trees.map(torch.div, u.u, scale), trees.map(torch.div, u.slope, scale))
            h0 = self.control.start(d0, d1)
            step = to_lanes(sign * h0, t)
            there = trees.axpy(u.u, step, (1.0,), (u.slope,))
            time = known(t.detach() + step, torch.from_numpy(number[:, TIME] + sign * h0))
        slope = yield problem.rhs, time, there
        with torch.no_grad():
            change = trees.map(torch.div, trees.sub(slope, u.slope), scale)
            (far,) = self._norms(change)
        with np.errstate(all="ignore"):
            return self.control.first(h0, d1, np.abs(far / h0))

    def _step(self, problem: Any, t: Tensor, t1: Tensor, u: Moving, number: Floats, end: Floats, sign: float) -> Stages:
        """One step: a request for each stage but the first."""
        table, control, step = self.table, self.control, self.table.step
        at = number[:, TIME]
        to, size, jumps = control.stretch(at, number[:, SIZE], sign, end if self.land else None)
        h, right = to_lanes(sign * size, t), moved(t, to)
        length = trees.per_lane(h, u.u) if isinstance(u.u, Tensor) else h
        slopes, stage = [u.slope], u.u
        for c, row in zip(step.nodes[1:], step.a[1:], strict=True):
            stage = trees.axpy(u.u, length, row, slopes)
            if c != 1:
                time = known(t + c * h, torch.from_numpy(at + c * (sign * size)))
            else:  # on this side of a jump
                time = self._beside(right, u.u, jumps, -sign) if jumps.any() else right
            slopes.append((yield problem.rhs, time, stage))
        new = stage if table.ends_in_last_stage else trees.axpy(u.u, length, step.b, slopes)
        with torch.no_grad():
            error = trees.combination(h, table.error, slopes)
            scale = self.tolerances.scale(u.u, new, number[:, SAMPLE])
            ratio, finite = self._norms(trees.map(torch.div, error, scale), finite=new)
        accepted = control.accepts(ratio, size)
        number = number.copy()
        number[:, TIME], number[:, COUNT] = np.where(accepted, to, at), number[:, COUNT] + 1
        number[:, SIZE] = control.next(size, ratio)
        number[:, PHASE] = np.where(accepted & jumps, JUMPED, STEP)
        tried = Tried(at, to, accepted, t, right, h, u.u, new, slopes, table.middle)
        moving = chosen(accepted, Moving(new, slopes[-1]), u)
        time = right if accepted.all() else moved(t, number[:, TIME])
        done = accepted & (sign * to >= sign * end)
        return self._settled(moving, time, number, finite.astype(bool) | ~accepted, done, tried, t1, sign)

    def _settled(
        self,
        state: Moving,
        t: Tensor,
        number: Floats,
        finite: Bools,
        done: Bools,
        tried: Tried | None,
        t1: Tensor,
        sign: float,
    ) -> Pace:
        """Lanes after a phase: those that cannot go on have failed, those at the end get their states there."""
        at, here = number[:, TIME], number[:, PHASE] == STEP
        number[:, SIZE] = np.where(here, self.control.limited(number[:, SIZE]), number[:, SIZE])
        stuck = here & ~(sign * at + number[:, SIZE] > sign * at)
        out = number[:, COUNT] >= self.max_num_steps
        failed = ~done & (stuck | ~finite | out)
        if not (failed.any() or done.any()):
            return Pace(state, t, number, done, tried=tried)
        failures: Failures = {}
        for i in failed.nonzero()[0].tolist():
            failures[i] = why(float(at[i]), bool(finite[i]), bool(stuck[i]), int(number[i, COUNT]))
        arrived = (done | failed).nonzero()[0]
        index = index_to(t.device, arrived)
        ends = trees.lanes(state.u, index)
        if tried is not None and done.any():
            inside = tried.quartic(index).at(t1[index])
            ends = chosen(done[arrived], inside, ends)
        if failed.any():
            ends = chosen(~failed[arrived], ends, trees.map(lambda leaf: torch.full_like(leaf, torch.nan), ends))
        return Pace(state, t, number, done | failed, ends, failures, tried)

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _norms(self, *states: State, finite: State = None) -> list[Floats]:
        """Norms of states lane by lane, on the host; at last whether another one is finite."""
        norms = [rms(state) if self.norm is None else self._own_norm(state) for state in states]
        norms = [norm.to(torch.float64) for norm in norms]
        if finite is not None:
            norms.append(all_finite(finite).to(torch.float64))
        return list(torch.stack(norms).cpu().numpy())

    def _own_norm(self, state: State) -> Tensor:
        assert self.norm is not None
        count = trees.leaves(state)[0].shape[0]
        norms = [torch.as_tensor(self.norm(trees.one(state, i))).detach().abs() for i in range(count)]
        return torch.stack([norm.reshape(()).to(trees.leaves(state)[0].device, torch.float64) for norm in norms])

    def _beside(self, t: Tensor, u: State, which: Bools, sign: float) -> Tensor:
        """The next time in the precision of the state, later for a ``sign`` of 1, on some lanes."""
        leaf = trees.leaves(u)[0]
        dtype = torch.float64 if leaf.real.dtype == torch.float64 else torch.float32
        with torch.no_grad():
            here = values_of(t).detach().to(dtype)
            beside = torch.nextafter(here, here.new_full((), sign * math.inf)).to(torch.float64)
            beside = torch.where(torch.from_numpy(which).to(beside.device), beside, values_of(t).detach())
        return moved(t, np.asarray(beside.cpu()))


@dataclass(frozen=True, eq=False)
class Carrying(Paced, Multistep):
    """An adaptive method whose states at slice boundaries hold the size of the next step.

    Args:
        method: The method.
    """

    method: Adaptive
    steps: int | None = field(default=1, init=False)
    traits = IntegratorTraits(evaluations=None, shares_first_stage=True, multistep=True)

    def begin(self, u: State) -> Memory:
        """No step size: 0."""
        leaf = trees.leaves(u)[0]
        return Memory((), (), torch.zeros(leaf.shape[0], 1, dtype=torch.float64, device=leaf.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """All lanes alike; phases separate them."""
        return np.zeros_like(step)

    def enter(self, u: State, t: Floats, samples: Ints) -> tuple[Moving, Floats]:
        """Lanes that start with the step size of the slice before."""
        size = None
        if isinstance(u, Carried):
            size, u = u.memory.clock[:, 0].detach().cpu().numpy(), u.u
        moving, number = self.method.enter(u, t, samples)
        if size is not None:
            number[:, SIZE] = np.where(size > 0, size, np.nan)
        return moving, number

    def leave(self, u: State, number: Floats) -> State:
        """States with the size of the next step."""
        size = np.nan_to_num(number[:, SIZE : SIZE + 1], nan=0.0, posinf=0.0)
        return Carried(u, Memory((), (), torch.from_numpy(size).to(trees.leaves(u)[0].device)))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Moving, number: Floats | None = None) -> Stages:  # pyright: ignore[reportIncompatibleMethodOverride]
        """That of the method."""
        return self.method.step(problem, t0, t1, u, number)
