"""A scheduler's run as a problem for the engine. The pipeline evaluates the right-hand side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import kind_of
from diffusion_adapters.diffusers._given_noise import Drawn, DrawnFlow
from diffusion_adapters.diffusers._inpainting import Blend, Blended
from diffusion_adapters.diffusers._network_proxy import Lanes
from diffusion_adapters.diffusers._replay import Mark, Marked
from diffusion_adapters.diffusers._scheduler_steps import Posterior, nearest
from diffusion_adapters.diffusers._translation import Translation
from diffusion_adapters.equations._coordinates import Coordinates, Ratio, coordinates_for, small_signal
from diffusion_adapters.equations._probability_flow import DiffusionODE, ProbabilityFlow, RightHandSide, check_start
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.models._prediction import convert, per_row
from diffusion_adapters.noise_schedules._named import Flow
from diffusion_adapters.sampling._heun_to_zero import HeunToZero
from diffusion_adapters.sampling._options import Options


@dataclass(frozen=True)
class Setup:
    """How to solve: the arguments of `parallelize`, and those of a call that matter for the steps of the scheduler.

    Attributes:
        options: The arguments that `sample` takes as well.
        dtype: The dtype of states between calls of the network.
        check: Whether the result is compared with the scheduler's own steps; ``None`` for wherever that is possible.
        warm_start: Whether calls start from the states of those before.
        executor: How the lanes of a round are evaluated; ``None`` for all in one call.
        eta: What the pipeline passes on to ``step``.
        use_clipped: Likewise ``use_clipped_model_output``.
        guidance: The scale of the call's guidance, 1 without.
        start: The run of the call before, if there is one to start from.
    """

    options: Options
    dtype: torch.dtype = torch.float32
    check: bool | None = None
    warm_start: bool = False
    executor: pr.Executor | None = None
    eta: float = 0.0
    use_clipped: bool = False
    guidance: float = 1.0
    start: pr.Solution | None = None

    def __post_init__(self) -> None:
        check: Any = self.check
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={self.dtype} is not supported; expected torch.float32 or torch.float64")
        if check is not None and not isinstance(check, bool):
            raise TypeError(f"check is {kind_of(check)}; expected True, False or None")
        warm: Any = self.warm_start
        if not isinstance(warm, bool):
            raise TypeError(
                f"warm_start is {kind_of(warm)}; expected True or False: with True each call starts from the one before"
            )

        executor: Any = self.executor
        if executor is None:
            return
        if not isinstance(executor, pr.Executor):
            raise TypeError(f"executor is {kind_of(executor)}; expected an executor such as pr.Batched(pad_to=(4, 16))")
        if isinstance(executor, pr.Distributed) or getattr(executor, "devices", None) is not None:
            raise ValueError(
                f"executor={executor!r} calls the network on several devices or processes, and a pipeline has one; "
                "expected pr.Batched(max_lanes=...), pr.Batched(pad_to=...) or pr.Serial()"
            )

    @property
    def own_method(self) -> bool:
        """Whether the scheduler's own method is wanted, and not another on its noise levels."""
        return self.options.solver is None


@dataclass(frozen=True, eq=False)
class Request:
    """A request of the engine to the pipeline, for R lanes.

    Attributes:
        lanes: The lanes, as the network receives them.
        x: Their states as x, ``(R, *rest)``.
        t: Their times of the noise schedule, float64, ``(R,)``.
        on_grid: Which of them are at points of the grid, if some may not be, else ``None``.
        again: Whether they are the second stages of their steps.
    """

    lanes: Lanes
    x: Tensor
    t: Tensor
    translation: Translation
    on_grid: Tensor | None = None
    again: bool = False

    def prediction(self, value: Tensor) -> Tensor:
        """The prediction that the scheduler uses: x0 where it preconditions or clips, else ``value`` itself."""
        translation = self.translation
        value = value.to(self.x.dtype)
        if translation.data is not None:
            value = self._preconditioned(value, translation.data)
        elif translation.sign < 0:
            value = -value
        if translation.clean is not None:
            value = translation.clean(self._clean(value))
        return value

    def clean(self, value: Tensor, samples: int) -> Tensor:
        """The clean data that the least noisy lane of each sample predicts."""
        rows = self.lanes.samples
        order = self.t.argsort(descending=True)
        rows = torch.zeros_like(order) if rows is None else rows[order]
        last = torch.zeros(samples, dtype=torch.int64, device=order.device)
        last.scatter_reduce_(0, rows, torch.arange(len(order), device=order.device), "amax")
        x0 = self.prediction(value)
        return (x0 if self.translation.clean is not None else self._clean(x0))[order[last]]

    def _clean(self, value: Tensor) -> Tensor:
        schedule = self.translation.noise_schedule
        slopes = {}
        if self.translation.prediction == "velocity":
            slopes = {"alpha_dot": schedule.alpha_dot(self.t), "sigma_dot": schedule.sigma_dot(self.t)}
        alpha, sigma = schedule.alpha(self.t), schedule.sigma(self.t)
        return convert(value, self.x, alpha, sigma, source=self.translation.prediction, target="x0", **slopes)

    def _preconditioned(self, value: Tensor, data: float) -> Tensor:
        total = self.t * self.t + data * data
        skip, out = data * data / total, self.t * data * total.rsqrt()
        return per_row(skip, self.x) * self.x + per_row(self.translation.sign * out, value) * value


Draw = Callable[[Any, torch.dtype, bool], None]
"""Draws the noise before the first step. Arguments: the generator, the dtype of the network's output, and whether the
pipeline keeps every sample twice."""

Ask = Callable[["Request"], Tensor]


class Prepared(NamedTuple):
    """A problem, ready to be solved.

    Attributes:
        run: ``run(ask, resume, rtol)`` solves it, or resumes a solution, to another tolerance if one is given;
            ``ask`` answers a `Request`. It returns the solution and the latents at the end.
        serial: ``serial(ask)`` takes one step after another, and returns likewise.
        draw: Draws the noise, if steps take any.
        drawn: Holds that noise.
        correction: The correction of the parallel run.
        dtype: The dtype of states.
    """

    run: Callable[[Ask, pr.Solution | None, float | None], tuple[pr.Solution, Tensor]]
    serial: Callable[[Ask], tuple[pr.Solution, Tensor]]
    draw: Draw | None
    drawn: Drawn | None
    correction: pr.Correction
    dtype: torch.dtype


def prepare(
    setup: Setup, translation: Translation, latents: Tensor, inpainting: Any, mark: Mark | None = None
) -> Prepared:
    """Prepares a scheduler's run: the problem, and the noise of its steps.

    Args:
        setup: How to solve.
        translation: The translation of the scheduler.
        latents: The latents at the start, ``(B, *rest)``.
        inpainting: The image, noise and mask to keep, or ``None``.
        mark: Records the stage of a request, if steps have two.
    """
    fine, off_grid = _fine(setup, translation)
    if translation.second is not None and mark is None:
        mark = Mark()
    clean = translation.clean
    if not setup.own_method and isinstance(translation.fine, Posterior):
        clean = clean or translation.fine.clean
    translation = replace(translation, clean=clean)
    serve = _Serve(translation, len(latents), off_grid, mark or Mark())
    schedule, times = translation.noise_schedule, translation.times
    model = DiffusionModel(serve, schedule, "x0" if clean is not None else translation.prediction)
    check_start(model)
    coordinates = _coordinates(setup, translation, fine)
    rhs = RightHandSide(model, coordinates, _named, None)
    ids = torch.arange(len(latents), device=latents.device)
    problem = DiffusionODE(rhs, "fold", [ids], coordinates=coordinates)
    draw = drawn = None
    if NoisyFlow in fine.solves or getattr(fine, "noisy", False):
        drawn = Drawn()
        problem, draw = DrawnFlow.of(problem, drawn), _drawing(translation, latents, drawn)
    grid = pr.TimeGrid.from_points(coordinates.tau(times), 1)
    if inpainting is not None:
        blend = Blend(coordinates, *kept_rows(inpainting, latents), float(grid.points[-1]))
        fine = Blended(replace(fine, blend=blend) if isinstance(fine, HeunToZero) else fine, blend)
    options = setup.options
    _, correction, grid, window, rule = options.resolve(grid.points, fine, setup.guidance)
    if mark is not None and isinstance(fine, pr.Multistep):
        fine = Marked(fine, mark)
    alpha = schedule.alpha(times[[0, -1]]).tolist() if translation.scaled else (1.0, 1.0)
    flow = ProbabilityFlow(problem, coordinates)
    # z = x/alpha is large where the run begins nearly without signal: float32 would lose the data in it
    kept = torch.float64 if isinstance(coordinates, Ratio) and small_signal(schedule) else setup.dtype
    state = latents.detach().to(torch.promote_types(latents.dtype, kept))
    u0 = flow.from_x(grid.points[0], state * alpha[0])
    earlier = fitting(setup.start, u0, grid)

    def serial(ask: Ask) -> tuple[pr.Solution, Tensor]:
        serve.answer = ask
        solution = pr.serial(problem, u0, grid, fine=fine, samples=True)
        return solution, flow.to_x(grid.points[-1], solution.u) / alpha[1]

    def run(ask: Ask, resume: pr.Solution | None, rtol: float | None) -> tuple[pr.Solution, Tensor]:
        serve.answer = ask
        solution = pr.solve(
            problem,
            u0,
            grid,
            fine=fine,
            coarse=correction,
            schedule=window,
            executor=setup.executor,
            stop=rule if rtol is None else options.rule(window, rtol),
            max_iterations=options.max_iterations,
            samples=True,
            resume=resume,
            start=earlier if resume is None else None,
            verify=options.verify,
            throw=False,
        )
        return solution, flow.to_x(grid.points[-1], solution.u) / alpha[1]

    return Prepared(run, serial, draw, drawn, correction, state.dtype)


_SAME_ENDS = 1e-6
"""By what part of its length the ends of an earlier run's span may differ from those of the grid."""


def fitting(earlier: pr.Solution | None, u0: Tensor, grid: pr.TimeGrid) -> pr.Solution | None:
    """The earlier run, if a run from ``u0`` on this grid can start from its states; else ``None``."""
    if earlier is None or tuple(earlier.us.shape[1:]) != tuple(u0.shape) or earlier.us.dtype != u0.dtype:
        return None
    ends, before = grid.points[[0, -1]], earlier.ts[[0, -1]]
    same = bool((ends - before).abs().max() <= _SAME_ENDS * (ends[1] - ends[0]).abs())
    return earlier if same else None


def _coordinates(setup: Setup, translation: Translation, fine: pr.Integrator) -> Coordinates:
    """The coordinates of the schedulers, for methods that differ from one choice to another, as Heun's does."""
    schedule = translation.noise_schedule
    if setup.own_method:
        return coordinates_for(schedule, translation.coordinates)
    alike = isinstance(fine, pr.Euler) or pr.Semilinear in fine.solves or NoisyFlow in fine.solves
    silent = schedule.alpha(translation.times[0]).item() == 0
    return coordinates_for(schedule, None if alike or silent or isinstance(schedule, Flow) else "ratio")


class _Serve:
    """The network as the engine calls it; the pipeline gives the answer."""

    answer: Callable[[Request], Tensor]

    def __init__(self, translation: Translation, samples: int, off_grid: bool, mark: Mark) -> None:
        self._translation, self._samples, self._off_grid, self._mark = translation, samples, off_grid, mark
        self._times = translation.times
        self._timesteps = translation.timesteps

    def __call__(self, x: Tensor, t: Tensor, sample: Tensor) -> Tensor:
        times = self._times = self._times.to(x.device)
        index = nearest(t.to(torch.float64), times[:-1])
        exact, between, on_grid = times[index], None, None
        if self._off_grid:
            t = t.to(torch.float64)
            on_grid = (t - exact).abs() <= 1e-6 * exact.abs()
            between = torch.where(on_grid, self._timesteps.to(x.device)[index].double(), self._between(t))
            exact = torch.where(on_grid, exact, t)
        if self._mark.again and self._translation.second is not None:
            between = self._translation.second.to(x.device)[index].double()
        scale = self._translation.input_scale(exact)
        seen = x if self._translation.data is None else per_row(scale, x) * x
        lanes = Lanes(seen, sample if self._samples > 1 else None, index, between)
        request = Request(lanes, x, exact, self._translation, on_grid, self._mark.again)
        return request.prediction(self.answer(request))

    def _between(self, t: Tensor) -> Tensor:
        """Timesteps for times between those of the grid: linear in the log of the noise level."""
        schedule, times = self._translation.noise_schedule, self._times[:-1]
        levels, steps = schedule.s(times).log().flip(0), self._timesteps.to(t.device).double().flip(0)
        at = schedule.s(t).log().clamp(levels[0], levels[-1])
        left = (torch.searchsorted(levels, at, right=True) - 1).clamp(0, max(0, len(levels) - 2))
        right = (left + 1).clamp(max=len(levels) - 1)
        gap = levels[right] - levels[left]
        share = torch.where(gap > 0, (at - levels[left]) / gap, 0.0)
        return torch.lerp(steps[left], steps[right], share)


def _named(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"sample": rows[0]}


def _fine(setup: Setup, translation: Translation) -> tuple[pr.Integrator, bool]:
    """The method, and whether it or the coarse propagator may evaluate between the points of the grid."""
    options = setup.options
    off_grid = isinstance(options.solver, pr.Integrator) or not isinstance(options.coarse, str)
    if options.solver is None:
        return translation.fine, off_grid
    return (HeunToZero() if options.solver == "heun" else options.fine()), off_grid


def _drawing(translation: Translation, latents: Tensor, drawn: Drawn) -> Draw:
    """Draws the noise of all steps as the scheduler would draw it in a sequential run."""

    def draw(generator: Any, dtype: torch.dtype, duplicated: bool) -> None:
        from diffusers.utils.torch_utils import randn_tensor

        given = translation.noise
        if translation.sampler is not None:
            drawn.normals = torch.stack(translation.sampler(latents, generator))
            return
        kind = given if isinstance(given, torch.dtype) else dtype
        count, last = len(latents), len(translation.times) - 2
        shape = (2 * count if duplicated else count, *latents.shape[1:])
        normals: list[Tensor] = []
        for i in range(last + 1):
            if i == last and translation.silent:
                normals.append(torch.zeros(latents.shape, dtype=kind, device=latents.device))
            else:
                noise = randn_tensor(shape, generator=generator, device=latents.device, dtype=kind)
                normals.append(noise[:count])
        for _ in range(translation.spare):
            randn_tensor(shape, generator=generator, device=latents.device, dtype=kind)
        drawn.normals = torch.stack(normals)

    return draw


def kept_rows(inpainting: Any, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, noise and mask, each with a row for each sample."""
    count = len(latents)
    rows = (inpainting.image, inpainting.noise, inpainting.mask)
    image, noise, mask = (part[:count].expand(count, *part.shape[1:]) for part in rows)
    return image, noise, mask
