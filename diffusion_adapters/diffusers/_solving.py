"""Solving: the loop of the pipeline is the right-hand side of the engine, for all lanes of a round.

The engine runs beside the pipeline and makes requests. When the pipeline calls its network, the network is called on
the lanes of the request. When it passes the guided prediction to ``scheduler.step``, the engine receives it, and makes
its next request. The pipeline itself only sees latents of its own batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import parareal as pr
from diffusion_adapters.diffusers._call import Batch, Call, OtherRowsError
from diffusion_adapters.diffusers._check import Checker
from diffusion_adapters.diffusers._loop_steps import LoopSteps, joined, split
from diffusion_adapters.diffusers._network_calls import NetworkCalls
from diffusion_adapters.diffusers._network_proxy import Lanes, Plan, find_layout
from diffusion_adapters.diffusers._numbers import plain
from diffusion_adapters.diffusers._problem import Draw, Request
from diffusion_adapters.diffusers._round import Round, unpadded
from diffusion_adapters.diffusers._stacked import Places, Stacked
from parareal.extend import Coroutine


class Run:
    """The engine, which runs up to its next request.

    Args:
        checker: Solves, and compares the result.
        latents: The latents at the start.

    Attributes:
        checker: The same.
        solution: The solution, perhaps a partial one.
    """

    def __init__(self, checker: Checker, latents: Tensor) -> None:
        self.checker = checker
        self.solution: pr.Solution | None = None
        self._engine = Coroutine(self._solve, latents)

    def _solve(self, ask: Callable[..., Tensor]) -> Tensor:
        try:
            self.solution, u = self.checker.solve(ask)
            return u
        except BaseException as error:
            self.solution = getattr(error, "solution", self.solution)
            raise

    def advance(self, value: Tensor | None) -> Request | None:
        """Answers the last request and returns the next one, or ``None`` at the end."""
        return self._engine.asks[0] if self._engine.advance(value) else None

    @property
    def result(self) -> Tensor:
        """The latents at the end."""
        return self._engine.result

    def abandon(self) -> None:
        """Ends the engine, finished or not."""
        self._engine.abandon()


class Solving:
    """The phase in which the engine runs.

    Args:
        call: The call of the pipeline.
        steps: The steps of the loop.
        batch: The latents that the run starts from.
        networks: The calls of the networks of the pipeline, as far as known.
        checker: Solves, and compares the result.
        draw: Draws the noise of the steps, if they take any.
        within_turn: Whether the engine starts within a turn, which is then the first step's: it answers lanes of that
            step's group.

    Attributes:
        steps: The steps of the loop.
        turns: Turns of the loop so far, each with an answer to the engine.
        round: The request that is being answered; ``None`` at the end.
    """

    def __init__(
        self,
        call: Call,
        steps: LoopSteps,
        batch: Batch,
        networks: NetworkCalls,
        checker: Checker,
        draw: Draw | None,
        within_turn: bool,
    ) -> None:
        self._call, self.steps, self._batch, self._networks, self._draw = call, steps, batch, networks, draw
        self.run = Run(checker, batch.latents)
        self.turns = self._added = 0
        self._shown = batch.as_kept(batch.latents.clone())
        self._answered: tuple[Request, Tensor] | None = None
        self._changed = self._seen = self._apart = False
        self.round = self._next_round(None)
        # The engine requests nothing from the group of the first turn: the pipeline makes it itself.
        self._own_turn = within_turn and self.round is not None and not self.round.prefer(int(steps.of_grid[0]))

    @property
    def done(self) -> bool:
        """Whether the engine has its result."""
        return self.round is None

    @property
    def solution(self) -> pr.Solution | None:
        """The solution, as far as it was computed. Turns follow each other, so each counts as a round."""
        solution = self.run.solution
        if solution is None or not self.steps.many:
            return solution
        padded = solution.stats.padded_lanes + self._added
        return replace(
            solution, stats=replace(solution.stats, rounds=self.turns, calls=self.turns, padded_lanes=padded)
        )

    def next_timestep(self) -> Tensor:
        """The timestep of the next turn. The loop's ``enumerate`` gives its number."""
        networks, steps = self._networks, self.steps
        networks.known.next_round()
        networks.expected = self._batch.of_samples(self._shown)
        steps.number = steps.pick(self._group, self.turns, int(getattr(self._call.scheduler, "order", 1)))
        return steps.timestep(steps.number)

    @property
    def _group(self) -> int:
        """The group of steps of this turn."""
        return int(self.steps.of_grid[0]) if self._own_turn or self.round is None else self.round.group

    def _next_round(self, value: Tensor | None) -> Round | None:
        self._networks.known.next_round()
        request = self.run.advance(value)
        if request is None:
            return None
        executor = self._call.setup.executor
        padding = unpadded if executor is None else executor.padded
        return Round(request, split(self.steps.of_grid, request.lanes.at), padding)

    def _current(self) -> Round:
        if self.round is None:
            raise RuntimeError(f"{self._call.name} continued after the end of its run; expected no further turn")
        return self.round

    # --- what the pipeline calls ------------------------------------------------------------------------------------

    def network(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of one of the pipeline's networks."""
        networks = self._networks
        kind = networks.kind(module, args, kwargs, self._group)
        plan = networks.plans.get(kind)
        if plan is None:
            self.steps.refuse_decisions()
            plan = networks.learn(module, args, kwargs)
            if plan is None:
                raise latents_not_found(self._call.name, module, self._shown)
            networks.plans[kind] = plan
        if self._own_turn:
            return module(*plain(args), **plain(kwargs))
        if self._seen and not networks.checked:
            self._check_untouched(plan, args, kwargs)
        return networks(module, args, kwargs, plan, self._current().lanes)

    def _check_untouched(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The latents must come back as ``step`` has returned them, or with the image put in by its mask."""
        inpainting, shown = self._call.inpainting, self._batch.of_samples(self._shown)
        if self._apart and find_layout(plan.latents(args, kwargs, shown), self._shown) is not None:
            raise OtherRowsError
        if inpainting.complete and plan.layout.whole:
            shown = inpainting.blended(shown)
        self._networks.check_untouched(plan, args, kwargs, shown)

    def step(self, model_output: Tensor, sample: Tensor, given: dict[str, Any]) -> Tensor:
        """Passes the guided prediction of this turn's lanes on; returns the latents with which the pipeline continues.

        Raises:
            DiffersError: The run is not what the pipeline's own scheduler makes of it.
        """
        latents = self._batch.latents
        if latents.ndim == 5 and sample.ndim == 4 and len(sample) % latents.shape[2] == 0:
            return self._step_of_frames(model_output, sample, given)
        if self._own_turn:
            self._own_turn = False
            return self.show_others()
        if not self._seen:
            self._see_first(sample, given.get("generator"), model_output.dtype)
            self.show_others()
            if self._batch.duplicated and self._draw is not None:
                return self._show_apart()
        self.turns += 1
        now, checker = self._current(), self.run.checker
        self._added += now.added
        now.answer(self._of_lanes(model_output, now.lanes))
        if now.waiting:
            return self._shown
        value = joined(now.answers)
        checker.arguments = given
        checker.note(now.request, value)
        self._answered = (now.request, value)
        self.round = self._next_round(value)
        if self.done:
            checker.conclude(self._call.name, self._call.scheduler)
            return self._batch.as_kept(self._with_failures(self.run.result)).to(sample.dtype)
        if self._call.preview:
            self._shown = self._batch.as_kept(self._best(now.request, value)).to(sample.dtype)
        return self._shown

    def show_others(self) -> Tensor:
        """Latents to continue with that are none of the run: mixing them with earlier ones is noticed."""
        self._changed = True
        self._shown = self._batch.as_kept(_moved(self._batch.of_samples(self._shown)))
        return self._shown

    def _show_apart(self) -> Tensor:
        """The same, with a second half that differs: the next turn shows whether the pipeline uses it.

        Noise differs from row to row, so that samples of their own differ although their predictions may be equal. A
        pipeline that keeps every sample twice makes its second half from the first. This turn answers nothing.
        """
        shown = self._batch.of_samples(self._shown)
        self._apart, self._shown = True, torch.cat([shown, _moved(shown)])
        return self._shown

    def _step_of_frames(self, model_output: Tensor, sample: Tensor, given: dict[str, Any]) -> Tensor:
        """The same where the pipeline hands over a row for each frame, ``(B F, C, H, W)``."""
        if self._draw is not None:
            raise ValueError(
                f"{self._call.name} hands frames of videos to scheduler.step as samples of their own, so that "
                f"{type(self._call.scheduler).__name__} draws noise in another order than is known here; expected a "
                "scheduler without noise, such as DDIMScheduler"
            )
        split = (-1, self._batch.latents.shape[2])
        output, sample = (part.unflatten(0, split).transpose(1, 2) for part in (model_output, sample))
        return self.step(output, sample, given).transpose(1, 2).flatten(0, 1)

    def stop(self) -> None:
        """Writes the best latents so far into the pipeline's own, since the run is interrupted."""
        best = self._batch.latents if self._answered is None else self._best(*self._answered)
        self._shown.copy_(self._batch.as_kept(best).to(self._shown.dtype))

    # --- units and shapes -------------------------------------------------------------------------------------------

    def _see_first(self, sample: Tensor, generator: Any, dtype: torch.dtype) -> None:
        """Learns from the first call of ``step`` whether each sample is kept twice, and draws the noise."""
        batch, self._seen = self._batch, True
        if batch.from_input and len(sample) not in (len(batch.latents), len(self._shown)):
            raise OtherRowsError
        shown = sample[: len(batch.latents)].float()
        if sample.shape[1:] != batch.latents.shape[1:]:
            raise ValueError(
                f"{self._call.name} hands latents of shape {tuple(sample.shape)} to scheduler.step, and prepared "
                f"others, of shape {tuple(batch.latents.shape)}; expected a pipeline with a method "
                "prepare_latents, or whose network receives the latents alone"
            )
        if batch.from_input and not self._changed and (shown - batch.latents).abs().amax() > 1e-2 * shown.abs().amax():
            raise ValueError(
                f"{self._call.name} shows its network latents that {type(self._call.scheduler).__name__}."
                "scale_model_input has not scaled; expected a scheduler that scales nothing, such as DDIMScheduler"
            )
        if batch.duplicated and len(sample) == len(batch.latents):  # only the network's input held every sample twice
            self._batch, self._shown = replace(batch, duplicated=False), self._shown[: len(batch.latents)].clone()
        if self._draw is not None:
            self._draw(generator, dtype, self._batch.duplicated)

    def _of_lanes(self, value: Tensor, lanes: Lanes) -> Tensor:
        """The prediction for each lane, of the shape of its state."""
        x = lanes.x
        if isinstance(value, Stacked):
            count = len(self._batch.latents)
            groups = max(1, value.shape[0] // count)
            value = Places(lanes.samples, len(x), count, x.device).rows(value, groups)
        if value.ndim == x.ndim and value.ndim > 1 and value.shape[1] == 2 * x.shape[1]:
            value = value[:, : x.shape[1]]  # the other half is a variance
        if self._batch.duplicated and value.shape[0] == 2 * x.shape[0]:
            value, second = value.chunk(2)
            if not torch.equal(value, second) and not torch.allclose(value, second, 0.0, 0.0, equal_nan=True):
                raise OtherRowsError  # samples of their own, with equal latents and other conditions
        if value.shape != x.shape:
            raise ValueError(
                f"{self._call.name} handed predictions of shape {tuple(value.shape)} to scheduler.step, for lanes of "
                f"shape {tuple(x.shape)}; expected guidance that computes each sample from its own rows alone"
            )
        return value

    def _best(self, request: Request, value: Tensor) -> Tensor:
        """The clean latents that follow from the least noisy lane of each sample."""
        return request.clean(value, len(self._batch.latents))

    def _with_failures(self, final: Tensor) -> Tensor:
        """NaN for samples whose sequential run is not finite; warns where anything failed."""
        solution = self.run.solution
        if solution is not None and solution.status.failed:
            warnings.warn(f"{self._call.name}: {solution.status.value}", RuntimeWarning, stacklevel=2)
            lost = [status is pr.Status.NONFINITE for status in solution.sample_status or ()]
            final = final.clone()
            final[torch.tensor(lost, device=final.device)] = float("nan")
        return final


def _moved(latents: Tensor) -> Tensor:
    """Other latents of about the same size."""
    signs = 1 - 2 * (torch.arange(latents.numel(), device=latents.device) % 2).reshape(latents.shape)
    size = latents.abs().amax()
    return (latents + 0.25 * torch.where(size > 0, size, 1.0) * signs).to(latents.dtype)


def latents_not_found(name: str, module: nn.Module, latents: Tensor) -> ValueError:
    """The error of a network whose input holds no latents."""
    return ValueError(
        f"the latents that {name} hands to scheduler.step, of shape {tuple(latents.shape)}, were not found in the "
        f"arguments of its {type(module).__name__}; expected them as they are, or beside other channels"
    )
