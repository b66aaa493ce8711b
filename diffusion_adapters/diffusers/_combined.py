"""Pipelines that are made of others, such as a prior and a decoder: each that can be is parallel in time."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusion_adapters.diffusers._call import NETWORKS
from diffusion_adapters.diffusers._pipeline import ParallelPipeline
from diffusion_adapters.diffusers._problem import Setup
from diffusion_adapters.diffusers._scheduler_rules import family


def held_pipelines(pipe: Any) -> dict[str, Any]:
    """The pipelines among a pipeline's attributes, by name."""
    held = vars(pipe) if hasattr(pipe, "__dict__") and not isinstance(pipe, type) else {}
    return {name: part for name, part in held.items() if isinstance(part, ParallelPipeline) or _is_pipeline(part)}


def _is_pipeline(part: Any) -> bool:
    return any(kind.__name__ == "DiffusionPipeline" for kind in type(part).__mro__)


class CombinedPipeline(ParallelPipeline):
    """The result of `parallelize` for a pipeline that calls others, such as ``KandinskyV22CombinedPipeline``.

    Those whose scheduler is known are parallel in time. Others, such as a prior with ``UnCLIPScheduler``, run as they
    are. Attributes that are not its own are the pipeline's.

    Attributes:
        parts: The pipelines that are parallel in time, by the names that they have in ``pipe``. Each has its own
            ``solution`` and ``check``.
    """

    parts: dict[str, ParallelPipeline]

    def __init__(self, pipe: Any, setup: Setup) -> None:
        super().__init__(pipe, setup)
        held = held_pipelines(pipe)
        if made := [name for name, part in held.items() if isinstance(part, ParallelPipeline)]:
            raise ValueError(
                f"pipe.{made[0]} of {type(pipe).__name__} is parallel in time already; expected the pipelines of "
                "diffusers themselves: call pipe as it is, or put the former one back"
            )
        parts = {name: ParallelPipeline(part, setup) for name, part in held.items() if _can_be_parallel(part)}
        if not parts:
            schedulers = {name: type(getattr(part, "scheduler", None)).__name__ for name, part in held.items()}
            told = " and ".join(f"{name} ({scheduler})" for name, scheduler in schedulers.items())
            raise ValueError(
                f"{type(pipe).__name__} makes its steps in other pipelines, {told}, and the scheduler of none of them "
                "is supported; expected one of the table in the documentation, such as diffusers.DDIMScheduler"
            )
        self.__dict__["parts"] = parts

    def __repr__(self) -> str:
        return f"CombinedPipeline({type(self.pipe).__name__}, {', '.join(self.parts)}, {self.__dict__['_setup']})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the pipeline, with its own arguments and result. ``solution`` and ``check`` are those of its end."""
        pipe = self.pipe
        for name, part in list(self.parts.items()):
            now = getattr(pipe, name)
            if part.pipe is not now:  # it was replaced
                self.parts[name] = ParallelPipeline(now, self.__dict__["_setup"])
            self.parts[name].__dict__.update(solution=None, check=None)
        copy = object.__new__(type(pipe))
        copy.__dict__.update(pipe.__dict__)
        copy.__dict__.update(self.parts)
        if hasattr(pipe, "maybe_free_model_hooks"):
            copy.__dict__["maybe_free_model_hooks"] = pipe.maybe_free_model_hooks
        try:
            return type(pipe).__call__(copy, *args, **kwargs)
        finally:
            ran = [part for part in self.parts.values() if part.solution is not None or part.check is not None]
            last = ran[-1] if ran else None
            self.__dict__.update(solution=last and last.solution, check=last and last.check)


def _can_be_parallel(part: Any) -> bool:
    scheduler = getattr(part, "scheduler", None)
    networks = [getattr(part, name, None) for name in NETWORKS]
    return family(scheduler) is not None and any(isinstance(network, nn.Module) for network in networks)
