"""The options of a sampling run: one object that checks the arguments that `sample`, `plan` and `parallelize` share.

It is made before any work is done, so that a wrong argument is an error at once and the same error everywhere. Once the
number of steps is known, `Options.resolve` makes the method, the correction, the grid, the schedule and the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import count, kind_of, one_of
from diffusion_adapters.sampling._gaussian_flow import GaussianFlow
from diffusion_adapters.sampling._stochastic_steps import Ancestral, SDEDPMSolverPP

SOLVERS: dict[str, Callable[[], pr.Integrator]] = {
    "ddim": pr.Euler,
    "euler": pr.Euler,
    "heun": pr.Heun,
    "dpm2": lambda: pr.DPMSolver(2),
    "dpm3": lambda: pr.DPMSolver(3),
    "dpm++2s": lambda: pr.DPMSolverPP(2),
    "dpm++3s": lambda: pr.DPMSolverPP(3),
    "dpm++2m": lambda: pr.DPMSolverPP(2, "multistep"),
    "dpm++3m": lambda: pr.DPMSolverPP(3, "multistep"),
    "unipc": lambda: pr.UniPC(2),
    "deis": lambda: pr.DEIS(3),
    "ancestral": Ancestral,
    "ddpm": Ancestral,
    "sde-dpm++": lambda: SDEDPMSolverPP(1),
    "sde-dpm++2m": lambda: SDEDPMSolverPP(2),
}
"""Samplers by name. In the coordinates of `probability_flow` explicit Euler is DDIM: two names for one method."""

_SOLVER_HINTS = {
    **{name: f'solver="{known}"' for known, names in {
        "dpm++2m": ("dpm++", "dpm++multistep", "dpmmultistep", "dpm++m", "dpm++2", "kdpm++2m", "dpm++2mkarras"),
        "dpm++2s": ("dpm++singlestep", "dpmsinglestep", "kdpm++2s", "dpm++2sa"),
        "dpm2": ("dpm", "kdpm2", "dpmsolver2"),
        "ancestral": ("eulera", "eulerancestral", "keulera", "keulerancestral", "ddpmancestral"),
        "euler": ("keuler", "flowmatcheuler", "edmeuler", "eulerode", "flow"),
        "heun": ("kheun", "heun2", "edm", "flowmatchheun", "edmheun"),
        "unipc": ("unipcmultistep", "unip", "unipc2", "unipcbh2"),
        "deis": ("deismultistep", "deis3", "deis3m"),
        "sde-dpm++": ("dpm++sde", "kdpm++sde", "dpmsde"),
        "sde-dpm++2m": ("dpm++2msde", "kdpm++2msde", "sdedpm", "dpm++2msdekarras"),
    }.items() for name in names},
    "rk4": "solver=pr.RK4()",
    "midpoint": "solver=pr.Midpoint()",
    "dopri5": "solver=pr.DormandPrince()",
    "rk45": "solver=pr.DormandPrince()",
}  # fmt: skip
"""Names of other libraries, spelled as `plain_name` spells them, with ours."""

KEYWORDS = {
    "seed": "generator=torch.Generator().manual_seed(0)",
    "rng": "generator=torch.Generator().manual_seed(0)",
    "num_steps": "steps=...",
    "num_inference_steps": "steps=...",
    "n_steps": "steps=...",
    "sampler": "solver=...",
    "scheduler": "solver=..., and the noise levels as spacing=...",
    "method": "solver=...",
    "fine": "solver=...",
    "timesteps": "spacing=times, a tensor of falling times",
    "sigmas": "spacing=times, a tensor of falling times: for EDM and from_denoiser times are sigmas",
    "shape": "noise=(16, 1, 8, 8), the shape with the number of samples first",
    "window": "width=...",
    "tol": "rtol=...",
    "tolerance": "rtol=...",
    "atol": "rtol=..., or stop=pr.Tolerance(rtol=..., atol=...)",
    "max_iter": "max_iterations=...",
    "guidance_scale": "a model da.guided(model, scale, cond, uncond)",
    "conditioning": "a model with it: model.with_conditioning(...)",
    "device": "a network and noise on that device",
}
"""Names of arguments that people may try, with the right ones."""

COARSE = ("gaussian", "same", "none")

_COARSE_HINTS = {
    "picard": 'coarse="none"',
    "paradigms": 'coarse="none"',
    "identity": 'coarse="none"',
    "srds": 'coarse="same"',
    "fine": 'coarse="same"',
    "gauss": 'coarse="gaussian"',
    "normal": 'coarse="gaussian"',
    "secant": 'coarse="gaussian"',
    **{name: f"coarse=pr.{known}()" for name, known in (("euler", "Euler"), ("ddim", "Euler"), ("heun", "Heun"))},
}

VARIANCE = 0.1
"""Variance of the Gaussian whose flow is ``coarse="gaussian"``. It need not match the data, since the secant corrects
the rest: ``benchmarks/constants.py`` prints the rounds for other values."""

NEIGHBOURS = (1, 2, 4)
"""Neighbours whose pairs the secant uses; see ``benchmarks/constants.py``."""


class Resolved(NamedTuple):
    """The parts of a run, for a given grid."""

    fine: pr.Integrator
    correction: pr.Correction
    grid: pr.TimeGrid
    schedule: pr.Schedule | None
    stop: pr.StoppingRule


@dataclass(frozen=True, eq=False)
class Options:
    """The checked arguments for solving; see `sample` for their meaning.

    Args:
        solver: ``None`` if the method comes from elsewhere, for example from a scheduler of diffusers.
        coarse: See `sample`.
        slices: See `sample`.
        width: See `sample`; clipped to the number of slices.
        schedule: See `sample`.
        rtol: See `sample`.
        stop: See `sample`.
        max_iterations: See `sample`.
        verify: See `sample`.
        default_rtol: The tolerance where neither ``rtol`` nor ``stop`` is given.
        default_width: The widest window with ``coarse="gaussian"`` where neither ``width`` nor ``schedule`` is given.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is unknown or out of range, or two exclude each other.
    """

    solver: str | pr.Integrator | None
    coarse: str | pr.Correction | pr.Integrator
    slices: int | None
    width: int | None
    schedule: pr.Schedule | None
    rtol: float | None
    stop: pr.StoppingRule | None
    max_iterations: int | None
    verify: bool
    default_rtol: float
    default_width: int

    def __post_init__(self) -> None:
        check_solver(self.solver)
        check_coarse(self.coarse)
        for name in ("slices", "width", "max_iterations"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, count(getattr(self, name), name))
        schedule: Any = self.schedule
        stop: Any = self.stop
        verify: Any = self.verify
        if schedule is not None and not isinstance(schedule, pr.Schedule):
            raise TypeError(f"schedule is {kind_of(schedule)}; expected a Schedule such as pr.Wavefront()")
        if self.width is not None and schedule is not None:
            raise ValueError(
                f"width={self.width!r} came with schedule={schedule!r}; expected one of them: width=n stands for "
                "schedule=pr.Windowed(n)"
            )
        if stop is not None and not isinstance(stop, pr.StoppingRule):
            raise TypeError(f"stop is {kind_of(stop)}; expected a StoppingRule such as pr.Tolerance(rtol=1e-3)")
        if not isinstance(verify, bool):
            raise TypeError(f"verify is {kind_of(verify)}; expected True or False")
        if self.rtol is not None:
            pr.Tolerance(rtol=self.rtol, atol=0.0)  # for its checks
            if stop is not None:
                raise ValueError(
                    f"rtol={self.rtol!r} came with stop={stop!r}, which takes its place; expected one of them: a "
                    "tolerance together with something else is "
                    f"stop=pr.Tolerance(rtol={self.rtol!r}, atol=0.0) | pr.Iterations(20)"
                )

    @property
    def tolerance(self) -> float:
        """The relative tolerance, given or the default."""
        return self.default_rtol if self.rtol is None else self.rtol

    def fine(self) -> pr.Integrator:
        """The method of ``solver``."""
        if isinstance(self.solver, pr.Integrator):
            return self.solver
        if self.solver is None:
            raise ValueError("solver is None; expected a name or an integrator: the method comes from elsewhere")
        return SOLVERS[self.solver]()

    def correction(self, fine: pr.Integrator) -> pr.Correction:
        """The correction of ``coarse`` for this method."""
        coarse = self.coarse
        if isinstance(coarse, pr.Correction):
            return coarse
        if isinstance(coarse, pr.Integrator):
            return pr.Coarse(coarse)
        if coarse == "gaussian":
            return pr.Secant(GaussianFlow(variance=VARIANCE), neighbours=NEIGHBOURS)
        if coarse == "none":
            return pr.Identity()
        if fine.steps is None:
            return pr.Coarse(fine)
        try:
            settable: Any = fine
            return pr.Coarse(dataclasses.replace(settable, steps=None))
        except (TypeError, ValueError):
            raise ValueError(
                f'coarse="same" takes one step of the solver a slice, but the steps of {fine!r} cannot be changed; '
                'pass coarse=pr.Euler() or coarse="none"'
            ) from None

    def grid(self, points: Tensor, fine: pr.Integrator, correction: pr.Correction) -> pr.TimeGrid:
        """The given number of slices; else about sqrt(steps), or one a group of steps without coarse propagator."""
        steps = len(points) - 1
        if self.slices is None and correction.propagator is None:
            group = fine.group if isinstance(fine, pr.Multistep) else 1
            return pr.TimeGrid(points, (*range(0, steps, group), steps))
        number = max(1, round(steps**0.5)) if self.slices is None else self.slices
        if number > steps:
            raise ValueError(f"slices={number} is more than the {steps} steps; expected at most {steps}, or more steps")
        return pr.TimeGrid.from_points(points, number)

    def window(self, slices: int) -> pr.Schedule | None:
        """The schedule for N slices: a window if one is given, or with the free coarse flow."""
        if self.schedule is not None:
            width = self.schedule.width
            if width is not None and width > slices:
                raise ValueError(f"width={width} is more than the {slices} slices; expected 1 ... {slices}")
            return self.schedule
        if self.width is None and self.coarse != "gaussian":
            return None
        return pr.Windowed(min(self.default_width if self.width is None else self.width, slices))

    def rule(self, schedule: pr.Schedule | None, rtol: float | None = None) -> pr.StoppingRule:
        """When samples stop: ``stop``, or the tolerance (in its place ``rtol``, if given) on the estimated error.

        Without a window there are few, long slices, and the estimate is based on few of them. So the increments of the
        boundaries must be within the tolerance as well.
        """
        if self.stop is not None:
            return self.stop
        tolerance = pr.Tolerance(rtol=self.tolerance if rtol is None else rtol, atol=0.0, rule="error")
        if schedule is not None and schedule.width is not None:
            return tolerance
        return tolerance & dataclasses.replace(tolerance, rule="increment")

    def resolve(self, points: Tensor, fine: pr.Integrator | None = None) -> Resolved:
        """All parts of a run.

        Args:
            points: The points of the grid, ``(n + 1,)``.
            fine: The method, in place of that of ``solver``.
        """
        fine = self.fine() if fine is None else fine
        correction = self.correction(fine)
        grid = self.grid(points, fine, correction)
        schedule = self.window(grid.num_slices)
        return Resolved(fine, correction, grid, schedule, self.rule(schedule))


def check_solver(solver: Any) -> None:
    """Raises unless this is ``None``, a name or an integrator."""
    if solver is not None and not isinstance(solver, pr.Integrator):
        one_of(solver, SOLVERS, "solver", "an integrator such as pr.RK4()", _SOLVER_HINTS)


def check_coarse(coarse: Any) -> None:
    """Raises unless this is a name, a correction or an integrator."""
    if isinstance(coarse, pr.Correction | pr.Integrator):
        return
    if callable(coarse) and not isinstance(coarse, type):
        raise TypeError(
            f"coarse is {kind_of(coarse)}; expected a name, a correction or an integrator: to take a function "
            'fn(t0, t1, u) as coarse propagator, write coarse=pr.Propagator(fn, batching="vmap")'
        )
    try:
        one_of(coarse, COARSE, "coarse", "a correction or an integrator such as pr.Euler()", _COARSE_HINTS)
    except TypeError as error:
        if coarse is None:
            raise TypeError(
                f'{error}. Write coarse="none" for no coarse propagator, or leave coarse out for "gaussian"'
            ) from None
        raise
