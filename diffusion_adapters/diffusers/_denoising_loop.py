"""The conversation with a pipeline: it passes calls of its loop, network and scheduler to the current phase.

The code of the pipeline runs unchanged. Three of its parts are replaced by stand-ins, and each of them calls the
conversation: the scheduler's timesteps to `Conversation.loop`, the network to `Conversation.network`, and
``scheduler.step`` to `Conversation.step`. What happens then depends on the phase (see `_phases`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

import parareal as pr
from diffusion_adapters.diffusers._call import Call
from diffusion_adapters.diffusers._check import Check
from diffusion_adapters.diffusers._numbers import has_numbers, plain
from diffusion_adapters.diffusers._phases import Finished, Phase, Probing, Waiting, step_before_network
from diffusion_adapters.diffusers._problem import Setup
from diffusion_adapters.diffusers._solving import Solving
from diffusion_adapters.diffusers._timesteps import Noted


class Conversation:
    """One call of a pipeline, from beginning to end.

    Args:
        setup: How to solve.
        name: The name of the pipeline, for errors.
        interrupted: Whether the user has interrupted the call.
        given: The arguments of the call, by name.

    Attributes:
        call: These arguments, and the data that the pipeline prepares.
        phase: The current phase.
    """

    def __init__(
        self, setup: Setup, name: str, interrupted: Callable[[], bool], given: dict[str, Any] | None = None
    ) -> None:
        self.call = Call(setup, name, interrupted, given or {})
        self.phase: Phase = Waiting()
        self._steps_taken = 0

    @property
    def solution(self) -> pr.Solution | None:
        """The solution, perhaps a partial one."""
        return self.phase.solution if isinstance(self.phase, Solving | Finished) else None

    @property
    def check(self) -> Check | None:
        """The comparison of the run with the pipeline's own scheduler."""
        phase = self.phase
        checker = phase.run.checker if isinstance(phase, Solving) else None
        checker = phase.checker if isinstance(phase, Finished) else checker
        return None if checker is None else checker.check

    @property
    def turns(self) -> int:
        """Turns of the loop so far. Each answers one group of steps of a round of the engine."""
        return self.phase.turns if isinstance(self.phase, Solving | Finished) else 0

    @property
    def solving(self) -> bool:
        """Whether the engine is running."""
        return isinstance(self.phase, Solving)

    @property
    def begun(self) -> bool:
        """Whether the pipeline's loop has begun. It may have ended."""
        return not isinstance(self.phase, Waiting)

    def loop(self, start: int, timesteps: Tensor) -> Iterator[Tensor]:
        """Timesteps for the pipeline's loop, one for each turn; they are those from number ``start`` on."""
        if isinstance(self.phase, Finished) and self.phase.checker is None:  # it was interrupted before it began
            yield from timesteps
            return
        if isinstance(self.phase, Solving | Finished):
            raise ValueError(
                f"{self.call.name} runs over its timesteps a second time, which cannot be done in parallel in time; "
                "expected a pipeline with one loop"
            )
        self.phase = probing = Probing(self.call, start, timesteps)
        if len(timesteps) == 0:
            return
        taken = self._steps_taken
        yield probing.first_timestep()
        phase: Phase = self.phase
        if phase is probing and probing.own_call is None and not self.call.interrupted():
            self.phase = Waiting()  # this is not the denoising loop: it counts or looks up something
            yield from timesteps[1:]
            return
        while isinstance(self.phase, Probing | Solving):
            if self.call.interrupted() or self._steps_taken == taken or isinstance(self.phase, Probing):
                self._interrupt()
                return
            self.phase.steps.refuse_decisions()
            taken = self._steps_taken
            yield self.phase.next_timestep()
        if self.call.bar is not None:  # it was made for as many turns as there are steps
            self.call.bar.total = self.call.bar.n
            self.call.bar.refresh()

    def _interrupt(self) -> None:
        if not self.call.interrupted():
            raise ValueError(
                f"{self.call.name} went through its loop without a call of the network and of scheduler.step; expected "
                "a pipeline that calls both once in each step"
            )
        if isinstance(self.phase, Solving):
            self.phase.stop()
        self.close()

    def take_number(self) -> int | None:
        """The number of the timestep that the denoising loop has just taken; ``None`` in any other loop."""
        return self.phase.steps.take_number() if isinstance(self.phase, Probing | Solving) else None

    def network(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of one of the pipeline's networks."""
        if isinstance(self.phase, Probing | Solving) and has_numbers((args, kwargs)):
            self.phase.steps.note_decision(None)
        if isinstance(self.phase, Probing):
            solving = self.phase.network(module, args, kwargs)
            if solving is None:
                return module(*plain(args), **plain(kwargs))
            self.phase = solving
        if isinstance(self.phase, Solving):
            return self.phase.network(module, args, kwargs)
        return module(*args, **kwargs)

    def step(self, model_output: Tensor, sample: Tensor, given: dict[str, Any]) -> Tensor:
        """Passes the guided prediction to the engine; returns the latents with which the pipeline continues.

        Raises:
            DiffersError: The result differs from that of the scheduler of the pipeline.
        """
        self._steps_taken += 1
        if isinstance(model_output, Noted):
            raise ValueError(
                f"{self.call.name} computes its guidance from the timestep, which differs from lane to lane; expected "
                "guidance that is the same in all steps"
            )
        phase = self.phase
        if isinstance(phase, Probing):
            self.phase = phase.step(sample)
            return self.phase.show_others()
        if not isinstance(phase, Solving):
            raise step_before_network(self.call.name)
        try:
            return phase.step(model_output, sample, given)
        finally:
            if phase.done:
                self.phase = Finished(phase.solution, phase.run.checker, phase.turns)

    def close(self) -> None:
        """Ends the engine, finished or not."""
        phase = self.phase
        if isinstance(phase, Solving):
            phase.run.abandon()
            self.phase = Finished(phase.solution, phase.run.checker, phase.turns)
        elif isinstance(phase, Probing):
            self.phase = Finished()

    def warn_if_unused(self) -> None:
        """Warns where the pipeline did not use the stand-ins: its result was then not computed in parallel."""
        if isinstance(self.phase, Waiting):
            warnings.warn(
                f"{self.call.name} did not run over scheduler.timesteps: its result was made in sequence, as without "
                "parallelize, and there is no solution",
                RuntimeWarning,
                stacklevel=4,
            )


def raised_by_diffusers(error: BaseException) -> bool:
    """Whether code of diffusers, or what it called of torch, has raised an error: no memory is no such error."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    own = [name for name in modules if name.split(".")[0] not in ("torch", "einops")]
    return bool(own) and own[-1].split(".")[0] == "diffusers"
