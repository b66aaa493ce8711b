"""A tolerance means something: the end lies within it of the sequential one, and the estimate says how far."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from strategies import examples
from torch import Tensor

import parareal as pr
from parareal.stopping._error_estimate import ErrorEstimate
from parareal.stopping._observations import Seen, Start
from parareal.stopping._slice_record import Settings, SliceRecord

SEEDS = range(min(6, examples(3).max_examples))
CORRECTIONS: dict[str, Any] = {
    "identity": pr.Identity(),
    "secant": pr.Secant(pr.Identity()),
    "pooled": pr.Secant(pr.Identity(), neighbours=(1, 2, 4)),
    "anderson": pr.Anderson(pr.Identity()),
    "coarse": pr.Euler(),
    "secant of coarse": pr.Secant(pr.Coarse(pr.Euler())),
}


def network(seed: int) -> pr.ODE:
    """A smooth random vector field with a restoring force, in eight dimensions."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(8, 8, generator=generator, dtype=torch.float64) / 8**0.5 for _ in range(2))

    def f(t: Tensor, u: Tensor) -> Tensor:
        return 1.5 * torch.tanh(u @ a.T + torch.cos(t).reshape(-1, *[1] * (u.ndim - 1))) @ b.T - 0.5 * u

    return pr.ODE(f, batching="native")


def runs(schedule: Any, correction: Any, rtol: float, **options: Any) -> list[tuple[float, float]]:
    """True relative errors at the end, and estimated ones, of several problems."""
    out = []
    for seed in SEEDS:
        u0 = torch.randn(8, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
        grid = pr.TimeGrid.uniform(0.0, 3.0, 40, 1 if correction in (CORRECTIONS["coarse"],) else 2)
        ref = pr.serial(network(seed), u0, grid, fine=pr.Heun())
        stop = pr.Tolerance(rtol, 0.0, **options)
        sol = pr.solve(network(seed), u0, grid, fine=pr.Heun(), coarse=correction, schedule=schedule, stop=stop)
        size = float(torch.linalg.vector_norm(ref.u))
        assert sol.error_estimate is not None
        error = float(torch.linalg.vector_norm(sol.u - ref.u)) / size
        out.append((error, float(sol.error_estimate) * 8**0.5 / size))
    return out


@pytest.mark.parametrize(
    "schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(40), pr.Windowed(12)], ids=["barrier", "wave", "full", "12"]
)
@pytest.mark.sweep(1)
def test_errors_keep_within_the_tolerance_and_the_estimate(schedule: pr.Schedule) -> None:
    """Over three problems or more, six corrections and three tolerances, for each schedule."""
    seen = [
        (rtol, *pair)
        for correction in CORRECTIONS.values()
        for rtol in (1e-2, 1e-3, 1e-5)
        for pair in runs(schedule, correction, rtol)
    ]
    within = np.mean([error <= rtol for rtol, error, _ in seen])
    covered = np.mean([error <= max(estimate, 1e-14) for _, error, estimate in seen])
    assert within >= 0.95
    assert covered >= 0.95
    # Nor is the promise kept by overdoing it: half of the runs come nearer than a thousandth, hardly any.
    assert np.median([error / rtol for rtol, error, _ in seen if error > 1e-14]) > 1e-4


def test_accepting_by_increments_alone_lets_errors_add_up() -> None:
    """Why windows keep a record: where increments shrink slowly, what is accepted by them ends beyond the tolerance."""
    problem, one = pr.ODE(lambda t, u: 0.5 * u), torch.ones(1, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 6.0, slices=200)
    ref = pr.serial(problem, one, grid, fine=pr.Euler()).u
    slow = pr.Damped(pr.Identity(), 0.9)

    def error(schedule: pr.Schedule, **options: Any) -> float:
        stop = pr.Tolerance(1e-2, 0.0, **options)
        sol = pr.solve(problem, one, grid, fine=pr.Euler(), coarse=slow, schedule=schedule, stop=stop)
        return float((sol.u - ref).abs() / ref)

    assert error(pr.Barrier(), freeze=True) > 2e-2
    assert error(pr.Barrier(), freeze=True, rule="error") <= 1e-2
    for width in (12, 40, 200):
        assert error(pr.Windowed(width)) <= 1e-2


def test_the_error_rule_works_without_a_window() -> None:
    pairs = runs(pr.Barrier(), pr.Secant(pr.Identity()), 1e-3, rule="error")
    assert all(error <= 1e-3 for error, _ in pairs)


def test_nothing_is_estimated_where_the_result_is_the_sequential_one() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 3)
    u0 = torch.ones(2, dtype=torch.float64)
    problem = pr.ODE(lambda t, u: -u)
    exact = pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=pr.Zero(), stop=pr.Tolerance(0.0, 0.0))
    assert exact.status is pr.Status.FINAL
    assert exact.error_estimate == 0.0
    unknown = pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=pr.Zero(), stop=pr.Iterations(1))
    assert np.isnan(unknown.error_estimate)
    assert pr.serial(problem, u0, grid, fine=pr.Euler()).error_estimate == 0.0
    both = pr.solve(problem, u0[:, None], grid, fine=pr.Euler(), coarse=pr.Heun(), samples=True)
    assert both.error_estimate.shape == (2,)
    joined = pr.solve(
        problem,
        u0,
        grid,
        fine=pr.Euler(),
        coarse=pr.Heun(),
        schedule=pr.Barrier(),
        stop=pr.Iterations(1) | pr.Tolerance(1e-9, 0.0),
    )
    assert joined.error_estimate > 0


class Account:
    """A record of one system of as many slices as there are figures, fed by hand; all states are of size 2."""

    def __init__(self, slices: int, width: int, rtol: float = 1.0) -> None:
        self.errors = ErrorEstimate(Start(systems=1, width=width, mismatch=np.ones(slices)), rtol=rtol, atol=0.0)
        self.size = np.full((1, slices), 2.0)

    def see(
        self, k: int, frontier: int, end: int, move: list[float], defect: list[float], carried: list[float]
    ) -> Seen:
        """Iteration ``k``: edges of slices ``frontier`` ... ``end - 1`` have moved, the first of them for good."""
        n = np.arange(frontier, end)
        values = np.stack([move, np.full(len(n), 2.0), move, defect, carried], 1)
        figures = np.full((1, self.size.shape[1], 5), np.nan)
        figures[0, :frontier], figures[0, frontier:end] = 0.0, values
        zero, number = np.zeros_like(n), np.full_like(n, k)
        final = np.array([frontier + 1])
        seen = Seen(
            np.array([0]), figures, zero, n, number, n == frontier, values, np.array([frontier]), final, np.array([k])
        )
        self.errors.update(seen)
        return seen

    def passed(self, seen: Seen) -> int:
        return int(self.errors.passed(seen, self.size)[0])

    def at_end(self, seen: Seen) -> float:
        return float(self.errors.at_end(seen, self.size[:, -1])[0])


NOT = [float("nan")] * 9


def test_the_account_by_hand() -> None:
    """Three slices. Defects of 0.2 after moves of 0.5 show a mismatch of 0.4, which the next moves are weighed by."""
    account = Account(slices=3, width=3)
    seen = account.see(1, 0, 3, [0.5] * 3, [0.5] * 3, NOT[:3])
    # The first edge has a final input. Of the others nothing was shown yet but a prior, which vouches for nothing.
    assert account.passed(seen) == 1
    assert account.at_end(seen) > 2.0
    seen = account.see(2, 1, 3, [0.1, 0.1], [0.2, 0.2], [0.5, 0.5])
    # Slice 1 has a final input now; slice 2 moved by 0.1 of 2, and misses 0.4 of that: 0.02, relative.
    assert account.passed(seen) == 3
    estimate = account.at_end(seen)
    assert 0.04 <= estimate <= 0.101
    account.errors.accept(seen, np.array([3]))
    # Nothing moves any more: what was accepted is what there is.
    assert account.at_end(account.see(3, 3, 3, [], [], [])) == pytest.approx(estimate)


def test_errors_grow_as_moves_do() -> None:
    """The same moves; but what the left edge has moved by was carried to five times as much."""
    ends = []
    for carried in (0.05, 0.25):
        account = Account(slices=3, width=3)
        account.see(1, 0, 3, [0.05] * 3, [0.05] * 3, NOT[:3])
        ends.append(account.at_end(account.see(2, 0, 3, [0.05] * 3, [0.02] * 3, [carried] * 3)))
    # Slices 1 and 2 miss 0.4 of 0.05 each: 1 + 1 of these or 5 + 1.
    assert ends[1] == pytest.approx(3 * ends[0])


@pytest.mark.parametrize(("made", "passes"), [(0.05, True), (5.0, False)])
def test_a_correction_that_makes_more_of_a_move_than_fine_solutions_do_is_an_error(made: float, passes: bool) -> None:
    """Moves were passed on as they were, and little was missed; now one becomes a hundred times larger in a slice."""
    account = Account(slices=3, width=3)
    account.see(1, 0, 3, [0.05] * 3, [0.05] * 3, NOT[:3])
    account.see(2, 0, 3, [0.05] * 3, [0.0005] * 3, [0.05] * 3)
    seen = account.see(3, 0, 3, [0.05, 0.05, made], [0.0005] * 3, [0.05] * 3)
    assert (account.passed(seen) == 3) is passes


@pytest.mark.parametrize("defect", [float("nan"), float("inf")])
def test_a_mismatch_that_is_not_finite_vouches_for_nothing(defect: float) -> None:
    """It comes after others that were small, where a fine solution overflows; what moves there is not known."""
    for last, passes in ((0.02, True), (defect, False)):
        account = Account(slices=3, width=3)
        account.see(1, 0, 3, [0.05] * 3, [0.05] * 3, NOT[:3])
        account.see(2, 0, 3, [0.05] * 3, [0.02] * 3, [0.05] * 3)
        seen = account.see(3, 0, 3, [0.05] * 3, [0.02, 0.02, last], [0.05] * 3)
        assert (account.passed(seen) == 3) is passes
        assert np.isfinite(account.at_end(seen)) == passes


def test_slices_to_come_keep_their_own_share_where_more_was_spent_than_planned() -> None:
    """Four of eight slices are accepted; then errors turn out to grow fifty times. The run has to get to its end."""
    account = Account(slices=8, width=4, rtol=0.1)
    account.see(1, 0, 4, [0.1] * 4, [0.1] * 4, NOT[:4])
    account.see(2, 0, 4, [0.01] * 4, [0.002] * 4, [0.1] * 4)
    seen = account.see(3, 0, 4, [0.01] * 4, [0.0002] * 4, [0.01] * 4)
    assert account.passed(seen) == 4
    account.errors.accept(seen, np.array([4]))
    account.see(4, 4, 8, [0.1] * 4, [0.1] * 4, NOT[:4])
    account.see(5, 4, 8, [0.1] * 4, [0.002] * 4, [5.0] * 4)
    tiny = account.see(6, 4, 8, [1e-14] * 4, [1e-9] * 4, NOT[:4])
    assert account.at_end(tiny) > 0.2, "not within the tolerance: to be opened again"
    assert account.passed(tiny) == 8


def oscillator(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -u[0]])


def bump(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - 0.1 * u * u


@pytest.mark.parametrize("f", [oscillator, bump], ids=["oscillator", "bump"])
@pytest.mark.parametrize("schedule", [pr.Wavefront(), pr.Windowed(4), pr.Windowed(8)], ids=["wave", "4", "8"])
@pytest.mark.parametrize("coarse", [pr.Euler(), pr.RK4(), pr.Secant(pr.Euler())], ids=["euler", "rk4", "secant"])
@pytest.mark.sweep(2)
def test_edges_made_from_what_was_not_yet_final_are_known_as_such(f: Any, schedule: Any, coarse: Any) -> None:
    """Few long slices: coarse lanes are overtaken, and an edge may stand still by chance before it becomes final."""
    u0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for slices, steps in ((8, 2), (16, 4)):
        grid = pr.TimeGrid.uniform(0.0, 6.0, slices, steps)
        for fine in (pr.Euler(), pr.Heun()):
            ref = pr.serial(pr.ODE(f), u0, grid, fine=fine).u
            for rtol in (1e-3, 1e-5, 0.0):
                stop = pr.Tolerance(rtol, 0.0, rule="error")
                sol = pr.solve(pr.ODE(f), u0, grid, fine=fine, coarse=coarse, schedule=schedule, stop=stop)
                assert (
                    float(torch.linalg.vector_norm(sol.u - ref)) <= rtol * float(torch.linalg.vector_norm(ref)) + 1e-13
                )


@pytest.mark.parametrize(
    ("before", "after", "kept", "growth"),
    [(2.0, 2.0, 0.5, 1.0), (0.2, 2.0, 0.5, 0.1), (0.2, 2.0, 20.0, 2.0), (2.0, 0.2, 0.5, 5.0)],
    ids=["moves shrink", "the state grows", "moves grow more", "the state shrinks"],
)
def test_relative_to_the_state_errors_shrink_by_what_it_grows_and_by_nothing_else(
    before: float, after: float, kept: float, growth: float
) -> None:
    """A state of one size becomes one of another, and a move of 0.01 becomes ``kept`` times as large."""
    one = np.ones(1)
    record = SliceRecord(Settings.of(Start(systems=1, width=1, mismatch=one), 1e-3, 0.0), systems=1)
    record.moved_by[:] = 0.01
    system = slices = np.zeros(1, dtype=np.int64)
    record.learn(system, slices, before * one, after * one, 1e-6 * one, 0.01 * kept * one, np.ones(1, dtype=bool))
    assert record.most[0, 0] == pytest.approx(growth)


def test_accepted_errors_never_get_smaller_than_they_were() -> None:
    """They grow tenfold, shrink back, would shrink further, and grow again; a growth counts to the power of 1.5."""
    errors = ErrorEstimate(Start(systems=1, width=4, mismatch=np.ones(4)), rtol=1.0, atol=0.0)
    record, zero = errors.arrays(), np.zeros(1, dtype=np.int64)
    record["spent"][:] = record["grown"][:] = 0.01
    record["most"][0] = [10.0, 0.1, 0.5, 4.0]
    for n, error in enumerate([0.01 * 10**1.5, 0.01, 0.01, 0.08]):
        nothing, at = np.zeros((0, 5)), np.array([n])
        seen = Seen(zero, np.zeros((1, 4, 5)), zero[:0], zero[:0], zero[:0], zero[:0] > 0, nothing, at, at + 1, at + 1)
        errors.accept(seen, at + 1)
        assert record["grown"][0] == pytest.approx(error)
        assert record["spent"][0] == 0.01


def test_an_estimate_does_not_pile_up_where_the_size_of_the_state_comes_and_goes() -> None:
    """The state passes zero twice in a period, where errors are large beside it; they are not so ever after."""
    grid, fine, tolerance = pr.TimeGrid.uniform(0.0, 10.0, slices=100), pr.Euler(), pr.Tolerance(1e-3, 0.0)
    problem = pr.ODE(lambda t, u: torch.cos(3 * t) - u - 0.3 * u**3)
    u0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    options: dict[str, Any] = {"coarse": pr.Identity(), "schedule": pr.Windowed(16), "executor": pr.Serial()}
    sol = pr.solve(problem, u0, grid, fine=fine, stop=tolerance, dense=False, throw=False, **options)
    ref = pr.serial(problem, u0, grid, fine=fine).u
    error, size = (float(u.square().mean().sqrt()) for u in (sol.u - ref, ref))
    assert sol.status is pr.Status.CONVERGED
    assert error <= sol.error_estimate <= 1e-3 * size * (1 + 1e-12)
    assert sol.stats.rounds < 60


# --- growth in multistep methods --------------------------------------------------------------------------------------


def settings(scale: Any) -> Settings:
    return Settings.of(Start(1, 3, np.ones(3), scale=None if scale is None else np.array(scale)), 1e-3, 0.0)


def gain(scale: Any, carried: float, first: float, moved: float, before: float = 1e-2) -> float:
    growing = [np.array([carried]), np.array([first]), np.array([moved])]
    given = settings(scale)
    return float(given.gain(np.array([1]), np.array([before]), np.ones(1), growing)[0])


def test_errors_grow_as_in_the_step_of_order_1() -> None:
    """Whatever single steps make of moves whose history does not go with their state."""
    assert gain([1.0, 0.5, 1.0], carried=0.015, first=0.018, moved=0.01) == pytest.approx(0.9)
    assert gain(None, carried=0.015, first=0.018, moved=0.01) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("first", "moved"),
    [(0.004, 0.01), (np.nan, 0.01), (np.inf, 0.01), (0.01, 0.0), (0.01, np.nan), (1e-15, 1e-15)],
    ids=["a long step", "unknown", "overflow", "no move", "an unknown move", "rounding"],
)
def test_where_the_step_of_order_1_says_little_the_method_itself_counts(first: float, moved: float) -> None:
    with np.errstate(all="ignore"):
        assert gain([1.0, 1.0, 1.0], carried=0.015, first=first, moved=moved) == pytest.approx(1.5)


@pytest.mark.parametrize(("order", "most"), [(3, 90), (4, 110)])
def test_windows_do_not_crawl_because_histories_move(order: int, most: int) -> None:
    """A decay of 120 steps, in which no error grows."""
    problem, grid = pr.ODE(lambda t, u: -u, batching="native"), pr.TimeGrid.uniform(0.0, 6.0, 120, 1)
    u0 = torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given: dict[str, Any] = {"fine": pr.AdamsBashforth(order), "coarse": pr.Secant(pr.Identity())}
    sol = pr.solve(problem, u0, grid, **given, schedule=pr.Windowed(12), stop=pr.Tolerance(1e-6, 0.0))
    ref = pr.serial(problem, u0, grid, fine=pr.AdamsBashforth(order))
    assert float((sol.u - ref.u).norm() / ref.u.norm()) <= 1e-6
    assert sol.stats.rounds <= most


def test_the_last_slice_shows_itself_what_the_correction_misses_where_the_prior_leaps() -> None:
    leaps = [Settings.of(Start(1, 3, np.array([0.1, 0.1, 0.1, last])), 1e-3, 0.0).leaps for last in (0.15, 0.5)]
    assert leaps == [False, True]
    for last, accepted in ((1.0, 4), (9.0, 3)):
        account = Account(slices=4, width=4)
        account.errors = ErrorEstimate(Start(1, 4, np.array([1.0, 1.0, 1.0, last])), rtol=1.0, atol=0.0)
        account.errors._slices.mismatch[0, :3] = account.errors._slices.first[0, :3] = 1e-3
        seen = account.see(1, 0, 4, [1e-3] * 4, [0.0] * 4, NOT[:4])
        assert account.passed(seen) == accepted


def test_defects_of_the_size_of_rounding_count_as_they_are() -> None:
    """Others with the growth of accepted errors, and in no more than half of the tolerance."""
    account = ErrorEstimate(Start(1, 4, np.ones(4), rounding=1e-7), 1e-3, 0.0)
    account._slices.most[:] = 2.0
    exact = np.array([0.0, 0.0, 3e-7, 3e-7])
    assert account.carried_with_caution(0, exact, 0) == pytest.approx(account.carried(0, exact, 0)) == 9e-7
    seen = np.array([0.0, 0.0, 5e-4, 0.0])
    assert account.carried_with_caution(0, seen, 0) == pytest.approx(5e-4 * 2**1.5 / 0.5)


@pytest.mark.parametrize(("moves", "expected"), [(1e-9, 4.0), (1e-2, 2.0)])
def test_beside_a_smaller_state_errors_of_unknown_growth_stay_as_they_are(moves: float, expected: float) -> None:
    """The state shrinks by a factor of four. Moves of the size of rounding show nothing; others halve in the slice."""
    record = SliceRecord(Settings.of(Start(1, 2, np.ones(2), rounding=1e-7), 1e-3, 0.0), 1)
    row, n = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    record.moved_by[0, 1] = moves
    one = np.ones(1)
    record.learn(row, n, 4 * one, one, 0.1 * moves * one, [0.5 * moves * one], one > 0)
    assert record.most[0, 1] == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("blind", [0, 1])
def test_after_moves_that_are_not_finite_the_record_goes_on(blind: int) -> None:
    account = Account(slices=3, width=3)
    account.errors = ErrorEstimate(Start(1, 3, np.ones(3), blind=blind), rtol=1.0, atol=0.0)
    for k, move in enumerate((np.inf, np.nan, 0.5, 0.05), 1):
        account.see(k, 0, 3, [move] * 3, [move] * 3, [move] * 3)
    account.see(
        10, 1, 3, [np.inf, 0.5], [0.5] * 2, [0.5] * 2
    )  # the place of iterate 1 in the record is asked for again


@pytest.mark.parametrize("apart", [False, True], ids=["in step", "one by one"])
def test_where_iterates_are_mixed_no_boundary_is_better_than_those_before_it(apart: bool) -> None:
    """It may stand still because what its left neighbours have moved by has not arrived yet."""
    account = Account(slices=4, width=4)
    account.errors = ErrorEstimate(Start(1, 4, np.ones(4), mixed=True), rtol=1.0, atol=0.0)
    moves = [0.5, 0.3, 0.0, 0.0]
    if apart:
        for n in range(4):
            account.see(1, n, n + 1, moves[n : n + 1], moves[n : n + 1], NOT[:1])
    account.see(2, 0, 4, moves, moves, NOT[:4])
    error = account.errors.arrays()["error"][0]
    assert error[1] > 0
    assert (np.diff(error[1:]) >= 0).all()
