"""Newton's method over many slices: its CPU time beside the serial run's and others', and what its sweep costs.

`python benchmarks/newton.py` prints CPU times of one process with one thread, the least of a few runs each: beside DEER
in plain torch (`benchmarks/peers/deer.py`), and on stiff equations beside pyzag, where it is installed. `--sweeps`
prints in addition what a sweep takes by blocks and slice after slice, from which the choice between the two is made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from peers import chunks, deer
from torch import Tensor

import parareal as pr
from parareal.corrections import _scan


def swing(t: Tensor, u: Tensor) -> Tensor:
    """A driven pendulum with friction."""
    return torch.stack([u[1], -torch.sin(u[0]) - 0.3 * u[1] + 0.2 * torch.cos(t)])


_WEIGHTS = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 4


def neurons(t: Tensor, u: Tensor) -> Tensor:
    """Sixteen coupled neurons."""
    return torch.tanh(_WEIGHTS @ u) - u + 0.3 * torch.cos(t)


def robertson(t: Tensor, u: Tensor) -> Tensor:
    """Three species, of which the third is what is left: stiff."""
    gain = 1e4 * u[1] * (1 - u[0] - u[1]) - 0.04 * u[0]
    return torch.stack([gain, -gain - 3e7 * u[1] ** 2])


def least(call: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """CPU seconds of the fastest of a few runs, and what it gave."""
    seconds, value = [], None
    for _ in range(times):
        begun = time.process_time()
        value = call()
        seconds.append(time.process_time() - begun)
    return min(seconds), value


@contextmanager
def each_slice() -> Generator[None]:
    """Sweeps go slice after slice, whatever would be cheaper."""
    short, _scan._SHORT = _scan._SHORT, 10**9  # pyright: ignore
    try:
        yield
    finally:
        _scan._SHORT = short  # pyright: ignore


def equations() -> None:
    """Newton, the serial run, and plain DEER, on two equations with slices of one step."""
    print("equation    numbers slices iterations serial_s newton_s ratio loop_s deer_s deer_iterations difference")
    cases: list[tuple[str, Any, Tensor, int]] = [
        ("pendulum", swing, torch.tensor([1.0, 0.0], dtype=torch.float64), 2048),
        ("neurons", neurons, torch.linspace(-1.0, 1.0, 16, dtype=torch.float64), 2048),
    ]
    for name, f, u0, slices in cases:
        problem, grid = pr.ODE(f), pr.TimeGrid.uniform(0.0, 10.0, slices)
        stop = pr.Tolerance(1e-8, 0.0)
        serial, ref = least(lambda p=problem, u=u0, g=grid: pr.serial(p, u, g, fine=pr.Euler()), 2)
        newton, sol = least(
            lambda p=problem, u=u0, g=grid, s=stop: pr.solve(p, u, g, fine=pr.Euler(), coarse=pr.Jacobian(), stop=s)
        )
        with each_slice():
            loop, _ = least(
                lambda p=problem, u=u0, g=grid, s=stop: pr.solve(p, u, g, fine=pr.Euler(), coarse=pr.Jacobian(), stop=s)
            )
        plain, (_, iterations) = least(lambda f=f, u=u0, g=grid: deer.explicit_euler(f, u, g.points, 1e-8))
        apart = float((sol.us - ref.us).norm() / ref.us.norm())
        print(
            f"{name:11} {len(u0):7} {slices:6} {sol.iterations:10} {serial:8.3f} {newton:8.3f} "
            f"{newton / serial:5.2f} {loop:6.3f} {plain:6.3f} {iterations:15} {apart:10.0e}"
        )


def reaction(t: Tensor, u: Tensor) -> Tensor:
    """Sixteen points of a bistable reaction with diffusion: stiff, with a front that moves."""
    left, right = torch.cat([u[:1], u[:-1]]), torch.cat([u[1:], u[-1:]])
    return 400.0 * (left - 2 * u + right) + 20.0 * u * (1 - u) * (u - 0.3)


def stiff() -> None:
    """Newton around steps of implicit Euler, by this library, by DEER in plain torch and by pyzag."""
    print("\nstiff equations, implicit Euler, slices of one step; differences are those to the serial run, the largest")
    print(f"{'':44}{'CPU s':>8}{'iterations':>11}{'rounds':>7}{'difference':>11}")
    tenth = torch.linspace(0.0, 1.0, 16, dtype=torch.float64)
    cases: list[tuple[str, Any, Tensor, float, int]] = [
        ("Robertson", robertson, torch.tensor([1.0, 0.0], dtype=torch.float64), 40.0, 64),
        ("Robertson", robertson, torch.tensor([1.0, 0.0], dtype=torch.float64), 40.0, 512),
        ("reaction-diffusion", reaction, torch.sigmoid(20 * (0.3 - tenth)), 1.0, 256),
    ]
    for name, f, u0, end, slices in cases:
        problem, grid, stop = pr.ODE(f), pr.TimeGrid.uniform(0.0, end, slices), pr.Tolerance(1e-8, 0.0)
        fine = pr.ImplicitEuler()
        pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, end / slices, 1), fine=fine)  # the first call sets things up
        seconds, ref = least(lambda p=problem, u=u0, g=grid, m=fine: pr.serial(p, u, g, fine=m), 1)
        print(f"{f'{name}, {slices} steps: serial':44}{seconds:8.3f}{'-':>11}{ref.stats.rounds:7}{'-':>11}")

        def line(what: str, seconds: float, iterations: int, rounds: int | str, us: Tensor, ref: Any = ref) -> None:
            apart = float(((us - ref.us).norm(dim=1) / ref.us.norm(dim=1)).max())
            print(f"  {what:42}{seconds:8.3f}{iterations:11}{rounds:>7}{apart:11.0e}", flush=True)

        call = {"fine": fine, "coarse": pr.Jacobian(), "stop": stop}
        seconds, sol = least(lambda p=problem, u=u0, g=grid, c=call: pr.solve(p, u, g, **c))
        line("pr.Jacobian()", seconds, sol.iterations, sol.stats.rounds, sol.us)
        seconds, (us, count) = least(lambda f=f, u=u0, g=grid: deer.implicit_euler(f, u, g.points, 1e-8))
        line("plain DEER", seconds, count, count, us)
        if chunks.found() is None:
            print("  pyzag is not installed")
            continue
        for chunk, scan in ((1, False), (16, False), (slices, False), (slices, True)):
            seconds, (us, count) = least(
                lambda f=f, u=u0, g=grid, c=chunk, s=scan: chunks.implicit_euler(f, u, g.points, c, 1e-8, s),
                1 if chunk == 1 else 3,
            )
            what = f"pyzag, chunks of {chunk}{', cyclic reduction' if scan else ''}"
            line(what, seconds, count, count, us)


def sweeps() -> None:
    """Milliseconds of one sweep, by blocks and slice after slice."""
    print("\nnumbers slices rows blocks_ms slices_ms")
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 8):
        for numbers in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96):
            for slices in (8, 16, 32, 128, 1024):
                if rows * slices * numbers**2 > 5e6:
                    continue
                factors = torch.randn(rows, slices, numbers, numbers, generator=generator, dtype=torch.float64)
                factors = factors / (1.2 * numbers**0.5)
                gained = torch.randn(rows, slices, numbers, generator=generator, dtype=torch.float64)
                args = (factors, gained[:, 0], gained)
                blocks, each = (
                    least(lambda c=call, a=args: c(*a), 7)[0] * 1e3 for call in (_scan.blocked, _scan.substituted)
                )
                print(f"{numbers:7} {slices:6} {rows:4} {blocks:9.2f} {each:9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", action="store_true", help="also print what sweeps take")
    parser.add_argument("--stiff", action="store_true", help="print nothing but the stiff equations")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.stiff:
        equations()
    stiff()
    if chosen.sweeps:
        sweeps()
