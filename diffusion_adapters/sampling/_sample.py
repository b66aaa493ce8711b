"""Sampling is solving the probability-flow ODE from noise to data, in parallel in time by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import explain_keywords, kind_of
from diffusion_adapters.equations._probability_flow import probability_flow
from diffusion_adapters.equations._reverse_sde import NoisyFlow, noisy
from diffusion_adapters.models._conditioning import check_conditioning
from diffusion_adapters.models._from_functions import ToZero
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.noise_schedules._base import Spacing
from diffusion_adapters.sampling._heun_to_zero import HeunToZero
from diffusion_adapters.sampling._initial_noise import start_noise
from diffusion_adapters.sampling._options import KEYWORDS, Options
from parareal.extend import StartGuess, check_start

RTOL = 1e-3
"""The default tolerance on the samples, relative; it is a choice, and no measured optimum."""
WIDTH = 100
"""The default width: where a sample of the packaged digits takes the least time (``benchmarks/constants.py``)."""


@dataclass(frozen=True, eq=False)
class SampleResult:
    """The result of `sample`.

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


@explain_keywords(KEYWORDS)
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
    start: StartGuess | None = None,
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
        solver: ``"ddim"`` (also called ``"euler"``), ``"heun"`` (Euler in a last step to sigma = 0, if the model
            predicts x0: Algorithm 1 of EDM), ``"dpm2"``, ``"dpm3"``, ``"dpm++2s"``, ``"dpm++3s"``,
            ``"dpm++2m"``, ``"dpm++3m"``, ``"unipc"``, ``"deis"``; with noise in every step ``"ancestral"`` (also called
            ``"ddpm"``), ``"sde-dpm++"``, ``"sde-dpm++2m"``; or an integrator.
        coarse: ``"gaussian"``: the flow of Gaussian data with a secant on top, free of network calls
            (`GaussianFlow`, `parareal.Secant`). ``"same"``: the solver with one step a slice (SRDS). ``"none"``: Picard
            iteration (ParaDiGMS). Or a `parareal.Correction` or integrator.
        slices: How many slices the steps are cut into; ``None`` for ``steps`` of them without a coarse propagator, or
            one for each group of steps of a singlestep solver, and about sqrt(steps) otherwise.
        width: Slices computed at a time in a sliding window (`parareal.Windowed`), at most all of them; also the rows
            of a network call for each sample. ``None`` for 100 with ``"gaussian"``, and no window otherwise.
        schedule: Which slices advance when, in place of ``width``.
        rtol: Tolerance on the samples, ``None`` for 1e-3: the distance from the sequential sampler's, relative to each
            sample, in the root mean square. The error is estimated from the iterates of the run, with any
            schedule, and ``solution.error_estimate`` is not above the tolerance where a sample has converged. It is
            no bound: ``verify=True`` evaluates all of the result once more.
        parallel: ``False`` for the sequential sampler: same grid, same problem, same result object. What steers
            iterations (``coarse``, ``schedule``, ``rtol``, ``stop``, ``max_iterations``, ``progress``, ``callback``) is
            checked as well, and not used.
        generator: The generator of the noise, on the generator's device, or one generator for each sample; where
            ``noise`` is a tensor only for solvers with noise in every step. That noise is a function of a seed, drawn
            after the noise to start from: it is the same in sequence and in parallel, whatever the lanes.
        progress: Show a progress bar (needs tqdm).
        executor: How the lanes of a round are evaluated; ``pr.Batched(max_lanes=...)`` bounds the network's batch.
        stop: A stopping rule in place of ``rtol``; both together are an error.
        max_iterations: Most iterations; ``None`` for as many as there are slices.
        verify: Evaluate every boundary once more after convergence; see `parareal.solve`.
        start: First iterates: the ``solution`` of an earlier call, of other guidance, noise, solver or number of steps
            (interpolated in the coordinates of `probability_flow`), of as many samples, or of one that stands for all;
            or what else `parareal.solve` takes, in these coordinates. The closer it is, the fewer rounds; it is a guess
            and nothing rests on it. Its first and last noise level must be those of this call.
        throw: Raise `parareal.SolveError` when the run does not reach what was asked.
        callback: Called with a report after each iteration; returning True stops the run.

    Returns:
        A `SampleResult`. An empty batch gives an empty result without a call of the network.

    Raises:
        TypeError, ValueError: An argument is wrong, or the network is in training mode and has layers
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
    options = options_of(solver, coarse, slices, width, schedule, rtol, stop, max_iterations, verify)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {kind_of(callback)}; expected a function of an IterationReport")
    given: Any = start
    if isinstance(given, SampleResult):
        raise TypeError("start is a SampleResult; expected the run behind it: start=earlier.solution")
    flow = probability_flow(model)
    times = model.noise_schedule.times(steps, spacing)
    fine = _method(options, model, times)
    _, correction, grid, schedule, rule = options.resolve(flow.grid(times, len(times) - 1).points, fine)
    stochastic = NoisyFlow in fine.solves
    noise = start_noise(noise, None if stochastic and isinstance(noise, Tensor) else generator, model)
    if stochastic:
        flow = noisy(flow, generator)
    check_conditioning(model.conditioning, noise.shape[0])
    state = noise.to(torch.promote_types(noise.dtype, torch.float32))
    x = model.noise_schedule.sigma(times[0]).to(device=state.device, dtype=state.dtype) * state
    u = flow.from_x(grid.points[0], x)
    if not parallel:
        if len(u) > 0:
            correction.bind(flow.problem, u[:1], grid, fine)  # for its checks
        if start is not None:
            check_start(flow.problem, u, grid, fine, start, samples=True)
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
            max_iterations=options.max_iterations,
            samples=True,
            verify=verify,
            start=start,
            throw=throw,
            progress=progress,
            callback=callback,
        )
    return SampleResult(flow.to_x(grid.points[-1], solution.u).to(noise.dtype), solution)


def options_of(
    solver: Any,
    coarse: Any,
    slices: Any = None,
    width: Any = None,
    schedule: Any = None,
    rtol: Any = None,
    stop: Any = None,
    max_iterations: Any = None,
    verify: Any = False,
) -> Options:
    """The arguments of `sample`, checked, with its own defaults."""
    if solver is None:
        raise TypeError('solver is None; expected a name such as "ddim", or an integrator: leave it out for "ddim"')
    return Options(solver, coarse, slices, width, schedule, rtol, stop, max_iterations, verify, RTOL, WIDTH)


def _method(options: Options, model: DiffusionModel, times: Tensor) -> pr.Integrator:
    """The method of ``solver``, checked together with the coarse propagator.

    Clean data determine no noise: x0 gives no derivative at sigma = 0, where methods with a last stage want one. Heun's
    method has a variant for that, which ends with a step of Euler.
    """
    fine = options.fine()
    if model.prediction != "x0" or model.noise_schedule.sigma(times[-1]).item() != 0:
        return fine
    if options.solver == "heun":
        fine = HeunToZero()
    for name, method in (("solver", fine), ("coarse", options.correction(fine).propagator)):
        tableau = getattr(method, "tableau", None)
        if tableau is not None and 1.0 in tableau.nodes:
            raise ValueError(
                f"{name}={method!r} evaluates the model at the last time {times[-1].item()}, where sigma is 0 and x0 "
                f"does not determine the noise; use {name}={_ENDS[name]}, or {_before_zero(model)}"
            )
    return fine


_ENDS = {"solver": '"ddim", or "heun", whose last step is then one of Euler', "coarse": 'pr.Euler(), or "gaussian"'}


def _before_zero(model: DiffusionModel) -> str:
    """How to end a grid before sigma = 0."""
    if isinstance(model.noise_schedule, ToZero):
        return "da.from_denoiser(..., to_zero=False), whose grids end at sigma_min"
    return f"{type(model.noise_schedule).__name__} with a larger t_min"
