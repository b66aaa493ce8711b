"""The stand-in for a pipeline's scheduler: it has the same levels and timesteps, but the engine makes its steps."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from torch import Tensor

from diffusion_adapters.diffusers._denoising_loop import Conversation
from diffusion_adapters.diffusers._numbers import plain
from diffusion_adapters.diffusers._timesteps import Rounds


class StandIn:
    """The replaced parts of a scheduler, mixed into a subclass of its class: ``isinstance`` still holds."""

    _conversation: Conversation
    _own_timesteps: Tensor

    @property
    def timesteps(self) -> Any:
        """The timesteps; a loop over them makes as many turns as the run needs."""
        own = self._own_timesteps
        return Rounds.of(own, self._conversation.loop) if isinstance(own, Tensor) else own

    @timesteps.setter
    def timesteps(self, value: Any) -> None:
        self._own_timesteps = value.plain if isinstance(value, Rounds) else value

    def scale_model_input(self, sample: Tensor, timestep: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """Calls the scheduler, until the engine runs, which scales its lanes itself."""
        if self._conversation.solving or not hasattr(super(), "scale_model_input"):
            return sample
        return super().scale_model_input(sample, _plain(timestep), *args, **kwargs)  # pyright: ignore

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Passes the prediction to the engine; returns the latents with which the pipeline continues."""
        given = {**dict(zip(_names(self), args, strict=False)), **kwargs} if args else kwargs
        self._refuse_more(given)
        latents = self._conversation.step(model_output, sample, given)
        if kwargs.get("return_dict", True) is False:
            return latents, latents
        return _output()(prev_sample=latents, pred_original_sample=latents)

    def _refuse_more(self, given: dict[str, Any]) -> None:
        """Raises where a step receives an argument that is not supported, such as churn or noise of its own."""
        parameters = inspect.signature(self.step).parameters
        setup = self._conversation.call.setup
        known = {"eta": setup.eta, "use_clipped_model_output": setup.use_clipped}
        for name, value in given.items():
            if name in ("generator", "return_dict") or name not in parameters or isinstance(value, Tensor | list):
                neutral = value is None or name in ("generator", "return_dict")
            else:
                neutral = (value or 0) == (known.get(name, parameters[name].default) or 0)
            if not neutral:
                raise ValueError(
                    f"the pipeline calls step of {type(self).__name__} with {name}={value!r}, which is not supported; "
                    f"expected {known.get(name, 'its default')}: eta and use_clipped_model_output are taken from the "
                    "pipeline's own arguments"
                )

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Calls the scheduler before the loop; during the loop the engine keeps the image itself."""
        if self._conversation.begun:
            return original_samples
        return super().add_noise(original_samples, noise, _plain(timesteps))  # pyright: ignore


@cache
def _output() -> Any:
    """The result of schedulers of diffusers: read by attribute, by name and by index."""
    from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

    return DDIMSchedulerOutput


def _names(scheduler: Any) -> list[str]:
    """The names of the arguments of ``step`` after prediction, timestep and sample."""
    return list(inspect.signature(scheduler.step).parameters)[3:]


def _plain(value: Any) -> Any:
    return plain(value.plain if isinstance(value, Rounds) else value)


def stand_in(scheduler: Any, conversation: Conversation) -> Any:
    """A copy of a scheduler whose steps are made by a conversation; the original stays as it is."""
    if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "set_timesteps"):
        raise ValueError(
            f"scheduler {type(scheduler).__name__} has no step(model_output, timestep, sample), so that its run is not "
            "known here; expected one such as diffusers.DDIMScheduler, or the pipeline itself"
        )
    made = object.__new__(_stepping(type(scheduler)))
    state = {key: value.copy() if type(value) in (list, dict) else value for key, value in vars(scheduler).items()}
    state["_own_timesteps"] = state.pop("timesteps", None)
    made.__dict__.update(state, _conversation=conversation)
    conversation.call.scheduler = made
    return made


@cache
def _stepping(kind: type) -> type:
    """A class like the given one, with `StandIn` before it; pipelines ask what its step takes."""

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return StandIn.step(self, *args, **kwargs)

    def scale_noise(self: Any, sample: Tensor, timestep: Tensor, noise: Tensor | None = None) -> Tensor:
        """Calls the scheduler before the loop; during the loop the engine keeps the image itself."""
        if self._conversation.begun:
            return sample
        return kind.scale_noise(self, sample, _plain(timestep), noise)  # pyright: ignore

    step.__signature__ = inspect.signature(getattr(kind, "step"))  # pyright: ignore # noqa: B009
    body = {"__module__": kind.__module__, "__doc__": kind.__doc__, "step": step}
    if hasattr(kind, "scale_noise"):  # pipelines ask whether it has that, or add_noise
        body["scale_noise"] = scale_noise
    return type(kind.__name__, (StandIn, kind), body)
