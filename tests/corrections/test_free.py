"""Corrections that cost no evaluations, each against what its formula says, computed in another way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, distance, equal, part
from torch import Tensor

import parareal as pr

SIZE, SLICES = 5, 7
GRID = pr.TimeGrid.from_points(torch.linspace(0.0, 2.0, SLICES + 1, dtype=torch.float64) ** 1.3, SLICES)
U0 = torch.tensor([1.0, -0.5, 0.3, 0.8, -1.2], dtype=torch.float64)
MATRIX = torch.tensor(np.random.default_rng(3).normal(size=(SIZE, SIZE)) * 0.4)


def bent(t: Tensor, u: Tensor) -> Tensor:
    """Nonlinear, time-dependent, for any leading axes."""
    return torch.sin(u @ MATRIX.T) + 0.3 * torch.cos(t).reshape(-1, *[1] * (u.ndim - 1)) * u


PROBLEM = pr.ODE(bent, batching="native")


def fine(n: int, u: np.ndarray) -> np.ndarray:
    """One Heun step over slice n, in numpy."""
    t0, t1 = GRID.edges[n].item(), GRID.edges[n + 1].item()

    def f(t: float, x: np.ndarray) -> np.ndarray:
        return np.sin(MATRIX.numpy() @ x) + 0.3 * np.cos(t) * x

    k = f(t0, u)
    return u + (t1 - t0) / 2 * (k + f(t1, u + (t1 - t0) * k))


def iterates(correct: Any, k: int, mix: Any = None) -> np.ndarray:
    """U^k by the recursion, slice by slice; ``correct(n, new, old, history)`` approximates F(new) - F(old).

    ``history`` lists (input, F(input)) of slice n, oldest first, up to the old iterate.
    """
    U = np.tile(U0.numpy(), (SLICES + 1, 1))
    history: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(SLICES)]
    states, updates = [], []
    for iteration in range(k):
        F = [fine(n, U[n]) for n in range(SLICES)]
        for n in range(SLICES):
            history[n].append((U[n].copy(), F[n]))
        V = U.copy()
        for n in range(SLICES):
            V[n + 1] = F[n]
            if n > iteration:
                V[n + 1] = F[n] + correct(n, V[n], U[n], history[n])
        states.append(U.copy())
        updates.append(V.copy())
        U = V if mix is None else mix(states, updates, iteration)
    return U


def solve(coarse: Any, k: int, **options: Any) -> Tensor:
    options = {"executor": pr.Serial(), **options}
    return pr.solve(PROBLEM, U0, GRID, fine=pr.Heun(), coarse=coarse, stop=pr.Iterations(k), **options).us


# --- secant -----------------------------------------------------------------------------------------------------------


def broyden(jacobian: np.ndarray, memory: int) -> Any:
    """The base J made exact on the last moves, by the pseudo-inverse of the matrix of moves."""

    def correct(n: int, new: np.ndarray, old: np.ndarray, history: Any) -> np.ndarray:
        pairs = history[-memory - 1 :]
        du = np.stack([b[0] - a[0] for a, b in pairwise(pairs)] or [np.zeros(SIZE)], 1)
        df = np.stack([b[1] - a[1] for a, b in pairwise(pairs)] or [np.zeros(SIZE)], 1)
        return jacobian @ (new - old) + (df - jacobian @ du) @ np.linalg.pinv(du, rcond=1e-12) @ (new - old)

    return correct


@pytest.mark.parametrize("memory", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("base", "jacobian"),
    [
        (pr.Identity(), np.eye(SIZE)),
        (pr.LinearFlow(0.8), 0.8 * np.eye(SIZE)),
        (pr.Damped(pr.Identity(), 1.0), np.eye(SIZE)),
        (pr.Zero(), np.zeros((SIZE, SIZE))),
    ],
    ids=["identity", "linear", "slice by slice", "zero"],
)
def test_secant_is_broydens_update(base: pr.Correction, jacobian: np.ndarray, k: int, memory: int) -> None:
    if isinstance(base, pr.LinearFlow):  # its first guess is not the state held
        base = pr.LinearFlow(0.8)
        object.__setattr__(base, "guess", lambda at, new: new.u)
    expected = iterates(broyden(jacobian, memory), k)
    np.testing.assert_allclose(solve(pr.Secant(base, memory), k).numpy(), expected, rtol=0, atol=2e-9)


def test_secant_is_exact_on_affine_problems_in_as_many_iterations_as_there_are_directions() -> None:
    """In one dimension two iterates tell the whole derivative: the second correction is Newton's."""
    problem, u0 = pr.ODE(lambda t, u: -1.3 * u + torch.cos(t)), torch.ones(1, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 2.0, 30)
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Secant(pr.Identity()), stop=pr.Iterations(2))
    assert distance(sol.us, ref.us) < 1e-13
    picard = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Identity(), stop=pr.Iterations(2))
    assert distance(picard.us, ref.us) > 1e-2


@given(cases(min_slices=2, with_stiff=False), st.integers(1, 2), st.data())
def test_secant_stacked_is_secant_slice_after_slice(case: Case, memory: int, data: Any) -> None:
    """`Damped` by one changes nothing but that slices are swept one after another."""
    k = data.draw(st.integers(1, case.grid.num_slices))
    options: dict[str, Any] = {"fine": case.fine, "stop": pr.Iterations(k)}
    both = [
        pr.solve(case.problem, case.u0, case.grid, coarse=pr.Secant(base, memory), **options).us
        for base in (pr.Identity(), pr.Damped(pr.Identity(), 1.0))
    ]
    # A pair whose move is mostly rounding amplifies it; moves that small no longer matter.
    assert distance(*both) <= 1e3 * case.rounding**0.5 * case.growth


@pytest.mark.parametrize("neighbours", [(1,), (1, 2, 4), (3, 9)])
def test_pooled_secants_need_fewer_iterations_and_end_at_the_same_solution(neighbours: tuple[int, ...]) -> None:
    problem = pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - 0.3 * u + torch.cos(t))
    grid = pr.TimeGrid.uniform(0.0, 6.0, 60)
    options: dict[str, Any] = {"fine": pr.Euler(), "stop": pr.Tolerance(1e-9, 0.0)}
    u0 = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)
    ref = pr.serial(problem, u0, grid, fine=pr.Euler())
    own = pr.solve(problem, u0, grid, coarse=pr.Secant(pr.Identity()), **options)
    pooled = pr.solve(problem, u0, grid, coarse=pr.Secant(pr.Identity(), neighbours=neighbours), **options)
    assert distance(pooled.us, ref.us) < 1e-7
    assert pooled.iterations <= own.iterations
    none = pr.solve(problem, u0, grid, coarse=pr.Identity(), **options)
    assert own.iterations < none.iterations


# --- Anderson ---------------------------------------------------------------------------------------------------------


def triangular(memory: int) -> Any:
    """Mixing of edge n by least squares over edges up to n that are not final, with numpy's solver."""

    def mix(states: list[np.ndarray], updates: list[np.ndarray], iteration: int) -> np.ndarray:
        out = updates[-1].copy()
        residuals = [v - u for u, v in zip(states, updates, strict=True)]
        first = iteration + 2  # edges up to iteration + 1 are final
        depth = min(memory, len(states) - 1)
        if depth == 0:
            return out
        for n in range(first, SLICES + 1):
            rows = slice(first, n + 1)
            dr = np.stack([(residuals[-j] - residuals[-j - 1])[rows].ravel() for j in range(1, depth + 1)], 1)
            dv = np.stack([(updates[-j] - updates[-j - 1])[n] for j in range(1, depth + 1)], 1)
            weights = np.linalg.lstsq(dr, residuals[-1][rows].ravel(), rcond=None)[0]
            out[n] = updates[-1][n] - dv @ weights
        return out

    return mix


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("memory", [1, 2])
def test_anderson_is_least_squares_over_the_edges_to_the_left(k: int, memory: int) -> None:
    expected = iterates(lambda n, new, old, history: new - old, k, triangular(memory))
    np.testing.assert_allclose(solve(pr.Anderson(pr.Identity(), memory), k).numpy(), expected, rtol=0, atol=1e-5)


def test_an_edge_does_not_see_what_lies_to_its_right() -> None:
    """The same problem up to t = 1 and another one after: the iterates before are the same."""

    def other(t: Tensor, u: Tensor) -> Tensor:
        return torch.where(t.reshape(-1, 1) < 1.0, bent(t, u), 5.0 * torch.cos(7 * u))

    edge = int((GRID.edges <= 1.0).sum()) - 2
    for coarse in (pr.Anderson(pr.Identity(), 2), pr.Secant(pr.Identity(), 2), pr.Secant(pr.Identity(), 1, (1, 2))):
        for k in (2, 3, 4):
            a, b = (
                pr.solve(pr.ODE(f, "native"), U0, GRID, fine=pr.Euler(), coarse=coarse, stop=pr.Iterations(k)).us[
                    : edge + 1
                ]
                for f in (bent, other)
            )
            assert distance(a, b) < 1e-12


def test_a_run_that_overflows_is_not_taken_for_settled() -> None:
    """Where mixing leaves a wild iterate alone it must not count as one that stands still."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        v, r = u[..., 0], u[..., 1]
        return torch.stack([3 * (v - v**3 / 3 + r), -(v - 0.2 + 0.2 * r) / 3], dim=-1)

    grid, u0 = pr.TimeGrid.uniform(0.0, 20.0, 50, 40), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    ref = pr.serial(pr.ODE(f, "native"), u0, grid, fine=pr.RK4())
    sol = pr.solve(
        pr.ODE(f, "native"), u0, grid, fine=pr.RK4(), coarse=pr.Anderson(pr.Identity(), 3), stop=pr.Tolerance(1e-3, 0)
    )
    assert distance(sol.u, ref.u) < 1e-2


# --- damping, linear flows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.0, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("k", [1, 3])
def test_damped_scales_the_correction(theta: float, k: int) -> None:
    expected = iterates(lambda n, new, old, history: theta * (new - old), k)
    np.testing.assert_allclose(solve(pr.Damped(pr.Identity(), theta), k).numpy(), expected, rtol=0, atol=1e-13)


def test_damped_lies_between_jacobi_and_the_correction() -> None:
    for k in (1, 2, 3):
        assert equal(solve(pr.Damped(pr.Euler(), 1.0), k), solve(pr.Euler(), k))
        assert distance(solve(pr.Damped(pr.Identity(), 0.0), k), solve(pr.Zero(), k)) < 1e-14


@pytest.mark.parametrize("kind", ["number", "lanes", "elements", "matrix", "constant matrix", "constant elements"])
def test_a_known_linear_flow_needs_one_iteration(kind: str) -> None:
    """Affine problems, whose fine map has that very flow: scipy's matrix exponential, or that of its diagonal."""
    full = (
        MATRIX.numpy() if "matrix" in kind else np.diag([-0.7] * SIZE if kind in ("number", "lanes") else range(SIZE))
    )
    grid = pr.TimeGrid.uniform(0.0, 2.0, SLICES)
    h = float(grid.edges[1])

    def exact(t0: Tensor, t1: Tensor) -> Tensor:
        steps = (t1 - t0).tolist()
        return torch.stack([torch.tensor(scipy.linalg.expm(full * s)) for s in steps])

    factors: dict[str, Any] = {
        "number": float(np.exp(-0.7 * h)),
        "lanes": lambda t0, t1: torch.exp(-0.7 * (t1 - t0)),
        "elements": lambda t0, t1: torch.exp((t1 - t0)[:, None] * torch.arange(SIZE)),
        "constant elements": torch.exp(h * torch.arange(SIZE, dtype=torch.float64)),
        "matrix": exact,
        "constant matrix": torch.tensor(scipy.linalg.expm(full * h)),
    }

    def propagate(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return (exact(t0, t1) @ u.unsqueeze(-1)).squeeze(-1) + (t1 - t0)[:, None]

    step = pr.Propagator(propagate, batching="native")
    options: dict[str, Any] = {"fine": step, "coarse": pr.LinearFlow(factors[kind]), "stop": pr.Iterations(1)}
    ref = pr.serial(PROBLEM, U0, grid, fine=step)
    torch.testing.assert_close(pr.solve(PROBLEM, U0, grid, **options).us, ref.us, rtol=1e-12, atol=1e-12)
    assert distance(pr.solve(PROBLEM, U0, grid, **{**options, "coarse": pr.Identity()}).us, ref.us) > 1e-3


def test_a_linear_flow_for_each_tensor_of_a_nest() -> None:
    problem = pr.ODE(lambda t, u: {"x": -u["x"], "y": 2.0 * u["y"]})
    flow = pr.LinearFlow(lambda t0, t1: {"x": torch.exp(t0 - t1), "y": torch.exp(2 * (t1 - t0))})
    u0 = {"x": torch.ones(3, dtype=torch.float64), "y": torch.ones(2, dtype=torch.float64)}
    grid = pr.TimeGrid.uniform(0.0, 1.0, 6, 20)
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=flow, stop=pr.Tolerance(1e-6))
    assert sol.iterations == 1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.LinearFlow("fast"), TypeError, "factor is a str; expected a function"),
        (lambda: pr.LinearFlow(True), TypeError, "factor is a bool"),
        (
            lambda: solve(pr.LinearFlow(torch.ones(4)), 1),
            ValueError,
            r"factor has shape \(4,\).*expected \(\) or \(5,\)",
        ),
        (lambda: solve(pr.LinearFlow(lambda t0, t1: torch.ones(3, 3)), 1), ValueError, r"factor has shape \(3, 3\)"),
        (lambda: solve(pr.LinearFlow(1j), 1), TypeError, "factor is torch.complex128 for a state of torch.float64"),
        (lambda: pr.Damped(pr.Identity(), "half"), TypeError, "theta='half' is a str"),
        (lambda: pr.Damped(pr.Identity(), float("nan")), ValueError, "theta=nan; expected a finite number"),
        (lambda: pr.Damped(3), TypeError, "correction is an int, 3; expected Correction"),
        (lambda: pr.Secant(pr.Identity), TypeError, "correction is the class Identity"),
        (lambda: pr.Secant(pr.Identity(), 0), ValueError, "memory=0 is too small"),
        (lambda: pr.Secant(pr.Secant(pr.Identity())), ValueError, "reads earlier iterates itself"),
        (lambda: pr.Secant(pr.Euler(), neighbours=(1,)), ValueError, "does not sweep over many slices at once"),
        (lambda: pr.Secant(pr.Identity(), neighbours=(0,)), ValueError, "neighbours=0 is too small"),
        (lambda: pr.Anderson(pr.Identity(), 0), ValueError, "memory=0 is too small; expected at least 1"),
        (lambda: pr.Anderson(pr.Identity(), 1.5), TypeError, "memory=1.5 is a float"),
        (lambda: pr.Anderson(pr.Euler()), ValueError, "sweeps slice after slice"),
        (lambda: pr.Anderson(pr.Anderson(pr.Identity())), ValueError, "mixes iterates itself"),
        (lambda: pr.Secant(pr.Anderson(pr.Identity())), ValueError, r"inside Secant.*expected it outermost"),
        (lambda: pr.Damped(pr.Anderson(pr.Identity())), ValueError, r"inside Damped.*expected it outermost"),
        (lambda: pr.Jacobian("half"), ValueError, "kind='half' is unknown"),
        (lambda: pr.Jacobian("full", probes=2), ValueError, "probes=2 came with kind='full'"),
        (lambda: pr.Jacobian("diagonal", probes=0), ValueError, "probes=0 is too small"),
    ],
)
def test_mistakes(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


# --- Newton -----------------------------------------------------------------------------------------------------------


def newton(diagonal: bool) -> Any:
    """The derivative of the fine step by central differences."""

    def correct(n: int, new: np.ndarray, old: np.ndarray, history: Any) -> np.ndarray:
        eye, h = np.eye(SIZE), 1e-6
        jacobian = np.stack([(fine(n, old + h * e) - fine(n, old - h * e)) / (2 * h) for e in eye], 1)
        return jacobian @ (new - old)

    def one_step(n: int, new: np.ndarray, old: np.ndarray, history: Any) -> np.ndarray:
        """Heun's step of v' = diag(df/du) v along the solution."""
        t0, t1 = GRID.edges[n].item(), GRID.edges[n + 1].item()
        h = t1 - t0

        def slope(t: float, u: np.ndarray) -> np.ndarray:
            return np.diag(np.diag(np.cos(MATRIX.numpy() @ u)) @ MATRIX.numpy()) + 0.3 * np.cos(t)

        k = np.sin(MATRIX.numpy() @ old) + 0.3 * np.cos(t0) * old
        first = slope(t0, old)
        second = slope(t1, old + h * k) * (1 + h * first)
        return (1 + h / 2 * (first + second)) * (new - old)

    return one_step if diagonal else correct


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("diagonal", [False, True])
def test_jacobian_is_newtons_method(k: int, diagonal: bool) -> None:
    expected = iterates(newton(diagonal), k)
    got = solve(pr.Jacobian("diagonal" if diagonal else "full"), k)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-8)


def test_jacobian_converges_quadratically() -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, 40)
    ref = pr.serial(PROBLEM, U0, grid, fine=pr.RK4())
    errors = [
        distance(pr.solve(PROBLEM, U0, grid, fine=pr.RK4(), coarse=pr.Jacobian(), stop=pr.Iterations(k)).us, ref.us)
        for k in (3, 4, 5)
    ]
    assert errors[2] < 10 * errors[1] ** 2 + 1e-13 < 100 * errors[0] ** 4 + 1e-12 or errors[1] < 1e-13


@pytest.mark.parametrize("batching", ["vmap", "native", "fold"])
@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(4)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.sweep(8)
def test_jacobian_in_every_batching_and_schedule(batching: Any, schedule: pr.Schedule, kind: Any) -> None:
    """Affine and diagonal: one correction is exact, to the sequential solution bit for bit if nothing is accepted."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        return -u * torch.cos(t).reshape(-1, *[1] * (u.ndim - 1)) if batching != "vmap" else -u * torch.cos(t)

    u0 = U0[None] if batching == "fold" else U0
    problem, grid = pr.ODE(f, batching), pr.TimeGrid.uniform(0.0, 2.0, 6, 3)
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    sol = pr.solve(
        problem,
        u0,
        grid,
        fine=pr.RK4(),
        coarse=pr.Jacobian(kind),
        schedule=schedule,
        executor=pr.Serial(),
        stop=pr.Tolerance(0.0, 0.0),
    )
    assert equal(sol.us, ref.us)
    once = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Jacobian(kind), stop=pr.Iterations(1))
    assert distance(once.us, ref.us) < 1e-13
    assert once.stats.rounds == 12
    assert once.stats.fine_evaluations == 12 * 6
    assert once.stats.coarse_evaluations == 12 * 6 * SIZE


def test_jacobian_of_a_nest_and_of_samples() -> None:
    problem = pr.ODE(lambda t, u: {"x": torch.sin(u["y"]), "y": -u["x"]})
    u0 = {"x": torch.rand(2, 2, dtype=torch.float64), "y": torch.rand(2, 2, dtype=torch.float64)}
    grid = pr.TimeGrid.uniform(0.0, 3.0, 12, 2)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Jacobian(), "stop": pr.Tolerance(1e-10)}
    both = pr.solve(problem, u0, grid, samples=True, **options)
    ref = pr.serial(problem, u0, grid, fine=pr.Heun())
    assert distance(both.u, ref.u) < 1e-9
    assert max(both.iterations.tolist()) < 9
    alone = pr.solve(problem, part(u0, slice(1, 2)), grid, samples=True, **options)
    assert distance(part(both.us, (slice(None), slice(1, 2))), alone.us) < 1e-12


def test_estimated_diagonals_are_exact_where_the_derivative_is_diagonal() -> None:
    problem, grid = pr.ODE(lambda t, u: torch.sin(u)), pr.TimeGrid.uniform(0.0, 2.0, 10)
    u0 = torch.linspace(-1.0, 1.0, 700, dtype=torch.float64)
    sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=pr.Jacobian("diagonal", probes=1), stop=pr.Iterations(3))
    ref = pr.serial(problem, u0, grid, fine=pr.Heun())
    assert distance(sol.us, ref.us) < 1e-4
    assert sol.stats.coarse_evaluations == sol.stats.fine_evaluations


@pytest.mark.parametrize(
    ("problem", "u0", "fine_", "words"),
    [
        (
            pr.ODE(lambda t, u: -u, "loop"),
            U0,
            pr.Euler(),
            'a problem with batching="loop", of which torch.func takes no',
        ),
        (PROBLEM, U0, pr.Propagator(lambda t0, t1, u: u), r"Propagator\(.*of which torch.func takes no derivatives"),
        (pr.ODE(lambda t, u: -u), torch.ones(513), pr.Euler(), "needs 513 directional derivatives.*at most 512"),
    ],
)
def test_jacobians_that_cannot_be_had(problem: pr.ODE, u0: Tensor, fine_: pr.Integrator, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pr.solve(problem, u0, GRID, fine=fine_, coarse=pr.Jacobian())


def test_wrappers_keep_their_options_when_they_are_bound() -> None:
    for wrapper in (
        pr.Anderson(pr.Secant(pr.Identity(), memory=2, neighbours=(1, 3)), memory=3),
        pr.Secant(pr.Damped(pr.Euler(), 0.7), memory=2),
    ):
        assert wrapper.bind(PROBLEM, U0, GRID, pr.Euler()) == wrapper


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Windowed(6), pr.Windowed(3)], ids=["barrier", "full", "3"])
@pytest.mark.parametrize(
    "correction",
    [
        pr.LinearFlow(0.9),
        pr.Secant(pr.Identity()),
        pr.Secant(pr.Identity(), 2, (1, 2)),
        pr.Secant(pr.Euler()),
        pr.Anderson(pr.Identity()),
        pr.Damped(pr.Euler()),
        pr.Jacobian(),
        pr.Jacobian("diagonal"),
    ],
    ids=lambda c: type(c).__name__,
)
def test_gradients_are_those_of_the_sequential_run(correction: pr.Correction, schedule: pr.Schedule) -> None:
    gradients = []
    for parallel in (False, True):
        u0, grid = U0.clone().requires_grad_(), pr.TimeGrid.uniform(0.0, 2.0, 6, 2)
        options: dict[str, Any] = {"coarse": correction, "schedule": schedule, "stop": pr.Tolerance(1e-13, 0.0)}
        run = pr.solve(PROBLEM, u0, grid, fine=pr.Heun(), **options) if parallel else None
        (run or pr.serial(PROBLEM, u0, grid, fine=pr.Heun())).u.square().sum().backward()
        gradients.append(u0.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_mixing_is_the_same_for_samples_whose_frontiers_differ(tolerance: float) -> None:
    """Rows of unequal length are padded: what stands in the padding must not be taken for the last slice's."""
    generator = torch.Generator().manual_seed(1)
    u0 = (torch.rand(3, 4, generator=generator) * 1.4 - 0.7) * torch.tensor([[1.0], [0.05], [0.3]])
    problem, grid = pr.ODE(lambda t, u: torch.cos(3 * t) * u + torch.sin(t)), pr.TimeGrid.uniform(0.0, 1.0, 6)
    options: dict[str, Any] = {
        "fine": pr.Euler(),
        "coarse": pr.Anderson(pr.Identity()),
        "stop": pr.Tolerance(tolerance, tolerance, freeze=True),
        "samples": True,
        "executor": pr.Serial(),
    }
    together = pr.solve(problem, u0, grid, **options)
    assert len({int(report.frontier[i]) for report in together.history for i in range(3)}) > 1
    for i in range(3):
        assert torch.equal(pr.solve(problem, u0[i : i + 1], grid, **options).us, together.us[:, i : i + 1])
