"""The pipeline's own scheduler as a check of the result: it steps through the run's predictions, without a network.

Every prediction that the pipeline hands to ``scheduler.step`` is kept: the last one for each timestep and sample. After
the run a fresh copy of the scheduler goes through them in its own order, from the same latents and with the same noise.
If the run has converged, and its steps are those of the scheduler, both have the same result. Otherwise a step is not
that of the scheduler, or predictions were made at other states than those of the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import parareal as pr
from diffusion_adapters.diffusers._fresh_scheduler import timestep_of
from diffusion_adapters.diffusers._wrapped_method import WrappedMethod
from parareal.extend import Stages


class ReplayError(Exception):
    """The replay failed; the message says why."""


# --- which stage of a step a prediction is of ----------------------------------------------------------------------


class Mark:
    """Whether the right-hand side is asked for a second time in a step."""

    again = False


@dataclass(frozen=True)
class Again:
    """The right-hand side on L lanes, asked for a second time in a step."""

    problem: Any
    mark: Mark

    def __call__(self, t: Tensor, u: Tensor, rows: Any = None) -> Tensor:
        """Calls ``problem.rhs``."""
        self.mark.again = True
        try:
            return self.problem.rhs(t, u, rows)
        finally:
            self.mark.again = False


@dataclass(frozen=True)
class Marked(WrappedMethod):
    """A method of two stages that tells them apart, since their predictions are of the same timesteps."""

    mark: Mark

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Stages:
        """One step of the method, its second request another function than its first."""
        stages, value, asked = self.of_method(problem, t0, t1, u, variant), None, False
        while True:
            try:
                request = stages.send(value)
            except StopIteration as end:
                return end.value
            if not getattr(request[0], "free", False):
                request, asked = (Again(problem, self.mark), *request[1:]) if asked else request, True
            value = yield request


# --- the noise of a run, once more ----------------------------------------------------------------------------------


class _Given(TorchFunctionMode):
    """Returns the noise of a run, step by step, in place of new random numbers."""

    def __init__(self, normals: Tensor) -> None:
        super().__init__()
        self._normals, self.step = normals, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = self._normals[self.step] if self.step < len(self._normals) else None
        if func is torch.randn and given is not None and args and tuple(args[0]) == given.shape:
            return given.to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))
        return func(*args, **kwargs)


# --- the replay -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Replay:
    """Keeps a run's predictions, and has a scheduler step through them.

    Args:
        make: Gives a fresh copy of the scheduler.
        span: Numbers of the timesteps that the pipeline visits: the first, and one more than the last.
        visits: The number of the run's point at each of them, where some are visited twice: first by the second stage
            of a step. ``None`` where each is visited once.
        samples: How many there are.
        known: Timesteps of the run, without steps of no length at the end.
        blend: Called with the scheduler, latents, and the timestep that they are at, between two steps.

    Attributes:
        arguments: Other arguments of ``step`` than prediction, timestep and sample.
    """

    make: Callable[[], Any]
    span: tuple[int, int]
    visits: tuple[int, ...] | None
    samples: int
    known: int
    blend: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    _kept: Tensor | None = None

    def note(self, at: Tensor, samples: Tensor | None, again: bool, value: Tensor, on_grid: Tensor | None) -> None:
        """Keeps predictions, ``(R, *rest)``.

        Args:
            at: Numbers of the run's timesteps, ``(R,)``.
            samples: Numbers of the samples, ``(R,)``; ``None`` where there is but one.
            again: Whether they are of second stages.
            value: The predictions.
            on_grid: Where some are not of the run's timesteps: which are, ``(R,)``.
        """
        if self._kept is None:
            shape = (self.span[1] - self.span[0], self.samples, *value.shape[1:])
            self._kept = value.new_full(shape, torch.nan)
        slots = at
        if self.visits is not None:
            slots = self._slots(again).to(at.device)[at]
        rows = torch.zeros_like(at) if samples is None else samples
        if on_grid is not None:
            slots, rows, value = slots[on_grid], rows[on_grid], value[on_grid]
        self._kept.index_put_((slots, rows), value.detach().to(self._kept.dtype))

    def _slots(self, again: bool) -> Tensor:
        """The place of each of the run's points among the timesteps: the first of two, or the last."""
        visits = self.visits or ()
        found = dict(zip(visits, range(len(visits)), strict=True))
        if again:
            found = dict(zip(reversed(visits), reversed(range(len(visits))), strict=True))
        return torch.tensor([found.get(point, 0) for point in range(max(visits) + 1)])

    def end(self, latents: Tensor, normals: Tensor | None) -> Tensor:
        """The latents that the scheduler computes from those at the start.

        Raises:
            ReplayError: There is no prediction, or the scheduler raised.
        """
        kept = self._kept
        if kept is None:
            raise ReplayError("no prediction was handed to the scheduler")
        scheduler = self.make()
        timesteps = scheduler.timesteps[slice(*self.span)]
        given = {**self.arguments, "return_dict": False}
        if "generator" in inspect.signature(scheduler.step).parameters:  # for noise that the run knows nothing of
            given["generator"] = torch.Generator(latents.device).manual_seed(0)
        noise = None if normals is None else _Given(normals)
        if normals is not None and hasattr(scheduler, "noise_sampler"):
            numbered = iter(normals)
            scheduler.noise_sampler = lambda *levels: next(numbered)
        scale = getattr(scheduler, "scale_model_input", None)
        mode: AbstractContextManager[Any] = nullcontext() if noise is None else noise
        x = latents
        try:
            with torch.no_grad(), mode:
                for i, t in enumerate(timesteps):
                    if noise is not None:
                        noise.step = i if self.visits is None else max(0, self.visits[i] - 1)
                    if scale is not None:
                        scale(x, t)
                    value = kept[min(i, self.known - 1)].to(x.dtype)
                    x = scheduler.step(value, timestep_of(scheduler, t, x), x, **given)[0]
                    if self.blend is not None and i + 1 < len(timesteps):
                        x = self.blend(scheduler, x, timesteps[i + 1])
        except Exception as error:
            raise ReplayError(
                f"{type(scheduler).__name__}.step raised {type(error).__name__} when it was stepped through the run's "
                f"predictions: {error}"
            ) from error
        return x
