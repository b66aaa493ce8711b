"""Schedulers whose steps use what earlier steps computed: the DPM-Solvers, UniPC and DEIS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import parareal as pr
from diffusion_adapters.diffusers._scheduler_levels import from_sigmas
from diffusion_adapters.diffusers._scheduler_steps import Ordered, SDEDPMSolver
from diffusion_adapters.diffusers._translation import Translation
from diffusion_adapters.sampling._stochastic_steps import SDEDPMSolverPP


def multistep_orders(scheduler: Any, start: int, stop: int, ends_at_zero: bool) -> tuple[int, ...]:
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


def dpm_multistep(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
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
    orders = multistep_orders(scheduler, start, stop, config.get("final_sigmas_type") == "zero")
    noise = torch.float32 if algorithm.startswith("sde") else None
    return from_sigmas(scheduler, start, stop, Ordered(methods[algorithm](), orders), noise=noise)


def dpm_singlestep(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
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
    return from_sigmas(scheduler, start, stop, Ordered(method, tuple(places)))


def unipc(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
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
    translation = from_sigmas(scheduler, start, stop, fine)
    return translation if config.predict_x0 else replace(translation, clean=None)  # it thresholds nothing there


def deis(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    orders = multistep_orders(scheduler, start, stop, False)
    return from_sigmas(scheduler, start, stop, Ordered(pr.DEIS(scheduler.config.solver_order), orders))
