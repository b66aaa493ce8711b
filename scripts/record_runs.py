"""Records the outputs of a fixed set of runs, bit for bit, with their counts: a change that only moves code keeps them.

`python scripts/record_runs.py before.json` writes them; with `--compare before.json` it runs them again, prints what
differs, and ends with an error where anything does. Bits are those of one machine: record and compare on the same one.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=4)
U0 = torch.linspace(0.2, 1.1, 6, dtype=torch.float64).reshape(2, 3)
TIGHT, LOOSE = pr.Tolerance(1e-9, 1e-12), pr.Tolerance(1e-4, 1e-6)


def lotka(t: Tensor, u: Tensor) -> Tensor:
    """Three numbers that turn around each other; a lane is a row."""
    x, y, z = u.unbind(-1)
    s = t.reshape(-1, *[1] * (u.ndim - 2))
    return torch.stack([x * (1 - y), y * (x - 1) + 0.1 * torch.sin(3 * s), -0.5 * z + x * y], -1)


def stiff(t: Tensor, u: Tensor) -> Tensor:
    """A decay towards a moving state."""
    return -20.0 * (u - torch.cos(t).reshape(-1, *[1] * (u.ndim - 1)))


def digest(tree: Any) -> str:
    """SHA-256 of all tensors of a tree."""
    total = hashlib.sha256()
    for leaf in torch.utils._pytree.tree_leaves(tree):
        leaf = torch.as_tensor(leaf).detach().cpu().contiguous()
        total.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode() + leaf.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def summary(sol: pr.Solution) -> dict[str, Any]:
    """What is held to be the same of a solution."""
    stats = sol.stats.to_dict()
    stats.pop("wall_time")
    made = sol.iterations if isinstance(sol.iterations, int) else sol.iterations.tolist()
    return {
        "us": digest(sol.us),
        "status": sol.status.name,
        "iterations": made,
        "stats": stats,
        "history": digest([[torch.as_tensor(r.increments), torch.as_tensor(r.frontier)] for r in sol.history]),
        "residuals": None if sol.residuals is None else digest(sol.residuals),
        "error": None if sol.error_estimate is None else digest(torch.as_tensor(sol.error_estimate)),
    }


def corrections() -> dict[str, Any]:
    """Every kind."""
    flow = pr.LinearFlow(-0.3)
    return {
        "euler": pr.Euler(),
        "heun2": pr.Heun(steps=2),
        "identity": pr.Identity(),
        "zero": pr.Zero(),
        "flow": flow,
        "secant": pr.Secant(pr.Identity()),
        "secant flow": pr.Secant(flow, memory=2),
        "secant neighbours": pr.Secant(pr.Identity(), neighbours=(1, 2)),
        "secant coarse": pr.Secant(pr.Coarse(pr.Euler())),
        "damped": pr.Damped(pr.Coarse(pr.Euler()), 0.7),
        "anderson": pr.Anderson(pr.Identity()),
        "jacobian": pr.Jacobian(),
    }


def schedules() -> dict[str, Any]:
    """Every kind."""
    return {
        "barrier": pr.Barrier(),
        "wavefront": pr.Wavefront(),
        "windowed3": pr.Windowed(3),
        "windowed hold": pr.Windowed(4, initial="hold"),
    }


def engine_runs() -> Iterator[tuple[str, Callable[[], pr.Solution]]]:
    """Corrections x schedules x executors, and multistep, implicit, samples, fold and trees."""
    problem = pr.ODE(lotka, batching="native")
    executors = {"batched": pr.Batched(), "chunks": pr.Batched(max_lanes=3), "serial": pr.Serial()}
    for (c, coarse), (s, schedule), (e, executor) in itertools.product(
        corrections().items(), schedules().items(), executors.items()
    ):
        for n, stop in (("tight", TIGHT), ("loose", LOOSE)):
            if (n == "loose") == (e == "batched"):  # all of both would take minutes
                continue
            options = {"coarse": coarse, "schedule": schedule, "executor": executor, "stop": stop, "throw": False}
            yield f"{c}/{s}/{e}/{n}", lambda o=options: pr.solve(problem, U0[0], GRID, fine=pr.RK4(), **o)
    for name, fine in {
        "ab3": pr.AdamsBashforth(3),
        "implicit": pr.ImplicitEuler(),
        "radau": pr.RadauIIA(2),
        "heun m": pr.Heun(steps=3),
    }.items():
        for (c, coarse), (s, schedule) in itertools.product(corrections().items(), schedules().items()):
            if c == "jacobian" and name in ("implicit", "radau", "ab3"):
                continue
            options = {"coarse": coarse, "schedule": schedule, "stop": LOOSE, "throw": False}
            yield f"{name}/{c}/{s}", lambda o=options, f=fine: pr.solve(problem, U0[0], GRID, fine=f, **o)
    for (c, coarse), (s, schedule) in itertools.product(corrections().items(), schedules().items()):
        for r, rule in {"error": pr.Tolerance(1e-5, rule="error"), "defect": pr.Tolerance(1e-5, rule="defect")}.items():
            options = {"coarse": coarse, "schedule": schedule, "samples": True, "stop": rule, "throw": False}
            yield f"samples/{c}/{s}/{r}", lambda o=options: pr.solve(problem, U0, GRID, fine=pr.Heun(), **o)
    stiff_problem = pr.ODE(stiff, batching="native")
    for c in ("identity", "secant", "anderson"):
        yield (
            f"verify/{c}",
            lambda c=c: pr.solve(
                stiff_problem,
                U0[0],
                GRID,
                fine=pr.Trapezoid(),
                coarse=corrections()[c],
                schedule=pr.Windowed(3),
                verify=True,
                throw=False,
            ),
        )
    yield "serial", lambda: pr.serial(problem, U0[0], GRID, fine=pr.RK4())


def other_runs() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Noise, resuming, two devices, odeint, models and pipelines."""

    def sde(coarse: Any, schedule: Any) -> pr.Solution:
        problem = pr.SDE(
            lambda t, u: -u,
            lambda t, u: 0.3 * u,
            noise="diagonal",
            path=pr.BrownianPath(7),
            batching="native",
        )
        return pr.solve(problem, U0[0], GRID, fine=pr.EulerMaruyama(), coarse=coarse, schedule=schedule, throw=False)

    for (c, coarse), (s, schedule) in itertools.product(
        {"em": pr.EulerMaruyama(), "identity": pr.Identity(), "secant": pr.Secant(pr.Identity())}.items(),
        schedules().items(),
    ):
        yield f"sde/{c}/{s}", lambda c=coarse, s=schedule: sde(c, s)

    problem = pr.ODE(lotka, batching="native")
    for (c, coarse), (s, schedule) in itertools.product(corrections().items(), schedules().items()):

        def resumed(coarse: Any = coarse, schedule: Any = schedule) -> pr.Solution:
            options = {"fine": pr.RK4(), "coarse": coarse, "schedule": schedule, "throw": False}
            first = pr.solve(problem, U0[0], GRID, stop=pr.Iterations(2), **options)
            with tempfile.TemporaryDirectory() as folder:
                first.save(Path(folder, "run"))
                first = pr.Solution.load(Path(folder, "run"))
            return pr.solve(problem, U0[0], GRID, stop=TIGHT, resume=first, **options)

        yield f"resume/{c}/{s}", resumed
    two = pr.Batched(devices=["cpu", "cpu"])
    yield (
        "devices",
        lambda: pr.solve(problem, U0[0], GRID, fine=pr.RK4(), coarse=pr.Euler(), schedule=pr.Barrier(), executor=two),
    )
    yield "odeint", lambda: pr.odeint(lambda t, u: -u, U0[0], torch.linspace(0, 1, 7), method="rk4")

    digits = da.load_digits()
    for steps, width, coarse, solver in itertools.product(
        (12, 25), (None, 6), ("gaussian", "none", "same"), ("ddim", "heun", "dpm++2m", "unipc")
    ):
        if coarse == "same" and (width is not None or solver in ("dpm++2m", "unipc")):
            continue
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(2, 1, 8, 8, generator=generator)
        options: dict[str, Any] = {"steps": steps, "width": width, "coarse": coarse, "solver": solver}
        yield (
            f"digits/{steps}/{width}/{coarse}/{solver}",
            lambda n=noise, o=options: da.sample(digits, n, throw=False, **o).solution,
        )


def pipeline_runs() -> Iterator[tuple[str, Callable[[], Any]]]:
    """A few pipelines of diffusers."""
    from diffusion import networks, pipelines

    diffusers = networks.diffusers
    for name, scheduler in {
        "dpm": diffusers.DPMSolverMultistepScheduler(**pipelines.STABLE),
        "ddim": diffusers.DDIMScheduler(**pipelines.STABLE, clip_sample=False),
        "euler": diffusers.EulerDiscreteScheduler(),
        "unipc": diffusers.UniPCMultistepScheduler(),
        "heun": diffusers.HeunDiscreteScheduler(),
    }.items():

        def run(scheduler: Any = scheduler) -> pr.Solution:
            pipe = pipelines.sd(scheduler=scheduler)
            fast = da.diffusers.parallelize(pipe)
            embeds = torch.linspace(-1, 1, 2 * 7 * pipe.unet.config.cross_attention_dim).reshape(2, 7, -1)
            fast(
                prompt_embeds=embeds[:1],
                negative_prompt_embeds=embeds[1:],
                num_inference_steps=12,
                guidance_scale=3.0,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            )
            return fast.solution

        yield f"pipeline/{name}", run


def of_ranks(rank: int, port: int, path: str) -> None:
    """What one of two processes computes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    problem, found = pr.ODE(lotka, batching="native"), {}
    for c in ("euler", "flow", "secant"):
        for name, way in {
            "distributed": {"executor": pr.Distributed(), "schedule": pr.Wavefront()},
            "pipeline": {"schedule": pr.RankPipeline()},
        }.items():
            sol = pr.solve(problem, U0[0], GRID, fine=pr.RK4(), coarse=corrections()[c], stop=LOOSE, throw=False, **way)
            found[f"ranks/{c}/{name}"] = summary(sol)
    if rank == 0:
        Path(path).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def ranks() -> dict[str, Any]:
    """Two processes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path = str(Path(folder, "found"))
        torch.multiprocessing.spawn(of_ranks, (port, path), nprocs=2)
        return json.loads(Path(path).read_text())


def _same(before: Any, now: Any) -> bool:
    """Whether all that was recorded is still so; what is new beside it may be."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(name in now and _same(value, now[name]) for name, value in before.items())
    return before == now


def main() -> None:
    """Records, or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="where to write what was found")
    parser.add_argument("--compare", type=Path, help="what was found before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = ranks()
    for name, run in itertools.chain(engine_runs(), other_runs(), pipeline_runs()):
        try:
            got = run()
            found[name] = summary(got) if isinstance(got, pr.Solution) else digest(got)
        except Exception as error:
            found[name] = f"{type(error).__name__}"
    print(f"{len(found)} runs, {sum(isinstance(f, str) and f.endswith('Error') for f in found.values())} refused")
    if args.path:
        args.path.write_text(json.dumps(found, indent=1))
    if args.compare:
        before = json.loads(args.compare.read_text())
        found = json.loads(json.dumps(found))
        other = [name for name in before if not _same(before[name], found.get(name))]
        for name in other:
            print(f"differs: {name}\n  was {before[name]}\n  is  {found.get(name)}")
        sys.exit(f"{len(other)} of {len(before)} runs differ" if other else 0)


if __name__ == "__main__":
    main()
