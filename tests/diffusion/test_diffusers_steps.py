"""Pipelines whose loop depends on the number of the step, or that are put together otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import diffusers
import pytest
import torch
from diffusion.networks import controlnet, made, noise, shifted, unet, unet_xl, vae, wan_parts
from diffusion.pipelines import IMAGE, POOLED, SIZE, STABLE, TEXT, finished, prompts, sd, sd3
from torch import Tensor, nn

import diffusion_adapters as da

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Passing:FutureWarning"),
]

D = diffusers


def ddim() -> Any:
    return D.DDIMScheduler(**STABLE, clip_sample=False)


@cache
def lumina_transformer() -> Any:
    return made(
        D.Lumina2Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 16, 16),
        cap_feat_dim=16,
        gains={"attn.to_out": 4.0},
    )


def lumina(scheduler: Any = None) -> Any:
    scheduler = scheduler or D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = D.Lumina2Pipeline(lumina_transformer(), scheduler, shifted(4), None, None)
    return finished(pipe)


LUMINA: dict[str, Any] = {
    **TEXT,
    **SIZE,
    "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
    "negative_prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
    "guidance_scale": 3.0,
}


@cache
def adapter_network() -> Any:
    return made(
        D.T2IAdapter,
        in_channels=3,
        channels=[16, 32],
        num_res_blocks=1,
        downscale_factor=2,
        adapter_type="full_adapter",
    )


def adapter() -> Any:
    nothing = (None, None, None, None)
    return finished(
        D.StableDiffusionXLAdapterPipeline(
            vae(), *nothing, unet_xl(), adapter_network(), D.EulerDiscreteScheduler(**STABLE)
        )
    )


def wan_of_two(scheduler: Any = None) -> Any:
    decoder, transformer = wan_parts()
    other = made(D.WanTransformer3DModel, seed=5, **dict(transformer.config))
    scheduler = scheduler or D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(D.WanPipeline(None, None, decoder, scheduler, transformer, other, boundary_ratio=0.7))


def controlled(scheduler: Any = None) -> Any:
    return sd("ControlNet", scheduler or ddim(), controlnet=controlnet())


CONTROL: dict[str, Any] = {**TEXT, **SIZE, "image": IMAGE, "controlnet_conditioning_scale": 2.0}


def two_controls() -> Any:
    return sd("ControlNet", ddim(), controlnet=[controlnet(), controlnet()])


def call(pipe: Any, given: dict[str, Any], steps: int = 16) -> Tensor:
    given = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False, **given}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return torch.as_tensor(pipe(**{**given, "generator": torch.Generator().manual_seed(1)})[0])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


SWITCHES: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "a control that ends": (controlled, CONTROL, {"control_guidance_end": 0.5}),
    "a control that begins": (controlled, CONTROL, {"control_guidance_start": 0.3}),
    "a control in the middle": (controlled, CONTROL, {"control_guidance_start": 0.3, "control_guidance_end": 0.8}),
    "two controls": (
        two_controls,
        {**CONTROL, "image": [IMAGE, IMAGE.flip(-1)], "controlnet_conditioning_scale": [1.0, 2.0]},
        {"control_guidance_start": [0.0, 0.4], "control_guidance_end": [0.6, 1.0]},
    ),
    "guidance that ends": (lumina, LUMINA, {"cfg_trunc_ratio": 0.5}),
    "an adapter that ends": (
        adapter,
        {**POOLED, **SIZE, "image": IMAGE, "adapter_conditioning_scale": 4.0},
        {"adapter_conditioning_factor": 0.5},
    ),
    "layers that are skipped": (
        sd3,
        {**POOLED, **SIZE},
        {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.6},
    ),
    "another network for low noise": (
        wan_of_two,
        {**TEXT, **SIZE, "num_frames": 5, "guidance_scale": 3.0},
        {"guidance_scale_2": 5.0},
    ),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("name", "width"), [*((name, None) for name in SWITCHES), ("a control in the middle", 4), ("guidance that ends", 1)]
)
def test_a_switch_by_the_number_of_the_step_is_made_in_its_step(name: str, width: int | None) -> None:
    make, given, switch = SWITCHES[name]
    pipe = make()
    expected, without = call(pipe, {**given, **switch}), call(pipe, given)
    assert distance(without, expected) > 1e-3  # the switch matters
    parallel = da.diffusers.parallelize(pipe, width=width)
    assert distance(call(parallel, {**given, **switch}), expected) <= 1e-4
    assert parallel.solution.converged
    assert distance(call(parallel, given), without) <= 1e-4


@pytest.mark.parametrize("scheduler", [D.EulerAncestralDiscreteScheduler, D.UniPCMultistepScheduler])
@pytest.mark.sweep(1)
def test_switches_with_noise_and_with_a_history(scheduler: Any) -> None:
    pipe = controlled(scheduler(**STABLE))
    given = {**CONTROL, "control_guidance_end": 0.6}
    parallel = da.diffusers.parallelize(pipe)
    assert distance(call(parallel, given), call(pipe, given)) <= 1e-4


def test_rounds_count_the_calls_of_a_switched_loop() -> None:
    """One call for each group of steps that a round has lanes of."""
    pipe = controlled()
    calls = 0

    def hook(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1

    seen: list[int] = []

    def look(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        assert type(timestep) is Tensor
        seen.append(step)
        return given

    parallel = da.diffusers.parallelize(pipe)
    handle = pipe.unet.register_forward_pre_hook(hook)
    try:
        call(parallel, {**CONTROL, "control_guidance_end": 0.5, "callback_on_step_end": look})
    finally:
        handle.remove()
    assert parallel.solution.stats.rounds == calls == len(seen)
    assert seen == list(range(calls))


@pytest.mark.parametrize("steps", [10, 11, 12])
@pytest.mark.sweep(2)
def test_a_switch_within_a_step_of_two_stages(steps: int) -> None:
    """Equal, or refused where both stages at one timestep are on different sides of it."""
    pipe = controlled(D.HeunDiscreteScheduler(**STABLE))
    given = {**CONTROL, "control_guidance_end": 0.5}
    parallel = da.diffusers.parallelize(pipe)
    expected = call(pipe, given, steps)
    number = 2 * steps - 1  # of stages; the switch is at the first that ends after half of them
    if number // 2 % 2 == 0:
        with pytest.raises(ValueError, match="second stage of one step"):
            call(parallel, given, steps)
    else:
        assert distance(call(parallel, given, steps), expected) <= 1e-4


# --- what the source of a loop shows ----------------------------------------------------------------------------------


class Stepping(D.StableDiffusionPipeline):
    """A pipeline of one's own, with one thing by the number of the step."""

    how = ""
    momentum = 0.5

    def scaled(self, value: Tensor, step: int) -> Tensor:
        """Takes the number, and uses it."""
        return value * (1 + 0.1 * step)

    def noted(self, value: Tensor, step: int) -> Tensor:
        """Takes the number, and does nothing with it."""
        if step == 3:
            print("step", step)
        return value

    def __call__(self, stop: float = 1.0, scales: Any = None, generator: Any = None, **more: Any) -> Any:
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(8)
        timesteps = self.scheduler.timesteps
        total = len(timesteps)
        embeds, mean, taken = TEXT["prompt_embeds"], 0.0, 0
        log: list[Tensor] = []
        for i, t in enumerate(timesteps):
            progress = (i + 1) / total
            active = progress <= stop
            value = self.unet(latents, t, encoder_hidden_states=embeds).sample
            if active:
                value = 0.9 * value
            if self.how == "scale":
                value = value * scales[i]
            if self.how == "method":
                value = self.scaled(value, i)
            if self.how == "no method":
                value = self.noted(value, i)
            if self.how == "next":
                value = value * (timesteps[i + 1] / 1000 if i + 1 < total else 1.0)
            if self.how == "once" and i == 4:
                embeds = 0.5 * embeds
            if self.how == "calls" and i == 4:
                self.unet.set_attn_processor(self.unet.attn_processors)
            if self.how == "writes":
                more[i] = value
            if self.how == "momentum":
                mean = self.momentum * mean + value
                value = mean
            if self.how == "counts":
                taken += 1
                value = value * taken
            if self.how == "ends" and i == 5:
                break
            if self.how == "decision" and t > 500:
                value = 0.9 * value
            if self.how == "collects":
                log.append(value)
            latents = self.scheduler.step(value, t, latents).prev_sample
        return (latents,)


def stepping(how: str) -> Any:
    pipe = sd()
    pipe = Stepping(**{**pipe.components, "scheduler": ddim()}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.how = how
    return pipe


@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        ("", {}),
        ("", {"stop": 0.5}),
        ("scale", {"scales": [1.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7, 0.7]}),
        ("no method", {}),
        ("decision", {}),
        ("decision", {"stop": 0.3}),
    ],
)
def test_a_loop_of_ones_own_is_as_in_sequence(how: str, arguments: dict[str, Any]) -> None:
    pipe = stepping(how)
    expected = call(pipe, arguments)
    assert distance(call(da.diffusers.parallelize(pipe), arguments), expected) <= 1e-4


@pytest.mark.parametrize(
    ("how", "arguments", "message"),
    [
        (
            "scale",
            {"scales": [0.9 + 0.01 * i for i in range(8)]},
            r"scales\[i\] .*test_diffusers_steps.py, line.*8 values.*scales=",
        ),
        ("method", {}, "which has 8 values"),
        ("next", {}, r"timesteps\[i \+ 1\].*values"),
        ("once", {}, "changes embeds in some steps"),
        ("calls", {}, "calls self.unet.set_attn_processor"),
        ("writes", {}, r"writes more\[i\]"),
        ("momentum", {}, "carries mean"),
        ("counts", {}, "carries taken"),
        ("collects", {}, "adds to log"),
        ("ends", {}, "ends the loop"),
    ],
)
def test_what_no_two_steps_can_share_is_refused(how: str, arguments: dict[str, Any], message: str) -> None:
    parallel = da.diffusers.parallelize(stepping(how))
    with pytest.raises(ValueError, match=message):
        call(parallel, arguments)


def test_a_loop_without_source_warns_once() -> None:
    space: dict[str, Any] = {"diffusers": D, "torch": torch, "TEXT": TEXT}
    exec(
        """
class Unseen(diffusers.StableDiffusionPipeline):
    def __call__(self, generator=None, control_guidance_end=1.0, **more):
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(8)
        for i, t in enumerate(self.scheduler.timesteps):
            value = self.unet(latents, t, encoder_hidden_states=TEXT["prompt_embeds"]).sample
            latents = self.scheduler.step(value, t, latents).prev_sample
        return (latents,)
""",
        space,
    )
    pipe = space["Unseen"](**{**sd().components, "scheduler": ddim()}, requires_safety_checker=False)
    parallel = da.diffusers.parallelize(pipe)
    with pytest.warns(RuntimeWarning, match="source of the loop of Unseen cannot be read"):
        value = call(parallel, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        call(parallel, {})
    assert distance(value, call(pipe, {})) <= 1e-4
    with pytest.raises(ValueError, match=r"control_guidance_end=0\.5, and the source"):
        call(parallel, {"control_guidance_end": 0.5})


# --- pipelines that are put together otherwise ------------------------------------------------------------------------


class Words:
    """A tokenizer, and an encoder, of the shapes that latent diffusion asks for."""

    def __call__(self, words: Any, **more: Any) -> Any:
        count = len(words) if isinstance(words, list) else 1
        return type("Out", (), {"input_ids": torch.arange(5).repeat(count, 1) + (0 if words == [""] else 1)})()


class Encoder(nn.Module):
    """Embeddings of them."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, ids: Tensor) -> Any:
        return (torch.stack([noise(int(row.sum()), 5, 16) for row in ids]),)


def latent_diffusion(scheduler: Any = None) -> Any:
    return finished(D.LDMTextToImagePipeline(vae(), Encoder(), Words(), unet(), scheduler or ddim()))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("noisy", [False, True])
def test_latent_diffusion_gives_as_many_images(count: int, guidance: float, noisy: bool) -> None:
    """It prepares no latents, and doubles them for guidance within its loop."""
    pipe = latent_diffusion()
    given = {
        "prompt": ["a cat", "a dog"][:count],
        **SIZE,
        "eta": 0.7 * noisy,
        "guidance_scale": guidance,
        "output_type": "np",
    }
    expected = call(pipe, given)
    value = call(da.diffusers.parallelize(pipe), given)
    assert value.shape == expected.shape
    assert distance(value, expected) <= 1e-4


def test_a_network_that_is_shown_what_the_scheduler_has_not_scaled() -> None:
    pipe = latent_diffusion(D.EulerDiscreteScheduler(**STABLE))
    with pytest.raises(ValueError, match=r"has not scaled.*DDIMScheduler"):
        call(da.diffusers.parallelize(pipe), {"prompt": ["a cat"], **SIZE, "output_type": "np"})


def kandinsky_decoder(scheduler: Any = None) -> Any:
    network = unet(
        addition_embed_type="image",
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        out_channels=8,
        time_embedding_type="positional",
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=16,
    )
    movq = D.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=8,
        num_vq_embeddings=12,
        vq_embed_dim=4,
        norm_type="spatial",
    )
    return finished(D.KandinskyV22Pipeline(network, scheduler or D.DDIMScheduler(clip_sample=False), movq))


IMAGES: dict[str, Any] = {
    "image_embeds": noise(1, 1, 16),
    "negative_image_embeds": noise(2, 1, 16),
    "guidance_scale": 3.0,
    "height": 16,
    "width": 16,
}


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_kandinsky_reads_what_a_step_returns_by_index(count: int) -> None:
    pipe = kandinsky_decoder()
    given = {**IMAGES, "num_images_per_prompt": count}
    expected = call(pipe, given)
    assert distance(call(da.diffusers.parallelize(pipe), given), expected) <= 1e-4


class Combined(D.DiffusionPipeline):
    """A pipeline whose steps another one makes."""

    def __init__(self, unet: Any, scheduler: Any, movq: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, movq=movq)
        self.decoder_pipe = D.KandinskyV22Pipeline(unet, scheduler, movq)

    def __call__(self, **given: Any) -> Any:
        return self.decoder_pipe(**given)


def test_pipelines_of_pipelines_are_parallel_in_their_parts() -> None:
    pipe = Combined(**kandinsky_decoder().components)
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    expected = call(pipe, IMAGES)
    fast = da.diffusers.parallelize(pipe)
    assert isinstance(fast, da.diffusers.CombinedPipeline)
    assert distance(call(fast, IMAGES), expected) <= 1e-4
    assert fast.solution is fast.parts["decoder_pipe"].solution
    assert fast.solution.converged
    assert fast.check.passed
    assert not isinstance(pipe.decoder_pipe, da.diffusers.ParallelPipeline)
    pipe.decoder_pipe = D.KandinskyV22Pipeline(**pipe.components)  # another one, which the next call finds
    pipe.decoder_pipe.scheduler = D.DDIMScheduler(**STABLE, clip_sample=False)
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    other = call(pipe, IMAGES)
    assert distance(other, expected) > 1e-3
    assert distance(call(fast, IMAGES), other) <= 1e-4


def test_pipelines_of_pipelines_that_cannot_be_parallel_say_why() -> None:
    pipe = Combined(**kandinsky_decoder().components)
    pipe.decoder_pipe.scheduler = D.TCDScheduler()
    with pytest.raises(ValueError, match=r"Combined makes its steps in other pipelines, decoder_pipe \(TCDScheduler\)"):
        da.diffusers.parallelize(pipe)
    pipe = Combined(**kandinsky_decoder().components)
    pipe.decoder_pipe = da.diffusers.parallelize(pipe.decoder_pipe)
    with pytest.raises(ValueError, match=r"decoder_pipe of Combined is parallel in time already"):
        da.diffusers.parallelize(pipe)
    with pytest.raises(ValueError, match=r"pipe is parallel in time already: ParallelPipeline.*pipe\.pipe"):
        da.diffusers.parallelize(pipe.decoder_pipe)


class Serial(D.StableDiffusionPipeline):
    """A pipeline that does not run over the scheduler's timesteps."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (torch.zeros(1),)


def test_what_was_not_made_in_parallel_is_said() -> None:
    pipe = Serial(**sd().components, requires_safety_checker=False)
    with pytest.warns(RuntimeWarning, match=r"Serial did not run over scheduler\.timesteps"):
        call(da.diffusers.parallelize(pipe), {})


def animated(scheduler: Any = None) -> Any:
    motion = D.MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )
    network = made(lambda: D.UNetMotionModel.from_unet2d(unet(), motion))
    return finished(D.AnimateDiffPipeline(vae(), None, None, network, motion, scheduler or ddim()))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("count", [1, 2])
def test_networks_whose_embeddings_have_a_row_for_each_frame(count: int, guidance: float) -> None:
    pipe = animated()
    given = {**prompts(), **SIZE, "num_frames": 3, "guidance_scale": guidance, "num_videos_per_prompt": count}
    expected = call(pipe, given)
    assert distance(call(da.diffusers.parallelize(pipe), given), expected) <= 1e-4


# --- callbacks, training mode -----------------------------------------------------------------------------------------


class Looking(D.callbacks.PipelineCallback):
    """One that looks at the embeddings."""

    tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds"]
    seen = 0

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> Any:
        assert callback_kwargs["prompt_embeds"].shape[-1] == 16
        assert self.tensor_inputs == ["latents", "prompt_embeds"]
        type(self).seen += 1
        Looking.seen += 1
        return callback_kwargs


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.sweep(1)
def test_callbacks_that_are_objects(many: bool) -> None:
    pipe = sd()
    one = Looking(cutoff_step_ratio=None, cutoff_step_index=1)
    one._internal_dict = {}  # nothing that cuts off
    callback = D.callbacks.MultiPipelineCallbacks([one]) if many else one
    parallel = da.diffusers.parallelize(pipe)
    expected = call(pipe, {**TEXT, **SIZE})
    Looking.seen = 0
    value = call(parallel, {**TEXT, **SIZE, "callback_on_step_end": callback})
    assert distance(value, expected) <= 1e-4
    assert Looking.seen > 0


def test_callbacks_that_cut_off_at_a_step_are_refused() -> None:
    callback = D.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=0.9)
    with pytest.raises(ValueError, match="SDCFGCutoffCallback changes the run at a step"):
        call(da.diffusers.parallelize(sd()), {**TEXT, **SIZE, "callback_on_step_end": callback})


@pytest.mark.parametrize("how", ["latents", "prompt_embeds", "guidance", "outer guidance", "scheduler", "adapter"])
def test_callbacks_that_change_in_place_are_refused(how: str) -> None:
    pipe = sd(network=made(D.UNet2DConditionModel.from_config, config=dict(unet().config)))

    class Scaled(type(next(iter(pipe.unet.attn_processors.values())))):
        scale: ClassVar[list[float]] = [1.0]

    pipe.unet.set_attn_processor(Scaled())

    def change(given: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if how in tensors:
            tensors[how].mul_(0.9)
        elif how == "guidance":
            given._guidance_scale = 1.0
        elif how == "outer guidance":
            pipe._guidance_scale = 1.0 + step
        elif how == "scheduler":
            given.scheduler = ddim()
        else:
            for processor in given.unet.attn_processors.values():
                processor.scale = [0.0]
        return tensors

    given = {**TEXT, **SIZE, "prompt_embeds": TEXT["prompt_embeds"].clone(), "callback_on_step_end": change}
    given["callback_on_step_end_tensor_inputs"] = ["latents", "prompt_embeds"]
    with pytest.raises(ValueError, match=f"callback_on_step_end changed .*{how.split()[-1]}.*order"):
        call(da.diffusers.parallelize(pipe), given)


class Old(D.StableDiffusionPipeline):
    """A pipeline that calls back as older ones do."""

    def __call__(self, callback: Any = None, generator: Any = None, **more: Any) -> Any:
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(8)
        for i, t in enumerate(self.scheduler.timesteps):
            value = self.unet(latents, t, encoder_hidden_states=TEXT["prompt_embeds"]).sample
            latents = self.scheduler.step(value, t, latents).prev_sample
            if callback is not None and i % 1 == 0:
                step_idx = i // getattr(self.scheduler, "order", 1)
                callback(step_idx, t, latents)
        return (latents,)


def test_callbacks_of_older_pipelines() -> None:
    pipe = Old(**{**sd().components, "scheduler": ddim()}, requires_safety_checker=False)
    seen: list[tuple[int, int]] = []
    parallel = da.diffusers.parallelize(pipe)
    value = call(parallel, {"callback": lambda step, t, latents: seen.append((step, int(t)))})
    assert [step for step, _ in seen] == list(range(parallel.solution.stats.rounds))
    assert distance(value, call(pipe, {})) <= 1e-4
    with pytest.raises(ValueError, match="callback changed latents"):
        call(parallel, {"callback": lambda step, t, latents: latents.mul_(0.5)})


@pytest.mark.parametrize("part", [nn.Dropout(0.1), nn.BatchNorm2d(4)], ids=["dropout", "batch norm"])
def test_networks_in_training_mode_are_refused(part: nn.Module) -> None:
    pipe = sd(network=made(lambda: D.UNet2DConditionModel.from_config(unet().config)))
    pipe.unet.conv_in = nn.Sequential(part, pipe.unet.conv_in)
    parallel = da.diffusers.parallelize(pipe)
    pipe.unet.train()
    with pytest.raises(
        ValueError, match=rf"pipe\.unet is in training mode, and its layer .*{type(part).__name__}.*pipe\.unet\.eval"
    ):
        call(parallel, {**TEXT, **SIZE})
    pipe.unet.eval()
    assert distance(call(parallel, {**TEXT, **SIZE}), call(pipe, {**TEXT, **SIZE})) <= 1e-4


class Asking(nn.Module):
    """A layer of one's own that does something else in training."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y - 0.3 * y.mean(0, keepdim=True) if self.training else y


class Holding(nn.Module):
    """A layer that holds others where ``eval`` does not reach them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inners = {"one": [inner]}

    def forward(self, x: Tensor) -> Tensor:
        return self.inners["one"][0](x)


def test_layers_that_ask_for_the_mode_are_warned_about() -> None:
    pipe = sd(network=made(lambda: D.UNet2DConditionModel.from_config(unet().config)))
    pipe.unet.conv_in = Asking(pipe.unet.conv_in)
    parallel = da.diffusers.parallelize(pipe)
    pipe.unet.conv_in.training = True
    with pytest.warns(
        RuntimeWarning, match=r"pipe\.unet.*conv_in.*Asking.*self\.training.*Use pipe\.unet\.eval"
    ) as seen:
        call(parallel, {**TEXT, **SIZE}, 4)
    assert seen[0].filename == __file__
    pipe.unet.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert distance(call(parallel, {**TEXT, **SIZE}, 4), call(pipe, {**TEXT, **SIZE}, 4)) <= 1e-4


def test_layers_that_are_not_registered_are_looked_at() -> None:
    pipe = sd(network=made(lambda: D.UNet2DConditionModel.from_config(unet().config)))
    pipe.unet.conv_in = Holding(nn.Sequential(pipe.unet.conv_in, nn.BatchNorm2d(32)))
    with pytest.raises(ValueError, match=r"pipe\.unet is in training mode.*BatchNorm2d"):
        call(da.diffusers.parallelize(pipe.to("cpu")), {**TEXT, **SIZE}, 4)
