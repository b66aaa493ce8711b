"""Every mistake a user can make is an error that names what came and what was expected, before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import parareal as pr

NAN, INF = float("nan"), float("inf")
GRID = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
U0 = torch.ones(2, 3)


def says(error: type[Exception], make: Any, *words: str) -> None:
    """``make()`` raises exactly ``error``, and its message has all the words."""
    with pytest.raises(error) as caught:
        make()
    assert type(caught.value) is error
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.mark.parametrize(
    ("points", "error", "words"),
    [
        ([0.0, 1.0], TypeError, ["points is a list", "torch.tensor(points, dtype=torch.float64)"]),
        ((0.0, 1.0), TypeError, ["points is a tuple", "tensor"]),
        (1.0, TypeError, ["points is a float"]),
        (torch.tensor([0.0, 1.0, 1.0, 2.0]), ValueError, ["points[1]=1.0", "followed by 1.0", "none repeated"]),
        (
            torch.tensor([0.0, 2.0, 1.0, 3.0]),
            ValueError,
            ["points[1]=2.0", "followed by 1.0", "only rise or only fall"],
        ),
        (torch.tensor([0.0, 1.0, 0.0]), ValueError, ["not strictly monotone"]),
        (torch.tensor([0.0, NAN, 1.0]), ValueError, ["points[1] is nan", "finite"]),
        (np.array([0.0, 1.0, INF]), ValueError, ["points[2] is inf", "finite"]),
        (torch.tensor([0.0]), ValueError, ["1 point", "at least 2"]),
        (torch.zeros(2, 2), TypeError, ["(2, 2)", "one dimension"]),
        (torch.tensor([0.0, 1.0j]), TypeError, ["complex64", "real"]),
        (torch.tensor([False, True]), TypeError, ["bool", "real"]),
    ],
)
def test_points(points: Any, error: type[Exception], words: list[str]) -> None:
    says(error, lambda: pr.TimeGrid.from_points(points, slices=1), *words)
    edges = [word.replace("points", "edges") for word in words]
    says(error, lambda: pr.TimeGrid.from_edges(points), *edges)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.TimeGrid.from_points(torch.arange(4.0), slices=4), ValueError, ["slices=4", "3 steps", "slices=3"]),
        (lambda: pr.TimeGrid.from_points(torch.arange(4.0), slices=0), ValueError, ["slices=0", "at least 1"]),
        (lambda: pr.TimeGrid.from_points(torch.arange(4.0), slices=2.0), TypeError, ["slices=2.0", "float", "int"]),
        (lambda: pr.TimeGrid.uniform(0.0, 1.0, slices=-3), ValueError, ["slices=-3", "at least 1"]),
        (lambda: pr.TimeGrid.uniform(0.0, 1.0, 2, steps=0), ValueError, ["steps=0", "at least 1"]),
        (lambda: pr.TimeGrid.uniform(0.0, 1.0, slices=True), TypeError, ["slices=True", "bool"]),
        (lambda: pr.TimeGrid.uniform(1.0, 1.0, 2), ValueError, ["t0=1.0", "t1=1.0", "different"]),
        (lambda: pr.TimeGrid.uniform(0.0, NAN, 2), ValueError, ["t1=nan", "finite"]),
        (lambda: pr.TimeGrid.uniform(0.0, INF, 2), ValueError, ["t1=inf", "finite"]),
        (lambda: pr.TimeGrid.uniform(1.0, 1.0 + 4e-16, 8, 8), ValueError, ["repeated"]),
        (lambda: pr.TimeGrid(torch.arange(4.0), (0, 2)), ValueError, ["(0, 2)", "from 0 to 3", "from_points"]),
        (lambda: pr.TimeGrid(torch.arange(4.0), (0, 2, 2, 3)), ValueError, ["do not rise"]),
        (lambda: pr.TimeGrid(torch.arange(4.0), ()), ValueError, ["from 0 to 3"]),
    ],
)
def test_grids(make: Any, error: type[Exception], words: list[str]) -> None:
    says(error, make, *words)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.ODE(3), TypeError, ["f is an int", "callable"]),
        (lambda: pr.ODE(torch.zeros(2)), TypeError, ["f is a Tensor", "callable"]),
        (
            lambda: pr.ODE(abs, batching="batch"),
            ValueError,
            ["batching='batch'", "'vmap'", "'native'", "'fold'", "'loop'"],
        ),
        (lambda: pr.ODE(abs, batching=None), TypeError, ["batching is None", "'vmap'"]),
        (lambda: pr.ODE(abs, per_sample=[1, 2]), TypeError, ["per_sample", "int", "tensors"]),
        (lambda: pr.Propagator(3), TypeError, ["fn is an int", "fn(t0, t1, u)"]),
        (lambda: pr.Propagator(abs, batching="fold"), ValueError, ["batching='fold'", "'loop'", "'vmap'", "'native'"]),
        (lambda: pr.Coarse(pr.Euler), TypeError, ["coarse propagator", "pr.Euler()"]),
        (lambda: pr.Coarse(abs), TypeError, ["coarse propagator", "pr.Propagator(fn)"]),
        (lambda: pr.Batched(max_lanes=0), ValueError, ["max_lanes=0", "at least 1"]),
        (lambda: pr.Batched(max_lanes=2.5), TypeError, ["max_lanes=2.5", "float", "int"]),
        (lambda: pr.Tolerance(rtol=-1e-3), ValueError, ["rtol=-0.001", "at least 0"]),
        (lambda: pr.Tolerance(atol=NAN), ValueError, ["atol=nan", "at least 0"]),
        (lambda: pr.Tolerance(rtol="1e-3"), TypeError, ["rtol='1e-3'", "str", "float"]),
        (lambda: pr.Tolerance(atol=None), TypeError, ["atol=None", "float"]),
        (lambda: pr.Tolerance(norm="l2"), ValueError, ["norm='l2'", "'rms'", "'max'"]),
        (lambda: pr.Tolerance(rule="residual"), ValueError, ["rule='residual'", "'increment'", "'defect'"]),
        (lambda: pr.Iterations(0), ValueError, ["=0", "at least 1"]),
        (lambda: pr.Iterations(1.5), TypeError, ["=1.5", "float", "int"]),
    ],
)
def test_parts(make: Any, error: type[Exception], words: list[str]) -> None:
    says(error, make, *words)


class Untouched:
    """A right-hand side that must not be called."""

    def __call__(self, t: Any, u: Any) -> Any:
        raise AssertionError("the right-hand side was called before the error")


QUIET = pr.ODE(Untouched())
STATES = [
    (None, TypeError, ["u0 holds None", "torch.as_tensor"]),
    (1.0, TypeError, ["u0 holds a float", "torch.as_tensor"]),
    (np.ones(3), TypeError, ["u0 holds an ndarray", "torch.as_tensor"]),
    ({}, ValueError, ["u0 holds no tensors"]),
    ((), ValueError, ["u0 holds no tensors"]),
    ({"a": torch.ones(2), "b": 3.0}, TypeError, ["u0 holds a float"]),
    (torch.ones(2, dtype=torch.int64), TypeError, ["torch.int64", "u0.to(torch.float64)"]),
    (torch.ones(2, dtype=torch.bool), TypeError, ["torch.bool", "floating point or complex"]),
    ((torch.ones(2), torch.ones(2, dtype=torch.int32)), TypeError, ["torch.int32"]),
    (torch.ones(0), ValueError, ["empty", "(0,)"]),
    ({"a": torch.ones(2), "b": torch.ones(2, 0)}, ValueError, ["empty", "(2, 0)"]),
    ((torch.ones(2), torch.ones(2, device="meta")), ValueError, ["cpu", "meta", "one device"]),
]


@pytest.mark.parametrize(("u0", "error", "words"), STATES)
def test_states(u0: Any, error: type[Exception], words: list[str]) -> None:
    says(error, lambda: pr.solve(QUIET, u0, GRID, fine=pr.RK4(), coarse=pr.Euler()), *words)
    says(error, lambda: pr.serial(QUIET, u0, GRID, fine=pr.RK4()), *words)


@pytest.mark.parametrize(
    ("u0", "words"),
    [
        (torch.ones(()), ["samples=True", "batch axis", "()"]),
        ((torch.ones(2, 3), torch.ones(3, 3)), ["samples=True", "(2, 3)", "(3, 3)"]),
        ({"a": torch.ones(2, 3), "b": torch.ones(())}, ["samples=True", "()"]),
    ],
)
def test_samples_need_a_batch_axis(u0: Any, words: list[str]) -> None:
    says(ValueError, lambda: pr.solve(QUIET, u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), samples=True), *words)
    says(ValueError, lambda: pr.serial(QUIET, u0, GRID, fine=pr.RK4(), samples=True), *words)


def test_fold_needs_a_batch_axis() -> None:
    fold = pr.ODE(Untouched(), batching="fold")
    for u0 in (torch.ones(()), (torch.ones(2, 3), torch.ones(3))):
        for make in (
            lambda u0=u0: pr.solve(fold, u0, GRID, fine=pr.RK4(), coarse=pr.Euler()),
            lambda u0=u0: pr.serial(fold, u0, GRID, fine=pr.RK4()),
        ):
            says(ValueError, make, 'batching="fold"', "batch axis", "u0[None]")


@pytest.mark.parametrize("data", [torch.ones(3), torch.ones(()), {"a": torch.ones(2, 1), "b": torch.ones(1)}])
def test_per_sample_data_must_fit_the_samples(data: Any) -> None:
    problem = pr.ODE(Untouched(), per_sample=data)
    words = ["per_sample", "2 samples", "leading axis of 2"]
    says(ValueError, lambda: pr.solve(problem, U0, GRID, fine=pr.RK4(), coarse=pr.Euler(), samples=True), *words)
    says(ValueError, lambda: pr.serial(problem, U0, GRID, fine=pr.RK4(), samples=True), *words)


def test_per_sample_data_must_fit_the_folded_batch() -> None:
    problem = pr.ODE(Untouched(), batching="fold", per_sample=torch.ones(3))
    says(ValueError, lambda: pr.solve(problem, U0, GRID, fine=pr.RK4(), coarse=pr.Euler()), "per_sample", "2")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"problem": Untouched()}, TypeError, ["problem is an Untouched", "pr.ODE("]),
        ({"problem": pr.ODE}, TypeError, ["problem is the class ODE", "pr.ODE("]),
        ({"grid": torch.linspace(0, 1, 5)}, TypeError, ["grid is a Tensor", "pr.TimeGrid"]),
        ({"grid": [0.0, 1.0]}, TypeError, ["grid is a list", "pr.TimeGrid"]),
        ({"fine": pr.RK4}, TypeError, ["fine is the class RK4", "pr.RK4()"]),
        ({"fine": "rk4"}, TypeError, ["fine is a str", "pr.RK4()"]),
        ({"fine": pr.Coarse(pr.Euler())}, TypeError, ["fine is a Coarse", "pr.RK4()"]),
        ({"fine": abs}, TypeError, ["fine is a builtin_function_or_method", "pr.Propagator(fn)"]),
        ({"coarse": pr.Euler}, TypeError, ["coarse is the class Euler", "pr.Euler()"]),
        ({"coarse": None}, TypeError, ["coarse is None", "pr.Euler()"]),
        ({"coarse": pr.Identity}, TypeError, ["coarse is the class Identity"]),
        ({"schedule": pr.Barrier}, TypeError, ["schedule is the class Barrier", "expected Schedule", "pr.Wavefront()"]),
        ({"schedule": "barrier"}, TypeError, ["schedule is a str"]),
        ({"executor": pr.Batched}, TypeError, ["executor is the class Batched", "pr.Batched()"]),
        ({"executor": 4}, TypeError, ["executor is an int"]),
        ({"stop": pr.Tolerance}, TypeError, ["stop is the class Tolerance", "pr.Tolerance("]),
        ({"stop": 1e-3}, TypeError, ["stop is a float", "pr.Tolerance("]),
        ({"max_iterations": 0}, ValueError, ["max_iterations=0", "at least 1"]),
        ({"max_iterations": -2}, ValueError, ["max_iterations=-2", "at least 1"]),
        ({"max_iterations": 2.0}, TypeError, ["max_iterations=2.0", "float", "int"]),
        ({"callback": 3}, TypeError, ["callback is an int", "function"]),
    ],
)
def test_arguments_of_solve(options: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    given = {"problem": QUIET, "grid": GRID, "fine": pr.RK4(), "coarse": pr.Euler(), **options}
    problem, grid = given.pop("problem"), given.pop("grid")
    says(error, lambda: pr.solve(problem, U0, grid, **given), *words)
    if set(options) <= {"problem", "grid", "fine", "executor"}:
        given.pop("coarse")
        says(error, lambda: pr.serial(problem, U0, grid, **given), *words)


def test_misspelt_options_are_refused() -> None:
    with pytest.raises(TypeError, match="rtoll"):
        pr.Tolerance(rtoll=1e-3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="tol"):
        pr.solve(QUIET, U0, GRID, fine=pr.RK4(), coarse=pr.Euler(), tol=1e-3)  # type: ignore[call-arg]


@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
@pytest.mark.parametrize(
    ("f", "error", "words"),
    [
        (lambda t, u: u[..., :2], ValueError, ["f(t, u) returned shape", "expected the same shape"]),
        (lambda t, u: u.double(), TypeError, ["torch.float64", "torch.float32", "t.to(u.dtype)"]),
        (lambda t, u: (u,), TypeError, ["f(t, u) returned a tuple of 1", "tensor of shape"]),
        (lambda t, u: None, TypeError, ["f(t, u) returned None"]),
        (lambda t, u: {"u": u}, TypeError, ["a dict of 1"]),
        (lambda t, u: 0.0, TypeError, ["f(t, u) returned a", "float"]),
    ],
)
def test_what_f_returns(f: Any, batching: Any, error: type[Exception], words: list[str]) -> None:
    says(error, lambda: pr.solve(pr.ODE(f, batching=batching), U0, GRID, fine=pr.RK4(), coarse=pr.Euler()), *words)
    says(error, lambda: pr.serial(pr.ODE(f, batching=batching), U0, GRID, fine=pr.RK4()), *words)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t, u: u["a"], ["a tensor", "a dict of 2"]),
        (lambda t, u: {"a": u["a"]}, ["a dict of 1", "a dict of 2"]),
        (lambda t, u: {"a": u["a"], "c": u["b"]}, ["a dict of 2", "same pytree"]),
        (lambda t, u: [u["a"], u["b"]], ["a list of 2", "a dict of 2"]),
        (lambda t, u: {"a": u["a"], "b": None}, ["returned None"]),
    ],
)
def test_what_f_returns_for_a_nest(f: Any, words: list[str]) -> None:
    u0 = {"a": torch.ones(2), "b": torch.ones(())}
    says(TypeError, lambda: pr.solve(pr.ODE(f), u0, GRID, fine=pr.RK4(), coarse=pr.Euler()), *words)


def test_a_derivative_on_another_device() -> None:
    problem = pr.ODE(lambda t, u: torch.empty_like(u, device="meta"), batching="native")
    says(
        ValueError,
        lambda: pr.solve(problem, U0, GRID, fine=pr.RK4(), coarse=pr.Euler()),
        "on meta",
        "on cpu",
        "move it",
    )


@pytest.mark.parametrize("batching", ["native", "fold", "loop", "vmap"])
def test_a_right_hand_side_that_works_in_place_is_refused(batching: Any) -> None:
    u0 = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"in place.*return a new tensor"):
        pr.solve(pr.ODE(lambda t, u: u.neg_(), batching), u0, GRID, fine=pr.Euler(), coarse=pr.Euler())


def test_a_propagator_that_works_in_place_is_refused() -> None:
    u0 = torch.ones(2, dtype=torch.float64)
    fine = pr.Propagator(lambda t0, t1, u: u.mul_(0.5))
    with pytest.raises(ValueError, match=r"in place.*return a new tensor"):
        pr.solve(pr.ODE(lambda t, u: -u), u0, GRID, fine=fine, coarse=pr.Euler())


def test_a_sparse_state_is_refused() -> None:
    with pytest.raises(TypeError, match=r"layout.*to_dense"):
        pr.serial(pr.ODE(lambda t, u: -u), torch.ones(2).to_sparse(), GRID, fine=pr.Euler())


@pytest.mark.parametrize("options", [{"rtol": float("inf")}, {"atol": float("inf")}])
def test_infinite_tolerances_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        pr.Tolerance(**options)


TRANSFORMS: dict[str, Any] = {
    "grad": torch.func.grad,
    "vmap": torch.func.vmap,
    "jvp": lambda f: lambda u: torch.func.jvp(f, (u,), (torch.ones_like(u),)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_of_torch_func_are_refused(transform: Any) -> None:
    def end(u: torch.Tensor) -> torch.Tensor:
        return pr.solve(pr.ODE(lambda t, u: -u), u, GRID, fine=pr.RK4(), coarse=pr.Euler()).u.sum()

    with pytest.raises(TypeError, match=r"inside a transform of torch\.func.*expected a plain tensor"):
        transform(end)(torch.ones(2, 3))


class Hidden:
    """A right-hand side whose parameter no search finds."""

    def __init__(self, rate: torch.Tensor) -> None:
        self.rate = iter([rate] * 100).__next__

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -self.rate() * u


@pytest.mark.parametrize(
    ("problem", "fine", "coarse"),
    [
        (lambda rate: pr.ODE(lambda t, u: -rate * u), pr.RK4(), pr.Euler()),
        (lambda rate: pr.ODE(lambda t, u: -rate * u, batching="loop"), pr.RK4(), pr.Euler()),
        (lambda rate: pr.ODE(lambda t, u: -rate * u), pr.ImplicitEuler(), pr.ImplicitEuler()),
        (lambda rate: pr.ODE(lambda t, u: -rate * u, linear=True), pr.RadauIIA(2), pr.Identity()),
        (lambda rate: pr.SemilinearODE(-1.0, lambda t, u: -rate * u), pr.ETDRK4(), pr.ExponentialEuler()),
        (lambda rate: pr.ODE(Hidden(rate)), pr.RK4(), pr.Euler()),
        (lambda rate: pr.ODE(Hidden(rate), batching="native"), pr.Heun(), pr.Zero()),
    ],
)
def test_a_solve_under_vmap_over_a_parameter_is_refused(problem: Any, fine: Any, coarse: Any) -> None:
    u0, rates = torch.ones(2), torch.tensor([1.0, 2.0])
    with pytest.raises(TypeError, match=r"solve was called inside of.*expected it outside.*per_sample=parameters"):
        torch.func.vmap(lambda rate: pr.solve(problem(rate), u0, GRID, fine=fine, coarse=coarse).u)(rates)
    with pytest.raises(TypeError, match="expected it outside"):
        torch.func.vmap(lambda rate: pr.serial(problem(rate), u0, GRID, fine=fine).u)(rates)


def test_a_solve_under_vmap_that_depends_on_nothing_of_it_runs() -> None:
    u0, rates = torch.ones(2), torch.tensor([1.0, 2.0])
    ref = pr.serial(pr.ODE(lambda t, u: -u), u0, GRID, fine=pr.RK4()).u
    found = torch.func.vmap(lambda a: a * pr.serial(pr.ODE(lambda t, u: -u), u0, GRID, fine=pr.RK4()).u)(rates)
    torch.testing.assert_close(found, rates[:, None] * ref)


def test_freeze_is_a_bool() -> None:
    with pytest.raises(TypeError, match="freeze='yes' is a str"):
        pr.Tolerance(freeze="yes")  # pyright: ignore
