"""A pipeline whose denoising loop runs in parallel in time."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

import parareal as pr
from diffusion_adapters.diffusers._call import NETWORKS, Call, OtherRowsError
from diffusion_adapters.diffusers._callbacks import watched, watched_old
from diffusion_adapters.diffusers._check import Check, DiffersError, Rewind
from diffusion_adapters.diffusers._denoising_loop import Conversation, raised_by_diffusers
from diffusion_adapters.diffusers._loop_steps import with_numbers
from diffusion_adapters.diffusers._network_proxy import proxy
from diffusion_adapters.diffusers._problem import Setup
from diffusion_adapters.diffusers._scheduler_proxy import stand_in
from diffusion_adapters.diffusers._unsupported import refuse

_OF_STEPS = ("eta", "use_clipped_model_output", "guidance_scale")
"""Arguments that the scheduler's steps depend on, also where they are the pipeline's defaults."""


class _Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        value: What the pipeline returned.
        off: Why that is not its result; ``None`` where it is.
        in_batches: Whether the pipeline raised, since its network returned more rows than it expects.
        other_rows: Whether the network's input was taken for other samples than there are.
    """

    value: Any = None
    off: str | None = None
    in_batches: bool = False
    other_rows: bool = False


class ParallelPipeline:
    """The result of `parallelize`: it has the call, the result and the attributes of the pipeline.

    Attributes that are not its own are the pipeline's.

    Attributes:
        pipe: The pipeline.
        solution: The run behind the last call: rounds, evaluations, error estimate, history (`parareal.Solution`), also
            where the call was interrupted or raised; ``None`` before the first.
        check: The comparison of the last call's latents with those that the pipeline's own scheduler makes of the run's
            predictions; ``None`` before the first.
    """

    pipe: Any
    solution: pr.Solution | None
    check: Check | None

    def __init__(self, pipe: Any, setup: Setup) -> None:
        self.__dict__.update(
            pipe=pipe, solution=None, check=None, _setup=setup, _copy=None, _earlier=None, _stacked=False
        )
        self.__dict__["__signature__"] = inspect.signature(pipe.__call__)

    def __getattr__(self, name: str) -> Any:
        if "pipe" not in self.__dict__:  # a copy in the making
            raise AttributeError(name)
        return getattr(self.__dict__["pipe"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_interrupt" and self.__dict__["_copy"] is not None:
            self.__dict__["_copy"]._interrupt = value
        else:
            setattr(self.__dict__["pipe"], name, value)

    def __repr__(self) -> str:
        return f"ParallelPipeline({type(self.pipe).__name__}, {self.__dict__['_setup']})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the pipeline, with its own arguments and result."""
        pipe, setup = self.pipe, self.__dict__["_setup"]
        signature: inspect.Signature = self.__dict__["__signature__"]
        given = _bound(signature, args, kwargs)
        refuse(pipe, given)
        rewind, own = Rewind(given.get("generator")), (args, kwargs)
        setup = replace(
            setup,
            eta=float(given.get("eta") or 0.0),
            use_clipped=bool(given.get("use_clipped_model_output")),
            guidance=_number(given.get("guidance_scale")),
            start=self.__dict__["_earlier"],
        )
        stacked, from_step = self.__dict__["_stacked"], False
        while True:
            outcome = self._attempt(args, kwargs, given, setup, stacked, from_step)
            if outcome.other_rows and not from_step:
                from_step = True
            elif outcome.in_batches and not stacked:
                stacked = True  # what the network returns may have to have the shape that the pipeline expects
            else:
                break
            rewind()
        self.__dict__["_stacked"] = self.__dict__["_stacked"] or (stacked and outcome.off is None)
        if outcome.off is None:
            if setup.warm_start and self.solution is not None:
                self.__dict__["_earlier"] = self.solution
            return outcome.value
        warnings.warn(f"{outcome.off}; the pipeline itself now runs, in sequence", RuntimeWarning, stacklevel=2)
        if outcome.in_batches:
            self.__dict__["check"] = Check(sequential=True, reason=outcome.off)
        rewind()
        return pipe(*own[0], **own[1])

    def _attempt(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[str, Any],
        setup: Setup,
        stacked: bool,
        from_step: bool,
    ) -> _Outcome:
        """One run in parallel in time.

        Args:
            args: Arguments of the call.
            kwargs: Likewise.
            given: All of them by name.
            setup: How to solve.
            stacked: Whether outputs of networks have the shape of the pipeline's own batch.
            from_step: Whether the samples are those of the first ``step``, unless the pipeline has prepared them.
        """
        pipe = self.pipe
        copy = object.__new__(type(pipe))
        copy.__dict__.update(pipe.__dict__)
        before = getattr(pipe, "_interrupt", None)

        def interrupted() -> bool:
            now = getattr(pipe, "_interrupt", None)
            return bool(getattr(copy, "_interrupt", False)) or (now is not before and bool(now))

        conversation = Conversation(setup, type(pipe).__name__, interrupted, given)
        conversation.call.stacked, conversation.call.from_step = stacked, from_step
        _prepare(copy, pipe, conversation)
        if given.get("callback_on_step_end") is not None:
            conversation.call.preview = True
            callback = watched(given["callback_on_step_end"], pipe, lambda: conversation.turns)
            kwargs = {**kwargs, "callback_on_step_end": callback}
            args = _without(self.__dict__["__signature__"], args, "callback_on_step_end")
        if callable(kwargs.get("callback")):
            kwargs = {**kwargs, "callback": watched_old(kwargs["callback"])}
        self.__dict__["_copy"] = copy
        try:
            value = with_numbers(type(pipe).__call__, conversation.take_number)(copy, *args, **kwargs)
        except DiffersError as differs:
            return _Outcome(off=str(differs))
        except OtherRowsError:
            return _Outcome(other_rows=True)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            if not (conversation.solving and raised_by_diffusers(error)):
                raise
            what = f"{type(pipe).__name__} raised {type(error).__name__} where several timesteps were computed together"
            return _Outcome(off=f"{what}: {error}", in_batches=True)
        finally:
            conversation.close()
            self.__dict__.update(_copy=None, solution=conversation.solution, check=conversation.check)
        conversation.warn_if_unused()
        return _Outcome(value)


def _number(scale: Any) -> float:
    """The scale of a call's guidance; 1 where it has none, or one that the pipeline itself has to check."""
    return float(scale) if isinstance(scale, int | float) else 1.0


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name. Where they do not fit the signature, the pipeline itself raises."""
    try:
        defaults = {name: part.default for name, part in signature.parameters.items() if name in _OF_STEPS}
        return {**defaults, **signature.bind_partial(*args, **kwargs).arguments}
    except TypeError:
        return dict(kwargs)


def _without(signature: inspect.Signature, args: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """The positional arguments before the one of this name, which is passed by keyword from here on."""
    names = list(signature.parameters)
    place = names.index(name) if name in names else len(args)
    if len(args) > place + 1:
        raise TypeError(f"arguments after {name} came by position; expected them by keyword")
    return args[:place]


def _prepare(copy: Any, pipe: Any, conversation: Conversation) -> None:
    """Puts stand-ins into a copy of a pipeline, without the pipeline's own setters."""
    state = copy.__dict__
    state["scheduler"] = stand_in(pipe.scheduler, conversation)
    for name in NETWORKS:
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            state[name] = proxy(module, conversation.network)
    if hasattr(pipe, "maybe_free_model_hooks"):
        state["maybe_free_model_hooks"] = pipe.maybe_free_model_hooks  # offloading is about the pipeline's own modules
    for name in ("prepare_latents", "prepare_intermediate_images"):
        if hasattr(copy, name):
            state[name] = _noting(getattr(copy, name), conversation.call)
    if hasattr(copy, "prepare_mask_latents"):
        state["prepare_mask_latents"] = _noting_mask(copy.prepare_mask_latents, conversation.call)
    state["progress_bar"] = _ending(copy.progress_bar, conversation.call)


def _noting(prepare: Callable[..., Any], into: Call) -> Callable[..., Any]:
    """Records the latents that a pipeline prepares, and the image and noise for inpainting."""

    def call(*args: Any, **kwargs: Any) -> Any:
        value = prepare(*args, **kwargs)
        parts = value if isinstance(value, tuple | list) else (value,)
        if parts and isinstance(parts[0], Tensor):
            latents = parts[0]
            into.latents = latents
            like = [p for p in parts[1:3] if isinstance(p, Tensor) and p.shape == latents.shape]
            if len(like) == 2:
                into.inpainting.noise, into.inpainting.image = like
        return value

    return call


def _noting_mask(prepare: Callable[..., Any], into: Call) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        value = prepare(*args, **kwargs)
        mask = value[0] if isinstance(value, tuple | list) else value
        if isinstance(mask, Tensor):
            into.inpainting.mask = mask
        return value

    return call


def _ending(progress_bar: Callable[..., Any], into: Call) -> Callable[..., Any]:
    """Records the progress bar of the pipeline, which must end with the last turn."""

    def call(*args: Any, **kwargs: Any) -> Any:
        bar = progress_bar(*args, **kwargs)
        into.bar = bar
        return bar

    return call
