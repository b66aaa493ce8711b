"""The pipeline's own loop as the right-hand side: it scales, calls the network and guides, for all lanes of a round.

The engine runs beside it and asks. Where the pipeline calls its network, the network is called on the lanes that the
engine asks about; where the pipeline hands the guided prediction to ``scheduler.step``, it is handed to the engine,
which says what the next round is about. What the pipeline itself sees are latents of its own batch, and a loop that
ends when the engine has what it wants.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import parareal as pr
from diffusion_adapters.diffusers._check import Check, Checker
from diffusion_adapters.diffusers._loop_steps import LoopSteps, caller, joined, split
from diffusion_adapters.diffusers._network_proxy import Known, Lanes, Plan, find_layout, learn
from diffusion_adapters.diffusers._problem import Draw, Request, Setup, prepare
from diffusion_adapters.diffusers._timesteps import Noted, itself
from diffusion_adapters.diffusers._translation import Translation
from diffusion_adapters.diffusers._trial import translated
from parareal.integrators.external._coroutine import Coroutine


@dataclass
class Inpainting:
    """What a pipeline prepared to keep of an image: shapes as the latents', the mask 0 where the image is kept."""

    image: Tensor | None = None
    noise: Tensor | None = None
    mask: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.image is not None and self.noise is not None and self.mask is not None


class Conversation:
    """One call of a pipeline.

    Args:
        setup: How to solve.
        name: What errors call the pipeline.
        interrupted: Whether somebody asks for an end.
        given: The call's arguments, by name.

    Attributes:
        scheduler: The stand-in, set by whoever makes it.
        latents: What the pipeline prepared, if that is known.
        inpainting: What it keeps of an image.
        rounds: Turns of the loop so far, each with a call of the network: one for each group of steps in a round.
        preview: Whether each round's ``step`` returns the best latents so far.
        solution: The run, as far as it came.
        bar: The pipeline's progress bar.
        checker: What compares the run with the pipeline's own scheduler, once it has begun.
    """

    scheduler: Any

    def __init__(
        self, setup: Setup, name: str, interrupted: Callable[[], bool], given: dict[str, Any] | None = None
    ) -> None:
        self.setup, self.name, self._interrupted, self._given = setup, name, interrupted, given or {}
        self.latents: Tensor | None = None
        self.inpainting = Inpainting()
        self.preview = False
        self.solution: pr.Solution | None = None
        self.rounds = 0
        self.finished = False
        self.bar: Any = None
        self.checker: Checker | None = None
        self._span: tuple[int, int] | None = None
        self._decided = False
        self._translation: Translation | None = None
        self._draw: Draw | None = None
        self._engine: Coroutine | None = None
        self._plans: dict[Any, Plan] = {}
        self._known = Known()
        self._lanes: Lanes | None = None
        self._request: Request | None = None
        self._answered: tuple[Request, Tensor] | None = None
        self._twins = self._alone = self._stepped = self._checked = False
        self._idle = self._taken = False
        self._first = True
        self._recorded: tuple[Any, ...] = ()
        self._steps: LoopSteps | None = None
        self._number: int | None = None
        self._group = 0
        self._groups = torch.zeros(0, dtype=torch.int64)
        self._parts: list[tuple[int, Tensor | None]] = []
        self._values: list[tuple[Tensor | None, Tensor]] = []
        self._shown: Tensor | None = None

    @property
    def check(self) -> Check | None:
        """What came of comparing the run with the pipeline's own scheduler."""
        return None if self.checker is None else self.checker.check

    @property
    def under_way(self) -> bool:
        """Whether the engine is at work."""
        return self._engine is not None and not self.finished

    @property
    def in_loop(self) -> bool:
        """Whether the pipeline's loop has begun, and not ended."""
        return self._span is not None and not self.finished

    # --- the loop ---------------------------------------------------------------------------------------------------

    def loop(self, start: int, timesteps: Tensor) -> Iterator[Tensor]:
        """Timesteps for the pipeline's loop, one for each round; they are those from number ``start`` on."""
        if self._engine is not None:
            raise ValueError(
                f"{self.name} runs over its timesteps a second time, which cannot be done in parallel in time; "
                "expected a pipeline with one loop"
            )
        self._span, self._decided = (start, start + len(timesteps)), False
        if len(timesteps) == 0:
            return
        self._steps = LoopSteps(self.name, caller(), timesteps, self._given)
        self._number = 0
        yield Noted.of(timesteps[0].clone(), itself, self._note_decision)
        if self._engine is None and not self._alone and not self._stepped and not self._interrupted():
            self._span = None  # this is not the loop: something is counted, or looked up
            yield from timesteps[1:]
            return
        while not self.finished:
            if self._interrupted() or not self._stepped:
                self._interrupt()
                return
            self._refuse_decisions()
            self._stepped = False
            yield self._next_turn(timesteps)
        if self.bar is not None:  # it was made for as many rounds as there are steps
            self.bar.total = self.bar.n
            self.bar.refresh()

    def _next_turn(self, timesteps: Tensor) -> Tensor:
        """The timestep of a turn, whose number is told beside it."""
        assert self._steps is not None
        self._known.next_round()
        self._first = False
        at = self._number = self._steps.pick(self._group, self.rounds, int(getattr(self.scheduler, "order", 1)))
        if not self._steps.many:
            return timesteps[0]
        return Noted.of(timesteps[at].clone(), itself, self._note_decision)

    def take_number(self) -> int | None:
        """The number of the timestep that the loop has just taken; ``None`` where it was not this loop."""
        number, self._number = self._number, None
        if number is not None and self._steps is not None:
            self._steps.told = True
        return number

    def _note_decision(self) -> None:
        if self._steps is None or not self._steps.accounts_for(caller()):
            self._decided = True

    def _refuse_decisions(self) -> None:
        if self._decided:
            raise ValueError(
                f"{self.name} makes a decision, or a number, of the timestep within its loop, which is another for "
                "each of the lanes that are computed together; expected a pipeline, and arguments, for which nothing "
                "but the network depends on the timestep: for example one without a second transformer for low noise"
            )

    def _interrupt(self) -> None:
        if not self._interrupted():
            raise ValueError(
                f"{self.name} went through its loop without a call of the network and of scheduler.step; expected a "
                "pipeline that calls both once in each step"
            )
        if self._answered is not None and self._shown is not None:
            self._shown.copy_(self._twinned(self._best()).to(self._shown.dtype))
        self.close()

    def close(self) -> None:
        """Ends the engine, wherever it is."""
        if self._engine is not None and not self.finished:
            self._engine.abandon()
            self._count_turns()
        self.finished = True

    def warn_if_unused(self) -> None:
        """Nothing was asked of the stand-ins: what came is the pipeline's, but was not made in parallel."""
        if self._span is None and self._engine is None and self.solution is None:
            warnings.warn(
                f"{self.name} did not run over scheduler.timesteps: what it returned was made in sequence, as without "
                "parallelize, and there is no solution",
                RuntimeWarning,
                stacklevel=3,
            )

    # --- the network --------------------------------------------------------------------------------------------------

    def network(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of one of the pipeline's networks."""
        if not self.in_loop:
            return module(*args, **kwargs)
        plan = self._plans.get(self._kind(module, args, kwargs))
        if plan is None:
            plan = self._learn(module, args, kwargs)
        if plan is None:
            self._alone, self._recorded = True, (module, args, kwargs)
        if plan is None or self._idle:
            return module(*_plain(args), **_plain(kwargs))
        if not self._checked and self.rounds > 0:
            self._check_untouched(plan, args, kwargs)
        assert self._lanes is not None
        args, kwargs = plan.expand(args, kwargs, self._lanes, self._known)
        value = module(*args, **kwargs)
        self._known.add(value)
        return value

    def _kind(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What tells calls of networks apart: the network, the group of steps, and rows of what it is given."""
        rows: list[int] = []
        for value in (args, kwargs):
            _each(value, lambda leaf: rows.append(-1 if leaf.ndim == 0 or self._known.has(leaf) else len(leaf)))
        return id(module), self._group, tuple(rows)

    def _learn(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan | None:
        """How the pipeline calls this network; begins to solve where that has not begun."""
        self._refuse_decisions()
        if self._translation is None:
            assert self._span is not None
            self._translation = translated(self.scheduler, *self._span, self.setup)
        if self.latents is None:
            self._take_latents(args, kwargs)
        latents = self.latents
        if latents is None:
            return None
        wanted = self._as_input(latents) if self._first else self._shown  # the first turn began before the engine
        assert wanted is not None
        plan = learn(args, kwargs, wanted, self._translation.timesteps)
        if plan is None:
            return None
        if not plan.times:
            raise ValueError(
                f"{self.name} calls its {type(module).__name__} without a timestep that could be told for each lane; "
                "expected the timestep of the loop, as it is or computed from by torch operations, among the arguments"
            )
        kind = self._kind(module, args, kwargs)
        if self._engine is None:
            self._begin(latents, plan)
            kind = (kind[0], int(self._groups[0]), kind[2])  # it is the turn of the first step
        self._plans[kind] = plan
        return plan

    def _take_latents(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pipelines that prepare no latents show them to the network first, or twice the same for guidance."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and not isinstance(value, Noted) and value.is_floating_point():
                latents = self._from_input(value)
                half, self._taken = len(latents) // 2, True
                self._twins = len(latents) % 2 == 0 and bool(torch.equal(latents[:half], latents[half:]))
                self.latents = latents[:half] if self._twins else latents
                return

    def _check_untouched(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The latents must come back as ``step`` has returned them, or with the image put in by its mask."""
        self._checked = True
        shown, inpainting = self._shown, self.inpainting
        assert shown is not None
        shown = shown[: len(shown) // 2] if self._twins else shown
        if inpainting.complete and plan.layout.whole:
            assert inpainting.image is not None
            assert inpainting.mask is not None
            mask = inpainting.mask[: len(shown)]
            shown = (1 - mask) * inpainting.image + mask * shown
        found: list[Tensor] = []
        _each(args, found.append)
        _each(kwargs, found.append)
        layout = find_layout(found[plan.at], shown)
        if layout is None or layout.offset != plan.layout.offset:
            raise ValueError(
                f"{self.name}, or a callback, changes the latents between two steps, in a way that is not known here; "
                "such a run depends on the order of its steps: expected latents that only scheduler.step changes"
            )

    # --- the engine -------------------------------------------------------------------------------------------------

    def _begin(self, latents: Tensor, plan: Plan) -> None:
        assert self._translation is not None
        assert self._steps is not None
        self._groups = torch.tensor(self._steps.find_groups(self._translation.timesteps))
        inpainting = self.inpainting if self.inpainting.complete and plan.layout.whole else None
        assert self._span is not None
        checker = Checker(self.setup, self._translation, self.scheduler, self._span, len(latents))
        prepared = prepare(self.setup, self._translation, latents, inpainting, checker.mark)
        checker.begin(prepared, latents, inpainting)
        self.checker, self._draw = checker, prepared.draw
        self._shown = self._twinned(latents.clone())

        def solve(ask: Callable[..., Tensor]) -> Tensor:
            try:
                self.solution, u = checker.solve(ask)
                return u
            except BaseException as error:
                self.solution = getattr(error, "solution", self.solution)
                raise

        self._engine = Coroutine(solve, latents)
        self._go_on(None)
        if not self.finished and not self._alone:
            self._take_first_group()

    def _take_first_group(self) -> None:
        """The turn that is under way is that of the first step: lanes of its group, if there are any, or none."""
        mine = [part for part in self._parts if part[0] == int(self._groups[0])]
        self._idle = not mine
        if mine:
            self._parts.remove(mine[0])
            self._parts.insert(0, mine[0])
        self._take_part()
        if self._idle:
            self._group = int(self._groups[0])

    def _take_part(self) -> None:
        """The lanes of one group are what the next turn is about."""
        assert self._request is not None
        group, rows = self._parts[0]
        self._group, self._lanes = group, self._request.lanes.some(rows)

    def _go_on(self, value: Tensor | None) -> Tensor | None:
        """The next round, or the end; returns the latents at the end."""
        assert self._engine is not None
        self._known.next_round()
        if not self._engine.advance(value):
            self.finished = True
            self._count_turns()
            return self._engine.result
        (request,) = self._engine.asks
        self._request, self._values = request, []
        self._parts = split(self._groups, request.lanes.at)
        self._take_part()
        return None

    def _count_turns(self) -> None:
        """Rounds of the run are calls one after another: those of the groups of a round are."""
        if self.solution is not None and self._steps is not None and self._steps.many:
            stats = replace(self.solution.stats, rounds=self.rounds, calls=self.rounds)
            self.solution = replace(self.solution, stats=stats)

    def step(self, model_output: Tensor, sample: Tensor, given: dict[str, Any]) -> Tensor:
        """Takes the guided prediction for all lanes; returns what the pipeline is to take for its latents.

        Raises:
            DiffersError: The run is not what the pipeline's own scheduler makes of it.
        """
        self._stepped = True
        if isinstance(model_output, Noted):
            raise ValueError(
                f"{self.name} computes its guidance from the timestep, which is another for each lane; expected "
                "guidance that is the same in all steps"
            )
        if self._alone:
            self._after_first_alone(sample)
            return sample
        if self._idle:
            self._idle = False
            self._take_part()
            return sample
        if self._engine is None or self._lanes is None:
            raise ValueError(
                f"{self.name} called scheduler.step before its network; expected a denoiser among its components "
                "(unet, transformer or controlnet) that is called in each step"
            )
        if self.rounds == 0:
            self._begin_rounds(sample, given.get("generator"), model_output.dtype)
        self.rounds += 1
        self._values.append((self._parts.pop(0)[1], self._of_lanes(model_output)))
        if self._parts:
            self._take_part()
            assert self._shown is not None
            return self._shown
        value = joined(self._values)
        assert self._request is not None
        assert self.checker is not None
        self.checker.arguments = given
        self.checker.note(self._request, value)
        self._answered = (self._request, value)
        final = self._go_on(value)
        if final is not None:
            self.checker.conclude(self.name, self.scheduler)
            final = self._with_failures(final)
            return self._twinned(final).to(sample.dtype)
        if self.preview:
            self._shown = self._twinned(self._best()).to(sample.dtype)
        assert self._shown is not None
        return self._shown

    def _begin_rounds(self, sample: Tensor, generator: Any, dtype: torch.dtype) -> None:
        """What the first call of ``step`` shows: whether each sample is kept twice, and with what noise is drawn."""
        assert self.latents is not None
        shown = sample[: len(self.latents)].float()
        if self._taken and (shown - self.latents).abs().amax() > 1e-2 * shown.abs().amax():
            raise ValueError(
                f"{self.name} shows its network latents that {type(self.scheduler).__name__}.scale_model_input has not "
                "scaled; expected a scheduler that scales nothing, such as DDIMScheduler"
            )
        if self._twins and len(sample) == len(self.latents):  # it was the network's input alone
            self._twins, self._shown = False, self.latents.clone()
        if self._draw is not None:
            self._draw(generator, dtype, self._twins)

    def _after_first_alone(self, sample: Tensor) -> None:
        """Where it was not known what the latents are, the first call was for the pipeline's own; now it is known."""
        module, args, kwargs = self._recorded
        self._recorded = ()
        self.latents = sample
        if self._learn(module, args, kwargs) is None:
            raise ValueError(
                f"the latents that {self.name} hands to scheduler.step, of shape {tuple(sample.shape)}, were not found "
                f"in the arguments of its {type(module).__name__}; expected them as they are, or beside other channels"
            )
        self._alone = False

    def _of_lanes(self, value: Tensor) -> Tensor:
        """The prediction for each lane, of the shape of its state."""
        assert self._lanes is not None
        x = self._lanes.x
        if self._twins and value.shape[0] == 2 * x.shape[0]:
            value = value[: x.shape[0]]
        if value.ndim == x.ndim and value.ndim > 1 and value.shape[1] == 2 * x.shape[1]:
            value = value[:, : x.shape[1]]  # the other half is a variance
        if value.shape != x.shape:
            raise ValueError(
                f"{self.name} handed predictions of shape {tuple(value.shape)} to scheduler.step, for lanes of shape "
                f"{tuple(x.shape)}; expected guidance that treats samples apart and alike"
            )
        return value

    def _best(self) -> Tensor:
        """The clean latents that follow from the least noisy lane of each sample."""
        assert self._answered is not None
        assert self.latents is not None
        request, value = self._answered
        return request.clean(value, len(self.latents))

    def _twinned(self, latents: Tensor) -> Tensor:
        return torch.cat([latents, latents]) if self._twins else latents

    def _with_failures(self, final: Tensor) -> Tensor:
        """NaN for samples whose sequential run is not finite, as that would give; a warning where anything failed."""
        assert self.solution is not None
        if self.solution.status.failed:
            warnings.warn(f"{self.name}: {self.solution.status.value}", RuntimeWarning, stacklevel=2)
            lost = [status is pr.Status.NONFINITE for status in self.solution.sample_status or ()]
            final = final.clone()
            final[torch.tensor(lost, device=final.device)] = float("nan")
        return final

    # --- units ------------------------------------------------------------------------------------------------------

    def _input_factor(self) -> float:
        """From the scheduler's latents at the start to what the network is shown."""
        translation = self._translation
        assert translation is not None
        t = translation.times[0]
        factor = translation.input_scale(t)
        return float(factor * translation.noise_schedule.alpha(t) if translation.scaled else factor)

    def _as_input(self, latents: Tensor) -> Tensor:
        return latents * self._input_factor()

    def _from_input(self, value: Tensor) -> Tensor:
        return value / self._input_factor()


def _plain(value: Any) -> Any:
    """The same without notes."""
    if isinstance(value, Noted):
        return value.as_subclass(Tensor)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _each(value: Any, fn: Callable[[Tensor], Any]) -> None:
    if isinstance(value, Tensor):
        fn(value)
    elif isinstance(value, dict):
        for item in value.values():
            _each(item, fn)
    elif isinstance(value, list | tuple):
        for item in value:
            _each(item, fn)
