"""When to stop: norms by hand, both rules, what is compared with what, and how rules combine."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import parareal as pr
from parareal._core.norms import norm
from parareal.stopping._rules import StoppingRule

GRID = pr.TimeGrid.from_edges(torch.arange(4.0))
IGNORED = pr.ODE(lambda t, u: u)
CLASSICAL = pr.Barrier()


def shifts(*amounts: float) -> pr.Propagator:
    """Slice n adds the n-th amount to everything."""
    table = torch.tensor(amounts, dtype=torch.float64)

    def fn(t0: Any, t1: Any, u: Any) -> Any:
        add = table[t0.long()]
        return (
            {k: v + add.reshape(-1, *[1] * (v.ndim - 1)) for k, v in u.items()}
            if isinstance(u, dict)
            else u + add[:, None]
        )

    return pr.Propagator(fn, batching="native")


def test_norms_of_a_nest_by_hand() -> None:
    tree = {"a": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "b": (torch.tensor([[[4.0], [0.0]], [[-2.0], [2.0]]]),)}
    # Lane 0 holds 3, 0, 4, 0: root of (9 + 16) / 4; lane 1 holds 0, 0, -2, 2: root of 8 / 4.
    torch.testing.assert_close(norm(tree, "rms"), torch.tensor([2.5, 2.0**0.5], dtype=torch.float64))
    assert norm(tree, "max").tolist() == [4.0, 2.0]
    assert norm(torch.tensor([[3 + 4j], [0j]]), "max").tolist() == [5.0, 0.0]
    assert norm(torch.tensor([3 + 4j, 0j]), "rms").tolist() == [5.0, 0.0]
    assert norm(torch.full((1, 3), 1e30), "rms").tolist() == pytest.approx([1e30]), "float32 squares must not overflow"


@pytest.mark.parametrize("kind", ["rms", "max"])
def test_increments_are_in_the_norms_own_units(kind: Any) -> None:
    """U^0 = 3, 6, 9; F(U_n^0) + G(U_n^1) - G(U_n^0) = U_n^1 + 1, so U^1 = 1, 2, 3: edges move by 2, 4, 6, then rest."""
    u0 = {"x": torch.zeros(4, dtype=torch.float64), "y": torch.zeros(2, 2, dtype=torch.float64)}
    stop = pr.Tolerance(rtol=123.0, atol=0.0, norm=kind) & pr.Iterations(2)
    sol = pr.solve(IGNORED, u0, GRID, fine=shifts(1, 1, 1), coarse=shifts(3, 3, 3), stop=stop, schedule=CLASSICAL)
    assert sol.history[0].increments.tolist() == pytest.approx([2.0, 4.0, 6.0], rel=1e-15)
    assert sol.history[1].increments.tolist() == [0.0, 0.0, 0.0]


def test_rms_and_max_weigh_differently() -> None:
    """One element of four moves by 2: that is 2 in the maximum norm, 1 in the rms norm."""
    u0 = torch.zeros(4, dtype=torch.float64)
    first = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    fine = pr.Propagator(lambda t0, t1, u: u, batching="native")
    coarse = pr.Propagator(lambda t0, t1, u: u + 2 * first * (t0 == 0)[:, None], batching="native")
    for kind, size in (("rms", 1.0), ("max", 2.0)):
        sol = pr.solve(
            IGNORED, u0, GRID, fine=fine, coarse=coarse, stop=pr.Tolerance(0.0, 0.0, norm=kind), schedule=pr.Barrier()
        )
        assert sol.history[0].increments.tolist() == [size] * 3
        within = pr.Tolerance(rtol=0.0, atol=1.5, norm=kind)
        sol = pr.solve(IGNORED, u0, GRID, fine=fine, coarse=coarse, stop=within, schedule=CLASSICAL)
        assert sol.iterations == (1 if kind == "rms" else 2)
    rms, largest = (pr.Tolerance(rtol=0.0, atol=1.5, norm=kind) for kind in ("rms", "max"))
    for stop, expected in ((rms & largest, 2), (largest & rms, 2), (rms | largest, 1), (largest | rms, 1)):
        sol = pr.solve(IGNORED, u0, GRID, fine=fine, coarse=coarse, stop=stop, schedule=CLASSICAL)
        assert sol.iterations == expected


def test_rtol_is_relative_to_the_new_iterate() -> None:
    """U^0 = 3, 6, 9 and U^1 = 1, 2, 3: every edge moves by twice the new iterate."""
    u0 = torch.zeros(1, dtype=torch.float64)
    for rtol, expected in ((2.001, 1), (1.999, 2)):
        stop = pr.Tolerance(rtol=rtol, atol=0.0)
        sol = pr.solve(
            IGNORED, u0, GRID, fine=shifts(1, 1, 1), coarse=shifts(3, 3, 3), stop=stop, schedule=pr.Barrier()
        )
        assert sol.iterations == expected
        assert sol.status is pr.Status.CONVERGED


def test_an_edge_that_has_just_become_final_counts_like_any_other() -> None:
    """Slice 0 moves by 100 in the first iteration, when no other does: those were made from its former state."""
    u0 = torch.zeros(1, dtype=torch.float64)
    coarse = pr.Propagator(lambda t0, t1, u: torch.where((t0 == 0)[:, None], u + 100, 0 * u + 7), batching="native")
    fine = pr.Propagator(lambda t0, t1, u: 0 * u + 7, batching="native")
    sol = pr.solve(IGNORED, u0, GRID, fine=fine, coarse=coarse, stop=pr.Tolerance(0.0, 0.0), schedule=CLASSICAL)
    assert [report.increments.tolist() for report in sol.history] == [[93.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert sol.status is pr.Status.CONVERGED


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("rule", ["increment", "defect"])
@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront()], ids=repr)
@pytest.mark.parametrize(
    "coarse", [pr.Zero(), pr.Coarse(pr.Propagator(lambda t0, t1, u: 0 * u))], ids=["zero", "constant"]
)
def test_a_pulse_in_the_first_slice_is_not_overlooked(coarse: Any, schedule: Any, rule: Any, freeze: bool) -> None:
    """Nothing but the first edge moves in the first iteration, and no correction tells the others of it."""
    problem = pr.ODE(lambda t, u: torch.where(t < 1, torch.ones_like(u), torch.zeros_like(u)))
    stop = pr.Tolerance(rule=rule, freeze=freeze)
    grid = pr.TimeGrid.uniform(0.0, 8.0, slices=8, steps=4)
    u0 = torch.zeros(1, dtype=torch.float64)
    sol = pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=coarse, stop=stop, schedule=schedule)
    assert sol.us[:, 0].tolist() == [0.0] + [1.0] * 8


def test_defect_is_the_distance_from_what_the_fine_propagator_makes_of_it() -> None:
    """U^0 = 3, 6, 9 with F adding 1: every slice of it is off by 2; U^1 is the solution and off by nothing."""
    u0 = torch.zeros(1, dtype=torch.float64)
    for atol, expected in ((2.001, 1), (1.999, 2)):
        stop = pr.Tolerance(rtol=0.0, atol=atol, rule="defect")
        sol = pr.solve(
            IGNORED, u0, GRID, fine=shifts(1, 1, 1), coarse=shifts(3, 3, 3), stop=stop, schedule=pr.Barrier()
        )
        assert sol.iterations == expected
        assert sol.history[0].increments.tolist() == [2.0, 4.0, 6.0], "increments are reported all the same"


def test_an_iterate_that_overflowed_has_not_settled() -> None:
    """Inf <= rtol * Inf must not count as converged."""
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=2)
    problem, u0 = pr.ODE(lambda t, u: u * u.abs().clamp(min=1)), torch.tensor([0.5])
    huge = pr.Propagator(lambda t0, t1, u: torch.full_like(u, 1e30))
    for rule in ("increment", "defect"):
        for freeze in (False, True):
            stop = pr.Tolerance(rtol=1e-2, atol=1e-2, rule=rule, freeze=freeze)
            sol = pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=huge, stop=stop, executor=pr.Serial())
            assert torch.allclose(sol.us, pr.serial(problem, u0, grid, fine=pr.Euler()).us, rtol=0.1)


def test_tolerances_may_be_any_real_number() -> None:
    for value in (1, np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        u0 = torch.zeros(1, dtype=torch.float64)
        stop = pr.Tolerance(rtol=value, atol=value)
        assert pr.solve(IGNORED, u0, GRID, fine=shifts(1, 1, 1), coarse=shifts(1, 1, 1), stop=stop).iterations == 1


def test_rules_combine_and_nest() -> None:
    u0 = torch.ones(1, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 4.0, slices=8, steps=4)

    def run(stop: StoppingRule) -> pr.Solution:
        return pr.solve(pr.ODE(lambda t, u: torch.cos(t) * u), u0, grid, fine=pr.RK4(), coarse=pr.Euler(), stop=stop)

    loose, tight = pr.Tolerance(0.0, 1e-1), pr.Tolerance(0.0, 1e-8, norm="max")
    few, many = run(loose), run(tight)
    assert 1 < few.iterations + 1 < many.iterations
    assert run(loose | tight).iterations == few.iterations
    assert run(loose & tight).iterations == many.iterations
    assert run(loose & pr.Iterations(few.iterations + 1)).iterations == few.iterations + 1
    assert run((loose & pr.Iterations(few.iterations + 1)) | tight).iterations == few.iterations + 1
    assert run(tight | pr.Iterations(2)).status is pr.Status.ITERATIONS
    assert run(loose | pr.Iterations(7)).status is pr.Status.CONVERGED


def test_both_rules_must_accept_or_either() -> None:
    """Increments of edges are 2, 4, 6 and then zero: one rule accepts two slices at once, the other all three."""
    u0 = torch.zeros(1, dtype=torch.float64)
    two, three, none = (pr.Tolerance(0.0, atol, freeze=True) for atol in (4.5, 6.5, 0.0))
    for stop, expected in (
        (two & pr.Tolerance(0.0, 0.0), 1),  # a rule that never freezes accepts nothing
        (two | pr.Tolerance(0.0, 0.0), 2),
        (two & none, 1),
        (none | two, 2),
        (two & three, 2),
        (three | two, 3),
    ):
        sol = pr.solve(
            IGNORED, u0, GRID, fine=shifts(1, 1, 1), coarse=shifts(3, 3, 3), stop=stop, schedule=pr.Barrier()
        )
        assert sol.history[0].frontier == expected


def test_increments_are_reported_in_the_norm_of_the_first_tolerance() -> None:
    a, b = pr.Tolerance(norm="rms"), pr.Tolerance(norm="max")
    count = pr.Iterations(3)
    rules = (a | b, b | a, count | b, (count & b) | a, count | (count & b))
    assert [rule.norm for rule in rules] == ["rms", "max", "max", "max", "max"]


def test_a_rule_combines_with_rules_only() -> None:
    for other in (3, "stop", pr.Tolerance, None):
        with pytest.raises(TypeError):
            pr.Tolerance() | other  # type: ignore[operator]
        with pytest.raises(TypeError):
            other & pr.Iterations(3)  # type: ignore[operator]
