"""Whether results that say CONVERGED are right, on whole configurations drawn at random.

Networks (trained, exact, untrained, mis-scaled, adversarial), noise schedules, predictions, grids, solvers,
corrections, widths and tolerances are drawn together, and each sample is held against the sequential sampler on the
same grid. It prints how many runs that end as converged are more than twice their tolerance from it, and how many
estimates lie below the true error. Run it with `python benchmarks/trust.py`; `--cases 200` is quick, `--verify` runs
them with ``verify=True``.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.models._prediction import convert

PREDICTIONS = ("eps", "x0", "v", "score", "velocity")
SOLVERS = (
    ("ddim",) * 8
    + ("heun", "dpm++2m", "dpm++2m", "unipc", "deis", "dpm2", "dpm++2s", "dpm3", "dpm++3m", "ancestral", "sde-dpm++2m")
)  # fmt: skip
COARSE = ("gaussian",) * 8 + ("none", "plain", "secant", "anderson", "memory", "variance", "same")
KINDS = ("mixture", "digits", "untrained", "bounded", "residual", "misscaled", "sharp", "narrow")


@dataclass
class Case:
    """One configuration: everything that `da.sample` is told."""

    seed: int
    kind: str
    schedule: da.NoiseSchedule
    prediction: str
    spacing: str | Tensor | None
    steps: int
    solver: str
    coarse: str
    width: int | None
    rtol: float
    dtype: torch.dtype
    samples: int
    gain: float
    scale: float | None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        spacing = "times" if isinstance(self.spacing, Tensor) else self.spacing
        schedule = type(self.schedule).__name__
        if isinstance(self.schedule, da.EDM | da.VE):
            schedule += f"({self.schedule.sigma_max:g})"
        return (
            f"{self.seed}: {self.kind} gain {self.gain:.2g} guidance {self.scale} {schedule} {self.prediction} "
            f"{spacing} "
            f"steps={self.steps} {self.solver} coarse={self.coarse} width={self.width} rtol={self.rtol:g} {self.dtype}"
        )


def draw(seed: int) -> Case:
    """The configuration of a number."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    schedule = _schedule(rng)
    silent = float(schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64))) == 0.0
    clean = float(schedule.sigma(torch.tensor(schedule.t_min, dtype=torch.float64))) == 0.0
    predictions = [p for p in PREDICTIONS if not (silent and p in ("eps", "score")) and not (clean and p == "score")]
    prediction = rng.choice(predictions)
    solver = rng.choice(SOLVERS)
    steps = rng.choice((2, 3, 5, 8, 12, 20, 25, 33, 50))
    width = None if rng.random() < 0.3 else rng.randint(1, steps)
    coarse = rng.choice(COARSE)
    return Case(
        seed=seed,
        kind=kind,
        schedule=schedule,
        prediction=prediction,
        spacing=_spacing(rng, schedule, steps),
        steps=steps,
        solver=solver,
        coarse=coarse,
        width=None if coarse == "same" else width,
        rtol=rng.choice((1e-2, 1e-3, 1e-3, 1e-4, 2e-5)),
        dtype=rng.choice((torch.float64, torch.float64, torch.float32)),
        samples=rng.choice((1, 2, 3)),
        gain=10 ** rng.uniform(-1.0, 0.7),
        scale=rng.choice((None, None, 1.0, 3.0, 7.5)),
    )


def _schedule(rng: random.Random) -> da.NoiseSchedule:
    def discrete(betas: Tensor, silent: bool = False) -> da.NoiseSchedule:
        root = torch.cumprod(1 - betas, 0).sqrt()
        if silent:  # zero terminal SNR (arXiv 2305.08891)
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return da.Discrete(root**2)

    linear = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scaled = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    at = torch.linspace(0, 1, 1001, dtype=torch.float64)
    bar = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    cosine = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    makes: list[Callable[[], da.NoiseSchedule]] = [
        da.VP,
        lambda: da.VP(beta_max=rng.uniform(8.0, 40.0)),
        da.VP.cosine,
        lambda: da.VP.cosine(t_max=1.0),
        lambda: da.VE(0.01, 10 ** rng.uniform(1.0, 5.0)),
        lambda: da.EDM(0.002, 10 ** rng.uniform(1.5, 5.0)),
        lambda: da.EDM(0.002, 80.0),
        lambda: da.Flow(shift=rng.choice((1.0, 3.0, 12.0))),
        lambda: discrete(linear),
        lambda: discrete(scaled),
        lambda: discrete(cosine),
        lambda: discrete(scaled, silent=True),
    ]
    return rng.choice(makes)()


def _spacing(rng: random.Random, schedule: da.NoiseSchedule, steps: int) -> str | Tensor | None:
    """A rule, or times: linear and then quadratic with many tiny steps at the noisy end, or uneven ones."""
    lo, hi = schedule.t_min, schedule.t_max
    kind = rng.choice((None, None, "uniform", "logsnr", "karras", "quadratic", "uneven"))
    if kind in ("logsnr", "karras"):
        ends = schedule.s(torch.tensor([lo, hi], dtype=torch.float64))
        return kind if bool(torch.isfinite(ends).all()) and float(ends[0]) > 0 else None
    if kind == "quadratic":
        half = max(1, steps // 2)
        tiny = torch.arange(half, dtype=torch.float64) * 0.025 / half
        rest = torch.linspace(0, 1, steps - half + 1, dtype=torch.float64) ** 2 * 0.975 + 0.025
        return hi - (hi - lo) * torch.cat([tiny, rest])
    if kind == "uneven":
        gaps = torch.tensor([rng.uniform(0.05, 1.0) for _ in range(steps)], dtype=torch.float64)
        at = torch.cat([torch.zeros(1, dtype=torch.float64), gaps.cumsum(0)]) / gaps.sum()
        return hi - (hi - lo) * at
    return kind


def model_of(case: Case) -> da.DiffusionModel:
    """The model of a case."""
    schedule, prediction = case.schedule, case.prediction
    generator = torch.Generator().manual_seed(case.seed)
    if case.kind in ("mixture", "narrow", "misscaled"):
        spread = 1.0 if case.kind != "narrow" else 3.0
        means = spread * torch.randn(5, 8, generator=generator, dtype=torch.float64)
        mixture = da.GaussianMixture(means, 0.3 if case.kind != "narrow" else 0.003)
        model = mixture.model(schedule, prediction)  # pyright: ignore
        if case.kind == "misscaled":
            network, factor = model.network, min(2.0, 0.5 + case.gain / 3)
            model = da.DiffusionModel(lambda x, t, **more: factor * network(x, t, **more), schedule, prediction)
        if case.scale is None:
            return model
        label = torch.arange(case.samples) % 5
        return da.guided(model, case.scale, {"label": label}, {"label": torch.full_like(label, -1)})
    if case.kind == "digits":
        return _digits(case)
    return da.DiffusionModel(_untrained(case, generator), schedule, prediction)  # pyright: ignore


def _digits(case: Case) -> da.DiffusionModel:
    """The packaged network, told what the case's schedule and prediction are, at the same noise-to-signal ratio."""
    digits, schedule, own = da.load_digits(dtype=case.dtype), case.schedule, da.VP()

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        t = t.double()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        s = (sigma / alpha).clamp(float(own.s(torch.tensor(1e-3).double())), float(own.s(torch.tensor(1.0).double())))
        at = own.time(s)
        shape = (-1, *[1] * (x.ndim - 1))
        # x = a x0 + b eps becomes a sample of the network's own schedule with the same eps, where there is any signal.
        factor = (own.sigma(at) / sigma.clamp_min(1e-12)).reshape(shape)
        eps = digits.network((x * factor).to(case.dtype), at.to(case.dtype), label=label).to(x.dtype)
        slopes = {"alpha_dot": schedule.alpha_dot(t), "sigma_dot": schedule.sigma_dot(t)}
        target = case.prediction
        if target in ("x0", "v", "velocity") and bool((alpha == 0).any()):
            x0 = torch.zeros_like(x)
            eps = torch.where((alpha == 0).reshape(shape), x, eps)
            x0 = torch.where((alpha == 0).reshape(shape), x0, (x - sigma.reshape(shape) * eps) / alpha.reshape(shape))
            a, b = (part.reshape(shape) for part in (alpha, sigma))
            da_, db = (slopes[name].reshape(shape) for name in ("alpha_dot", "sigma_dot"))
            return {"x0": x0, "v": a * eps - b * x0, "velocity": da_ * x0 + db * eps}[target].to(x.dtype)
        out = convert(eps, x, alpha, sigma, source="eps", target=target, **(slopes if target == "velocity" else {}))
        return out.to(x.dtype)

    model = da.DiffusionModel(network, schedule, case.prediction)  # pyright: ignore
    label = torch.arange(case.samples) % 10
    if case.scale is None or case.scale == 1.0:
        return model.with_conditioning(label=label)
    return da.guided(model, case.scale, {"label": label}, {"label": torch.full_like(label, 10)})


def _untrained(case: Case, generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """Networks that no data have shaped: a prior about data is false for them."""
    d, hidden, gain = 8, 32, case.gain
    w1 = torch.randn(d + 2, hidden, generator=generator, dtype=torch.float64) / d**0.5
    w2 = torch.randn(hidden, d, generator=generator, dtype=torch.float64) / hidden**0.5
    b1 = torch.randn(hidden, generator=generator, dtype=torch.float64)
    schedule = case.schedule

    def network(x: Tensor, t: Tensor) -> Tensor:
        t = t.double()
        size = torch.hypot(schedule.alpha(t), schedule.sigma(t))[:, None].to(x)
        clock = (schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t)))[:, None].to(x)
        seen = x / size
        pre = torch.cat([seen, clock, torch.sin(6 * clock)], 1) @ w1.to(x) + b1.to(x)
        if case.kind == "sharp":
            return torch.sin(3 * gain * pre) @ w2.to(x)
        out = torch.tanh(pre) @ w2.to(x)
        if case.kind == "residual":
            return seen + 0.3 * gain * out
        if case.kind == "bounded":
            return torch.tanh(gain * out)
        return gain * out

    return network


def coarse_of(case: Case) -> Any:
    """The correction of a case."""
    flow = da.GaussianFlow(variance=0.1)
    return {
        "gaussian": "gaussian",
        "none": "none",
        "same": "same",
        "plain": flow,
        "secant": pr.Secant(pr.Identity()),
        "anderson": pr.Anderson(flow),
        "memory": pr.Secant(flow, memory=2, neighbours=(1, 2)),
        "variance": pr.Secant(da.GaussianFlow(variance=2.0)),
    }[case.coarse]


@dataclass
class Outcome:
    """What became of a case, sample by sample.

    Attributes:
        case: The case.
        refused: The sentence of the error, where it was refused.
        converged: Whether it says so, per sample.
        errors: Relative distances from the sequential samples.
        estimates: Relative error estimates.
        rounds, serial: Rounds, and those of the sequential run.
        growth: By how much relative differences in the start grow up to the end, for those that are far off.
        apart: The errors where lanes are evaluated one by one, for those that are far off.
        final: Whether every slice is final, per sample.
        status: Of all.
    """

    case: Case
    refused: str = ""
    converged: tuple[bool, ...] = ()
    errors: tuple[float, ...] = ()
    estimates: tuple[float, ...] = ()
    rounds: int = 0
    serial: int = 0
    evaluations: int = 0
    growth: float = float("nan")
    apart: tuple[float, ...] = ()
    final: tuple[bool, ...] = ()
    status: str = ""


def _rms(u: Tensor) -> Tensor:
    return torch.linalg.vector_norm(u.double().flatten(1), dim=1)


def run(case: Case, **options: Any) -> Outcome:
    """A case, in parallel and in sequence."""
    shape = (case.samples, 1, 8, 8) if case.kind == "digits" else (case.samples, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(case.seed), dtype=torch.float64).to(case.dtype)
    given: dict[str, Any] = {"steps": case.steps, "spacing": case.spacing, "solver": case.solver, "rtol": case.rtol}
    given |= {"width": case.width, "coarse": coarse_of(case), "throw": False}
    model = model_of(case)

    def sample(noise: Tensor, **more: Any) -> da.SampleResult:
        noisy = case.solver in ("ancestral", "sde-dpm++2m")
        generator = torch.Generator().manual_seed(case.seed) if noisy else None
        return da.sample(model, noise, generator=generator, **given, **more)

    try:
        serial = sample(noise, parallel=False, executor=options.get("executor"))
        out = sample(noise, **options)
    except ValueError as error:
        return Outcome(case, refused=str(error))
    size = _rms(serial.samples)
    errors = _rms(out.samples - serial.samples) / size
    sol = out.solution
    assert isinstance(sol.error_estimate, Tensor)
    estimates = sol.error_estimate * (sol.u[0].numel() ** 0.5) / _rms(sol.u)
    sound = torch.isfinite(size)
    ended = [s for s, ok in zip(sol.sample_status or (), sound.tolist(), strict=True) if ok]
    outcome = Outcome(
        case,
        converged=tuple(bool(s.converged) for s in ended),
        final=tuple(s is pr.Status.FINAL for s in ended),
        errors=tuple(errors[sound].tolist()),
        estimates=tuple(estimates[sound].tolist()),
        rounds=sol.stats.rounds,
        serial=serial.solution.stats.rounds,
        evaluations=sol.stats.evaluations,
        status=sol.status.name,
    )
    if any(e > 2 * case.rtol for e in outcome.errors) and options.get("executor") is None:
        # Lanes in one batch round differently, which sensitive flows amplify: one lane after another tells which it is.
        apart = run(case, **options, executor=pr.Serial())
        outcome.apart, outcome.growth = apart.errors, _growth(sample, noise, serial.samples, sound)
    return outcome


def _growth(sample: Any, noise: Tensor, samples: Tensor, sound: Tensor) -> float:
    """By how much a small relative difference in the start grows up to the end."""
    small = 1e-6 if noise.dtype == torch.float64 else 1e-3
    kick = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(noise)
    near = sample(noise + small * kick, parallel=False)
    return float((_rms(near.samples - samples) / _rms(samples))[sound].max() / small)


FLOOR = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Below this the two differ by rounding."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--show", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun, outcomes = time.perf_counter(), []
    for seed in range(options.first, options.first + options.cases):
        outcomes.append(run(draw(seed), **({"verify": True} if options.verify else {})))
    report(outcomes, options.show)
    print(f"{time.perf_counter() - begun:.0f} s")


def report(outcomes: list[Outcome], show: int) -> None:
    """The table."""
    solved = [one for one in outcomes if not one.refused]
    wrong, below, above, rounded, samples, said = [], 0, 0, 0, 0, 0
    for one in solved:
        floor = FLOOR[one.case.dtype]
        apart = one.apart or one.errors
        rows = zip(one.converged, one.final, one.errors, one.estimates, apart, strict=True)
        for converged, final, error, estimate, alone in rows:
            samples += 1
            if not converged:
                continue
            said += 1
            if error > max(2 * one.case.rtol, 10 * floor):
                if alone <= max(2 * one.case.rtol, 10 * floor):
                    rounded += 1
                else:
                    wrong.append((error / one.case.rtol, estimate / one.case.rtol, one))
            below += not final and error > max(estimate, floor) and alone > max(estimate, floor)
            above += estimate > 1.0000001 * one.case.rtol
    print(f"{len(outcomes)} cases, {len(outcomes) - len(solved)} refused; {samples} samples, {said} converged or final")
    print(f"more than 2 x rtol from the sequential sample: {len(wrong)}; by amplified rounding alone: {rounded}")
    print(f"estimates below the true error: {below} ({below / max(1, said):.2%})")
    print(f"estimates above rtol beside CONVERGED: {above}")
    shares = [one.rounds / one.serial for one in solved if one.serial]
    print(f"rounds, of the sequential run's: mean {sum(shares) / max(1, len(shares)):.3f}, most {max(shares):.3f}")
    for ratio, estimate, one in sorted(wrong, key=lambda x: -x[0])[:show]:
        print(f"  {ratio:9.3g} x rtol (estimate {estimate:8.3g}) growth {one.growth:8.3g} {one.status:10} {one.case}")


if __name__ == "__main__":
    main()
