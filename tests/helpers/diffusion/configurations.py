"""Schedulers of diffusers in any configuration, and a pipeline small enough to run hundreds of them.

`draw` makes a `Case` from a `random.Random`, so that Hypothesis and `benchmarks/schedulers.py` draw from the same ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor

import diffusion_adapters as da

# --- the pipeline -----------------------------------------------------------------------------------------------------


class Waves(diffusers.ModelMixin, diffusers.ConfigMixin):
    """A network that is bounded, nonlinear, couples its inputs and knows the timestep, in any precision."""

    @register_to_config
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.nn.Parameter(torch.randn(16, 16, generator=generator, dtype=torch.float64) / 4, False)
        self.shift = torch.nn.Parameter(torch.randn(16, generator=generator, dtype=torch.float64), False)

    def forward(self, sample: Tensor, timestep: Any, prompt: Tensor, return_dict: bool = True) -> Any:
        t = torch.as_tensor(timestep).double().expand(len(sample))[:, None]
        x = sample.double().flatten(1)
        phase = self.shift * torch.sin(t / 160) + torch.cos(t / 45) + 0.3 * torch.tanh(t) + prompt.double()
        value = 0.7 * torch.tanh(x @ self.mix.T + phase) + 0.5 * torch.sin(1.3 * x + phase)
        return (value.reshape(sample.shape).to(sample.dtype),)


class Bare(diffusers.DiffusionPipeline):
    """The loop that pipelines have in common: timesteps, latents or a noisy image, guidance, ``scheduler.step``."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)

    def prepare_latents(self, image: Tensor, noise: Tensor, start: Tensor | None) -> Tensor:
        scheduler: Any = self.scheduler
        if start is None:
            return noise * getattr(scheduler, "init_noise_sigma", 1.0)
        if hasattr(scheduler, "scale_noise"):
            return scheduler.scale_noise(image, start, noise)
        return scheduler.add_noise(image, noise, start)

    @torch.no_grad()
    def __call__(
        self,
        latents: Tensor,
        generator: torch.Generator,
        image: Tensor | None = None,
        num_inference_steps: int | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        skip: int = 0,
        leave: int = 0,
        indexed: bool = True,
        precise: bool = False,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
    ) -> Tensor:
        scheduler: Any = self.scheduler
        more = {} if mu is None else {"mu": mu}
        at, _ = retrieve_timesteps(scheduler, num_inference_steps, "cpu", timesteps, sigmas, **more)
        if precise:  # the weights of its steps are then of float64 too
            scheduler.sigmas = scheduler.sigmas.double()
        first, order = skip * scheduler.order, scheduler.order
        if (skip or indexed) and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        at = at[first : len(at) - leave * order]
        start = at[:1].repeat(len(latents)) if skip else None
        latents = self.prepare_latents(torch.zeros_like(latents) if image is None else image, latents, start)
        given = {"eta": eta, "use_clipped_model_output": use_clipped_model_output, "generator": generator}
        given = {name: value for name, value in given.items() if name in signature(scheduler.step).parameters}
        prompt = torch.cat([torch.zeros(len(latents), 16), torch.full((len(latents), 16), 0.5)])
        with self.progress_bar(total=len(at)) as bar:
            for t in at:
                inputs = torch.cat([latents, latents]) if guidance_scale > 1 else latents
                if hasattr(scheduler, "scale_model_input"):
                    inputs = scheduler.scale_model_input(inputs, t)
                value = self.unet(inputs, t.expand(len(inputs)), prompt=prompt[-len(inputs) :])[0]
                if guidance_scale > 1:
                    without, with_prompt = value.chunk(2)
                    value = without + guidance_scale * (with_prompt - without)
                latents = scheduler.step(value, t, latents, **given, return_dict=False)[0]
                bar.update()
        return latents


# --- the cases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A scheduler, what the pipeline is called with, and the seed of its noise."""

    scheduler: str
    config: dict[str, Any]
    call: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch: int = 1

    def pipeline(self) -> Bare:
        """A new pipeline."""
        return Bare(Waves(), getattr(diffusers, self.scheduler)(**self.config))

    def inputs(self, moved: float = 0.0) -> dict[str, Any]:
        """What it is called with; ``moved`` is by how much the noise is moved, relatively."""
        generator = torch.Generator().manual_seed(self.seed)
        latents, image, other = (
            torch.randn(self.batch, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        latents = latents + moved * other
        return {"latents": latents, "image": 0.5 * image, "generator": generator, **self.call}


_BETAS: dict[str, list[Any]] = {
    "num_train_timesteps": [1000, 1000, 1000, 100],
    "beta_schedule": ["linear", "scaled_linear", "scaled_linear", "squaredcos_cap_v2"],
}
_SPACED: dict[str, list[Any]] = {"timestep_spacing": ["linspace", "leading", "trailing"], "steps_offset": [0, 0, 1]}
_CLIPPED: dict[str, list[Any]] = {"clip_sample": [False, False, True], "clip_sample_range": [1.0, 1.0, 2.0, 0.4]}
_THRESHOLD: dict[str, list[Any]] = {
    "thresholding": [False, False, False, True],
    "dynamic_thresholding_ratio": [0.995, 0.8],
    "sample_max_value": [1.0, 2.0],
}
_PREDICTS: dict[str, list[Any]] = {"prediction_type": ["epsilon", "epsilon", "v_prediction", "sample"]}
_RESCALED: dict[str, list[Any]] = {"rescale_betas_zero_snr": [False, False, False, True]}
_FLOWS: dict[str, list[Any]] = {"flow_shift": [1.0, 3.0, 0.5]}
_FINAL: dict[str, list[Any]] = {"final_sigmas_type": ["zero", "sigma_min"]}
_ALPHAS = {**_BETAS, **_SPACED, **_PREDICTS}

OPTIONS: dict[str, dict[str, list[Any]]] = {
    "DDIMScheduler": {**_ALPHAS, **_CLIPPED, **_THRESHOLD, **_RESCALED, "set_alpha_to_one": [True, False]},
    "DDPMScheduler": {
        **_ALPHAS,
        **_CLIPPED,
        **_THRESHOLD,
        **_RESCALED,
        "variance_type": ["fixed_small", "fixed_small", "fixed_small_log", "fixed_large"] * 3 + ["learned_range"],
    },
    "EulerDiscreteScheduler": {
        **_ALPHAS,
        **_RESCALED,
        **_FINAL,
        "interpolation_type": ["linear", "linear", "log_linear"],
        "timestep_type": ["discrete", "discrete", "continuous"],
        "sigma_min": [None, None, None, 0.02],
        "sigma_max": [None, None, None, 50.0],
    },
    "EulerAncestralDiscreteScheduler": {**_ALPHAS, **_RESCALED},
    "HeunDiscreteScheduler": {**_ALPHAS, **_CLIPPED},
    "DPMSolverMultistepScheduler": {
        **_ALPHAS,
        **_THRESHOLD,
        **_RESCALED,
        **_FLOWS,
        **_FINAL,
        "solver_order": [1, 2, 2, 3],
        "algorithm_type": ["dpmsolver++", "dpmsolver++", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"],
        "solver_type": ["midpoint", "heun"],
        "lower_order_final": [True, False],
        "euler_at_final": [False, True],
        "use_lu_lambdas": [False, False, False, True],
        "lambda_min_clipped": [-float("inf"), -5.1],
    },
    "DPMSolverSinglestepScheduler": {
        **_BETAS,
        **_PREDICTS,
        **_THRESHOLD,
        **_FLOWS,
        **_FINAL,
        "solver_order": [1, 2, 2, 3],
        "algorithm_type": ["dpmsolver++"] * 4 + ["dpmsolver"] * 3 + ["sde-dpmsolver++"],
        "solver_type": ["midpoint", "heun"],
        "lower_order_final": [True, False],
        "lambda_min_clipped": [-float("inf"), -5.1],
    },
    "UniPCMultistepScheduler": {
        **_ALPHAS,
        **_THRESHOLD,
        **_RESCALED,
        **_FLOWS,
        **_FINAL,
        "solver_order": [1, 2, 2, 3],
        "predict_x0": [True, True, False],
        "solver_type": ["bh2", "bh1"],
        "lower_order_final": [True, False],
        "disable_corrector": [[]] * 9 + [[0]],
    },
    "DEISMultistepScheduler": {
        **_ALPHAS,
        **_THRESHOLD,
        **_FLOWS,
        "solver_order": [1, 2, 2, 3],
        "lower_order_final": [True, False],
    },
    "FlowMatchEulerDiscreteScheduler": {
        "num_train_timesteps": [1000, 1000, 100],
        "shift": [1.0, 3.0, 0.5],
        "use_dynamic_shifting": [False, False, True],
        "time_shift_type": ["exponential", "linear"],
        "shift_terminal": [None, None, 0.1],
        "stochastic_sampling": [False, False, True],
        "invert_sigmas": [False] * 5 + [True],
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": [1000, 1000, 100], "shift": [1.0, 3.0, 0.5]},
    "EDMEulerScheduler": {
        **_FINAL,
        "sigma_min": [0.002, 0.02],
        "sigma_max": [80.0, 3.0],
        "sigma_data": [0.5, 1.0],
        "sigma_schedule": ["karras", "exponential"],
        "prediction_type": ["epsilon", "v_prediction"],
        "rho": [7.0, 3.0],
    },
}
"""What each setting of a scheduler is drawn from: the commonest first, and where it is much commoner, often."""

SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SPACED = tuple(name for name in OPTIONS if name[:4] in ("Eule", "Heun", "DPMS", "UniP", "DEIS", "Flow"))


def draw(rng: random.Random, scheduler: str | None = None, steps: int = 40) -> Case:
    """A configuration that its scheduler accepts, and a call.

    Args:
        rng: Where from.
        scheduler: Its class; ``None`` draws one.
        steps: At most how many steps.
    """
    name = scheduler or rng.choice(list(OPTIONS))
    config = {key: rng.choice(values) for key, values in OPTIONS[name].items()}
    if name in SPACED and name not in ("EulerAncestralDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        kind = rng.choice((None, None, None, None, *SPACINGS))
        if kind is not None:
            config[kind] = True
    if config.get("beta_schedule") == "scaled_linear":
        config |= {"beta_start": 0.00085, "beta_end": 0.012}
    if "flow_shift" in config:
        shift = config.pop("flow_shift")
        if rng.random() < 0.25:
            config |= {"flow_shift": shift, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if name == "EulerAncestralDiscreteScheduler" and config["prediction_type"] == "sample":
        config["prediction_type"] = "epsilon"
    if config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"):
        config["final_sigmas_type"] = "sigma_min"
    call = _call(rng, name, config, steps)
    return Case(name, config, call, rng.randrange(1000), rng.choice((1, 1, 2)))


def _call(rng: random.Random, name: str, config: dict[str, Any], steps: int) -> dict[str, Any]:
    count = rng.choice((rng.randint(1, min(9, steps)), rng.randint(1, steps)))
    train = config.get("num_train_timesteps", 1000)
    call: dict[str, Any] = {"num_inference_steps": count, "guidance_scale": rng.choice((1.0, 1.0, 3.0))}
    own = rng.random()
    even = not any(config.get(kind) for kind in (*SPACINGS, "use_flow_sigmas", "use_lu_lambdas"))
    taken = name in ("DDPMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler") or name[:4] == "DPMS"
    if own < 0.12 and even and taken:
        call |= {"num_inference_steps": None, "timesteps": sorted(rng.sample(range(train), count), reverse=True)}
    elif (own < 0.24 and name == "FlowMatchEulerDiscreteScheduler") or (own < 0.5 and config.get("use_flow_sigmas")):
        sigmas = sorted((rng.uniform(0.01, 1.0) for _ in range(count)), reverse=True)
        if "shift" in config or name == "UniPCMultistepScheduler":
            call |= {"num_inference_steps": None, "sigmas": sigmas}
    elif own < 0.24 and name == "EulerDiscreteScheduler" and even:
        sigmas = sorted((rng.uniform(0.05, 12.0) for _ in range(count)), reverse=True)
        call |= {"num_inference_steps": None, "sigmas": [*sigmas, 0.0]}
    if config.get("use_dynamic_shifting"):
        call["mu"] = rng.choice((0.5, 1.15))
    if rng.random() < 0.25:
        call["skip"] = rng.randint(0, count - 1)
    if rng.random() < 0.08:
        call["leave"] = rng.randint(0, count - 1 - call.get("skip", 0))
    call["indexed"] = rng.random() < 0.5
    if name == "DDIMScheduler":
        call |= {"eta": rng.choice((0.0, 0.0, 0.5, 1.0)), "use_clipped_model_output": rng.random() < 0.3}
    return call


# --- what comes out ---------------------------------------------------------------------------------------------------


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, in the norm of the whole."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp_min(1e-30))


@dataclass
class Outcome:
    """What the pipeline did and what we did.

    Attributes:
        verdict: "equal", "refused", "nan" (both), "broken" (the pipeline raises) or "wrong".
        error: Relative distance.
        rounding: How far float32, in the latents and in the weights of the scheduler's steps, moves the sequential run.
        said: The error's text, or what else there is to say.
        solution: Of our run.
        check: What came of comparing it with the scheduler.
    """

    verdict: str
    error: float = 0.0
    rounding: float = 0.0
    said: str = ""
    solution: Any = None
    check: Any = None


def compare(case: Case, tolerance: float = 1e-4, exact: float = 1e-4, **settings: Any) -> Outcome:
    """Runs the pipeline and `parallelize` with these settings, and no check, which would hide a wrong result.

    By how much rounding may differ is measured where the two differ by more than ``exact``.
    """
    given = case.inputs()
    try:
        theirs = case.pipeline()(**given)
    except Exception as error:  # whatever a scheduler raises in its own run
        return Outcome("broken", said=f"{type(error).__name__}: {error}")
    after = given["generator"].get_state()
    fast = da.diffusers.parallelize(case.pipeline(), dtype=torch.float64, **{"check": False, **settings})
    given = case.inputs()
    try:
        ours = fast(**given)
    except ValueError as error:
        return Outcome("refused", said=str(error))
    if not torch.equal(ours.isfinite(), theirs.isfinite()):
        return Outcome("wrong", float("inf"), said="finite or not", solution=fast.solution)
    if not bool(theirs.isfinite().all()):
        return Outcome("nan", solution=fast.solution)
    error = distance(ours, theirs)
    if not torch.equal(given["generator"].get_state(), after):
        return Outcome("wrong", error, said="generator", solution=fast.solution)
    if error <= min(tolerance, exact):
        return Outcome("equal", error, solution=fast.solution, check=fast.check)
    rounding = distance(case.pipeline()(**case.inputs(1e-5)), theirs) * torch.finfo(torch.float32).eps / 1e-5
    pipe = case.pipeline()
    if hasattr(pipe.scheduler, "sigmas"):
        rounding += distance(pipe(**case.inputs(), precise=True), theirs)
    verdict = "equal" if error <= tolerance + 3 * rounding else "wrong"
    return Outcome(verdict, error, rounding, solution=fast.solution)
