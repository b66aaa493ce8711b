"""A window: the sequential solution in no more rounds than the sequential run, whatever its width and first guesses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import Case, cases, corrections, distance, equal, examples, opened, part
from torch import Tensor

import parareal as pr
from parareal.engine._engine import Engine
from parareal.engine._states import StoredStates
from parareal.grid._mesh import Span

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def shrunk(t0: Tensor, t1: Tensor, u: Any) -> Any:
    """A first guess of one's own, for any nest of leaves ``(L, *state)``."""
    factor = torch.exp(-(t1 - t0).abs())

    def leaf(x: Tensor) -> Tensor:
        return x * factor.to(x.real.dtype).reshape(-1, *[1] * (x.ndim - 1))

    return torch.utils._pytree.tree_map(leaf, u)


@st.composite
def windows(draw: st.DrawFn, case: Case) -> pr.Windowed:
    """Windows of all widths that fit, with all first guesses."""
    width = draw(st.integers(1, case.grid.num_slices))
    return pr.Windowed(width, draw(st.sampled_from(("coarse", "hold", "extrapolate", shrunk))))


def solve(case: Case, coarse: Any, **options: Any) -> pr.Solution:
    options = {"executor": pr.Serial(), **options}
    return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **options)


@given(cases(), corrections(), st.data())
def test_a_window_ends_in_the_sequential_solution_and_never_takes_more_rounds(
    case: Case, correction: pr.Correction, data: Any
) -> None:
    window = data.draw(windows(case))
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    sol = solve(case, correction, stop=NEVER, schedule=window)
    assert equal(sol.us, serial.us)
    assert sol.iterations <= case.grid.num_slices
    assert sol.stats.rounds <= serial.stats.rounds
    assert sol.stats.max_lanes <= window.width + (0 if correction.propagator is None else 2)


WHOLE = (pr.Barrier(), pr.Wavefront(), pr.Wavefront(ahead=6))


@contextmanager
def checked_reads() -> Iterator[None]:
    """Rows of the ring buffers are shared: the state of another slice may lie where this one's does not yet."""
    fine, known = StoredStates.fine, StoredStates.known

    def checked_fine(self: StoredStates, system: Any, n: Any, iterate: Any) -> Any:
        assert self.rings.fine.has(system * self.layout.slices + n, iterate).all()
        return fine(self, system, n, iterate)

    def checked_known(self: StoredStates, system: Any, n: Any, iterate: Any, lookback: int = -1) -> Any:
        place = system * self.layout.slices + n
        assert self.layout.free or self.rings.coarse.has(place, iterate).all()
        assert not self.setup.traits.uses_input or self.rings.u.has(place + system, iterate).all()
        return known(self, system, n, iterate, lookback)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredStates, "fine", checked_fine)
        patch.setattr(StoredStates, "known", checked_known)
        yield


@given(cases(min_slices=2), corrections(), st.data())
def test_no_state_is_read_that_was_not_computed(case: Case, correction: pr.Correction, data: Any) -> None:
    with checked_reads():
        solve(case, correction, stop=NEVER, schedule=data.draw(windows(case) | st.sampled_from(WHOLE)))


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("methods", [(pr.Heun(), pr.Heun()), (pr.Trapezoid(), pr.RK4())])
def test_a_coarse_lane_and_the_fine_lane_beside_it_start_from_one_state(width: int, methods: Any) -> None:
    """The fine lane waits for the first stage, and the state must not move on meanwhile."""
    problem, u0 = pr.ODE(lambda t, u: torch.sin(u.flip(-1) * 2) * torch.cos(0.8 * t)), torch.tensor([1.0, -0.5, 0.3])
    grid, (fine, coarse) = pr.TimeGrid.uniform(0.0, 4.0, slices=10, steps=3), methods
    with checked_reads():
        pr.solve(problem, u0, grid, fine=fine, coarse=coarse, schedule=pr.Windowed(width))


FIRST_STAGE = (pr.Euler(), pr.Heun(), pr.RK4(), pr.Trapezoid(), pr.Adaptive("bosh3", 1e-4, 1e-5))


@example(10, 3, 4, 1, 1, False)
@example(10, 3, 3, 4, 2, True)
@given(st.integers(2, 9), st.integers(1, 3), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_gradients_of_final_states_are_those_of_the_sequential_run(
    slices: int, steps: int, width: int, fine: int, coarse: int, serial: bool
) -> None:
    """Two coarse lanes of a slice may bring the first stage at once, of which the fine lane shares the newer one."""
    grid, methods = pr.TimeGrid.uniform(0.0, 0.4 * slices, slices=slices, steps=steps), FIRST_STAGE
    u0, rate = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, -0.5, 0.3], 0.8))
    problem = pr.ODE(lambda t, u: torch.sin(u.flip(-1) * 2) * torch.cos(rate * t))
    options: dict[str, Any] = {"executor": pr.Serial()} if serial else {}
    sol = pr.solve(
        problem, u0, grid, fine=methods[fine], coarse=methods[min(coarse, 3)], stop=pr.Iterations(slices),
        schedule=pr.Windowed(min(width, slices)), **options,
    )  # fmt: skip
    assert sol.status == pr.Status.FINAL
    one = pr.serial(problem, u0, grid, fine=methods[fine])
    ours, theirs = (torch.autograd.grad(each.u.sum(), (u0, rate)) for each in (sol, one))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@given(cases(min_slices=2), corrections(), st.data())
def test_what_lies_behind_the_frontier_is_sequential(case: Case, correction: pr.Correction, data: Any) -> None:
    window = data.draw(windows(case))
    k = data.draw(st.integers(1, case.grid.num_slices))
    sol = solve(case, correction, stop=pr.Iterations(k), schedule=window)
    known = sol.history[-1].frontier
    assert known >= sol.iterations
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert equal(part(sol.us, slice(known + 1)), part(serial.us, slice(known + 1)))


@given(cases(), corrections(), st.sampled_from((0.0, 1e-3)), st.data())
def test_not_keeping_the_trajectory_changes_nothing_else(
    case: Case, correction: pr.Correction, rtol: float, data: Any
) -> None:
    window = data.draw(windows(case))
    both = [
        solve(
            case, correction, stop=pr.Tolerance(rtol, rtol), schedule=window, dense=dense, throw=False, history="full"
        )
        for dense in (True, False)
    ]
    if opened(both[0]) or both[1].status is pr.Status.UNCERTAIN:  # without the states there is no way back
        assert opened(both[0])
        assert both[1].status is pr.Status.UNCERTAIN
        return
    assert equal(part(both[0].us, 0), part(both[1].us, 0))
    assert equal(both[0].u, both[1].u)
    assert both[1].ts.tolist() == [both[0].ts[0].item(), both[0].ts[-1].item()]
    assert replace(both[0].stats, wall_time=0.0) == replace(both[1].stats, wall_time=0.0)
    for ours, theirs in zip(both[0].history, both[1].history, strict=True):
        assert torch.equal(ours.increments.nan_to_num(-1.0), theirs.increments.nan_to_num(-1.0))


@given(cases(), corrections(), st.data())
def test_batched_agrees_with_serial(case: Case, correction: pr.Correction, data: Any) -> None:
    window = data.draw(windows(case))
    options = {"stop": NEVER, "schedule": window}
    one, many = solve(case, correction, **options), solve(case, correction, executor=pr.Batched(), **options)
    assert distance(one.us, many.us) <= case.rounding


@examples(5)
@given(cases(batch=(3,), with_stiff=False), corrections(), st.data())
def test_samples_do_not_depend_on_their_neighbours(case: Case, correction: pr.Correction, data: Any) -> None:
    window = data.draw(windows(case))
    tolerance = 1e4 * case.eps
    options = {"schedule": window, "samples": True, "stop": pr.Tolerance(tolerance, tolerance)}
    together = solve(case, correction, **options)
    for i in range(3):
        alone = solve(replace(case, u0=part(case.u0, slice(i, i + 1))), correction, **options)
        # Sweeps over rows of several systems may be summed in another order than those of one alone.
        assert distance(part(together.us, (slice(None), slice(i, i + 1))), alone.us) <= tolerance * case.growth
        assert int((together.iterations[i] - alone.iterations[0]).abs()) <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@given(case=cases(), data=st.data())
def test_a_useless_coarse_propagator_does_no_harm(case: Case, value: float, data: Any) -> None:
    window = data.draw(windows(case))

    def useless(t0: Tensor, t1: Tensor, u: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda x: torch.full_like(x, value), u)

    sol = solve(case, pr.Propagator(useless), stop=NEVER, schedule=window)
    assert equal(sol.us, pr.serial(case.problem, case.u0, case.grid, fine=case.fine).us)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@given(case=cases(), data=st.data())
def test_useless_guesses_do_no_harm(case: Case, value: float, data: Any) -> None:
    window = data.draw(windows(case))

    def useless(t0: Tensor, t1: Tensor, u: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda x: torch.full_like(x, value), u)

    sol = solve(case, pr.Identity(), stop=NEVER, schedule=pr.Windowed(window.width, useless))
    assert equal(sol.us, pr.serial(case.problem, case.u0, case.grid, fine=case.fine).us)


# --- what it is for --------------------------------------------------------------------------------------------------


def wave(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u


def test_a_full_window_of_single_steps_is_picard_until_the_tolerance_is_met() -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, 20)
    u0 = torch.ones(2, dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Identity(), "stop": pr.Iterations(4)}
    full = pr.solve(pr.ODE(wave), u0, grid, schedule=pr.Windowed(20), **options)
    barrier = pr.solve(pr.ODE(wave), u0, grid, **options)
    torch.testing.assert_close(full.us, barrier.us, rtol=1e-14, atol=1e-15)
    assert full.stats.rounds == barrier.stats.rounds == 4


def test_memory_grows_with_the_width_only() -> None:
    held = []
    for slices in (50, 400):
        engine = Engine(
            pr.ODE(wave),
            torch.ones(1, 3, dtype=torch.float64),
            None,
            pr.TimeGrid.uniform(0.0, 3.0, slices),
            pr.Euler(),
            pr.Secant(pr.Identity(), memory=2),
            pr.Windowed(10),
            pr.Batched(),
            pr.Tolerance(1e-6),
            slices,
            dense=False,
        )
        engine.begin()
        while engine.active.any():
            engine.advance()
        held.append(engine.iterates.rings.u.tree.numel() + engine.iterates.rings.fine.tree.numel())
    assert held[0] == held[1]


def test_a_run_that_is_cut_short_says_what_it_has_not_reached() -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, 20)
    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Identity(), "stop": pr.Iterations(2)}
    u0 = torch.ones(1, dtype=torch.float64)
    dense, ends = (
        pr.solve(pr.ODE(wave), u0, grid, schedule=pr.Windowed(4), dense=dense, **options) for dense in (True, False)
    )
    assert torch.isfinite(dense.us).flatten().tolist() == [True] * 6 + [False] * 15
    assert ends.ts.tolist() == [0.0, grid.edges[2].item()]  # how far it is final
    assert torch.equal(ends.us, dense.us[[0, 2]])
    assert repr(ends).startswith("Solution(ITERATIONS, slices=20")
    both, alone = (
        pr.solve(pr.ODE(wave), u0[None], grid, schedule=pr.Windowed(4), dense=d, samples=True, **options)
        for d in (True, False)
    )
    assert alone.ts.tolist() == [0.0, 3.0]
    assert torch.isfinite(alone.us).flatten().tolist() == [True, False]
    assert torch.equal(alone.us[0], both.us[0])
    assert torch.isnan(dense.history[0].increments).tolist() == [False] * 4 + [True] * 16


def test_first_guesses_by_hand() -> None:
    """Two rows of two slices; the second row has no edge in front of it."""
    edges = torch.tensor([0.0, 1.0, 3.0, 4.0, 8.0], dtype=torch.float64)
    at = Span(edges, np.array([[1, 2], [0, 1]]))
    u, before = (
        torch.tensor([[5.0], [1.0]]),
        (pr.Edge(torch.tensor([0.0, 0.0]).double(), torch.tensor([[3.0], [1.0]])),),
    )
    guesses = {
        name: pr.Windowed(2, initial).guess
        for name, initial in {"coarse": "coarse", "hold": "hold", "extrapolate": "extrapolate", "own": shrunk}.items()
    }
    assert guesses["coarse"] is None
    assert guesses["hold"](at, u, before).flatten().tolist() == [5.0, 5.0, 1.0, 1.0]
    assert guesses["extrapolate"](at, u, before).flatten().tolist() == [9.0, 11.0, 1.0, 1.0]
    assert guesses["extrapolate"](at, u, ()).flatten().tolist() == [5.0, 5.0, 1.0, 1.0]
    expected = [5 * math.exp(-2), 5 * math.exp(-3), math.exp(-1), math.exp(-3)]
    torch.testing.assert_close(guesses["own"](at, u, before).flatten(), torch.tensor(expected))


@pytest.mark.parametrize("initial", ["coarse", "hold", "extrapolate"])
def test_extrapolation_helps_where_the_solution_is_smooth(initial: Any) -> None:
    rounds = [
        pr.solve(
            pr.ODE(lambda t, u: torch.cos(t) - 0.1 * u * u),
            torch.zeros(1, dtype=torch.float64),
            pr.TimeGrid.uniform(0.0, 3.0, 200),
            fine=pr.Euler(),
            coarse=pr.Identity(),
            schedule=pr.Windowed(20, guess),
            stop=pr.Tolerance(0.0, 1e-6),
        ).stats.rounds
        for guess in ("extrapolate", initial)
    ]
    assert rounds[0] <= rounds[1] < 200
    assert initial == "extrapolate" or rounds[0] < rounds[1]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.Windowed(0), ValueError, "width=0 is too small; expected at least 1"),
        (lambda: pr.Windowed(2.0), TypeError, "width=2.0 is a float"),
        (lambda: pr.Windowed(True), TypeError, "width=True is a bool"),
        (lambda: pr.Windowed(2, "linear"), ValueError, "initial='linear' is unknown; expected one of 'coarse', 'hold'"),
        (lambda: pr.Windowed(2, 3), TypeError, "initial is an int; expected one of"),
    ],
)
def test_what_is_no_window(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_window_wider_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width=9 is more than the 4 slices of the grid; expected 1 \.\.\. 4"):
        pr.solve(
            pr.ODE(wave),
            torch.ones(1),
            pr.TimeGrid.uniform(0.0, 1.0, 4),
            fine=pr.Euler(),
            coarse=pr.Identity(),
            schedule=pr.Windowed(9),
        )


@pytest.mark.parametrize(
    ("guess", "error", "words"),
    [
        (lambda t0, t1, u: u[:, :1], ValueError, r"initial\(t0, t1, u\) returned shape \(3, 1\) for a state of shape"),
        (lambda t0, t1, u: u.double().numpy(), TypeError, r"initial\(t0, t1, u\) returned an ndarray"),
        (lambda t0, t1, u: (u, u), TypeError, r"initial\(t0, t1, u\) returned a tuple of 2"),
    ],
)
def test_a_first_guess_of_another_shape_is_refused(guess: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pr.solve(
            pr.ODE(wave),
            torch.ones(2),
            pr.TimeGrid.uniform(0.0, 1.0, 4),
            fine=pr.Euler(),
            coarse=pr.Identity(),
            schedule=pr.Windowed(3, guess),
        )
