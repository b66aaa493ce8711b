"""Sampling is solving the probability-flow ODE from noise to data, in parallel in time unless told otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import count, one_of
from diffusion_adapters.equations._probability_flow import probability_flow
from diffusion_adapters.equations._reverse_sde import NoisyFlow, noisy
from diffusion_adapters.models._conditioning import check_conditioning
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.noise_schedules._base import Spacing
from diffusion_adapters.sampling._gaussian_flow import GaussianFlow
from diffusion_adapters.sampling._initial_noise import start_noise
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

COARSE = ("gaussian", "same", "none")

VARIANCE = 0.1
"""Of the Gaussian whose flow ``coarse="gaussian"`` takes. The secant makes up for what it is off: on the packaged
digits anything from 0.07 to 0.15 does as well, and the variance of the data no better."""
NEIGHBOURS = (1, 2, 4)
RTOL = 1e-3
WIDTH = 100
"""Most slices at a time, unless told otherwise: where the time a sample takes is least on the packaged digits."""


@dataclass(frozen=True, eq=False)
class SampleResult:
    """What `sample` returns.

    Attributes:
        samples: Shape ``(B, *rest)``, the dtype and device of the noise.
        solution: The run in the coordinates of `probability_flow`: iterations of each sample, status, history, stats.
    """

    samples: Tensor
    solution: pr.Solution

    def __repr__(self) -> str:
        kind, where = str(self.samples.dtype).removeprefix("torch."), self.samples.device
        return f"SampleResult(samples: {kind}, shape {tuple(self.samples.shape)} on {where}, {self.solution!r})"

    def __str__(self) -> str:
        kind, where = str(self.samples.dtype).removeprefix("torch."), self.samples.device
        return f"SampleResult, samples: {kind}, shape {tuple(self.samples.shape)} on {where}\n{self.solution}"


@torch.no_grad()
def sample(
    model: DiffusionModel,
    noise: Tensor | Sequence[int],
    steps: int = 50,
    spacing: Spacing | None = None,
    solver: str | pr.Integrator = "ddim",
    coarse: str | pr.Correction | pr.Integrator = "gaussian",
    slices: int | None = None,
    width: int | None = None,
    schedule: pr.Schedule | None = None,
    rtol: float | None = None,
    parallel: bool = True,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    progress: bool = False,
    *,
    executor: pr.Executor | None = None,
    stop: pr.StoppingRule | None = None,
    max_iterations: int | None = None,
    verify: bool = False,
    throw: bool = True,
    callback: Callable[[pr.IterationReport], bool | None] | None = None,
) -> SampleResult:
    """Draws samples from a diffusion model, in parallel in time.

    The result is that of the sequential sampler on the same grid (``parallel=False``), to within ``rtol``. Samples are
    independent: each stops on its own, and none depends on which others are drawn beside it.

    Args:
        model: The model, conditioned or `guided` as wanted.
        noise: Standard normals of shape ``(B, *rest)``, or that shape, to be drawn. Sampling starts from
            x = sigma(t) noise at the first time t of the grid. Half precision is solved in float32.
        steps: Number of steps; not used where ``spacing`` is a tensor of times.
        spacing: Where the steps lie: ``"logsnr"``, ``"karras"``, ``"uniform"``, or a tensor of falling times; ``None``
            for the schedule's own choice. See `NoiseSchedule.times`.
        solver: ``"ddim"`` (also called ``"euler"``), ``"heun"``, ``"dpm2"``, ``"dpm3"``, ``"dpm++2s"``, ``"dpm++3s"``,
            ``"dpm++2m"``, ``"dpm++3m"``, ``"unipc"``, ``"deis"``; with noise in every step ``"ancestral"`` (also called
            ``"ddpm"``), ``"sde-dpm++"``, ``"sde-dpm++2m"``; or an integrator.
        coarse: ``"gaussian"``: the flow of Gaussian data with a secant on top, free of network calls
            (`GaussianFlow`, `parareal.Secant`). ``"same"``: the solver with one step a slice (SRDS). ``"none"``: Picard
            iteration (ParaDiGMS). Or a `parareal.Correction` or integrator.
        slices: How many slices the steps are cut into; ``None`` for ``steps`` of them without a coarse propagator, or
            one for each group of steps of a singlestep solver, and about sqrt(steps) otherwise.
        width: Slices that are worked on at a time in a window that slides along (`parareal.Windowed`), and so the rows
            of a network call for each sample. ``None`` for at most 100 with ``"gaussian"``, and no window otherwise.
        schedule: Which slices advance when, in place of ``width``.
        rtol: Tolerance on the samples, ``None`` for 1e-3: the distance from the sequential sampler's, relative to each
            sample, in the root mean square. The error is estimated from what the run shows of its slices, with any
            schedule, and ``solution.error_estimate`` is not above the tolerance where a sample has converged. It is
            no bound: ``verify=True`` evaluates all of the result once more.
        parallel: ``False`` for the sequential sampler: same grid, same problem, same result object. What steers
            iterations (``coarse``, ``schedule``, ``rtol``, ``stop``, ``max_iterations``, ``progress``, ``callback``) is
            checked as well, and not used.
        generator: What the noise is drawn with, on the generator's device, or one generator for each sample; where
            ``noise`` is a tensor only for solvers with noise in every step. That noise is a function of a seed, drawn
            after the noise to start from: it is the same in sequence and in parallel, whatever the lanes.
        progress: Show a progress bar (needs tqdm).
        executor: How the lanes of a round are evaluated; ``pr.Batched(max_lanes=...)`` bounds the network's batch.
        stop: A stopping rule in place of ``rtol``; both together are an error.
        max_iterations: Most iterations; ``None`` for as many as there are slices.
        verify: Evaluate every boundary once more after convergence; see `parareal.solve`.
        throw: Raise `parareal.SolveError` when the run does not reach what was asked.
        callback: Called with a report after each iteration; returning True stops the run.

    Returns:
        A `SampleResult`. An empty batch gives an empty result without a call of the network.

    Raises:
        TypeError, ValueError: An argument is not what it should be, or the network is in training mode and has layers
            that make it no function of its input; it was not called.
        parareal.SolveError: The tolerance was not met, or the samples are not finite (with ``throw=True``).

    Source:
        Self-Refining Diffusion Samplers (arXiv 2412.08292); Parallel Sampling of Diffusion Models (arXiv 2305.16317).

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> out = da.sample(model, (8, 1), steps=64, generator=torch.Generator().manual_seed(0))
        >>> out.samples.shape, out.solution.converged, out.solution.stats.rounds < 64
        (torch.Size([8, 1]), True, True)
    """
    flow = probability_flow(model)
    _check_run(schedule, stop, max_iterations, callback)
    rule = stopping(rtol, stop, RTOL)
    fine = fine_of(solver)
    correction = correction_of(coarse, fine)
    times = model.noise_schedule.times(steps, spacing)
    _check_end(model, fine, times)
    grid = grid_of(flow.grid(times, len(times) - 1).points, slices, correction, fine)
    schedule = choose_schedule(schedule, width, coarse, grid.num_slices)
    rule = settled(rule, schedule) if stop is None else rule
    stochastic = NoisyFlow in fine.solves
    noise = start_noise(noise, None if stochastic and isinstance(noise, Tensor) else generator, model)
    if stochastic:
        flow = noisy(flow, generator)
    check_conditioning(model.conditioning, noise.shape[0])
    state = noise.to(torch.promote_types(noise.dtype, torch.float32))
    start = model.noise_schedule.sigma(times[0]).to(device=state.device, dtype=state.dtype) * state
    u = flow.from_x(grid.points[0], start)
    if not parallel:
        if len(u) > 0:
            correction.bind(flow.problem, u[:1], grid, fine)  # for its checks
        solution = pr.serial(flow.problem, u, grid, fine=fine, samples=True, executor=executor)
        if throw and solution.status.failed:
            raise pr.SolveError(solution)
    else:
        solution = pr.solve(
            flow.problem,
            u,
            grid,
            fine=fine,
            coarse=correction,
            schedule=schedule,
            executor=executor,
            stop=rule,
            max_iterations=max_iterations,
            samples=True,
            verify=verify,
            throw=throw,
            progress=progress,
            callback=callback,
        )
    return SampleResult(flow.to_x(grid.points[-1], solution.u).to(noise.dtype), solution)


def _check_run(schedule: Any, stop: Any, max_iterations: Any, callback: Any) -> None:
    """What only a parallel run uses, checked in both modes: switching the mode then brings no new errors."""
    if schedule is not None and not isinstance(schedule, pr.Schedule):
        raise TypeError(f"schedule is a {type(schedule).__name__}; expected a Schedule such as pr.Wavefront()")
    if stop is not None and not isinstance(stop, pr.StoppingRule):
        raise TypeError(f"stop is a {type(stop).__name__}; expected a StoppingRule such as pr.Tolerance(rtol=1e-3)")
    if max_iterations is not None:
        count(max_iterations, "max_iterations")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is a {type(callback).__name__}; expected a function of an IterationReport")


def settled(rule: pr.StoppingRule, schedule: pr.Schedule | None) -> pr.StoppingRule:
    """A tolerance on the error; without a window, where slices are few and long, also on what boundaries move by."""
    windowed = schedule is not None and schedule.width is not None
    if windowed or not isinstance(rule, pr.Tolerance):
        return rule
    return rule & dataclasses.replace(rule, rule="increment")


def stopping(rtol: float | None, stop: pr.StoppingRule | None, default: float) -> pr.StoppingRule:
    """The rule that ``rtol`` or ``stop`` asks for; raises where both do."""
    if stop is None:
        return pr.Tolerance(rtol=default if rtol is None else rtol, atol=0.0, rule="error")
    if rtol is not None:
        raise ValueError(
            f"rtol={rtol!r} came with stop={stop!r}, which takes its place; expected one of them: a tolerance together "
            f"with something else is stop=pr.Tolerance(rtol={rtol!r}, atol=0.0) | pr.Iterations(20)"
        )
    return stop


def fine_of(solver: Any) -> pr.Integrator:
    """The method of a name in `sample`."""
    if isinstance(solver, pr.Integrator):
        return solver
    return SOLVERS[one_of(solver, SOLVERS, "solver", "an integrator such as pr.RK4()")]()


def correction_of(coarse: Any, fine: pr.Integrator) -> pr.Correction:
    """What ``coarse`` says in `sample`."""
    if isinstance(coarse, pr.Correction):
        return coarse
    if isinstance(coarse, pr.Integrator):
        return pr.Coarse(coarse)
    one_of(coarse, COARSE, "coarse", "a correction or an integrator such as pr.Coarse(pr.Euler())")
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
            f'coarse="same" takes one step of the solver a slice, but the steps of {fine!r} cannot be changed; pass '
            'coarse=pr.Euler() or coarse="none"'
        ) from None


def choose_schedule(schedule: pr.Schedule | None, width: int | None, coarse: Any, slices: int) -> pr.Schedule | None:
    """A window where one is asked for, or with the free coarse flow; else what was given."""
    if width is None:
        if schedule is None:
            free = isinstance(coarse, str) and coarse == "gaussian"
            return pr.Windowed(min(WIDTH, slices)) if free else None
        _check_width(schedule.width, slices)
        return schedule
    if schedule is not None:
        raise ValueError(
            f"width={width!r} came with schedule={schedule!r}; expected one of them: width=n stands for "
            "schedule=pr.Windowed(n)"
        )
    _check_width(count(width, "width"), slices)
    return pr.Windowed(int(width))


def _check_width(width: int | None, slices: int) -> None:
    if width is not None and width > slices:
        raise ValueError(f"width={width} is more than the {slices} slices; expected 1 ... {slices}")


def grid_of(points: Tensor, slices: int | None, correction: pr.Correction, fine: pr.Integrator) -> pr.TimeGrid:
    """Slices as asked for; else about sqrt(steps), or without a coarse propagator one for each group of steps."""
    steps = len(points) - 1
    if slices is None and correction.propagator is None:
        group = fine.group if isinstance(fine, pr.Multistep) else 1
        return pr.TimeGrid(points, (*range(0, steps, group), steps))
    number = max(1, round(steps**0.5)) if slices is None else count(slices, "slices")
    if number > steps:
        raise ValueError(f"slices={slices} is more than the {steps} steps; expected at most {steps}, or more steps")
    return pr.TimeGrid.from_points(points, number)


def _check_end(model: DiffusionModel, fine: pr.Integrator, times: Tensor) -> None:
    """Clean data determine no noise: x0 gives no derivative at sigma = 0, where methods with a last stage want one."""
    tableau = getattr(fine, "tableau", None)
    ends = tableau is not None and 1.0 in tableau.nodes
    if model.prediction == "x0" and ends and model.noise_schedule.sigma(times[-1]).item() == 0:
        raise ValueError(
            f"solver {fine!r} evaluates the model at the last time {times[-1].item()}, where sigma is 0 and x0 does "
            f'not determine the noise; use solver="ddim", or {type(model.noise_schedule).__name__} with a larger t_min'
        )
