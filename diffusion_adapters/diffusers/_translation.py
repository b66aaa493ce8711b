"""What a scheduler of diffusers computes, in terms of this library: noise levels, a prediction, a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._scheduler_steps import Clean, HeunToZero, Ordered, Posterior, SDEDPMSolver
from diffusion_adapters.equations._coordinates import Name
from diffusion_adapters.noise_schedules._base import NoiseSchedule
from diffusion_adapters.noise_schedules._named import Flow
from diffusion_adapters.sampling._stochastic_steps import Ancestral, SDEDPMSolverPP


@dataclass(frozen=True)
class Preserving(NoiseSchedule):
    """Alpha and sigma on the unit circle; time is sigma/(alpha + sigma), from 0, clean, to 1, all noise."""

    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t) over the norm of (1 - t, t)."""
        return (1 - t) / torch.hypot(1 - t, t)

    def sigma(self, t: Tensor) -> Tensor:
        """T over the norm of (1 - t, t)."""
        return t / torch.hypot(1 - t, t)

    def time(self, s: Tensor) -> Tensor:
        """The inverse of `s`, also where it is 0 or infinite."""
        return 1 / (1 + 1 / s)


@dataclass(frozen=True)
class Exploding(NoiseSchedule):
    """Alpha is 1 and sigma is time."""

    t_min: float = 0.0
    t_max: float = float("inf")

    def alpha(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """The time."""
        return t

    def time(self, s: Tensor) -> Tensor:
        """S itself."""
        return s


@dataclass(frozen=True, eq=False)
class Translation:
    """A scheduler's run from its timestep number ``start`` on.

    Attributes:
        noise_schedule: Alpha and sigma, as functions of a time of our own.
        prediction: What the pipeline hands to ``scheduler.step``: "eps", "x0", "v" or "velocity".
        times: Times of the grid's points, float64, falling, ``(n + 1,)``.
        timesteps: What the pipeline's loop calls the first n of them, ``(n,)``.
        fine: The scheduler's method.
        clean: What it does to estimates of the clean data, in the right-hand side.
        noise: The dtype that it draws noise in, "model" for that of the network; ``None`` where it draws none.
        silent: Whether the last step draws no noise.
        spare: How many draws of noise come to nothing, after those of the steps.
        scaled: Whether states are x/alpha, and not x.
        coordinates: Those in which the method is the scheduler's, if that depends on them.
        data: Standard deviation of the data, where the network is preconditioned as in EDM; else ``None``.
        sign: That of the network's output there.
    """

    noise_schedule: NoiseSchedule
    prediction: Any
    times: Tensor
    timesteps: Tensor
    fine: pr.Integrator
    clean: Clean | None = None
    noise: torch.dtype | str | None = None
    silent: bool = False
    spare: int = 0
    scaled: bool = False
    coordinates: Name | None = None
    data: float | None = None
    sign: float = 1.0

    def input_scale(self, t: Tensor) -> Tensor:
        """The factor from x at ``t`` to the network's input."""
        return torch.ones_like(t) if self.data is None else torch.rsqrt(t * t + self.data**2)

    @property
    def input_factor(self) -> float:
        """The factor from the scheduler's latents at the start to what the network receives."""
        t = self.times[0]
        factor = self.input_scale(t)
        return float(factor * self.noise_schedule.alpha(t) if self.scaled else factor)


PREDICTIONS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "velocity",
}


def translate(scheduler: Any, start: int, stop: int, eta: float = 0.0, use_clipped: bool = False) -> Translation:
    """What a scheduler, after ``set_timesteps``, computes from its timestep ``start`` up to ``stop``.

    Args:
        scheduler: The scheduler.
        start: Number of the first of its timesteps that the pipeline's loop visits.
        stop: One more than that of the last.
        eta: What the pipeline passes on to ``step``.
        use_clipped: Likewise ``use_clipped_model_output``.

    Raises:
        ValueError: The scheduler has no meaning as an ODE or SDE here, or a setting has none.
    """
    name = type(scheduler).__name__
    for kind in type(scheduler).__mro__:
        if kind.__name__ in _FAMILIES:
            name = kind.__name__
            break
    else:
        raise ValueError(
            f"scheduler {name} is not supported; expected one of {', '.join(sorted(_FAMILIES))}: for example "
            "pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)"
        )
    translation = _FAMILIES[name](scheduler, start, stop, eta, use_clipped)
    return _checked(translation, name)


def _checked(translation: Translation, name: str) -> Translation:
    times, timesteps = translation.times, translation.timesteps
    if translation.prediction == "eps" and float(translation.noise_schedule.alpha(times[0])) == 0:
        raise ValueError(
            f"{name} begins without signal, where prediction_type='epsilon' says nothing of the data; expected "
            "prediction_type='v_prediction' or 'sample' with a network made for it, or rescale_betas_zero_snr=False"
        )
    steps = times.diff()
    if bool((steps == 0).any()):
        where = int((steps == 0).nonzero()[0])
        if where < len(steps) - 1 or not _idle(translation.fine, where):
            raise ValueError(
                f"{name} takes a step of no length, from timestep {_number(timesteps[where])} to the same noise level; "
                "expected levels that fall: set final_sigmas_type='zero' in the scheduler's config, or take fewer steps"
            )
        # Nothing happens in it, but that methods of higher order count it as a step.
        times, timesteps, steps = times[:-1], timesteps[:-1], steps[:-1]
        translation = replace(translation, spare=0 if translation.noise is None else 1)
    if len(steps) == 0:
        raise ValueError(f"{name} has no step to take; expected at least one timestep")
    if not bool((steps < 0).all()):
        where = int((~(steps < 0)).nonzero()[0])
        raise ValueError(
            f"the noise level of {name} does not fall from timestep {_number(timesteps[where])} to the one after it; "
            "expected timesteps, or sigmas, in falling order, none repeated"
        )
    return replace(translation, times=times, timesteps=timesteps)


def _idle(fine: pr.Integrator, step: int) -> bool:
    """Whether a step of no length leaves the state as it is. One that ends a group goes from the group's beginning."""
    if isinstance(fine, Ordered):
        return fine.method.group == 1 or fine.orders[step] == 1
    return isinstance(fine, pr.Euler | Ancestral)


def _number(t: Tensor) -> float:
    return round(float(t), 3)


# --- where the levels come from -----------------------------------------------------------------------------------


def _prediction(scheduler: Any) -> str:
    given = scheduler.config.get("prediction_type", "epsilon")
    if given not in PREDICTIONS:
        raise ValueError(
            f"prediction_type={given!r} of {type(scheduler).__name__} is not supported; expected one of "
            f"{', '.join(map(repr, PREDICTIONS))}"
        )
    return PREDICTIONS[given]


def _share(ratio: Tensor) -> Tensor:
    """Sigma/(alpha + sigma) from sigma/alpha."""
    return 1 / (1 + 1 / ratio)


def _of_sigmas(scheduler: Any, start: int, stop: int, fine: pr.Integrator, **more: Any) -> Translation:
    """Schedulers that keep the levels of their points in ``sigmas``."""
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    timesteps = scheduler.timesteps.detach()[start:stop]
    prediction = _prediction(scheduler)
    if scheduler.config.get("use_flow_sigmas") or prediction == "velocity":
        if prediction != "velocity":
            raise ValueError(
                f"use_flow_sigmas=True came with prediction_type={scheduler.config.prediction_type!r}; expected "
                "prediction_type='flow_prediction'"
            )
        return Translation(Flow(), prediction, sigmas, timesteps, fine, _thresholding(scheduler), **more)
    return Translation(
        Preserving(t_max=float(_share(sigmas[0]))),
        prediction,
        _share(sigmas),
        timesteps,
        fine,
        _thresholding(scheduler),
        **more,
    )


def _thresholding(scheduler: Any) -> Clean | None:
    return scheduler._threshold_sample if scheduler.config.get("thresholding") else None


def _clipping(scheduler: Any) -> Clean | None:
    if scheduler.config.get("thresholding"):
        return scheduler._threshold_sample
    if scheduler.config.get("clip_sample"):
        most = scheduler.config.get("clip_sample_range", 1.0)
        return lambda x0: x0.clamp(-most, most)
    return None


def _whole(timesteps: Tensor) -> Tensor:
    return timesteps.detach().cpu().long()


def _ddim(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """DDIM steps to ``t - 1000 // N``, and the network is then told the next timestep, which may be another."""
    at = _whole(scheduler.timesteps)[start:stop]
    alphas = scheduler.alphas_cumprod.detach().cpu().double()
    last = torch.as_tensor(scheduler.final_alpha_cumprod).double()
    target = at - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    if int(at.min()) < 0 or int(at.max()) >= len(alphas):
        raise ValueError(
            f"timesteps run from {int(at[0])} to {int(at[-1])}; expected them within 0 ... {len(alphas) - 1}, those of "
            "training: take a smaller num_inference_steps"
        )
    arrives = torch.where(target >= 0, alphas[target.clamp_min(0)], last)
    levels = _share(((1 - torch.cat([alphas[at], arrives[-1:]])) / torch.cat([alphas[at], arrives[-1:]])).sqrt())
    ends = torch.cat([levels[:1], _share(((1 - arrives) / arrives).sqrt())])
    if levels[-1] == levels[-2]:  # the last step ends where it begins, and clips: give the point another place
        levels[-1] = levels[-2] / 2
    clean = _clipping(scheduler)
    same = bool(torch.equal(ends, levels))
    prediction = _prediction(scheduler)
    fine: pr.Integrator = pr.Euler()
    if eta > 0 and same and clean is None:
        fine = Ancestral(eta)
    elif not (same and clean is None and eta == 0):
        fine = Posterior(eta=eta, clean=clean, rederive=use_clipped, arrive=None if same else (levels, ends))
    noise = "model" if eta > 0 else None
    return Translation(
        Preserving(t_max=float(levels[0])),
        prediction,
        levels,
        scheduler.timesteps.detach()[start:stop],
        fine,
        noise=noise,
    )


def _ddpm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    variance = scheduler.config.get("variance_type", "fixed_small")
    if variance not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(
            f"variance_type={variance!r} of DDPMScheduler is not supported: the noise would depend on the network; "
            "expected 'fixed_small', 'fixed_small_log' or 'fixed_large'"
        )
    whole = _whole(scheduler.timesteps)
    alphas = scheduler.alphas_cumprod.detach().cpu().double()
    at = whole[start:stop]
    last = alphas[whole[stop]] if stop < len(whole) else torch.ones((), dtype=torch.float64)
    a = torch.cat([alphas[at], last[None]])
    clean, large = _clipping(scheduler), variance == "fixed_large"
    fine = Ancestral() if clean is None and not large else Posterior(eta=1.0, clean=clean, large=large)
    levels = _share(((1 - a) / a).sqrt())
    return Translation(
        Preserving(t_max=float(levels[0])),
        _prediction(scheduler),
        levels,
        scheduler.timesteps.detach()[start:stop],
        fine,
        noise="model",
        silent=int(at[-1]) == 0,
    )


def _euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    return _of_sigmas(scheduler, start, stop, pr.Euler(), scaled=True)


def _euler_ancestral(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    return _of_sigmas(scheduler, start, stop, Ancestral(), scaled=True, noise="model")


def _heun(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """Levels and timesteps stand there twice, once for each stage."""
    translation = _of_sigmas(scheduler, start, stop, HeunToZero(), scaled=True, coordinates="ratio")
    return _halved(replace(translation, clean=_clipping(scheduler)), type(scheduler).__name__)


def _halved(translation: Translation, name: str) -> Translation:
    times, timesteps = translation.times, translation.timesteps
    stages = len(timesteps)
    if stages % 2 == 0 or not torch.equal(times[1:-1:2], times[2:-1:2]):
        raise ValueError(
            f"{name} has a timestep for each stage of a step, of which the pipeline visits {stages}; expected all of "
            "them, or all from the beginning of a step on"
        )
    last = times[-1:]
    fine = HeunToZero() if float(last) == 0 else pr.Heun()
    if float(last) != 0:
        raise ValueError(f"{name} ends at the noise level {float(last):.3g}; expected 0, as it does with all timesteps")
    return replace(translation, times=torch.cat([times[:-1:2], last]), timesteps=timesteps[::2], fine=fine)


def _flow_euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    if scheduler.config.get("invert_sigmas"):
        raise ValueError(
            "invert_sigmas=True of FlowMatchEulerDiscreteScheduler is not supported; expected a pipeline whose noise "
            "level falls: invert_sigmas=False"
        )
    timesteps = scheduler.timesteps.detach()[start:stop]
    if scheduler.config.get("stochastic_sampling"):
        fine, noise = Posterior(renoise=True), torch.float32
        return Translation(Flow(), "velocity", sigmas, timesteps, fine, noise=noise)
    return Translation(Flow(), "velocity", sigmas, timesteps, pr.Euler())


def _flow_heun(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    timesteps = scheduler.timesteps.detach()[start:stop]
    return _halved(Translation(Flow(), "velocity", sigmas, timesteps, HeunToZero()), type(scheduler).__name__)


def _edm_euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """The network is preconditioned inside of the scheduler: what comes out of that is x0."""
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        _prediction(scheduler)
    data = float(scheduler.config.sigma_data)
    sign = -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
    timesteps = scheduler.timesteps.detach()[start:stop]
    return Translation(Exploding(), "x0", sigmas, timesteps, pr.Euler(), data=data, sign=sign)


# --- methods with a memory ------------------------------------------------------------------------------------------


def _multistep_orders(scheduler: Any, start: int, stop: int, ends_at_zero: bool) -> tuple[int, ...]:
    """The order of each step, but for the start of a run, as the schedulers lower it in the last ones."""
    config, total, most = scheduler.config, len(scheduler.timesteps), scheduler.config.solver_order
    few = config.get("lower_order_final", True) and total < 15
    orders: list[int] = []
    for i in range(start, stop):
        order = most
        if i == total - 2 and few:
            order = min(order, 2)
        if i == total - 1 and (few or config.get("euler_at_final", False) or ends_at_zero):
            order = 1
        orders.append(order)
    return tuple(orders)


def _dpm_multistep(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    config = scheduler.config
    algorithm, order, rule = config.algorithm_type, config.solver_order, config.solver_type
    methods: dict[str, Callable[[], pr.Multistep]] = {
        "dpmsolver++": lambda: pr.DPMSolverPP(order, "multistep", rule),
        "dpmsolver": lambda: pr.DPMSolver(order, "multistep", rule),
        "sde-dpmsolver++": lambda: SDEDPMSolverPP(order, rule),
        "sde-dpmsolver": lambda: SDEDPMSolver(order, rule),
    }
    if algorithm not in methods:
        raise ValueError(f"algorithm_type={algorithm!r} is not supported; expected one of {sorted(methods)}")
    if algorithm.startswith("sde") and order > 2:
        raise ValueError(
            f"solver_order={order} of algorithm_type={algorithm!r} is not supported: in the third-order update of "
            "DPMSolverMultistepScheduler the half in the weight of the second difference has the wrong sign, so that "
            "the weight does not vanish with the step; expected solver_order=2"
        )
    orders = _multistep_orders(scheduler, start, stop, config.get("final_sigmas_type") == "zero")
    noise = torch.float32 if algorithm.startswith("sde") else None
    return _of_sigmas(scheduler, start, stop, Ordered(methods[algorithm](), orders), noise=noise)


def _dpm_singlestep(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    config = scheduler.config
    methods = {"dpmsolver++": pr.DPMSolverPP, "dpmsolver": pr.DPMSolver}
    if config.algorithm_type not in methods:
        raise ValueError(
            f"algorithm_type={config.algorithm_type!r} of DPMSolverSinglestepScheduler is not supported; expected "
            "'dpmsolver++', or DPMSolverMultistepScheduler with algorithm_type='sde-dpmsolver++'"
        )
    method = methods[config.algorithm_type](config.solver_order, "singlestep", config.solver_type)
    places: list[int] = []
    for i, order in enumerate(scheduler.order_list[start:stop]):
        places.append(min(order, i + 1))  # a run that begins in the middle has fewer outputs to look back on
    return _of_sigmas(scheduler, start, stop, Ordered(method, tuple(places)))


def _unipc(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    config = scheduler.config
    if config.get("solver_p") is not None or config.get("disable_corrector"):
        raise ValueError(
            "solver_p and disable_corrector of UniPCMultistepScheduler are not supported; expected the scheduler's own "
            "predictor, and its corrector in every step"
        )
    if stop < len(scheduler.timesteps):
        raise ValueError(
            "UniPCMultistepScheduler lowers its order towards the last timestep, and the pipeline stops before it; "
            "expected a run to the end, or another scheduler"
        )
    prediction = "data" if config.predict_x0 else "noise"
    fine = pr.UniPC(config.solver_order, prediction, config.solver_type, config.lower_order_final)
    translation = _of_sigmas(scheduler, start, stop, fine)
    return translation if config.predict_x0 else replace(translation, clean=None)  # it thresholds nothing there


def _deis(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    orders = _multistep_orders(scheduler, start, stop, False)
    return _of_sigmas(scheduler, start, stop, Ordered(pr.DEIS(scheduler.config.solver_order), orders))


_FAMILIES: dict[str, Callable[[Any, int, int, float, bool], Translation]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "HeunDiscreteScheduler": _heun,
    "DPMSolverMultistepScheduler": _dpm_multistep,
    "DPMSolverSinglestepScheduler": _dpm_singlestep,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
    "EDMEulerScheduler": _edm_euler,
}
