"""What a pipeline in parallel in time does beside its samples: callbacks, interrupts, errors, what it leaves behind."""

from __future__ import annotations

import inspect
import threading
from copy import copy
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusion.pipelines import IMAGE, KEPT, SIZE, STABLE, TEXT, flux, sd
from diffusion.pipelines import controlnet as control_network
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
]

GIVEN: dict[str, Any] = {**TEXT, **SIZE, "num_inference_steps": 12, "output_type": "latent"}


def run(pipe: Any, **more: Any) -> Tensor:
    return pipe(**{**GIVEN, "generator": torch.Generator().manual_seed(0), **more}).images


def threads() -> int:
    """How many runs of the engine are under way."""
    return sum("_work" in thread.name for thread in threading.enumerate())


# --- callbacks, interrupts, progress --------------------------------------------------------------------------------


def test_a_callback_is_called_once_in_each_round_and_sees_clean_latents() -> None:
    pipe = sd()
    seen: list[tuple[int, Any, Tensor]] = []

    def callback(given: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(given, type(pipe))
        assert type(timestep) is Tensor
        assert kwargs["prompt_embeds"].shape == (2, 5, 16)
        seen.append((step, float(timestep), kwargs["latents"].clone()))
        return kwargs

    parallel = da.diffusers.parallelize(pipe)
    final = run(
        parallel,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert [step for step, _, _ in seen] == list(range(parallel.solution.stats.rounds))
    off = [float((latents - final).norm() / final.norm()) for _, _, latents in seen]
    assert off[-1] == 0.0
    assert off[2 * len(off) // 3] < 0.1 < off[0]  # estimates of the clean latents, better and better
    assert torch.equal(run(parallel), final)  # which callbacks change nothing of


@pytest.mark.parametrize("name", ["latents", "prompt_embeds", "guidance"])
def test_a_callback_that_changes_what_is_sampled_is_refused(name: str) -> None:
    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if name == "guidance":
            pipe._guidance_scale = 0.0
            return given
        return {**given, name: given[name] * 0.9}

    parallel = da.diffusers.parallelize(sd())
    with pytest.raises(ValueError, match=f"callback_on_step_end changed {name}.*order"):
        run(
            parallel,
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
    assert parallel.solution.status is pr.Status.INTERRUPTED


@pytest.mark.parametrize("by", ["callback", "network", "outside"])
@pytest.mark.sweep(1)
def test_an_interrupted_pipeline_returns_the_best_latents_so_far(by: str) -> None:
    pipe = sd()
    parallel = da.diffusers.parallelize(pipe)
    final, rounds = run(parallel), parallel.solution.stats.rounds
    before = threads()
    calls = 0

    def hook(module: nn.Module, args: Any, value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == rounds - 3:
            if by == "network":
                parallel._interrupt = True
            elif by == "outside":
                pipe._interrupt = True

    def callback(given: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if by == "callback" and step == rounds - 4:
            given._interrupt = True
        return kwargs

    handle = pipe.unet.register_forward_hook(hook)
    try:
        best = run(parallel, **({"callback_on_step_end": callback} if by == "callback" else {}))
    finally:
        handle.remove()
        pipe._interrupt = False
    assert calls == rounds - 3
    assert threads() == before
    assert parallel.solution.status is pr.Status.INTERRUPTED
    assert parallel.solution.stats.rounds == rounds - 3
    error = float((best - final).norm() / final.norm())
    assert 0 < error < 0.1
    assert torch.equal(run(parallel), final)  # and the next call is not disturbed


class Gone(KeyboardInterrupt):
    """Ctrl-C."""


@pytest.mark.parametrize("kind", [RuntimeError, Gone])
@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.sweep(3)
def test_what_was_computed_is_kept_when_the_network_raises(kind: type[BaseException], call: int) -> None:
    pipe = sd()
    before = threads(), dict(pipe.__dict__), pipe.scheduler.timesteps
    calls = 0

    def hook(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise kind("out of memory")

    parallel = da.diffusers.parallelize(pipe)
    handle = pipe.unet.register_forward_pre_hook(hook)
    try:
        with pytest.raises(kind, match="out of memory"):
            run(parallel)
    finally:
        handle.remove()
    assert parallel.solution.status is pr.Status.INTERRUPTED
    assert parallel.solution.stats.rounds == call - 1
    assert (threads(), pipe.__dict__["scheduler"], pipe.scheduler.timesteps) == (
        before[0],
        before[1]["scheduler"],
        before[2],
    )
    expected = run(pipe)
    assert (run(parallel) - expected).norm() <= 1e-4 * expected.norm()


def test_the_progress_bar_is_the_pipelines_and_ends_with_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = sd()
    pipe.set_progress_bar_config(disable=False, desc="rounds")
    parallel = da.diffusers.parallelize(pipe)
    run(parallel, num_inference_steps=30)
    rounds = parallel.solution.stats.rounds
    shown = capsys.readouterr().err
    assert "rounds" in shown
    assert "100%" in shown
    assert f"{rounds}/{rounds}" in shown
    assert "/30" in shown  # which was all that was known at the beginning


def test_not_finite_latents_come_back_as_they_are_with_a_warning() -> None:
    pipe = sd()
    handle = pipe.unet.register_forward_hook(lambda module, args, value: (value[0] * float("nan"),))
    try:
        parallel = da.diffusers.parallelize(pipe)
        with pytest.warns(RuntimeWarning, match="StableDiffusionPipeline"):
            value = run(parallel)
    finally:
        handle.remove()
    assert torch.isnan(value).all()
    assert parallel.solution.status is pr.Status.NONFINITE


# --- what a call returns and leaves behind ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.sweep(4)
def test_every_kind_of_output(kind: str, as_dict: bool) -> None:
    pipe = sd()
    results = []
    for one in (pipe, da.diffusers.parallelize(pipe, rtol=1e-6)):
        given = {**GIVEN, "output_type": kind, "return_dict": as_dict}
        results.append(one(**given, generator=torch.Generator().manual_seed(0)))
    assert type(results[0]) is type(results[1])
    images = [result.images if as_dict else result[0] for result in results]
    assert type(images[0]) is type(images[1])
    if kind == "pil":
        images = [np.stack([np.asarray(image, dtype=np.float64) / 255 for image in list_]) for list_ in images]
    serial, parallel = (torch.as_tensor(image).double() for image in images)
    assert serial.shape == parallel.shape
    assert float((serial - parallel).abs().max()) <= (1 / 255 if kind == "pil" else 1e-4)


def test_the_generator_is_where_a_sequential_run_leaves_it() -> None:
    pipe = sd(scheduler=diffusers.EulerAncestralDiscreteScheduler(**STABLE))
    ends = []
    for one in (pipe, da.diffusers.parallelize(pipe)):
        generator = torch.Generator().manual_seed(3)
        run(one, generator=generator)
        ends.append(torch.randn(3, generator=generator))
    assert torch.equal(*ends)


def test_latents_that_were_given_are_not_written_to() -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    before = latents.clone()
    parallel = da.diffusers.parallelize(sd())
    run(parallel, latents=latents)
    assert torch.equal(latents, before)


def test_the_scheduler_is_looked_at_in_every_call() -> None:
    pipe = sd()
    parallel = da.diffusers.parallelize(pipe)
    first = run(parallel)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    second, expected = run(parallel), run(pipe)
    assert (second - expected).norm() <= 1e-4 * expected.norm()
    assert (second - first).norm() > 1e-3 * first.norm()


def test_it_stands_in_for_the_pipeline() -> None:
    pipe = sd()
    parallel = da.diffusers.parallelize(pipe, width=4)
    assert parallel.solution is None
    assert parallel.vae is pipe.vae
    assert inspect.signature(parallel) == inspect.signature(pipe.__call__)
    assert "StableDiffusionPipeline" in repr(parallel)
    scheduler = diffusers.DDIMScheduler(**STABLE, clip_sample=False)
    parallel.scheduler = scheduler
    assert pipe.scheduler is scheduler
    run(parallel)
    assert parallel.solution.stats.max_lanes <= 4
    assert isinstance(parallel.solution, pr.Solution)


def test_copies() -> None:
    pipe = sd()
    parallel = da.diffusers.parallelize(pipe, width=4)
    other = copy(parallel)
    assert other.pipe is pipe
    assert torch.equal(run(other), run(parallel))


def test_offloading_is_left_alone() -> None:
    """Hooks that move a module are on the original's forward; what ends a call is the original's business."""
    pipe = sd()
    used: list[str] = []
    network = pipe.unet
    own = network.forward

    def moved(*args: Any, **kwargs: Any) -> Any:
        used.append("unet")
        return own(*args, **kwargs)

    network.forward = moved
    pipe.maybe_free_model_hooks = lambda: used.append("free")
    try:
        expected = run(pipe)
        used.clear()
        parallel = da.diffusers.parallelize(pipe)
        assert (run(parallel) - expected).norm() <= 1e-4 * expected.norm()
        assert used == ["unet"] * parallel.solution.stats.rounds + ["free"]
    finally:
        del network.forward
    assert "forward" not in vars(network)


def test_one_step() -> None:
    pipe = sd()
    expected = run(pipe, num_inference_steps=1)
    assert (run(da.diffusers.parallelize(pipe), num_inference_steps=1) - expected).norm() <= 1e-5 * expected.norm()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (lambda: diffusers.TCDScheduler(), "TCDScheduler is not supported.*from_config"),
        (
            lambda: diffusers.SASolverScheduler(**STABLE),
            "SASolverScheduler is not supported: it adds noise in a predictor",
        ),
        (lambda: diffusers.DDIMInverseScheduler(**STABLE), "from the data to noise"),
        (lambda: diffusers.PNDMScheduler(**STABLE), "skip_prk_steps=True"),
        (
            lambda: diffusers.PNDMScheduler(**STABLE, skip_prk_steps=True, timestep_spacing="linspace"),
            "timestep_spacing='leading'",
        ),
        (
            lambda: diffusers.DPMSolverMultistepScheduler(**STABLE, algorithm_type="sde-dpmsolver++", solver_order=3),
            "wrong sign.*solver_order=2",
        ),
        (
            lambda: diffusers.DPMSolverSinglestepScheduler(algorithm_type="sde-dpmsolver++"),
            "DPMSolverMultistepScheduler",
        ),
        (lambda: diffusers.UniPCMultistepScheduler(**STABLE, disable_corrector=[0]), "disable_corrector"),
        (
            lambda: diffusers.UniPCMultistepScheduler(**STABLE, use_karras_sigmas=True, final_sigmas_type="sigma_min"),
            "step of no length.*final_sigmas_type='zero'",
        ),
    ],
)
def test_schedulers_without_a_meaning_here_are_refused_by_name(scheduler: Any, message: str) -> None:
    parallel = da.diffusers.parallelize(sd(scheduler=scheduler()))
    with pytest.raises(ValueError, match=message):
        run(parallel)
    assert threads() == 0


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_learned_variances_are_refused(variance: str) -> None:
    pipe = sd(scheduler=diffusers.DDPMScheduler(clip_sample=False, variance_type=variance))
    with pytest.raises(ValueError, match=f"variance_type='{variance}'.*fixed_small"):
        run(da.diffusers.parallelize(pipe))


@pytest.mark.parametrize(
    "timesteps", [[900, 700, 800, 100], [900, 900, 100], [100, 500, 900]], ids=["out of order", "twice", "rising"]
)
def test_timesteps_out_of_order_are_refused(timesteps: list[int]) -> None:
    parallel = da.diffusers.parallelize(sd(scheduler=diffusers.EulerDiscreteScheduler(**STABLE)))
    with pytest.raises(ValueError, match=r"timestep|no length"):
        run(parallel, timesteps=timesteps)


def test_timesteps_of_ones_own() -> None:
    pipe = sd(scheduler=diffusers.DPMSolverMultistepScheduler(**STABLE))
    timesteps = [990, 800, 500, 350, 200, 90, 20]
    expected = run(pipe, timesteps=timesteps)
    assert (run(da.diffusers.parallelize(pipe), timesteps=timesteps) - expected).norm() <= 1e-4 * expected.norm()


def test_the_pipelines_own_errors_stay() -> None:
    pipe = sd()
    parallel = da.diffusers.parallelize(pipe)
    for wrong in (
        {"height": 13},
        {"prompt": "a cat"},
        {"prompt_embeds": None},
        {"callback_on_step_end_tensor_inputs": ["nothing"]},
    ):
        with pytest.raises((ValueError, TypeError, AttributeError, ZeroDivisionError)) as own:
            run(pipe, **wrong)
        with pytest.raises(type(own.value)) as ours:
            run(parallel, **wrong)
        assert str(ours.value).split("(")[0] == str(own.value).split("(")[0]
    for scheduler in (diffusers.DDIMScheduler(clip_sample=False), diffusers.DDPMScheduler(clip_sample=False)):
        with pytest.raises(ValueError, match="train"):
            run(da.diffusers.parallelize(sd(scheduler=scheduler)), num_inference_steps=1001)


def test_more_steps_than_timesteps_of_training() -> None:
    """Schedulers that do not mind visit timesteps twice; the error says so."""
    pipe = sd(scheduler=diffusers.DPMSolverMultistepScheduler(num_train_timesteps=20))
    with pytest.raises(ValueError, match=r"no length.*fewer steps"):
        run(da.diffusers.parallelize(pipe), num_inference_steps=40)


def test_caches_between_steps_are_refused() -> None:
    pipe = flux()
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    try:
        with pytest.raises(ValueError, match=r"pipe.transformer has a cache.*disable_cache"):
            da.diffusers.parallelize(pipe)(prompt_embeds=TEXT["prompt_embeds"], num_inference_steps=4)
    finally:
        pipe.transformer.disable_cache()


def test_control_of_a_guess_is_refused() -> None:
    pipe = sd("ControlNet", controlnet=control_network())
    with pytest.raises(ValueError, match=r"guess_mode=.*expected guess_mode=False"):
        run(da.diffusers.parallelize(pipe), image=IMAGE, guess_mode=True)


class Changing(diffusers.StableDiffusionPipeline):
    """A pipeline that does something of its own between network and step, by the timestep."""

    how = ""

    def late(self, t: Tensor) -> bool:
        """A decision that is not made in the loop itself."""
        return bool(t > 500)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        latents = torch.randn(1, 4, 8, 8, generator=kwargs["generator"])
        self.scheduler.set_timesteps(8)
        for i, t in enumerate(self.scheduler.timesteps):
            value = self.unet(latents, t, encoder_hidden_states=TEXT["prompt_embeds"]).sample
            if self.how == "decision" and self.late(t):
                value = 0.9 * value
            if self.how == "guidance":
                value = value * (1 + t / 1000)
            latents = self.scheduler.step(value, t, latents).prev_sample
            if self.how == "latents":
                latents = 0.9 * latents
            if self.how == "twice" and i == 0:
                _ = list(self.scheduler.timesteps)
        if self.how == "twice":
            for _ in self.scheduler.timesteps:
                pass
        return type("Out", (), {"images": latents})()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("decision", "converts the timestep to a Python number"),
        ("guidance", "guidance from the timestep"),
        ("latents", "changes the latents between two steps"),
        ("twice", "a second time"),
        ("", ""),
    ],
)
def test_pipelines_that_depend_on_the_order_of_steps_are_refused(how: str, message: str) -> None:
    pipe = sd()
    parts = {**pipe.components, "scheduler": diffusers.DDIMScheduler(**STABLE, clip_sample=False)}
    pipe = Changing(**parts, requires_safety_checker=False)
    pipe.how = how
    parallel = da.diffusers.parallelize(pipe)
    if how:
        with pytest.raises(ValueError, match=message):
            run(parallel)
    else:  # one that does nothing of the kind, but prepares its latents by itself
        expected = run(pipe)
        assert (run(parallel) - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"solver": "rk45"}, ValueError, "solver='rk45'"),
        ({"solver": 3}, TypeError, "solver is an int"),
        ({"coarse": "gauss"}, ValueError, "coarse='gauss'"),
        ({"coarse": 3}, TypeError, "coarse is an int"),
        ({"width": 0}, ValueError, "width"),
        ({"width": 4, "schedule": pr.Wavefront()}, ValueError, "width=4 came with schedule"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"dtype": torch.float16}, ValueError, "dtype=torch.float16"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        da.diffusers.parallelize(sd(), **arguments)


def test_what_is_no_pipeline() -> None:
    with pytest.raises(ValueError, match="a Linear without a scheduler"):
        da.diffusers.parallelize(nn.Linear(1, 1))
    pipe = sd()
    pipe.scheduler = None
    with pytest.raises(ValueError, match="without a scheduler"):
        da.diffusers.parallelize(pipe)

    class Empty:
        scheduler = diffusers.DDIMScheduler()

    with pytest.raises(ValueError, match="no known denoiser"):
        da.diffusers.parallelize(Empty())


def test_kept_images_and_caches_of_arguments_do_not_mix_between_calls() -> None:
    """One object, called with one thing after another."""
    pipe = sd("Inpaint")
    parallel = da.diffusers.parallelize(pipe)
    for count in (2, 1):
        given = {**KEPT, "strength": 1.0, "num_images_per_prompt": count}
        expected = run(pipe, **given)
        assert (run(parallel, **given) - expected).norm() <= 1e-4 * expected.norm()
