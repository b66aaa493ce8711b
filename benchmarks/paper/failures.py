"""(f) What makes SRDS diverge on its way, or take as many iterations as there are slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from paper import networks
from paper.networks import Network
from paper.report import Report, small
from paper.runs import apart, recorded


@dataclass(frozen=True)
class Case:
    """A run that may fail: arguments of `recorded`."""

    name: str
    model: da.DiffusionModel
    noise: Tensor
    options: dict[str, Any]


def turned(gain: float) -> pr.Propagator:
    """A coarse propagator that knows nothing of the data: pixels in another order, times a factor."""
    return pr.Propagator(lambda t0, t1, u: gain * u.flip(-1), batching="native")


def cases(network: Network) -> list[Case]:
    noise = network.noise([0])
    plain = network.given([0])
    untrained = da.GaussianMixture(torch.zeros(1, *network.shape), 0.05).model(plain.noise_schedule)
    found = [Case("as it is", plain, noise, {})]
    for scale in (2.0, 4.0, 7.5, 15.0, 30.0):
        found.append(Case(f"guidance {scale:g}", network.given([0], scale), noise, {}))
    ways: dict[str, pr.Correction | pr.Integrator] = {
        "coarse: a model of one Gaussian": _step_of(untrained),
        "coarse: nothing (0)": pr.Zero(),
        "coarse: the state itself (Picard)": pr.Identity(),
        "coarse: pixels in another order": turned(1.0),
        "coarse: the same, doubled": turned(2.0),
    }
    for name, coarse in ways.items():
        found.append(Case(name, plain, noise, {"coarse": coarse}))
    times = plain.noise_schedule.times(100, "uniform")
    if isinstance(plain.noise_schedule, da.VP):
        found.append(Case("steps uniform in t: one long step at the clean end", plain, noise, {"spacing": "uniform"}))
        early = torch.cat(
            [times[:1], times[0] + (times[-1] - times[0]) * torch.linspace(0, 1, 101, dtype=torch.float64)[1:] ** 3]
        )
        found.append(Case("steps crowded at the noisy end", plain, noise, {"spacing": early}))
    for width, name in ((1e-2, "narrow data"), (1e-4, "points as data")):
        means = torch.randn(6, *network.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        sharp = da.GaussianMixture(means, width).model(da.VP())
        found.append(Case(f"{name}: six Gaussians, variance {width:g}", sharp, noise.double(), {}))
    between = da.GaussianMixture(torch.stack([torch.ones(network.shape), -torch.ones(network.shape)]).double(), 1e-2)
    still = noise.double() - noise.double().mean()
    found.append(Case("a start between two images", between.model(da.VP()), still, {}))
    return found


def _step_of(model: da.DiffusionModel) -> pr.Propagator:
    from paper.propagators import one_step

    return one_step(model)


def failures(report: Report, name: str, steps: int = 100) -> None:
    """Each case to its end, with the picture of errors over slices and iterations."""
    import matplotlib.pyplot as plt

    slices = round(steps**0.5)
    table = report.table(
        "f_failures",
        f"What SRDS does where it is hard: {name}, one sample, DDIM, {steps} steps, {slices} slices",
        (
            "case",
            "iterations",
            "rounds, vanilla",
            "error of the first guess",
            "largest on the way",
            "in the end",
            "to 1e-3 after",
        ),
        "Errors of the sample, relative to the sequential one. The last column is the first iteration after which the "
        f"error stays below 1e-3. After {slices} iterations all is final.",
    )
    found = cases(networks.load(name))
    columns = 4
    figure, axes = plt.subplots(
        -(-len(found) // columns),
        columns,
        figsize=(4.2 * columns, 2.6 * -(-len(found) // columns)),
        layout="constrained",
    )
    for ax, case in zip(axes.flat, found, strict=False):
        run, serial, samples = recorded(case.model, case.noise, steps, slices=slices, **case.options)
        errors = [_error(samples, run, serial, k) for k in range(len(run.iterates.has_u))]
        late = [k for k, error in enumerate(errors) if not error <= 1e-3]
        after = late[-1] + 1 if late else 0
        table.add(
            *(case.name, int(torch.as_tensor(run.iterations).max()), run.stats.rounds),
            *(small(errors[0]), small(max(errors)), small(errors[-1]), after if after < len(errors) else "never"),
        )
        pr.plot.errors(run, serial, norm="rms", sample=0, ax=ax).set_title(case.name, fontsize="small")
        for legend in filter(None, (ax.get_legend(), *ax.figure.legends)):
            legend.remove()
    for ax in axes.flat[len(found) :]:
        ax.axis("off")
    report.picture("f_failures", figure)


def _error(samples: Callable[[Tensor], Tensor], run: pr.Solution, serial: pr.Solution, k: int) -> float:
    value = float(apart(samples(run.iterates.after(k)[-1]), samples(serial.u)))
    return value if math.isfinite(value) else math.inf
