"""The samplers of others in `benchmarks/peers`: that they are what they are said to be, before they are counted."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from peers import chords as peer
from peers import deer
from peers.autospeculation import autospeculative

import parareal as pr


@pytest.mark.parametrize("reuse", [False, True])
def test_autospeculation_has_the_law_of_the_sequential_steps(reuse: bool) -> None:
    """Two peaks, where most proposals ahead of the choice between them are wrong."""

    def mean(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y)  # the data are -1 and 1

    t = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0, 4.0, 6.0, 9.0], dtype=torch.float64)
    generator, count = torch.Generator().manual_seed(3), 5_000
    normals = {"dtype": torch.float64, "generator": generator}
    start = 0.3 + 0.1 * torch.randn(count, 1, **normals)
    found, rounds, evaluations = autospeculative(mean, t, start, generator, reuse)
    y = 0.3 + 0.1 * torch.randn(count, 1, **normals)
    for begin, end in pairwise(t):
        y = y + (end - begin) * mean(begin, y) + (end - begin).sqrt() * torch.randn(count, 1, **normals)
    assert ks_2samp(found[:, 0].numpy(), y[:, 0].numpy()).pvalue > 1e-3
    assert rounds <= 10
    assert evaluations < 2 * 10 * count


def test_a_prediction_that_never_changes_is_accepted_at_once() -> None:
    t = torch.linspace(0.1, 5.0, 21, dtype=torch.float64)
    y = torch.zeros(7, 3, dtype=torch.float64)
    for reuse in (False, True):
        one = torch.Generator().manual_seed(0)
        _, rounds, evaluations = autospeculative(lambda t, y: torch.ones_like(y), t, y, one, reuse)
        assert (rounds, evaluations) == (2, 7 * 20)


@pytest.mark.parametrize("steps", [25, 50, 100])
def test_the_first_core_of_chords_is_the_sequential_run_and_the_fastest_comes_first(steps: int) -> None:
    problem, u0 = pr.ODE(lambda t, u: torch.cos(t) * u - 0.1 * u**3), torch.tensor([1.0, 2.0], dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 3.0, steps)
    serial = pr.serial(problem, u0, grid, fine=pr.Euler()).u
    first = peer.allocation(steps)
    outputs = peer.chords(lambda t, u: torch.cos(t)[:, None] * u - 0.1 * u**3, u0, grid.points, first)
    assert [one.rounds for one in outputs] == [steps - n + k for k, n in reversed(list(enumerate(first)))]
    torch.testing.assert_close(outputs[-1].state, serial, rtol=1e-14, atol=1e-14)
    errors = [float((one.state - serial).norm()) for one in outputs]
    assert errors[0] < 0.3 * float(serial.norm())
    assert all(later <= earlier + 1e-14 for earlier, later in pairwise(errors))


def test_chords_is_exact_at_once_where_the_slope_depends_on_nothing() -> None:
    u0, taus = torch.zeros(2, dtype=torch.float64), torch.linspace(0.0, 1.0, 51, dtype=torch.float64)
    outputs = peer.chords(lambda t, u: torch.ones_like(u), u0, taus, peer.PUBLISHED)
    assert outputs[0].rounds == 17
    for one in outputs:
        torch.testing.assert_close(one.state, torch.ones_like(u0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("implicit", [False, True])
def test_deer_ends_at_the_sequential_solution(implicit: bool) -> None:
    def swing(t: Tensor, u: Tensor) -> Tensor:
        return torch.stack([u[1], -torch.sin(u[0]) - 0.3 * u[1] + 0.2 * torch.cos(t)])

    u0, grid = torch.tensor([1.0, 0.0], dtype=torch.float64), pr.TimeGrid.uniform(0.0, 5.0, 60)
    fine = pr.ImplicitEuler() if implicit else pr.Euler()
    method = deer.implicit_euler if implicit else deer.explicit_euler
    us, iterations = method(swing, u0, grid.points, 1e-9)
    torch.testing.assert_close(us, pr.serial(pr.ODE(swing), u0, grid, fine=fine).us, rtol=1e-8, atol=1e-8)
    assert iterations <= 12
