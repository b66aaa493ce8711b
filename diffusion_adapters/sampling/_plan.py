"""`plan`: the width that draws samples fastest on this device, or that nothing beats the serial sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import count, explain_keywords, kind_of
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from diffusion_adapters.models._conditioning import map_tensors, split
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.models._training_mode import check_mode
from diffusion_adapters.noise_schedules._base import Spacing
from diffusion_adapters.sampling._initial_noise import start_noise
from diffusion_adapters.sampling._options import KEYWORDS
from diffusion_adapters.sampling._sample import SampleResult, options_of, sample
from parareal.extend import StartGuess, Trial, check_budget, conclude, serial_seconds, state_bytes, time_rounds, try_out

WIDTHS = (4, 8, 16, 32, 64, 100)
"""Powers of two up to the default width of `sample`."""


@explain_keywords({**KEYWORDS, "width": "widths=[...]"})
@torch.no_grad()
def plan(
    model: DiffusionModel,
    noise: Tensor | Sequence[int],
    steps: int = 50,
    spacing: Spacing | None = None,
    solver: str | pr.Integrator = "ddim",
    coarse: str | pr.Correction | pr.Integrator | Sequence[str | pr.Correction | pr.Integrator] = ("gaussian",),
    widths: Sequence[int] = WIDTHS,
    rtol: float | None = None,
    generator: Any = None,
    budget: float = 60.0,
    start: StartGuess | None = None,
    executor: pr.Executor | None = None,
) -> pr.Plan:
    """Measures which settings of `sample` are fastest on this device, or that nothing beats the serial sampler.

    A call of the network is timed on 1, 2, 4, ... rows, up to the widest window; then settings are tried, and a trial
    is ended as soon as it cannot win. See `parareal.plan`.

    Args:
        model: The model, conditioned or `guided` as it will be.
        noise: As in `sample`, with as many samples as will be drawn at a time: the gain is largest for few.
        steps: As in `sample`.
        spacing: As in `sample`.
        solver: As in `sample`.
        coarse: Values to try, one or several.
        widths: Widths to try; those of more than there are slices mean all of them.
        rtol: As in `sample`.
        generator: As in `sample`.
        budget: Seconds after which no further candidate is tried.
        start: As in `sample`, where calls will have one: all trials start from it.
        executor: As in `sample`, where calls will have one. With ``pr.Batched(pad_to=...)`` calls are timed on those
            numbers of rows.

    Returns:
        A `parareal.Plan`, whose ``settings`` are arguments of `sample`: ``coarse`` and ``width``.

    Raises:
        TypeError, ValueError: An argument is wrong.
        Exception: What the network raises on a single row, or in the serial sampler; on more of them, out of memory for
            instance, it is reported, and such widths are left out.

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> found = da.plan(model, (2, 1), steps=16, widths=[8], budget=5.0)
        >>> found.serial_rounds
        16
    """
    begun = time.perf_counter()
    given_model: Any = model
    if not isinstance(given_model, DiffusionModel):
        raise TypeError(f"model is {kind_of(model)}; expected a DiffusionModel(network, noise_schedule)")
    check_budget(budget)
    if isinstance(widths, int):
        raise TypeError(f"widths is an int; expected a list, such as [{widths}]")
    state = start_noise(noise, None if isinstance(noise, Tensor) else generator, model)
    given = {"steps": steps, "spacing": spacing, "solver": solver, "rtol": rtol, "throw": False}
    several = [coarse] if isinstance(coarse, str) or not isinstance(coarse, Iterable) else list(coarse)
    settings = [options_of(solver, one, rtol=rtol) for one in several]
    widths = sorted(count(width, "widths") for width in widths)
    number = len(model.noise_schedule.times(steps, spacing)) - 1
    points = torch.arange(number + 1.0, dtype=torch.float64)
    slices = [one.resolve(points).grid.num_slices for one in settings]
    ways = [(min(width, n), one) for one, n in zip(several, slices, strict=True) for width in widths]
    ways = list(dict.fromkeys(ways))
    fine = options_of(solver, "none").fine()
    if not ways or not len(state):
        raise ValueError(
            f"there is no candidate: widths={widths!r}, coarse={coarse!r} and {len(state)} samples leave none; "
            "expected at least one of each"
        )
    check_mode(model.network)
    executor = pr.Batched() if executor is None else executor
    if not isinstance(executor, pr.Executor) or isinstance(executor, pr.Distributed):
        raise TypeError(
            f"executor is {kind_of(executor)}; expected one of one process, such as pr.Batched(pad_to=(4, 16))"
        )
    most = max(width for width, _ in ways) * len(state)
    with executor.joined() as joined:
        times = time_rounds(_calls(model, state, joined), most, state.device, joined)

    seed = generator if NoisyFlow in fine.solves else None

    def draw(recording: pr.Executor, **more: Any) -> SampleResult:
        return sample(model, state, **given, executor=recording, generator=seed, start=start, **more)

    def trial_of(width: int, one: Any) -> Trial:
        def run(recording: pr.Executor) -> pr.Solution:
            return draw(recording, coarse=one, width=width).solution

        name = f"{one if isinstance(one, str) else type(one).__name__}, width {width}"
        memory = (number + 1 + 8 * width) * state_bytes(state)
        rows = width * len(state)
        return Trial(name, {"coarse": one, "width": width}, run, rows, memory, f"calls on {rows} rows fail")

    rounds = number * (fine.evaluations or 1)
    seconds = serial_seconds(lambda one: draw(one, parallel=False), rounds, state.device, executor)
    tried = try_out([trial_of(*way) for way in ways], seconds, times, state.device, begun + budget, executor)
    return conclude(tried, seconds, rounds, times, time.perf_counter() - begun)


def _calls(model: DiffusionModel, noise: Tensor, executor: pr.Executor) -> Callable[[int], Callable[[], Any]]:
    """A call of the network on that many rows, at different times."""
    schedule, dtype = model.noise_schedule, model.dtype
    span = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)

    def call(rows: int) -> Callable[[], Any]:
        index = torch.arange(rows, device=noise.device) % len(noise)
        x = noise[index].to(torch.promote_types(noise.dtype, torch.float32))
        t = torch.lerp(span[0], span[1], (torch.arange(rows).double() + 0.5) / rows).to(noise.device)
        conditioning = map_tensors(
            lambda tensor: tensor if len(tensor) == 1 else tensor[index.to(tensor.device)],
            dict(model.conditioning or {}),
        )
        leaves, join = split(conditioning)

        def evaluate(x: Tensor, t: Tensor, *own: Tensor) -> Tensor:
            return model.evaluate(x, t, join([*own]), dtype)

        return lambda: executor.evaluate(evaluate, (x, t, *leaves), rows)

    return call
