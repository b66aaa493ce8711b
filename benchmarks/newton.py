"""Newton's method over many slices: its CPU time beside the serial run's, and what its sweep costs either way.

`python benchmarks/newton.py` prints CPU times of one process with one thread, the least of a few runs each. `--sweeps`
prints in addition what a sweep takes by blocks and slice after slice, from which the choice between the two is made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
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


def deer(problem: Callable[[Tensor, Tensor], Tensor], u0: Tensor, grid: pr.TimeGrid, rtol: float) -> tuple[Tensor, int]:
    """Newton's method as in DEER (arXiv 2309.12252), in plain torch: explicit Euler and an associative scan.

    With u_{n+1} = F_n(u_n), one iteration solves u_{n+1} = J_n u_n + (F_n - J_n u_n at the old iterate) for all n.
    """
    points = grid.points
    h, steps = (points[1:] - points[:-1])[:, None], len(points) - 1
    us = u0.expand(steps + 1, -1).clone()

    def one(t: Tensor, length: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        new = u + length * problem(t, u)
        return new, new

    both = torch.func.vmap(torch.func.jacfwd(one, argnums=2, has_aux=True))
    for iteration in range(1, steps + 1):
        jacobian, value = both(points[:-1], h, us[:-1])
        rest = value - (jacobian @ us[:-1, :, None])[..., 0]
        rest[0] += jacobian[0] @ u0
        new = torch.cat([u0[None], associative(jacobian, rest)])
        moved = (new - us).square().mean(1).sqrt()
        us = new
        if bool((moved <= rtol * us.square().mean(1).sqrt()).all()):
            return us, iteration
    return us, steps


def associative(a: Tensor, b: Tensor) -> Tensor:
    """All x_{n+1} = A_n x_n + b_n from x_0 = 0: pairs are composed, then pairs of pairs, in log2(N) steps."""
    size, apart = len(a), 1
    while apart < size:
        later, earlier = slice(apart, None), slice(None, -apart)
        b = torch.cat([b[:apart], b[later] + (a[later] @ b[earlier, :, None])[..., 0]])
        a = torch.cat([a[:apart], a[later] @ a[earlier]])
        apart *= 2
    return b


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
        plain, (_, iterations) = least(lambda f=f, u=u0, g=grid: deer(f, u, g, 1e-8))
        apart = float((sol.us - ref.us).norm() / ref.us.norm())
        print(
            f"{name:11} {len(u0):7} {slices:6} {sol.iterations:10} {serial:8.3f} {newton:8.3f} "
            f"{newton / serial:5.2f} {loop:6.3f} {plain:6.3f} {iterations:15} {apart:10.0e}"
        )


def stiff() -> None:
    """Newton around implicit steps."""
    print("\nstiff equation, 64 slices of implicit Euler: iterations, rounds, serial rounds, difference")
    problem, grid = pr.ODE(robertson), pr.TimeGrid.uniform(0.0, 40.0, 64)
    u0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    ref = pr.serial(problem, u0, grid, fine=pr.ImplicitEuler())
    sol = pr.solve(problem, u0, grid, fine=pr.ImplicitEuler(), coarse=pr.Jacobian(), stop=pr.Tolerance(1e-8, 0.0))
    apart = float((sol.us - ref.us).norm() / ref.us.norm())
    print(f"{sol.iterations} {sol.stats.rounds} {ref.stats.rounds} {apart:.0e}")


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
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    equations()
    stiff()
    if chosen.sweeps:
        sweeps()
