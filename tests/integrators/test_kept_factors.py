"""Implicit methods that keep a factorisation: results, what is shared between lanes, what it costs, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import distance, examples
from torch import Tensor
from torch.nn.functional import pad

import parareal as pr
from parareal.integrators import _implicit

D = 24
WIDTH = 1 / (D + 1)
X = torch.linspace(0, 1, D + 2, dtype=torch.float64)[1:-1]
NEIGHBOURS = torch.eye(D).roll(1, 0).tril() + torch.eye(D).roll(-1, 0).triu()
SECOND = (NEIGHBOURS.double() - 2 * torch.eye(D, dtype=torch.float64)) / WIDTH**2
METHODS = [pr.ImplicitEuler(), pr.SDIRK2(), pr.Trapezoid(), pr.RadauIIA(2), pr.LobattoIIIC(3)]


def heat(t: Tensor, u: Tensor) -> Tensor:
    padded = pad(u, (1, 1))
    return 0.1 * (padded[..., 2:] - 2 * u + padded[..., :-2]) / WIDTH**2


def reaction(t: Tensor, u: Tensor) -> Tensor:
    return heat(t, u) + 5 * u * (1 - u**2)


def reaction_matrix(t: Tensor, u: Tensor) -> Tensor:
    return 0.1 * SECOND + (5 - 15 * u**2)[..., None] * torch.eye(D, dtype=u.dtype)


STRUCTURES = {"none": None, "banded": pr.Banded(1, 1), "wide": pr.Banded(3, 2), "sparse": pr.Sparse(NEIGHBOURS)}


def state(seed: int, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.sin(np.pi * X) + 0.3 * torch.randn(*lead, D, generator=generator, dtype=torch.float64)


def grid(slices: int = 4, steps: int = 3, end: float = 0.5) -> pr.TimeGrid:
    return pr.TimeGrid.uniform(0.0, end, slices, steps)


def by_newton(f: Any, matrix: Any, method: Any, u: Tensor, h: float, steps: int) -> Tensor:
    """The same steps by Newton's method on all stages together, with a matrix in every iteration."""
    a, b = torch.tensor(method.table.a, dtype=u.dtype), torch.tensor(method.table.b, dtype=u.dtype)
    t, s = torch.zeros((), dtype=torch.float64), len(b)
    for _ in range(steps):
        k = torch.zeros(s, D, dtype=u.dtype)
        for _ in range(12):
            stages = u + h * a @ k
            rest = torch.stack([f(t, stage) for stage in stages]) - k
            blocks = [[h * a[i, j] * matrix(t, stages[i]) for j in range(s)] for i in range(s)]
            system = torch.eye(s * D, dtype=u.dtype) - torch.cat([torch.cat(row, 1) for row in blocks])
            k = k + torch.linalg.solve(system, rest.flatten()).unflatten(0, (s, D))
        u = u + h * b @ k
    return u


class Rows:
    """A right-hand side for stacked lanes that counts the rows of its input."""

    def __init__(self, f: Any) -> None:
        self.f, self.rows = f, 0

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        self.rows += u.shape[0]
        return self.f(t, u)


def newton(problem: Any, u0: Tensor, times: pr.TimeGrid, method: Any) -> pr.Solution:
    """The run with new derivatives in every iteration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_implicit, "FEW", 10**6)
        return pr.serial(problem, u0, times, fine=method)


@pytest.fixture
def factorised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that torch has factorised."""
    made: list[int] = []
    original = torch.linalg.lu_factor_ex

    def counted(matrix: Tensor, *args: Any, **options: Any) -> Any:
        made.append(len(matrix))
        return original(matrix, *args, **options)

    monkeypatch.setattr(torch.linalg, "lu_factor_ex", counted)
    return made


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.sweep(6)
def test_all_ways_solve_the_same_equations(method: Any, structure: str, given: bool) -> None:
    options: dict[str, Any] = {"structure": STRUCTURES[structure]}
    constant = lambda t, u: 0.1 * SECOND  # noqa: E731
    times = grid(2, 2)
    matrix = reaction_matrix if given else None
    ours = pr.serial(pr.ODE(reaction, jacobian=matrix, **options), state(0), times, fine=method)
    assert distance(ours.u, by_newton(reaction, reaction_matrix, method, state(0), 0.125, 4)) <= 1e-13
    matrix = constant if given else None
    ours = pr.serial(pr.ODE(heat, jacobian=matrix, linear=True, **options), state(0), times, fine=method)
    assert distance(ours.u, by_newton(heat, constant, method, state(0), 0.125, 4)) <= 1e-13


def test_steps_of_a_linear_problem_are_torchs_dense_solution() -> None:
    ours = pr.serial(pr.ODE(heat, linear=True), state(1), grid(1, 7, 0.3), fine=pr.ImplicitEuler()).u
    theirs = state(1)
    for _ in range(7):
        theirs = torch.linalg.solve(torch.eye(D, dtype=torch.float64) - 0.3 / 7 * 0.1 * SECOND, theirs)
    assert distance(ours, theirs) <= 1e-14


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.sweep(1)
def test_a_fine_grid_agrees_with_scipy(structure: str) -> None:
    f = lambda t, u: reaction(torch.tensor(t), torch.from_numpy(u)).numpy()  # noqa: E731
    theirs = solve_ivp(f, (0.0, 0.5), state(2).numpy(), "Radau", rtol=1e-11, atol=1e-12).y[:, -1]
    problem = pr.ODE(reaction, structure=STRUCTURES[structure])
    ours = pr.serial(problem, state(2), grid(8, 12), fine=pr.RadauIIA(3)).u
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-8)


def test_an_approximate_jacobian_changes_the_cost_alone() -> None:
    runs = [
        pr.serial(pr.ODE(reaction, jacobian=matrix), state(3), grid(), fine=pr.SDIRK2())
        for matrix in (reaction_matrix, lambda t, u: 0.1 * SECOND)
    ]
    assert distance(runs[0].us, runs[1].us) <= 1e-13
    assert runs[0].stats.rounds < runs[1].stats.rounds


@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.sweep(5)
def test_batchings_of_a_jacobian(batching: Any, linear: bool) -> None:
    f = heat if linear else reaction
    u0 = state(4)[None] if batching == "fold" else state(4)

    def matrix(t: Tensor, u: Tensor) -> Tensor:
        return (0.1 * SECOND).expand(*u.shape[:-1], D, D) if linear else reaction_matrix(t, u)

    problem = pr.ODE(f, batching, jacobian=matrix, linear=linear)
    ours = pr.solve(problem, u0, grid(), fine=pr.SDIRK2(), coarse=pr.ImplicitEuler(), stop=pr.Iterations(4)).u
    assert distance(ours.reshape(D), pr.serial(pr.ODE(f), state(4), grid(), fine=pr.SDIRK2()).u) <= 1e-13


def test_flat_order_of_trees_and_folded_rows() -> None:
    """One matrix for each row, over its numbers leaf after leaf, a complex one as two."""
    u0 = {
        "a": torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        "z": torch.tensor([1 + 1j, 2 - 1j])[:, None].cdouble(),
    }
    f = lambda t, u: {"a": -u["a"] + u["z"].imag, "z": 1j * u["z"] - 3 * u["z"] + u["a"]}  # noqa: E731
    block = torch.tensor([[-1.0, 0.0, 1.0], [1.0, -3.0, -1.0], [0.0, 1.0, -3.0]], dtype=torch.float64)
    problem = pr.ODE(f, "fold", jacobian=lambda t, u: block.expand(len(t), 3, 3), linear=True)
    ours = pr.serial(problem, u0, grid(), fine=pr.RadauIIA(2)).u
    theirs = pr.serial(pr.ODE(f, "fold"), u0, grid(), fine=pr.RadauIIA(2)).u
    assert max(distance(ours[key], theirs[key]) for key in u0) <= 1e-14


# --- lanes -----------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> pr.ODE:
    linear, batching = draw(st.booleans()), draw(st.sampled_from(("vmap", "native")))
    f = heat if linear else reaction
    matrix = None
    if draw(st.booleans()):
        matrix = (lambda t, u: (0.1 * SECOND).expand(*u.shape[:-1], D, D)) if linear else reaction_matrix
    structure = STRUCTURES[draw(st.sampled_from(list(STRUCTURES)))]
    claim = linear and draw(st.booleans())
    return pr.ODE(f, batching, jacobian=matrix, linear=claim, structure=structure)  # pyright: ignore


def test_lane_by_lane_nobody_is_asked_for_derivatives_at_no_lanes() -> None:
    """Some lanes of a group want new ones, and others, each in a call of its own, none."""
    a = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u0 = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lanes = set[int]()

    def f(t: Tensor, u: Tensor) -> Tensor:
        return torch.tanh((u + t * torch.sin(u)) @ a.T)

    def many(t: Tensor, u: Tensor) -> Tensor:
        lanes.add(len(u))
        return torch.vmap(f)(t, u)

    def matrix(t: Tensor, u: Tensor) -> Tensor:
        lanes.add(len(u))
        return torch.vmap(torch.func.jacfwd(f, 1))(t, u).reshape(-1, 21, 21)

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=5, steps=2)
    for problem in (pr.ODE(f), pr.ODE(many, "native"), pr.ODE(many, "native", jacobian=matrix)):
        options: dict[str, Any] = {"fine": pr.ImplicitEuler(), "coarse": pr.Euler(), "stop": pr.Tolerance(0.0, 0.0)}
        sol = pr.solve(problem, u0, grid, executor=pr.Serial(), **options)
        assert torch.equal(sol.us, pr.serial(problem, u0, grid, fine=pr.ImplicitEuler()).us)
    assert 0 not in lanes


EXECUTORS = [pr.Serial(), pr.Batched(), pr.Batched(max_lanes=3), pr.Batched(pad_to=4), pr.Batched(devices=["cpu"] * 2)]
RUNS = (problems(), st.sampled_from(METHODS), st.sampled_from(METHODS), st.sampled_from(EXECUTORS), st.integers(0, 99))


@examples(6)
@given(*RUNS, st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Windowed(2))), st.booleans())
def test_parallel_is_serial_and_a_lane_is_alone_bit_for_bit(
    problem: pr.ODE, fine: Any, coarse: Any, executor: Any, seed: int, schedule: Any, uneven: bool
) -> None:
    points = torch.tensor([0.0, 0.01, 0.02, 0.1, 0.11, 0.12, 0.2], dtype=torch.float64)
    times = pr.TimeGrid.from_points(points, 2) if uneven else grid(3, 2, 0.2)
    u0, count = state(seed, 2), times.num_slices
    with torch.no_grad():
        sol = pr.solve(
            problem,
            u0,
            times,
            fine=fine,
            coarse=coarse,
            samples=True,
            executor=executor,
            schedule=schedule,
            stop=pr.Iterations(count),
            max_iterations=count,
        )
        together = pr.serial(problem, u0, times, fine=fine, samples=True)
        alone = torch.stack([pr.serial(problem, u, times, fine=fine).us for u in u0], 1)
    assert torch.equal(together.us, alone)
    assert torch.equal(sol.us, alone)


def test_per_sample_matrices_stay_with_their_samples() -> None:
    rates = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    problem = pr.ODE(lambda t, u, rate: rate * heat(t, u), per_sample=rates, linear=True)
    together = pr.serial(problem, state(5, 3), grid(), fine=pr.SDIRK2(), samples=True).u
    for i, rate in enumerate(rates):
        alone = pr.ODE(lambda t, u, rate=rate: rate * heat(t, u))
        assert distance(together[i], pr.serial(alone, state(5, 3)[i], grid(), fine=pr.SDIRK2()).u) <= 1e-13


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_one_factorisation_a_step_size_for_a_linear_problem(factorised: list[int]) -> None:
    rows = Rows(heat)
    problem = pr.ODE(rows, "native", linear=True)
    ours = pr.serial(problem, state(6), pr.TimeGrid.uniform(0.0, 1.0, 10, 10), fine=pr.SDIRK2())
    assert factorised == [1]
    assert ours.stats.evaluations == ours.stats.rounds == 200
    # Beside these: the matrix, in one call under vmap and one for the value there, and the check.
    assert 200 < rows.rows <= 200 + 2 + 2 * 16
    factorised.clear()
    options: dict[str, Any] = {"fine": pr.SDIRK2(), "coarse": pr.ImplicitEuler(), "stop": pr.Iterations(3)}
    pr.solve(problem, state(6, 4), grid(6, 5), samples=True, **options)
    assert factorised == [1, 1]  # one for each method, of any number of lanes, slices and iterations


def test_one_factorisation_a_slice_while_it_converges(factorised: list[int]) -> None:
    rows = Rows(reaction)
    ours = pr.serial(pr.ODE(rows, "native"), state(7), grid(5, 8, 0.05), fine=pr.SDIRK2())
    assert factorised == [1] * 5
    assert ours.stats.evaluations == ours.stats.rounds + 5 * D
    factorised.clear()
    few = pr.serial(pr.ODE(reaction, structure=pr.Banded(1, 1)), state(7), grid(5, 8, 0.05), fine=pr.SDIRK2())
    assert few.stats.evaluations == few.stats.rounds + 5 * 3
    assert not factorised


def hard(seed: int) -> tuple[pr.ODE, Tensor, pr.TimeGrid]:
    """Diffusion that grows with the state, in steps across which it changes a lot: Newton's method takes long."""
    generator = torch.Generator().manual_seed(seed)
    growth, speed = 30 * torch.rand(2, generator=generator, dtype=torch.float64)
    return pr.ODE(lambda t, u: heat(t, u) * (1 + growth * torch.sin(speed * t) ** 2 * u**2)), state(seed), grid(1, 3, 1)


@examples(3)
@given(st.integers(0, 10**6), st.sampled_from(METHODS))
def test_what_newton_solves_is_solved_with_fewer_derivatives(seed: int, method: Any) -> None:
    full, kept = newton(*hard(seed), method), pr.serial(*hard(seed), fine=method)
    if full.status is pr.Status.FINAL:
        assert kept.status is pr.Status.FINAL
        assert distance(kept.us, full.us) <= 1e-12
        assert kept.stats.evaluations < full.stats.evaluations


def test_a_new_factorisation_where_the_rate_is_too_slow(factorised: list[int]) -> None:
    problem, u0, times = pr.ODE(lambda t, u: heat(t, u) * (1 + 200 * t**2 * u**2)), state(8), grid(1, 3, 0.6)
    ours = pr.serial(problem, u0, times, fine=pr.ImplicitEuler())
    assert ours.status is pr.Status.FINAL
    assert 3 < len(factorised) < 0.8 * ours.stats.rounds
    assert distance(ours.us, newton(problem, u0, times, pr.ImplicitEuler()).us) <= 1e-13


def test_most_new_factorisations(factorised: list[int]) -> None:
    """`max_newton` counts these, and not the iterations that a kept factor takes."""
    problem = pr.ODE(lambda t, u: heat(t, u) * (1 + 200 * t**2 * u**2))
    failed = pr.serial(problem, state(8), grid(1, 1, 0.6), fine=pr.ImplicitEuler(max_newton=3))
    assert failed.status is pr.Status.UNSOLVED
    assert factorised == [1] * 3
    once = pr.serial(pr.ODE(reaction), state(8), grid(1, 1, 0.01), fine=pr.ImplicitEuler(max_newton=1))
    assert once.status is pr.Status.FINAL
    assert once.stats.rounds > 2


def test_a_preconditioner_saves_products() -> None:
    def near(t: Tensor, u: Tensor, gamma: Tensor, v: Tensor) -> Tensor:
        return torch.linalg.solve(torch.eye(D, dtype=v.dtype) - gamma * 0.1 * SECOND, v)

    for method in (pr.ImplicitEuler(krylov=True, rtol=1e-8), pr.RadauIIA(2, krylov=True, rtol=1e-8)):
        runs = [
            pr.serial(pr.ODE(reaction, preconditioner=fn), state(9), grid(1, 1, 0.1), fine=method)
            for fn in (None, near)
        ]
        assert distance(runs[0].us, runs[1].us) <= 1e-6
        assert runs[1].stats.rounds < 0.7 * runs[0].stats.rounds


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["none", "banded", "sparse"])
@pytest.mark.parametrize("linear", [False, True])
def test_gradients_are_those_of_full_newton(structure: str, linear: bool) -> None:
    found: list[Any] = []
    for solve, options in (
        (lambda *given: pr.serial(*given[:-1], fine=given[-1]), {"structure": STRUCTURES[structure], "linear": linear}),
        (newton, {}),
    ):
        u0, rate = state(10).requires_grad_(), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        problem = pr.ODE(lambda t, u, rate=rate: rate * (heat if linear else reaction)(t, u), **options)
        total = solve(problem, u0, grid(1, 2, 0.1), pr.RadauIIA(2)).u.square().sum()
        found.append(torch.autograd.grad(total, (u0, rate)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_second_gradients_of_a_kept_factor() -> None:
    def run(rate: Tensor) -> Tensor:
        return pr.serial(
            pr.ODE(lambda t, u: rate * reaction(t, u)), state(11), grid(1, 1, 0.05), fine=pr.SDIRK2()
        ).u.sum()

    rate = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (rate,))
    assert torch.autograd.gradgradcheck(run, (rate,))


# --- Newton's correction ---------------------------------------------------------------------------------------------


def tangent_problems(seed: int) -> dict[str, pr.ODE]:
    coupled = torch.randn(D, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / D**0.5
    return {
        "linear": pr.ODE(heat, linear=True),
        "linear, banded": pr.ODE(heat, linear=True, structure=pr.Banded(1, 1)),
        "kept": pr.ODE(lambda t, u: torch.sin(u @ coupled.mT) - 2 * u),
        "banded": pr.ODE(reaction, structure=pr.Banded(1, 1)),
        "jacobian": pr.ODE(reaction, jacobian=reaction_matrix),
    }


@pytest.mark.parametrize("kind", list(tangent_problems(0)))
@pytest.mark.parametrize(
    "method", [pr.SDIRK2(), pr.Trapezoid(), pr.RadauIIA(2)], ids=lambda method: type(method).__name__
)
@pytest.mark.sweep(6)
def test_tangents_are_the_derivative_of_the_step(kind: str, method: Any) -> None:
    problem, u0, times = tangent_problems(1)[kind], state(1), grid(2, 2, 0.1)
    options: dict[str, Any] = {"fine": method, "coarse": pr.Jacobian(), "stop": pr.Iterations(1), "keep": "all"}
    run, plain, second = pr.solve(problem, u0, times, **options), pr.ODE(problem.f), times.points[2:]
    start = run.iterates.u[0, 1]  # where the second slice started from
    reference = lambda u: newton(plain, u, pr.TimeGrid.from_points(second, 2), method).u  # noqa: E731
    slope = torch.autograd.functional.jvp(reference, start, newton(plain, u0, times, method).us[1] - start)[1]
    assert distance(run.iterates.after(1)[2], reference(start) + slope) <= 1e-11


def test_tangents_of_a_shared_matrix_cost_nothing_and_of_a_kept_factor_one_round_a_system() -> None:
    for problem, more in ((pr.ODE(heat, linear=True), 0), (pr.ODE(reaction), 1)):
        serial = pr.serial(problem, state(2), grid(1, 3, 0.1), fine=pr.ImplicitEuler())
        with_tangents = pr.solve(
            problem, state(2), grid(1, 3, 0.1), fine=pr.ImplicitEuler(), coarse=pr.Jacobian(), stop=pr.Iterations(1)
        )
        assert torch.equal(serial.u, with_tangents.u)
        assert with_tangents.stats.rounds == serial.stats.rounds + 3 * more


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    [
        reaction,
        lambda t, u: t.to(u.dtype) * heat(t, u),
        lambda t, u: heat(t, u) * (1 + ((t > 0.2) & (t < 0.3)).to(u.dtype)),
        lambda t, u: heat(t, u) + u.abs(),
    ],
)
def test_linear_is_checked(f: Any) -> None:
    with pytest.raises(ValueError, match=r"linear=True, but .*expected f affine in u"):
        pr.solve(pr.ODE(f, linear=True), state(0), grid(), fine=pr.SDIRK2(), coarse=pr.ImplicitEuler())


def test_a_matrix_or_structure_that_does_not_fit_a_linear_problem_is_found() -> None:
    for options in ({"jacobian": lambda t, u: 0.2 * SECOND}, {"structure": pr.Banded(1, 0)}):
        with pytest.raises(ValueError, match="jacobian= and structure= to agree"):
            pr.serial(pr.ODE(heat, linear=True, **options), state(0), grid(), fine=pr.SDIRK2())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("linear", [False, True])
def test_a_singular_system_is_unsolved(structure: str, linear: bool) -> None:
    """h J = I."""
    problem = pr.ODE(lambda t, u: 4.0 * u, linear=linear, structure=STRUCTURES[structure])
    ref = pr.serial(problem, state(0), pr.TimeGrid.uniform(0.0, 1.0, 4), fine=pr.ImplicitEuler())
    assert ref.status is pr.Status.UNSOLVED
    assert ref.us[1:].isnan().all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.ODE(heat, linear=1), TypeError, ["linear=1", "True or False"]),
        (lambda: pr.ODE(heat, jacobian=pr.Banded(1, 1)), TypeError, ["jacobian", "structure="]),
        (lambda: pr.ODE(heat, jacobian=SECOND), TypeError, ["jacobian", "function"]),
        (lambda: pr.ODE(heat, structure="banded"), TypeError, ["structure is a str", "pr.Banded"]),
        (lambda: pr.ODE(heat, preconditioner=3), TypeError, ["preconditioner", "callable"]),
        (lambda: pr.Banded(-1, 0), ValueError, ["lower=-1"]),
        (lambda: pr.Banded(0, 1.0), TypeError, ["upper=1.0"]),
        (lambda: pr.Sparse(torch.ones(2, 3)), ValueError, ["(2, 3)", "square"]),
        (lambda: pr.Sparse("all"), TypeError, ["pattern is a str"]),
    ],
)
def test_what_is_wrong_with_a_problem_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"jacobian": lambda t, u: SECOND[:-1]}, ValueError, [f"({D - 1}, {D})", f"({D}, {D})"]),
        ({"jacobian": lambda t, u: 1.0}, TypeError, ["float", f"({D}, {D})"]),
        ({"jacobian": lambda t, u: SECOND.cdouble()}, TypeError, ["complex128", "real"]),
        ({"structure": pr.Sparse(torch.eye(3))}, ValueError, ["3 rows", f"{D} numbers"]),
        ({"batching": "loop", "structure": pr.Banded(1, 1)}, ValueError, ["jacobian="]),
    ],
)
@pytest.mark.parametrize("linear", [False, True])
def test_what_does_not_fit_the_state_is_said(
    options: dict[str, Any], error: type[Exception], words: list[str], linear: bool
) -> None:
    with pytest.raises(error) as caught:
        pr.serial(pr.ODE(heat, linear=linear, **options), state(0), grid(), fine=pr.SDIRK2())
    assert all(word in str(caught.value) for word in words), str(caught.value)
