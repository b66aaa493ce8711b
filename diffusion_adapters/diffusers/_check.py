"""Compares a run's result with the steps of the pipeline's own scheduler, and continues the run where they differ."""

from __future__ import annotations

import inspect
import math
import reprlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._fresh_scheduler import fresh
from diffusion_adapters.diffusers._problem import Ask, Prepared, Request, Setup, kept_rows, prepare
from diffusion_adapters.diffusers._replay import Mark, Replay, ReplayError
from diffusion_adapters.diffusers._translation import Translation

TIMES = 5.0
"""Allowed difference, as a multiple of the tolerance of a run; ``benchmarks/constants.py`` prints the difference of
correct runs."""

UNITS, SHARE = 400.0, 1e-3
"""Additional units of rounding, and the part of the noise level at the start by which they are multiplied. See
``benchmarks/constants.py``."""

ROUGH = {"DEISMultistepScheduler": 8.0}
"""Factors on that for schedulers that round more: the coefficients of DEIS are differences of products of logarithms in
float32. See ``benchmarks/constants.py``."""

_ESTIMATED = (pr.Status.CONVERGED, pr.Status.VERIFIED)
"""A run with one of these statuses takes more rounds with a smaller tolerance."""

TIGHTER = 1e-2
"""Factor on the tolerance of a run that is continued because it differs. A choice."""


@dataclass(frozen=True, eq=False)
class Check:
    """The distance between a call's latents and those that the pipeline's own scheduler computes from its predictions.

    Attributes:
        difference: Relative distance of each sample, float64, ``(B,)``; ``None`` where nothing was compared.
        tolerance: The largest difference that passes; NaN if nothing was compared.
        passed: Whether all samples are within the tolerance; ``None`` where nothing was compared.
        extra_rounds: Rounds that were added since the first comparison did not pass.
        sequential: Whether the result is that of the sequential pipeline, since no comparison passed.
        reason: Why nothing was compared, a sentence; else empty.
    """

    difference: Tensor | None = None
    tolerance: float = math.nan
    passed: bool | None = None
    extra_rounds: int = 0
    sequential: bool = False
    reason: str = ""

    @property
    def largest(self) -> float:
        """The largest difference of all samples; NaN where nothing was compared."""
        return math.nan if self.difference is None else max(self.difference.tolist(), default=0.0)


class DiffersError(Exception):
    """The pipeline's own sequential run must replace the result."""


class Checker:
    """Keeps the predictions of a call, compares the result, and continues the run where the comparison does not pass.

    Args:
        setup: How the call is solved.
        translation: The translation of the scheduler.
        scheduler: The stand-in for the scheduler, after ``set_timesteps``.
        span: Numbers of its timesteps that the pipeline visits: the first, and one more than the last.
        samples: How many there are.

    Attributes:
        check: The comparison so far.
        mark: Distinguishes the stages of a step, if it has two.
        arguments: Other arguments of ``step`` than prediction, timestep and sample.
    """

    def __init__(self, setup: Setup, translation: Translation, scheduler: Any, span: tuple[int, int], samples: int):
        self.check = Check(reason="the run did not come to its end")
        self.mark: Mark | None = None
        self.arguments: dict[str, Any] = {}
        self._setup, self._translation = setup, translation
        self._replay: Replay | None = None
        self._raised = False
        self._units = UNITS * max(ROUGH.get(kind.__name__, 1.0) for kind in type(scheduler).__mro__)
        visited, steps = span[1] - span[0], len(translation.timesteps)
        if setup.check is False:
            self._without("check=False was asked for")
        elif not setup.own_method:
            self._without(f"solver={setup.options.solver!r} is not the scheduler's own method")
        elif translation.visits is not None and visited == len(translation.visits):
            self.mark = Mark()
            self._replay = Replay(_maker(scheduler), span, translation.visits, samples, visited)
        elif translation.visits is None and steps <= visited <= steps + 1:
            self._replay = Replay(_maker(scheduler), span, None, samples, steps)
        else:
            self._without(f"the pipeline visits {visited} timesteps for {steps} steps")

    def _without(self, reason: str) -> None:
        self._replay, self.check = None, Check(reason=reason)

    def begin(self, latents: Tensor, inpainting: Any) -> Prepared:
        """Prepares the problem that starts from these latents and, for inpainting, keeps a part of an image."""
        prepared = prepare(self._setup, self._translation, latents, inpainting, self.mark)
        self._prepared, self._latents = prepared, latents
        coarse, replay = prepared.correction.propagator, self._replay
        if replay is None:
            return prepared
        if coarse is not None and (
            replay.visits is not None or coarse.evaluations != 1 or coarse.steps not in (None, 1)
        ):
            self._without(f"coarse={self._setup.options.coarse!r} calls the network at states that are not of the run")
        elif inpainting is not None:
            image, noise, mask = (part.to(prepared.dtype) for part in kept_rows(inpainting, latents))
            replay.blend = _blending(image, noise, mask)
        return prepared

    def note(self, request: Request, value: Tensor) -> None:
        """Keeps the predictions that answer a request."""
        if self._replay is not None:
            lanes = request.lanes
            self._replay.note(lanes.at, lanes.samples, request.again, value, request.on_grid)

    def solve(self, ask: Ask) -> tuple[pr.Solution, Tensor]:
        """Solves, compares, and continues to a smaller tolerance where that may help."""
        setup, run = self._setup, self._prepared.run
        solution, u = run(ask, None, None)
        self.compare(solution, u)
        estimated = any(status in _ESTIMATED for status in solution.sample_status or ())
        if self.check.passed is False and estimated and not self._asked_for_less:
            rounds = solution.stats.rounds
            solution, u = run(ask, solution, TIGHTER * setup.options.tolerance)
            self.compare(solution, u)
            self.check = replace(self.check, extra_rounds=solution.stats.rounds - rounds)
        return solution, u

    @property
    def _asked_for_less(self) -> bool:
        options = self._setup.options
        return options.stop is not None or options.max_iterations is not None

    def conclude(self, name: str, scheduler: Any) -> None:
        """Warns, or raises, at the end of a run that was not compared or that differs.

        Args:
            name: The pipeline's name, for messages.
            scheduler: The scheduler.

        Raises:
            DiffersError: The pipeline's own sequential run must replace this one.
        """
        check, setup = self.check, self._setup
        if check.passed is None:
            if self._raised or (setup.check and setup.own_method):
                what = "the result was not compared with what the pipeline's own scheduler makes of it"
                warnings.warn(f"{name}: {what}: {check.reason}", RuntimeWarning, stacklevel=2)
        elif not check.passed:
            off = (
                f"{name}: from the network's own predictions {describe(scheduler)} comes to latents that are "
                f"{check.largest:.1e} away from the result, relative, where {check.tolerance:.1e} is expected"
            )
            if self._asked_for_less:
                what = "which is returned as stop and max_iterations ask for it: leave them out for one that is"
                warnings.warn(f"{off}: it has not converged, {what}", RuntimeWarning, stacklevel=2)
            else:
                self.check = replace(check, sequential=True)
                raise DiffersError(off)

    def compare(self, solution: pr.Solution, u: Tensor) -> None:
        """Compares a run's latents with those of the scheduler."""
        if self._replay is None:
            return
        drawn = self._prepared.drawn
        self._replay.arguments = self.arguments
        try:
            end = self._replay.end(self._latents.to(u.dtype), None if drawn is None else drawn.normals)
        except ReplayError as error:
            self._without(str(error))
            self._raised = True
            return
        lost = [status is pr.Status.NONFINITE for status in solution.sample_status or ()]
        u = u.masked_fill(torch.tensor(lost, device=u.device).reshape(-1, *[1] * (u.ndim - 1)), math.nan)
        far, tolerance = relative(end, u), self.tolerance
        self.check = Check(far, tolerance, bool((far <= tolerance).all()))

    @property
    def tolerance(self) -> float:
        """The largest difference with which a comparison passes.

        The replay is one more Picard iteration from the run's last iterates, so its error is the sum of the defects of
        the steps. In a converged run the iterates, and so the replay, are within a few times the tolerance. Both also
        round. The scheduler's noise levels are float32, and if the network predicts noise, rounding at the start counts
        at the end in proportion to the noise level there.
        """
        translation = self._translation
        reach = 1.0
        if translation.prediction == "eps":
            schedule, t = translation.noise_schedule, translation.times[0]
            reach = max(1.0, float(schedule.sigma(t) / schedule.alpha(t)))
        return TIMES * self._setup.options.tolerance + self._units * torch.finfo(torch.float32).eps * max(
            1.0, SHARE * reach
        )


def describe(scheduler: Any) -> str:
    """A scheduler's name, with the entries of its config that are not the default."""
    defaults = inspect.signature(type(scheduler).__init__).parameters
    short = reprlib.Repr()
    short.maxlist, short.maxother, short.maxstring = 3, 60, 60
    entries = [
        f"{key}={short.repr(value)}"
        for key, value in scheduler.config.items()
        if key in defaults and repr(value) != repr(defaults[key].default)
    ]
    return f"{type(scheduler).__name__}({', '.join(entries)})"


class Rewind:
    """The states of the random generators when a call began: its own, and torch's.

    Args:
        generator: The call's own, one or a list of them, or ``None``.
    """

    def __init__(self, generator: Any) -> None:
        own: Any = generator if isinstance(generator, list | tuple) else [generator]
        self._own = [(one, one.get_state()) for one in own if isinstance(one, torch.Generator)]
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def __call__(self) -> None:
        """Restores them."""
        for one, state in self._own:
            one.set_state(state)
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)


def _maker(scheduler: Any) -> Callable[[], Any]:
    kept = fresh(scheduler)
    return lambda: fresh(kept)


def _blending(image: Tensor, noise: Tensor, mask: Tensor) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """The blending of a pipeline between two steps, to keep an image."""

    def blend(scheduler: Any, x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(1)
        noisy = getattr(scheduler, "add_noise", None)
        known = scheduler.scale_noise(image, t, noise) if noisy is None else noisy(image, noise, t)
        return ((1 - mask) * known + mask * x).to(x.dtype)

    return blend


def relative(a: Tensor, b: Tensor) -> Tensor:
    """Relative distance of each sample, float64, ``(B,)``; 0 where neither is finite, infinite where one is."""
    a, b = a.detach().double().flatten(1), b.detach().double().flatten(1)
    there, both = a.isfinite().all(1), b.isfinite().all(1)
    off = torch.linalg.vector_norm(a - b, dim=1)
    far = off / torch.linalg.vector_norm(b, dim=1)
    far = torch.where(off == 0, 0.0, far)
    return torch.where(there & both, far, torch.where(there | both, torch.inf, 0.0))
