"""(c) Numbers of slices; coarse propagators of several steps, of another solver, of a cheaper network."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import networks as trained
import torch
from networks.load import SMALLER
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr
from paper import networks
from paper.networks import Network
from paper.orders import check_laws
from paper.report import Report, small
from paper.runs import PIPELINED, SRDS, VANILLA, Methods, side_by_side


def slices(report: Report, name: str, seeds: int, steps: Sequence[int] = (100, 1024)) -> None:
    """From two slices to one a step."""
    table = report.table(
        "c_slices",
        f"SRDS by the number of slices: {name}, one sample, DDIM, seeds: {seeds}, rtol 1e-3",
        (
            "N",
            "slices",
            "iterations",
            "rounds, vanilla",
            "pipelined",
            "evaluations / N",
            "time ratio, pipelined",
            "largest error",
        ),
    )
    network = networks.load(name)
    for n in steps:
        middle = round(n**0.5)
        numbers = sorted({max(2, round(middle * part)) for part in (0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0)} | {middle})
        for number in (m for m in numbers if m <= n // 2):
            methods: Methods = {
                "vanilla": {**SRDS, "slices": number, "schedule": VANILLA},
                "pipelined": {**SRDS, "slices": number, "schedule": PIPELINED},
            }
            found = side_by_side(network, methods, range(seeds), n)
            check_laws(found)
            a, b = found.values()
            mark = " (square root)" if number == middle else ""
            table.add(
                *(n, f"{number}{mark}", f"{statistics.mean(a.iterations):.1f}"),
                *(f"{statistics.mean(one.rounds):.1f}" for one in (a, b)),
                *(f"{statistics.mean(b.evaluations) / n:.1f}", b.ratio, small(max(a.errors + b.errors))),
            )


def reduced(network: nn.Module, rank: int) -> nn.Module:
    """The network with every large matrix cut to its leading singular directions: cheaper, and worse."""
    small = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.ndim == 2 and min(parameter.shape) > rank:
                u, s, v = torch.linalg.svd(parameter, full_matrices=False)
                parameter.copy_((u[:, :rank] * s[:rank]) @ v[:rank])
    return small


def one_step(model: da.DiffusionModel) -> pr.Propagator:
    """A step of DDIM over a slice, by another model than that of the run; one call counts as one evaluation."""
    problem = da.probability_flow(model).problem

    def step(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return u + (t1 - t0).to(u.dtype).reshape(-1, *[1] * (u.ndim - 1)) * problem.rhs(t0, u)

    return pr.Propagator(step, batching="native")


def cheaper(network: Network, seed: int) -> dict[str, da.DiffusionModel]:
    """Models of the same data that cost less, for the label of a seed: smaller networks where such were trained."""
    given, label = network.given([seed]), network.labels([seed])
    found: dict[str, da.DiffusionModel] = {}
    if f"{network.name}-small" in SMALLER:
        small = trained.load(f"{network.name}-small").conditioned(label)
        share = _size(given) / _size(small)
        found[f"a trained network, {share:.0f} times as small"] = small
    elif isinstance(given.network, nn.Module):
        for rank in (32, 8):
            found[f"matrices of rank {rank}"] = replace(given, network=reduced(given.network, rank))
    if network.name == "digits":
        from paper.digits_quality import training_images

        x, y = training_images()
        own = x[y == seed % network.classes]
        mixture = da.GaussianMixture(own, 0.05)
        found["its training images, as a mixture"] = mixture.model(given.noise_schedule)
    return found


def _size(model: da.DiffusionModel) -> int:
    """Parameters of its network."""
    assert isinstance(model.network, nn.Module)
    return sum(parameter.numel() for parameter in model.network.parameters())


def compared(names: Sequence[str]) -> list[str]:
    """Networks on which coarse propagators are compared: the first, and those that have a smaller one."""
    return list(dict.fromkeys([names[0], *(name for name in names if f"{name}-small" in SMALLER)]))


def coarse(report: Report, names: Sequence[str], seeds: int, steps: Sequence[int] = (100, 1024)) -> None:
    """What the coarse propagator is."""
    table = report.table(
        "c_coarse",
        f"SRDS by the coarse propagator: one sample, DDIM, pipelined, seeds: {seeds}, rtol 1e-3",
        ("network", "N", "coarse propagator", "iterations", "rounds", "evaluations / N", "time ratio", "largest error"),
        "Calls of cheaper models count as rounds and evaluations like those of the network.",
    )
    fixed: dict[str, pr.Integrator] = {
        "DDIM, 1 step": pr.Euler(steps=1),
        "DDIM, 2 steps": pr.Euler(steps=2),
        "DDIM, 4 steps": pr.Euler(steps=4),
        "Heun, 1 step": pr.Heun(steps=1),
        "DPM-Solver++(2S), 1 step": pr.DPMSolverPP(2, steps=2),
    }
    for name, n in itertools.product(names, steps):
        network = networks.load(name)
        ways: dict[str, Callable[[int], Any]] = {key: lambda _, one=one: one for key, one in fixed.items()}
        for key in cheaper(network, 0):
            ways[key] = lambda seed, key=key, network=network: one_step(cheaper(network, seed)[key])
        for key, way in ways.items():
            kept = [
                side_by_side(
                    network, {"run": {"coarse": way(seed), "schedule": PIPELINED, "slices": round(n**0.5)}}, [seed], n
                )["run"]
                for seed in range(seeds)
            ]
            first = kept[0]
            for more in kept[1:]:
                for field in ("rounds", "iterations", "evaluations", "errors", "ratios"):
                    getattr(first, field).extend(getattr(more, field))
            table.add(
                *(name, n, key, f"{statistics.mean(first.iterations):.1f}", f"{statistics.mean(first.rounds):.1f}"),
                *(f"{statistics.mean(first.evaluations) / n:.1f}", first.ratio, small(max(first.errors))),
            )
