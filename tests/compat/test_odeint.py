"""`odeint` has torchdiffeq's call and result: its own test problems, restated with their exact solutions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from torch import Tensor

import parareal as pr

D = torch.float64
EPS = float(torch.finfo(D).eps)
ADAPTIVE = {"dopri5": 1e-7, "dopri8": 1e-7, "bosh3": 1e-5, "fehlberg2": 1e-4, "adaptive_heun": 1e-3}
"""With tolerances that their orders can reach in a moment."""
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")


class Constant:
    """A straight line, to which all else is drawn or from which it flees: y' = a + (y - (a t + b))^5."""

    y0 = torch.tensor([3.2], dtype=D)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.2 + (y - (0.2 * t + 3.0)) ** 5

    def exact(self, t: Tensor) -> Tensor:
        return (0.2 * t + 3.0)[:, None]


class Sine:
    """y' = 2 y / t + t^4 sin 2t - t^2 + 4 t^3, from a polynomial times sine and cosine."""

    @property
    def y0(self) -> Tensor:
        return self.exact(torch.ones(1, dtype=D))[0]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3

    def exact(self, t: Tensor) -> Tensor:
        wave = -(t**4) * torch.cos(2 * t) / 2 + t**3 * torch.sin(2 * t) / 2 + t**2 * torch.cos(2 * t) / 4
        return (wave - t**3 + 2 * t**4 + (torch.pi - 0.25) * t**2)[:, None]


class Linear:
    """y' = A y, with A skew-symmetric: it turns and keeps its length."""

    y0 = torch.ones(10, dtype=D)

    def __init__(self) -> None:
        upper = 0.1 * torch.randn(10, 10, dtype=D, generator=torch.Generator().manual_seed(1))
        self.matrix = upper - upper.T

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return (self.matrix @ y.unsqueeze(-1)).squeeze(-1)

    def exact(self, t: Tensor) -> Tensor:
        return torch.matrix_exp((t - 1.0)[:, None, None] * self.matrix) @ self.y0


PROBLEMS = {"constant": Constant(), "sine": Sine(), "linear": Linear()}


def times(falling: bool, points: int = 10, end: float = 6.0) -> Tensor:
    t = torch.linspace(1.0, end, points, dtype=D)
    return t.flip(0) if falling else t


def off(y: Tensor, exact: Tensor, rtol: float, atol: float) -> float:
    """The largest error in units of what was asked."""
    return float(((y - exact).abs() / (atol + rtol * exact.abs())).max())


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", [None, *ADAPTIVE])
@pytest.mark.sweep(3)
def test_adaptive_methods_solve_torchdiffeqs_problems(method: str | None, problem: str, falling: bool) -> None:
    f, t, rtol = PROBLEMS[problem], times(falling), ADAPTIVE[method or "dopri5"]
    exact, tolerances = f.exact(t), {"rtol": rtol, "atol": rtol / 100}
    y, sol = pr.odeint(f, exact[0], t, method=method, return_solution=True, slices=16, **tolerances)
    fine = pr.TorchDiffEq(method or "dopri5", rtol, rtol / 100, {"step_t": sol.ts})
    assert off(sol.us, pr.serial(pr.ODE(f), exact[0], pr.TimeGrid.from_edges(sol.ts), fine=fine).us, **tolerances) <= 5
    theirs = torchdiffeq.odeint(f, exact[0], t, method=method, **tolerances)
    assert y.shape == theirs.shape == exact.shape
    assert torch.equal(y[0], exact[0])
    mine, reached = off(y, exact, **tolerances), off(theirs, exact, **tolerances)
    assert mine <= max(10.0, 5 * reached)  # a solver promises its tolerance in each step, not at the end
    assert off(y, theirs, **tolerances) <= max(20.0, 6 * reached)


@pytest.mark.parametrize("options", [None, {"step_size": 0.04}, {"step_size": 0.04, "interp": "cubic"}], ids=str)
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", FIXED)
@pytest.mark.sweep(30)
def test_fixed_steps_are_torchdiffeqs(method: str, problem: str, falling: bool, options: Any) -> None:
    f, t = PROBLEMS[problem], times(falling, 20, 2.0)
    if falling and problem == "constant":
        t = times(False, 20, 2.0)  # unstable at any step size, so that rounding decides
    y0 = f.exact(t)[0]
    y = pr.odeint(f, y0, t, method=method, options=options, rtol=1e-10, atol=1e-12)
    theirs = torchdiffeq.odeint(f, y0, t, method=method, options=options)
    assert off(y, theirs, 1e-10, 1e-12) <= 10


def test_the_points_of_a_grid_constructor_are_the_steps() -> None:
    points = torch.tensor([1.0, 1.1, 1.15, 1.4, 1.5, 1.8, 1.9, 2.0], dtype=D)
    options = {"grid_constructor": lambda f, y0, t: points}
    t = torch.tensor([1.0, 1.15, 1.6, 2.0], dtype=D)
    f = PROBLEMS["linear"]
    y = pr.odeint(f, f.y0, t, method="rk4", options=options, rtol=1e-12, atol=1e-12)
    assert off(y, torchdiffeq.odeint(f, f.y0, t, method="rk4", options=options), 1e-12, 1e-12) <= 10


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_tuples_give_tuples(method: str) -> None:
    def f(t: Tensor, y: tuple[Tensor, Tensor]) -> list[Tensor]:
        assert isinstance(y, tuple)
        assert t.ndim == 0
        return [-y[1] * y[0], t * y[0].sum() - y[1]]  # a list will do, as it does for torchdiffeq

    y0, t = (torch.ones(2, 3, dtype=D), torch.tensor(0.5, dtype=D)), torch.linspace(0, 1, 11, dtype=D)
    found, theirs = pr.odeint(f, y0, t, method=method), torchdiffeq.odeint(f, y0, t, method=method)
    assert isinstance(found, tuple)
    assert [leaf.shape for leaf in found] == [(11, 2, 3), (11,)]
    for a, b in zip(found, theirs, strict=True):
        assert off(a, b, 1e-7, 1e-9) <= 10


def test_time_has_the_dtype_of_the_state_and_times_may_have_any() -> None:
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, t.ndim))
        return -t * y

    y0 = torch.ones(2)
    results = [
        pr.odeint(f, y0, torch.tensor(t, dtype=dtype), rtol=1e-5, atol=1e-6)
        for t, dtype in (([0, 2], torch.int64), ([0.0, 2.0], torch.float32), ([0.0, 2.0], D))
    ]
    assert all(torch.equal(y, results[0]) for y in results)
    assert results[0].dtype == torch.float32
    assert seen == {(torch.float32, 0)}
    assert off(results[0][-1], torch.full((2,), np.exp(-2.0)), 1e-5, 1e-6) <= 10
    assert pr.odeint(lambda t, y: 1j * y, y0 + 0j, torch.tensor([0.0, 1.0]), rtol=1e-5).dtype == torch.complex64


def test_any_integrator_and_any_function() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2, dtype=D)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.inner(y)) * t

    torch.manual_seed(0)
    net, y0, t = Net(), torch.ones(2, dtype=D), torch.linspace(0, 2, 4, dtype=D)
    exact = torchdiffeq.odeint(net, y0, t, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        for method in (pr.RK4(steps=40), pr.SciPy("DOP853"), pr.TorchODE()):
            assert off(pr.odeint(net, y0, t, method=method), exact, 1e-7, 1e-9) <= 20

    def branches(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(t) < 0.5 and float(y[0]) > 0 else -2 * y

    y = pr.odeint(branches, y0, torch.tensor([0.0, 0.5, 1.0], dtype=D), batching="loop")
    assert off(y[-1], torch.full((2,), np.exp(-1.5)), 1e-7, 1e-9) <= 1e3  # across a jump at the very edge
    t = torch.linspace(0, 1, 30, dtype=D)
    with pytest.warns(UserWarning, match="lane by lane") as said:
        y = pr.odeint(branches, y0, t, method="rk4", slices=5)
    assert len(said) == 1
    assert off(y, torchdiffeq.odeint(branches, y0, t, method="rk4"), 1e-7, 1e-9) <= 10
    with pytest.raises(RuntimeError) as caught:
        pr.odeint(branches, y0, t, method="rk4", slices=5, batching="vmap")
    assert any('batching="loop"' in note for note in caught.value.__notes__)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_gradients_are_those_of_the_sequential_run(method: str) -> None:
    t = torch.linspace(0, 2, 9, dtype=D)

    def gradient(run: Callable[[Any, Tensor], Tensor]) -> tuple[Tensor, ...]:
        rate, y0 = torch.tensor(0.7, dtype=D, requires_grad=True), torch.tensor([1.0, 0.5], dtype=D, requires_grad=True)

        def f(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[1], -rate * torch.sin(y[0])]) * torch.cos(t)

        return torch.autograd.grad(run(f, y0).square().sum(), (rate, y0))

    def parallel(f: Any, y0: Tensor) -> Tensor:
        return pr.odeint(f, y0, t, method=method, atol=1e-12, rtol=1e-11, slices=8)

    def serial(f: Any, y0: Tensor) -> Tensor:
        fine = pr.TorchDiffEq("dopri5", 1e-11, 1e-12, {"step_t": t}) if method == "dopri5" else None
        if fine is None:
            return torchdiffeq.odeint(f, y0, t, method="rk4")
        return pr.serial(pr.ODE(f), y0, pr.TimeGrid.from_edges(t), fine=fine).us

    for found, expected in zip(gradient(parallel), gradient(serial), strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_rounds_are_fewer_and_the_solution_is_there() -> None:
    f, t = PROBLEMS["linear"], torch.tensor([1.0, 8.0], dtype=D)
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(t, y)

    torchdiffeq.odeint(counted, f.y0, t)
    y, sol = pr.odeint(f, f.y0, t, return_solution=True, slices=16)
    assert torch.equal(y[-1], sol.us[-1])
    assert len(sol.us) == 17
    assert sol.stats.rounds < 0.75 * calls
    steps = torch.linspace(1.0, 8.0, 401, dtype=D)
    _, sol = pr.odeint(f, f.y0, steps, method="rk4", return_solution=True)
    assert sol.stats.rounds < 0.3 * 4 * 400


@pytest.mark.parametrize(
    ("t", "slices", "edges"),
    [
        ([0.0, 1.0], 16, np.linspace(0, 1, 17)),
        ([0.0, 1.0], 1, [0.0, 1.0]),
        ([0.0, 0.3, 1.0], None, [0.0, 1.0]),
        ([1.0, 0.75, 0.0], 4, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ([0.0, 0.1, 1.0], 3, [0.0, 0.1, 0.4, 0.7, 1.0]),
        (np.linspace(0, 1, 21), 20, np.linspace(0, 1, 21)),
        (np.linspace(0, 1, 41), 4, np.linspace(0, 1, 5)),
    ],
)
def test_every_time_is_an_edge_and_long_intervals_are_cut(t: Any, slices: int | None, edges: Any) -> None:
    y0 = torch.ones(1, dtype=D)
    y, sol = pr.odeint(lambda t, y: -y, y0, torch.tensor(t, dtype=D), slices=slices, return_solution=True)
    np.testing.assert_allclose(sol.ts, edges, atol=4 * EPS)
    assert len(t) > len(edges) or set(t) <= set(sol.ts.tolist())
    assert off(y, torch.exp(t[0] - torch.tensor(t, dtype=D))[:, None], 1e-7, 1e-9) <= 10


def test_not_converging_raises() -> None:
    with pytest.raises(pr.SolveError, match="max_iterations"):
        pr.odeint(PROBLEMS["sine"], Sine().y0, times(False), max_iterations=1, schedule=pr.Barrier(), coarse=pr.Euler())
    with pytest.raises(pr.SolveError, match="NaN or Inf"):
        pr.odeint(lambda t, y: y**2, torch.ones(1, dtype=D), torch.tensor([0.0, 2.0]), rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"t": [0.0, 1.0]}, TypeError, ["t is a list", "torch.tensor"]),
        ({"t": torch.tensor([])}, ValueError, ["no time"]),
        ({"t": torch.tensor([0.0]), "dense": True}, ValueError, ["dense", "single time"]),
        ({"t": torch.zeros(2, 2)}, TypeError, ["shape (2, 2)", "one dimension"]),
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, ValueError, ["t[1]=1.0", "strictly"]),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, ValueError, ["t[1]=1.0 is followed by 0.5"]),
        ({"t": torch.tensor([0.0, float("nan")])}, ValueError, ["nan", "finite"]),
        ({"f": 3}, TypeError, ["f is an int"]),
        ({"y0": 1.0}, TypeError, ["u0 holds a float"]),
        ({"method": "dopri6"}, ValueError, ["'dopri6'", "'dopri5'", "pr.SciPy"]),
        ({"method": "adams"}, ValueError, ["'adams'", "'implicit_adams'"]),
        ({"method": 5}, TypeError, ["method is an int"]),
        ({"method": "implicit_adams", "slices": 4}, ValueError, ["'implicit_adams'", "step_size"]),
        ({"dense": 1}, TypeError, ["dense", "True or False"]),
        ({"event_fn": lambda t, y: y, "t": torch.tensor([0.0, 1.0, 2.0])}, ValueError, ["3 times", "two"]),
        ({"event_fn": lambda t, y: 1.0}, TypeError, ["event_fn returned a float"]),
        ({"event_fn": lambda t, y: y[:0]}, ValueError, ["empty", "(0,)"]),
        ({"event_fn": lambda t, y: y > 0}, TypeError, ["torch.bool"]),
        ({"event_fn": 1}, TypeError, ["event_fn is an int"]),
        ({"event_fn": lambda t, y: y[0] - 0.5, "method": "rk4"}, ValueError, ["step_size"]),
        ({"method": pr.RK4(), "options": {"a": 1}}, ValueError, ["options", "integrator"]),
        ({"method": "dopri5", "options": {"step_size": 1}}, ValueError, ["'step_size'", "'first_step'"]),
        ({"method": "rk4", "options": {"first_step": 1}}, ValueError, ["'first_step'", "'step_size'"]),
        ({"method": "rk4", "options": {"step_size": -1.0}}, ValueError, ["step_size=-1.0"]),
        ({"method": "rk4", "options": {"step_size": "a"}}, TypeError, ["step_size='a'"]),
        ({"method": "rk4", "options": {"interp": "quintic"}}, ValueError, ["'quintic'", "'cubic'"]),
        ({"method": "rk4", "options": [1]}, TypeError, ["list", "dict"]),
        (
            {"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}},
            ValueError,
            ["step_size and grid_constructor"],
        ),
        ({"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[:1]}}, ValueError, ["both included"]),
        ({"slices": 0}, ValueError, ["slices=0"]),
        ({"rtol": -1.0}, ValueError, ["rtol=-1.0"]),
        ({"return_solution": 1}, TypeError, ["return_solution", "True or False"]),
        ({"executor": 4}, TypeError, ["executor", "pr.Batched()"]),
        ({"batching": "all"}, ValueError, ["'all'", "'loop'"]),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    given: dict[str, Any] = {"f": lambda t, y: -y, "y0": torch.ones(2), "t": torch.tensor([0.0, 1.0])} | arguments
    with pytest.raises(error) as caught:
        pr.odeint(given.pop("f"), given.pop("y0"), given.pop("t"), **given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# --- callbacks -------------------------------------------------------------------------------------------------------

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


class Noting:
    """A right-hand side, on a tensor or a pair, that notes which of its callbacks are called, with what."""

    def __init__(self, *names: str) -> None:
        self.calls: list[tuple[str, Any, Any, Any]] = []
        for name in names:
            setattr(self, name, lambda t0, y0, dt, name=name: self.calls.append((name, t0, y0, dt)))

    def __call__(self, t: Tensor, y: Any) -> Any:
        return (torch.cos(t) * y[0], y[0][:1] - y[1]) if isinstance(y, tuple) else torch.cos(t) * y


@pytest.mark.parametrize("nest", ["tensor", "pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(
    "options",
    [None, {"step_size": 0.3}, {"grid_constructor": lambda f, y, t: torch.cat([t[:1], (t[:1] + t[1:]) / 2, t[-1:]])}],
)
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_the_callback_of_steps_is_called_as_torchdiffeq_calls_it(
    method: str, options: Any, falling: bool, dtype: torch.dtype, nest: str
) -> None:
    t = torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=dtype)
    t = 2.0 - t if falling else t
    y0: Any = torch.tensor([1.0, -2.0], dtype=dtype)
    y0 = (y0, y0[:1].clone()) if nest == "pair" else y0
    ours, theirs = Noting("callback_step"), Noting("callback_step")
    pr.odeint(ours, y0, t, method=method, options=options, slices=3)
    torchdiffeq.odeint(theirs, y0, t, method=method, options=options and dict(options))
    assert len(ours.calls) == len(theirs.calls) >= 3
    rtol = 1e-5 if dtype == torch.float32 else 1e-6
    for (_, *mine), (_, *other) in zip(ours.calls, theirs.calls, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("method", "called"), [("rk4", ("callback_step",)), (None, ()), ("bosh3", ()), (pr.RK4(steps=2), ())]
)
def test_callbacks_that_are_not_called_are_named_in_one_warning(method: Any, called: tuple[str, ...]) -> None:
    names = (*CALLBACKS, *(f"{name}_adjoint" for name in CALLBACKS))
    f, t = Noting(*names), torch.tensor([0.0, 0.5, 1.0])
    with pytest.warns(UserWarning, match="does not call") as said:
        pr.odeint(f, torch.ones(2), t, method=method, rtol=1e-3, slices=4)
    (warning,) = said
    assert warning.filename == __file__
    listed = str(warning.message).split(", which")[0].removeprefix("f has ").split(", ")
    assert listed == [name for name in names if name not in called]
    assert {name for name, *_ in f.calls} == set(called)


def test_without_callbacks_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("rk4", None):
            pr.odeint(Noting(), torch.ones(2), torch.tensor([0.0, 1.0]), method=method, rtol=1e-3)
