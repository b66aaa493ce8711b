"""Pipelines of diffusers, as they are and in parallel in time: rounds, evaluations, error, and what the adapter costs.

Tiny pipelines with random weights and the packaged digits network as a pipeline, at 25, 50 and 100 steps; the time of a
call beside a network that takes 5 ms, and of the check at its end; diffusers' own `StableDiffusionParadigmsPipeline` at
the tolerance that gives the error of ours; and, where there is a GPU, wall times of a U-Net of Stable Diffusion 1.5's
shape. A network with random weights is harsher than a trained one: nothing draws its trajectories straight. Nothing is
downloaded. Run it with `python benchmarks/diffusers_rounds.py`; `--seeds 1` is quick.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # of its parts, no image processor is needed here

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

import diffusion_adapters as da
from diffusion_adapters.diffusers._check import Checker
from diffusion_adapters.sampling import _options
from parareal.integrators.external._coroutine import Coroutine

warnings.simplefilter("ignore")
diffusers.utils.logging.set_verbosity_error()

STEPS = (25, 50, 100)
SETTINGS: dict[str, dict[str, Any]] = {
    "default (width 16, rtol 2e-5; within 1e-4)": {},
    "all steps at once (width 100, rtol 1e-3)": {"rtol": 1e-3, "width": 100},
}
STABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion."""


# --- the pipelines ---------------------------------------------------------------------------------------------------


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: Callable[..., Any], **config: Any) -> Any:
    """A network in which every parameter matters: some are zero when new."""
    torch.manual_seed(0)
    network: nn.Module = kind(**config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    return network


def vae() -> Any:
    return made(diffusers.AutoencoderKL, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                shift_factor=0.1, scaling_factor=1.0)  # fmt: skip


def unet() -> Any:
    return made(diffusers.UNet2DConditionModel, sample_size=8, block_out_channels=(16, 32), layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16, norm_num_groups=8,
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8)  # fmt: skip


def stable(scheduler: Any, network: Any = None, kind: Any = None) -> Any:
    kind = kind or diffusers.StableDiffusionPipeline
    nothing = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    return kind(vae=vae(), unet=network or unet(), scheduler=scheduler, requires_safety_checker=False, **nothing)


def stable3() -> Any:
    network = made(diffusers.SD3Transformer2DModel, sample_size=8, patch_size=1, in_channels=4, out_channels=4,
                   num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
                   caption_projection_dim=16, pooled_projection_dim=16)  # fmt: skip
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.StableDiffusion3Pipeline(
        transformer=network, scheduler=scheduler, vae=vae(), **dict.fromkeys(names)
    )


def flux() -> Any:
    network = made(diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
                   attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16,
                   axes_dims_rope=(4, 4, 8), guidance_embeds=True)  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return diffusers.FluxPipeline(scheduler, vae(), None, None, None, None, network)


class DigitsNetwork(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The packaged network, told timesteps in place of its own time."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        model, kept = da.load_digits(), diffusers.DDIMScheduler().alphas_cumprod.double()
        self.network = model.network
        self.register_buffer("times", model.noise_schedule.time(((1 - kept) / kept).sqrt()).float())

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        return self.network(x, self.times[timestep.long()], label)


class DigitsPipeline(diffusers.DiffusionPipeline):
    """One digit, conditional, with guidance if asked for; any scheduler."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps: int, generator: torch.Generator, guidance_scale: float = 1.0) -> Any:
        label = torch.tensor([generator.initial_seed() % 10])
        labels = torch.cat([torch.tensor([10]), label])
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(1, 1, 8, 8, generator=generator) * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            if guidance_scale == 1.0:
                noise = self.unet(x, t, label)
            else:
                without, with_label = self.unet(torch.cat([x, x]), t, labels).chunk(2)
                noise = without + guidance_scale * (with_label - without)
            x = self.scheduler.step(noise, t, x).prev_sample
        return SimpleNamespace(images=x)


SIZE: dict[str, Any] = {"height": 16, "width": 16, "output_type": "latent", "guidance_scale": 3.0}
TEXT: dict[str, Any] = {"prompt_embeds": drawn(1, 1, 5, 16), "negative_prompt_embeds": drawn(2, 1, 5, 16)}
POOLED: dict[str, Any] = {"pooled_prompt_embeds": drawn(3, 1, 16), "negative_pooled_prompt_embeds": drawn(4, 1, 16)}
FLUX: dict[str, Any] = {"prompt_embeds": TEXT["prompt_embeds"], "pooled_prompt_embeds": POOLED["pooled_prompt_embeds"]}

Made = tuple[Any, dict[str, Any]]


def pipelines() -> dict[str, Made]:
    """Each with what it is called with."""
    network, d = unet(), diffusers
    schedulers = {
        "DDIM": d.DDIMScheduler(**STABLE, clip_sample=False),
        "DPM-Solver++(2M)": d.DPMSolverMultistepScheduler(**STABLE),
        "Euler": d.EulerDiscreteScheduler(**STABLE),
        "Euler ancestral": d.EulerAncestralDiscreteScheduler(**STABLE),
    }
    found: dict[str, Made] = {
        f"SD, {name}": (stable(one, network), {**TEXT, **SIZE}) for name, one in schedulers.items()
    }
    found["SD3, flow Euler"] = stable3(), {**TEXT, **POOLED, **SIZE}
    found["Flux, flow Euler"] = flux(), {**FLUX, **SIZE}
    found["digits, DDIM"] = DigitsPipeline(DigitsNetwork(), d.DDIMScheduler(clip_sample=False)), {}
    found["digits, DPM-Solver++(2M)"] = DigitsPipeline(DigitsNetwork(), d.DPMSolverMultistepScheduler()), {}
    for pipe, _ in found.values():
        pipe.set_progress_bar_config(disable=True)
    return found


def call(pipe: Any, steps: int, seed: int, given: dict[str, Any]) -> Tensor:
    return pipe(num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), **given).images


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a.float() - b.float()) / torch.linalg.vector_norm(b.float()))


# --- one or two pairs -------------------------------------------------------------------------------------------------


def pairs(seeds: int) -> None:
    """Rounds with one and with two pairs of memory of each slice, by the scale of guidance."""
    print(f"One or two pairs of memory, width 16, rtol 2e-5, {seeds} seeds; mean rounds, largest error")
    print(f"{'':16}{'guidance':>9}{'steps':>6}{'one pair':>10}{'two pairs':>10}{'error':>20}")
    digits = DigitsPipeline(DigitsNetwork(), diffusers.DDIMScheduler(clip_sample=False))
    tiny = stable(diffusers.DDIMScheduler(**STABLE, clip_sample=False))
    kept = _options.STRONG
    for name, pipe, given in (("digits, DDIM", digits, {}), ("SD, DDIM", tiny, {**TEXT, **SIZE})):
        pipe.set_progress_bar_config(disable=True)
        for scale, steps in itertools.product((3.0, 7.5), STEPS):
            settings, taken, errors = {**given, "guidance_scale": scale}, ([], []), ([], [])
            for seed in range(seeds):
                serial = call(pipe, steps, seed, settings)
                for i, strong in enumerate((float("inf"), 0.0)):
                    _options.STRONG = strong  # pyright: ignore[reportPrivateUsage]
                    parallel = da.diffusers.parallelize(pipe)
                    errors[i].append(relative(call(parallel, steps, seed, settings), serial))
                    taken[i].append(parallel.solution.stats.rounds)
            rounds = "".join(f"{statistics.mean(part):10.1f}" for part in taken)
            print(
                f"{name:16}{scale:9g}{steps:6}{rounds}" + "".join(f"{max(part):10.1e}" for part in errors), flush=True
            )
    _options.STRONG = kept  # pyright: ignore[reportPrivateUsage]
    print()


# --- rounds ----------------------------------------------------------------------------------------------------------


def rounds(seeds: int) -> None:
    """What the pipelines take in parallel; as they are it is as many rounds, and evaluations, as steps."""
    print(
        "Rounds (calls of the network one after another) and evaluations (timesteps it is called for) in parallel; the"
    )
    print(
        "pipeline as it is takes as many of both as there are steps. Error = relative distance of the latents from the"
    )
    print(f"pipeline's own; {seeds} seeds, mean and largest\n")
    found = pipelines()
    for setting, options in SETTINGS.items():
        print(setting)
        print(f"{'':26}{'steps':>6}{'rounds':>8}{'max':>5}{'evaluations':>13}{'error':>10}{'max':>10}{'within':>8}")
        rtol = options.get("rtol", 1e-4)
        for name, (pipe, given) in found.items():
            for steps in STEPS:
                taken, work, errors = [], [], []
                for seed in range(seeds):
                    parallel = da.diffusers.parallelize(pipe, **options)
                    out = call(parallel, steps, seed, given)
                    errors.append(relative(out, reference(name, pipe, steps, seed, given)))
                    taken.append(parallel.solution.stats.rounds)
                    work.append(parallel.solution.stats.evaluations)
                within = sum(error <= rtol for error in errors)
                print(
                    f"{name:26}{steps:6}{statistics.mean(taken):8.1f}{max(taken):5}{statistics.mean(work):13.0f}"
                    f"{statistics.mean(errors):10.1e}{max(errors):10.1e}{within:6}/{seeds}",
                    flush=True,
                )
        print()


KEPT: dict[tuple[str, int, int], Tensor] = {}


def reference(name: str, pipe: Any, steps: int, seed: int, given: dict[str, Any]) -> Tensor:
    """The pipeline's own result, computed once."""
    key = name, steps, seed
    if key not in KEPT:
        KEPT[key] = call(pipe, steps, seed, given)
    return KEPT[key]


# --- overhead --------------------------------------------------------------------------------------------------------


class Clock:
    """Notes when the calls of a function began and ended."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    def around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return fn(*args, **kwargs)
            finally:
                self.spans.append((start, time.perf_counter()))

        return timed

    def within(self, start: float, end: float) -> float:
        """Seconds of the calls that began in an interval."""
        return sum(b - a for a, b in self.spans if start <= a < end)


def waiting(milliseconds: float) -> Callable[..., Any]:
    """A smooth network that takes this long whatever its batch."""

    def forward(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **rest: Any) -> tuple[Tensor]:
        start = time.perf_counter()
        t = torch.as_tensor(timestep, dtype=sample.dtype).reshape(-1, 1, 1, 1)
        out = 0.7 * sample + 0.3 * torch.sin(3 * sample) + 0.2 * torch.cos(t / 200) * sample.flip(-1)
        while time.perf_counter() - start < milliseconds / 1e3:
            pass
        return (out,)

    return forward


class Parts(NamedTuple):
    """Milliseconds of one run of a pipeline; what is neither network nor engine is around its loop or inside of it."""

    calls: int
    network: float
    engine: float
    around: float
    loop: float


def split(network: Any, pipe: Any, steps: int, given: dict[str, Any]) -> Parts:
    """Runs a pipeline whose network takes 5 ms; the engine's time is what the pipeline waits for it."""
    inside, engine = Clock(), Clock()
    network.forward = inside.around(waiting(5.0))
    advance = Coroutine.advance
    Coroutine.advance = engine.around(advance)
    try:
        start = time.perf_counter()
        call(pipe, steps, 0, given)
        end = time.perf_counter()
    finally:
        Coroutine.advance = advance
        del network.forward
    first, last = inside.spans[0][0], inside.spans[-1][1]
    network_time, engine_time = inside.within(start, end), engine.within(start, end)
    loop = last - first - network_time - engine.within(first, last)
    around = end - start - network_time - engine_time - loop
    return Parts(len(inside.spans), *(1e3 * part for part in (network_time, engine_time, around, loop)))


def overhead(runs: int) -> None:
    """Where the time of a pipeline goes whose network takes 5 ms a call."""
    print(
        f"Time beside a network that takes 5 ms a call: one thread, rtol 1e-3, width 16, median of {runs} runs, in ms:"
    )
    print("of a run, before the first call of the network and after the last; of a call, between calls; of a call,")
    print("waiting for the engine. Parts of the network's time: all but network and engine; of that, what the pipeline")
    print("itself would not take for as many calls, which is the adapter's; the engine")
    print(f"{'':35}{'around':>18}{'between':>18}{'engine':>8}{'all but':>9}{'adapter':>9}{'engine':>8}")
    print(f"{'':20}{'latents':>8}{'steps':>6}{'calls':>6}" + f"{'serial':>8}{'parallel':>9}" * 2)
    network = unet()
    schedulers = (
        diffusers.DDIMScheduler(**STABLE, clip_sample=False),
        diffusers.DPMSolverMultistepScheduler(**STABLE),
        diffusers.EulerDiscreteScheduler(**STABLE),
    )
    for size, scheduler in itertools.product((8, 64), schedulers):
        pipe = stable(scheduler, network)
        pipe.set_progress_bar_config(disable=True)
        given = {**TEXT, **SIZE, "height": 2 * size, "width": 2 * size}
        for steps in STEPS if size == 8 else (50,):
            parallel = da.diffusers.parallelize(pipe, rtol=1e-3)
            serial, ours = (
                Parts(*(statistics.median(column) for column in zip(*runs_of, strict=True)))
                for runs_of in (
                    [split(network, one, steps, given) for _ in range(runs + 1)][1:] for one in (pipe, parallel)
                )
            )
            calls = int(ours.calls)
            rest, own = ours.around + ours.loop, serial.around + serial.loop / steps * calls
            name = type(scheduler).__name__.removesuffix("Scheduler")
            print(
                f"{name:20}{f'4x{size}x{size}':>8}{steps:6}{calls:6}{serial.around:8.2f}{ours.around:9.2f}"
                f"{serial.loop / steps:8.3f}{ours.loop / calls:9.3f}{ours.engine / calls:8.2f}"
                f"{rest / ours.network:9.1%}{(rest - own) / ours.network:9.1%}{ours.engine / ours.network:8.1%}",
                flush=True,
            )
    pipe = stable(schedulers[0], network)
    pipe.set_progress_bar_config(disable=True)
    print("\nThe engine's ms of a call by what carries corrections on, DDIM, 50 steps, latents 4x8x8, width 16")
    for coarse in ("gaussian", "none"):
        parallel = da.diffusers.parallelize(pipe, rtol=1e-3, coarse=coarse, width=16)
        runs_of = [split(network, parallel, 50, {**TEXT, **SIZE}) for _ in range(runs + 1)][1:]
        each = statistics.median(parts.engine / parts.calls for parts in runs_of)
        print(f"coarse={coarse!r:12}{runs_of[0].calls:4} calls{each:8.2f}")
    print()


# --- the check -------------------------------------------------------------------------------------------------------


def checking(runs: int) -> None:
    """What it takes to keep a run's predictions and to step the pipeline's own scheduler through them."""
    print(f"Time of the check, tiny SD, guidance 3, 50 steps, rtol 2e-5, one thread, median of {runs} runs: ms of the")
    print("replay at the end, of keeping predictions, and of the whole call; both as a share of the call")
    print(
        f"{'':20}{'latents':>9}{'replay':>9}{'keeping':>9}{'call':>10}{'share':>8}{'difference':>12}{'tolerance':>11}"
    )
    network = unet()
    schedulers = (
        diffusers.DDIMScheduler(**STABLE, clip_sample=False),
        diffusers.DPMSolverMultistepScheduler(**STABLE),
        diffusers.EulerAncestralDiscreteScheduler(**STABLE),
        diffusers.HeunDiscreteScheduler(**STABLE),
    )
    compare, note = Checker.compare, Checker.note
    for size, scheduler in itertools.product((8, 64), schedulers):
        pipe = stable(scheduler, network)
        pipe.set_progress_bar_config(disable=True)
        parallel, taken = da.diffusers.parallelize(pipe), []
        for _ in range(runs + 1):
            replay, keeping = Clock(), Clock()
            Checker.compare, Checker.note = replay.around(compare), keeping.around(note)
            try:
                start = time.perf_counter()
                call(parallel, 50, 0, {**TEXT, **SIZE, "height": 2 * size, "width": 2 * size})
                end = time.perf_counter()
            finally:
                Checker.compare, Checker.note = compare, note
            taken.append([1e3 * one for one in (replay.within(start, end), keeping.within(start, end), end - start)])
        first, second, whole = (statistics.median(column) for column in zip(*taken[1:], strict=True))
        name = type(scheduler).__name__.removesuffix("Scheduler")
        print(
            f"{name:20}{f'4x{size}x{size}':>9}{first:9.2f}{second:9.2f}{whole:10.1f}{(first + second) / whole:8.1%}"
            f"{parallel.check.largest:12.1e}{parallel.check.tolerance:11.1e}",
            flush=True,
        )
    print()


# --- beside ParaDiGMS ------------------------------------------------------------------------------------------------


class Counted:
    """Counts a network's calls and rows while it is open."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self.calls, self.rows = network, 0, 0

    def __enter__(self) -> Counted:
        self._handle = self._network.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *gone: object) -> None:
        self._handle.remove()

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls, self.rows = self.calls + 1, self.rows + len(args[0])


def paradigms(seeds: int) -> None:
    """The pipeline of Shih et al. at the largest tolerance that gives the error of ours, seed by seed."""
    print(
        "Beside StableDiffusionParadigmsPipeline (arXiv 2305.16317): tiny SD, guidance 3, DDIM, set_alpha_to_one=True,"
    )
    print(f"equal width, {seeds} seeds, means; theirs at the largest tolerance 10^(-k/4) whose error is at most ours")
    print(f"{'':32}{'rounds':>17}{'evaluations':>17}{'error':>18}")
    print(f"{'steps':>8}{'width':>8}{'rtol':>8}{'tolerance':>12}" + f"{'ours':>9}{'theirs':>8}" * 2, end="")
    print(f"{'ours':>10}{'theirs':>8}")
    network = unet()
    config = {**STABLE, "clip_sample": False, "set_alpha_to_one": True}
    pipe = stable(diffusers.DDIMScheduler(**config), network)
    theirs = stable(diffusers.DDIMParallelScheduler(**config), network, diffusers.StableDiffusionParadigmsPipeline)
    given = {**TEXT, **SIZE}
    for one in (pipe, theirs):
        one.set_progress_bar_config(disable=True)
    for steps in STEPS:
        for width in (16, steps):
            rows = [matched(pipe, theirs, steps, width, 1e-3, seed, given) for seed in range(seeds)]
            mean = [statistics.mean(column) for column in zip(*rows, strict=True)]
            print(
                f"{steps:8}{width:8}{1e-3:8.0e}{mean[6]:12.1e}{mean[0]:9.1f}{mean[1]:8.1f}{mean[2]:9.0f}{mean[3]:8.0f}"
                f"{mean[4]:10.1e}{mean[5]:8.1e}",
                flush=True,
            )
    config["set_alpha_to_one"] = False
    pipe.scheduler, theirs.scheduler = diffusers.DDIMScheduler(**config), diffusers.DDIMParallelScheduler(**config)
    serial = call(pipe, 50, 0, given)
    out = call(theirs, 50, 0, {**given, "parallel": 50, "tolerance": 1e-5})
    parallel = da.diffusers.parallelize(pipe, rtol=1e-3)
    print("with set_alpha_to_one=False, as Stable Diffusion is published, 50 steps, it converges to another limit:")
    own = relative(call(parallel, 50, 0, given), serial)
    print(f"error {relative(out, serial):.1e} at tolerance 1e-5; ours {own:.1e} at rtol 1e-3")
    print()


def matched(
    pipe: Any, theirs: Any, steps: int, width: int, rtol: float, seed: int, given: dict[str, Any]
) -> tuple[float, ...]:
    """Rounds, evaluations and errors, ours and theirs, and the tolerance; evaluations are rows, half with guidance."""
    serial = call(pipe, steps, seed, given)
    parallel = da.diffusers.parallelize(pipe, rtol=rtol, width=width)
    with Counted(pipe.unet) as ours:
        reached = relative(call(parallel, steps, seed, given), serial)
    for k in range(4, 25):
        with Counted(theirs.unet) as other:
            tolerance = 10 ** (-k / 4)
            out = call(theirs, steps, seed, {**given, "parallel": width, "tolerance": tolerance})
        error = relative(out, serial)
        if error <= reached:
            break
    return ours.calls, other.calls, ours.rows / 2, other.rows / 2, reached, error, tolerance


# --- on a GPU --------------------------------------------------------------------------------------------------------


def shaped_like_stable_diffusion(device: str) -> Any:
    """The U-Net of Stable Diffusion 1.5 with random weights, in half precision."""
    network = diffusers.UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    return network.to(device, torch.float16).eval().requires_grad_(False)


def wall(network: Any, device: str, widths: tuple[int, ...], runs: int = 3) -> None:
    """Seconds of a call by its batch, and of 50 steps of DPM-Solver++(2M) serial and in parallel."""
    dtype, size, text = network.dtype, network.config.sample_size, network.config.cross_attention_dim

    def seconds(fn: Callable[[], Any]) -> float:
        taken = []
        for _ in range(runs + 1):
            start = time.perf_counter()
            fn()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    print(
        f"Wall time on {torch.cuda.get_device_name() if device == 'cuda' else device}, {dtype}, latents 4x{size}x{size}"
    )
    print("A call of the U-Net, with guidance, so of twice the rows:")
    single = 0.0
    for width in (1, *widths):
        x, words = torch.randn(2 * width, 4, size, size), torch.randn(2 * width, 77, text)
        x, words = x.to(device, dtype), words.to(device, dtype)
        t = torch.full((2 * width,), 500, device=device)
        took = seconds(lambda x=x, t=t, words=words: network(x, t, words))
        single = single or took
        print(f"{width:4} timesteps {1e3 * took:9.2f} ms, {took / single:6.2f} of one")
    pipe = stable(diffusers.DPMSolverMultistepScheduler(**STABLE), network).to(device)
    pipe.vae.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    factor = pipe.vae_scale_factor
    given: dict[str, Any] = {
        "prompt_embeds": drawn(1, 1, 77, text).to(device, dtype),
        "negative_prompt_embeds": drawn(2, 1, 77, text).to(device, dtype),
        **SIZE,
        "height": factor * size,
        "width": factor * size,
        "guidance_scale": 7.5,
    }
    for steps in (50, 100):
        serial = call(pipe, steps, 0, given)
        before = seconds(lambda steps=steps: call(pipe, steps, 0, given))
        print(f"{steps} steps, serial {before:.3f} s; widths, rtol 1e-2:")
        best = 0.0
        for width in widths:
            parallel = da.diffusers.parallelize(pipe, rtol=1e-2, width=width)
            error = relative(call(parallel, steps, 0, given), serial)
            took = seconds(lambda parallel=parallel, steps=steps: call(parallel, steps, 0, given))
            stats = parallel.solution.stats
            best = max(best, before / took)
            print(f"{width:4}: {stats.rounds:3} rounds, {took:.3f} s, {before / took:5.2f} times, error {error:.0e}")
        print(f"best width: {best:.2f} times as fast as serial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=("rounds", "pairs", "overhead", "check", "paradigms", "wall"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], None]] = {
        "rounds": lambda: rounds(args.seeds),
        "pairs": lambda: pairs(args.seeds),
        "overhead": lambda: overhead(args.runs),
        "check": lambda: checking(args.runs),
        "paradigms": lambda: paradigms(args.seeds),
    }
    if torch.cuda.is_available():
        parts["wall"] = lambda: wall(shaped_like_stable_diffusion("cuda"), "cuda", (2, 4, 8, 16))
    for name, part in parts.items():
        if args.only in (None, name):
            with torch.no_grad():
                part()


if __name__ == "__main__":
    main()
