"""The phases of a call, in order: waiting, probing, solving, finished. Each holds the data that it needs.

- Waiting: no loop over the timesteps has begun.
- Probing: the first turn of a loop, which shows the latents of the pipeline and its calls of the network.
- Solving: the engine runs, and requests its right-hand side from the loop of the pipeline.
- Finished: the engine has its result, or was ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import parareal as pr
from diffusion_adapters.diffusers._call import Batch, Call
from diffusion_adapters.diffusers._check import Checker
from diffusion_adapters.diffusers._loop_steps import LoopSteps, caller
from diffusion_adapters.diffusers._network_calls import NetworkCalls
from diffusion_adapters.diffusers._solving import Solving, latents_not_found
from diffusion_adapters.diffusers._timesteps import Noted, itself
from diffusion_adapters.diffusers._translation import Translation
from diffusion_adapters.diffusers._trial import translated


@dataclass(frozen=True)
class Waiting:
    """No loop over the timesteps has begun."""


class Probing:
    """The first turn of a loop over timesteps.

    Most pipelines have prepared latents by then, and the first call of the network shows where they stand in its input:
    the engine starts within that call. If they are not found, the pipeline takes its first step itself, and
    ``scheduler.step`` shows the latents.

    Args:
        call: The call of the pipeline.
        start: The number of the first timestep that the loop visits.
        timesteps: Those that it visits, ``(n,)``.

    Attributes:
        steps: The steps of the loop.
        own_call: The last call of the network, if the pipeline takes its first step itself.
    """

    def __init__(self, call: Call, start: int, timesteps: Tensor) -> None:
        self._call, self._timesteps = call, timesteps
        self._span = (start, start + len(timesteps))
        self._translation: Translation | None = None
        self.steps = LoopSteps(call.name, caller(), timesteps, call.given)
        self.own_call: tuple[nn.Module, tuple[Any, ...], dict[str, Any]] | None = None

    def first_timestep(self) -> Tensor:
        """The timestep of the first turn, which records what the pipeline computes from it."""
        self.steps.number = 0
        return Noted.of(self._timesteps[0].clone(), itself, self.steps.note_decision)

    def network(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Solving | None:
        """The next phase, if the engine starts in this call of a network; ``None`` if the pipeline makes the call."""
        self.steps.refuse_decisions()
        translation = self._translation
        if translation is None:
            translation = self._translation = translated(self._call.scheduler, *self._span, self._call.setup)
        solving = None
        if self.own_call is None:
            batch = self._batch(module, args, kwargs, translation)
            solving = None if batch is None else self._begin(module, args, kwargs, batch, within_turn=True)
        if solving is None:
            self.own_call = (module, args, kwargs)
        return solving

    def step(self, sample: Tensor) -> Solving:
        """The next phase, after a first step of the pipeline itself: the engine starts from ``sample``.

        Raises:
            ValueError: The network was not called, or its input holds no latents.
        """
        if self.own_call is None:
            raise step_before_network(self._call.name)
        module, args, kwargs = self.own_call
        solving = self._begin(module, args, kwargs, Batch(sample.clone()), within_turn=False)
        if solving is None:
            raise latents_not_found(self._call.name, module, sample)
        return solving

    def _batch(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], translation: Translation
    ) -> Batch | None:
        """The latents that the pipeline prepared, or else those in the first input of its network, if that is all."""
        if self._call.latents is not None:
            return Batch(self._call.latents.clone())  # some pipelines write the next latents into them
        if self._call.from_step:
            return None
        config = getattr(module, "config", {})
        if (config.get("in_channels") or 0) > (config.get("out_channels") or math.inf):
            return None
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and not isinstance(value, Noted) and value.is_floating_point():
                return Batch.of_input(value, translation.input_factor)
        return None

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Batch, within_turn: bool
    ) -> Solving | None:
        call, translation = self._call, self._translation
        if translation is None:
            raise step_before_network(call.name)
        expected = batch.latents * translation.input_factor
        networks = NetworkCalls(
            call.name, translation.timesteps, expected, samples=len(batch.latents), stacked=call.stacked
        )
        plan = networks.learn(module, args, kwargs)
        if plan is None:
            return None
        inpainting = call.inpainting if call.inpainting.complete and plan.layout.whole else None
        checker = Checker(call.setup, translation, call.scheduler, self._span, len(batch.latents))
        prepared = checker.begin(batch.latents, inpainting)
        self.steps.find_groups(translation.timesteps)
        networks.plans[networks.kind(module, args, kwargs, int(self.steps.of_grid[0]))] = plan
        return Solving(call, self.steps, batch, networks, checker, prepared.draw, within_turn)


@dataclass(frozen=True, eq=False)
class Finished:
    """The engine has its result, or was ended.

    Attributes:
        solution: The solution, perhaps a partial one; ``None`` if the engine had not started.
        checker: Compared it with the scheduler of the pipeline; ``None`` likewise.
        turns: Turns of the loop.
    """

    solution: pr.Solution | None = None
    checker: Checker | None = None
    turns: int = 0


Phase = Waiting | Probing | Solving | Finished


def step_before_network(name: str) -> ValueError:
    """The error of a pipeline that takes a step without a prediction."""
    return ValueError(
        f"{name} called scheduler.step before its network; expected a denoiser among its components (unet, transformer "
        "or controlnet) that is called in each step"
    )
