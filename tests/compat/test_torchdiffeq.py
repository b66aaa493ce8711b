"""What torchdiffeq's users call, each call made to torchdiffeq itself as well."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr
from parareal.compat import _one_lane

D = torch.float64
Y0 = torch.tensor([1.0, -0.5], dtype=D)


class Counted:
    def __init__(self) -> None:
        self.calls = 0
        self.rate = torch.tensor(1.3, dtype=D, requires_grad=True)

    def __call__(self, t: Tensor, y: Any) -> Any:
        self.calls += 1
        if isinstance(y, tuple):
            return tuple(-part * torch.cos(t) for part in y)
        return torch.stack([y[..., 1], -self.rate.to(y.dtype) * torch.sin(y[..., 0]) + torch.cos(t)], -1)


def same(found: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(*((x,) if isinstance(x, Tensor) else x for x in (found, expected)), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- one lane --------------------------------------------------------------------------------------------------------


@given(
    method=st.sampled_from(["dopri5", "bosh3", "adaptive_heun"]),
    inner=st.lists(st.floats(0.01, 0.99), max_size=6, unique=True),
    span=st.sampled_from([(0.0, 1.5), (1.0, -0.4)]),
    nest=st.sampled_from(["tensor", "scalar", "pair", "mixed", "wide"]),
    norm=st.booleans(),
)
def test_a_call_is_torchdiffeqs(method: str, inner: Any, span: Any, nest: str, norm: bool) -> None:
    t = torch.tensor([0.0, *sorted(inner), 1.0], dtype=D) * (span[1] - span[0]) + span[0]
    pair = (torch.ones(2, dtype=D), torch.tensor(0.5, dtype=D))
    y0: Any = {
        "tensor": Y0,
        "scalar": torch.tensor(0.7, dtype=D),
        "pair": pair,
        "mixed": (torch.ones(2), pair[1]),
        "wide": Y0.expand(3, 2),
    }[nest]

    def f(t: Tensor, y: Any) -> Any:
        counts[0] += 1
        return tuple(-p * torch.cos(3 * t) for p in y) if isinstance(y, tuple) else -y * torch.cos(3 * t)

    options = {"norm": lambda y: max(p.abs().max() for p in (y if isinstance(y, tuple) else (y,)))} if norm else None
    given = {"method": method, "rtol": 1e-4, "atol": 1e-6, "options": options}
    counts = [0]
    expected = torchdiffeq.odeint(f, y0, t, **given)
    theirs, counts[0] = counts[0], 0
    found = pr.odeint(f, y0, t, **given)
    assert counts[0] == theirs
    same(found, expected, 1e-8)


@pytest.mark.parametrize("batching", ["auto", "vmap", "loop"])
def test_single_times_and_falling_times_and_names_of_arguments(batching: Any) -> None:
    f = Counted()
    for t in (torch.tensor([0.3], dtype=D), torch.tensor([1.0, 0.2], dtype=D), torch.tensor([0.0, 0.5, 1.0])):
        found = pr.odeint(func=f, y0=Y0, t=t, batching=batching)
        same(found.detach(), torchdiffeq.odeint(func=f, y0=Y0, t=t).detach(), 1e-9)
    near = torch.tensor([1.0, 1.0 + 1e-15], dtype=D)
    same(pr.odeint(f, Y0, near), torchdiffeq.odeint(f, Y0, near), 1e-12)


class Noting(Counted):
    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, float, float]] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return -20 * y * torch.cos(3 * t)

    def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.noted.append(("step", float(t0), float(dt)))

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.noted.append(("accept", float(t0), float(dt)))

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.noted.append(("reject", float(t0), float(dt)))


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_callbacks_of_one_lane_are_called_as_torchdiffeq_calls_them(end: float) -> None:
    theirs, ours, t = Noting(), Noting(), torch.tensor([0.0, end], dtype=D)
    torchdiffeq.odeint(theirs, Y0, t)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pr.odeint(ours, Y0, t)
    assert [name for name, *_ in ours.noted] == [name for name, *_ in theirs.noted]
    assert {name for name, *_ in ours.noted} == {"step", "accept", "reject"}
    for (_, *mine), (_, *other) in zip(ours.noted, theirs.noted, strict=True):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_a_call_that_cannot_go_on_keeps_what_it_has() -> None:
    t = torch.linspace(0.0, 2.0, 9, dtype=D)
    with pytest.raises(pr.SolveError, match=r"underflowed at t=1\.0") as caught:
        pr.odeint(lambda t, y: y**2, torch.ones(1, dtype=D), t, rtol=1e-4, atol=1e-6)
    solution = caught.value.solution
    assert solution.status is pr.Status.NONFINITE
    known = solution.ts < 1.0
    torch.testing.assert_close(solution.us[known, 0], 1 / (1 - solution.ts[known]), rtol=1e-2, atol=0.0)
    assert int(known.sum()) == 4


# --- every method ----------------------------------------------------------------------------------------------------

FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
IMPLICIT = {
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoid": 2,
    "sdirk2": 2,
    "trbdf2": 2,
    "gl2": 2,
    "radauIIA3": 3,
    "gl4": 4,
    "radauIIA5": 5,
    "gl6": 6,
}


@pytest.mark.parametrize("end", [1.5, -1.0])
@pytest.mark.parametrize(
    "options", [None, {"step_size": 0.07, "perturb": True}, {"step_size": 0.07, "interp": "cubic"}]
)
@pytest.mark.parametrize("method", [*FIXED, "explicit_adams", "implicit_adams", "scipy_solver"])
@pytest.mark.sweep(16)
def test_methods_of_torchdiffeq_are_there(method: str, options: Any, end: float) -> None:
    t, f = torch.linspace(0.0, end, 12, dtype=D), Counted()
    options = None if method == "scipy_solver" else options
    with torch.no_grad():
        rtol = 1e-6 if method.endswith("adams") else 1e-9  # where functional iteration still converges
        found = pr.odeint(f, Y0, t, method=method, options=options, rtol=rtol, atol=rtol / 100)
        expected = torchdiffeq.odeint(f, Y0, t, method=method, options=options, rtol=rtol, atol=rtol / 100)
    same(found, expected, 1e-8)


@pytest.mark.parametrize(("method", "order"), list(IMPLICIT.items()))
def test_implicit_methods_have_their_orders(method: str, order: int) -> None:
    t, f = torch.tensor([0.0, 1.0], dtype=D), Counted()
    with torch.no_grad():
        exact = torchdiffeq.odeint(f, Y0, t, rtol=1e-12, atol=1e-13)[-1]

        def error(h: float) -> float:
            y = pr.odeint(f, Y0, t, method=method, options={"step_size": h}, rtol=1e-12, atol=1e-13)
            return float((y[-1] - exact).norm())

        h = 0.5 if order > 4 else 0.125
        assert torch.log2(torch.tensor(error(h) / error(h / 2))) > order - 0.4


@pytest.mark.parametrize("method", ["explicit_adams", "scipy_solver"])
def test_methods_with_a_history_restart_in_slices_that_are_asked_for(method: str) -> None:
    t, f = torch.tensor([0.0, 0.5, 1.5], dtype=D), Counted()
    options = {"step_size": 0.01} if method == "explicit_adams" else None
    y, sol = pr.odeint(f, Y0, t, method=method, options=options, slices=4, return_solution=True, rtol=1e-8, atol=1e-10)
    assert len(sol.ts) > 4
    torch.testing.assert_close(y.detach(), torchdiffeq.odeint(f, Y0, t).detach(), rtol=1e-4, atol=1e-5)


def test_branches_on_time_are_called_lane_by_lane_with_one_warning() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y if float(t) < 0.5 else -2 * y

    t = torch.linspace(0.0, 1.0, 9, dtype=D)
    with pytest.warns(UserWarning, match="lane by lane") as said:
        found = pr.odeint(f, Y0, t, method="rk4", slices=4)
    assert len(said) == 1
    same(found, torchdiffeq.odeint(f, Y0, t, method="rk4"), 1e-9)


def test_checkpoints_and_autocast_in_f() -> None:
    from torch.utils.checkpoint import checkpoint

    rate = torch.tensor(0.7, dtype=D, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Any:
        return checkpoint(lambda y: -rate * torch.sin(y), y, use_reentrant=False)

    t = torch.linspace(0.0, 1.0, 9, dtype=D)
    with pytest.warns(UserWarning, match="lane by lane"):
        (found,) = torch.autograd.grad(pr.odeint(f, Y0, t, method="rk4", slices=4).sum(), rate)
    (expected,) = torch.autograd.grad(torchdiffeq.odeint(f, Y0, t, method="rk4").sum(), rate)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    net, y0 = torch.nn.Linear(2, 2), torch.ones(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for method in ("rk4", "dopri5"):
            assert pr.odeint(lambda t, y: net(y), y0, t, method=method, rtol=1e-2, atol=1e-2).dtype == torch.float32


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [None, {"step_size": 0.13}, {"step_size": 0.13, "interp": "cubic"}])
@pytest.mark.parametrize("points", [[0.0, 0.4, 0.7, 1.2], [1.0, 0.3, -0.2]])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "bosh3"])
@pytest.mark.sweep(14)
def test_gradients_with_respect_to_everything_are_torchdiffeqs(method: str, points: Any, options: Any) -> None:
    options = None if method in ("dopri5", "bosh3") else options

    def gradient(odeint: Any, **more: Any) -> tuple[Tensor, ...]:
        f, y0 = Counted(), Y0.clone().requires_grad_()
        t = torch.tensor(points, dtype=D, requires_grad=True)
        y = odeint(f, y0, t, method=method, options=options, **more)
        weights = torch.arange(1.0, y.numel() + 1, dtype=D).reshape(y.shape)
        return torch.autograd.grad((weights * y).sum(), (y0, t, f.rate))

    rtol = 1e-6 if method == "bosh3" else 1e-8
    expected = gradient(torchdiffeq.odeint, rtol=rtol, atol=rtol / 100)
    fixed = method in ("euler", "rk4")
    for more in ({}, {"slices": 3}):
        found = gradient(pr.odeint, rtol=1e-10 if fixed else rtol, atol=1e-12 if fixed else rtol / 100, **more)
        close = 1e-9 if fixed else 1e-2 if method == "bosh3" else 1e-5
        torch.testing.assert_close(found, expected, rtol=close, atol=10 * close)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_derivatives_pass_gradcheck(method: str) -> None:
    t = torch.tensor([0.0, 0.4, 1.0], dtype=D, requires_grad=True)
    y0 = Y0.clone().requires_grad_()

    def run(y0: Tensor, t: Tensor) -> Tensor:
        return pr.odeint(Counted(), y0, t, method=method, rtol=1e-10, atol=1e-12)

    assert torch.autograd.gradcheck(run, (y0, t), atol=1e-5)


# --- slices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [3, 40])
@pytest.mark.parametrize("falling", [False, True])
def test_slices_give_the_same_states(points: int, falling: bool) -> None:
    t = torch.linspace(0.0, 5.0, points, dtype=D)
    t, f = t.flip(0) if falling else t, Counted()
    with torch.no_grad():
        exact = torchdiffeq.odeint(f, Y0, t, rtol=1e-11, atol=1e-12)
        y, sol = pr.odeint(f, Y0, t, slices=8, return_solution=True)
        error = (y - exact).abs().max()
        assert error <= 10 * (torchdiffeq.odeint(f, Y0, t) - exact).abs().max()
        assert len(sol.ts) == 9
        dense = pr.odeint(f, Y0, t, slices=8, dense=True)
        torch.testing.assert_close(dense(t), exact, rtol=1e-5, atol=1e-5)


def test_long_calls_may_go_on_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parareal.compat._odeint.goes_on_in_parallel", lambda args: True)
    monkeypatch.setattr(_one_lane, "MANY", 8)
    t, f = torch.linspace(0.0, 8.0, 5, dtype=D, requires_grad=True), Counted()
    expected = torchdiffeq.odeint(f, Y0, t)
    y, sol = pr.odeint(f, Y0, t, return_solution=True)
    assert sol.iterations > 0
    assert sol.ts[0] > 0
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    (found,), (wanted,) = (torch.autograd.grad(out.sum(), t) for out in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    dense = pr.odeint(f, Y0, t.detach(), dense=True)
    torch.testing.assert_close(dense(t.detach()), expected.detach(), rtol=1e-5, atol=1e-5)


# --- dense output ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_midpoint", "explicit_adams"])
def test_a_solution_can_be_called_anywhere(method: str) -> None:
    t, f = torch.tensor([0.2, 1.7], dtype=D), Counted()
    options = None if method == "dopri5" else {"step_size": 0.01}
    at = torch.linspace(0.2, 1.7, 23, dtype=D)
    with torch.no_grad():
        exact = torchdiffeq.odeint(f, Y0, at, rtol=1e-11, atol=1e-12)
        dense = pr.odeint(f, Y0, t, method=method, options=options, dense=True)
        torch.testing.assert_close(dense(at), exact, rtol=1e-4, atol=1e-4)
        if method == "dopri5":
            theirs = torchdiffeq.odeint(f, Y0, at)
            torch.testing.assert_close(dense(at), theirs, rtol=1e-10, atol=1e-11)
    assert dense(0.5).shape == (2,)
    assert dense(at.reshape(23, 1)).shape == (23, 1, 2)
    with pytest.raises(ValueError, match=r"t=1\.8 lies outside"):
        dense(1.8)
    with pytest.raises(TypeError, match="a time or a tensor"):
        dense("now")


# --- events ----------------------------------------------------------------------------------------------------------


def crossing(t: Tensor, y: Tensor) -> Tensor:
    return y[0] - 0.2 * t


def several(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[0] + 0.5, y[1] + 0.7])


@pytest.mark.parametrize("given", [{}, {"slices": 4}, {"method": "rk4", "options": {"step_size": 0.02}}], ids=str)
@pytest.mark.parametrize("event_fn", [crossing, several])
@pytest.mark.parametrize("reverse", [False, True])
def test_events_and_their_derivatives_are_torchdiffeqs(given: dict[str, Any], event_fn: Any, reverse: bool) -> None:
    def event(odeint_event: Any, **more: Any) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        f, y0 = Counted(), Y0.clone().requires_grad_()
        t0 = torch.tensor(0.1, dtype=D, requires_grad=True)
        more = {"rtol": 1e-9, "atol": 1e-9, **more}
        t, y = odeint_event(f, y0, t0, event_fn=event_fn, reverse_time=reverse, **more)
        return t.detach(), y.detach(), torch.autograd.grad(2 * t + y.sum(), (y0, t0, f.rate))

    theirs = {key: value for key, value in given.items() if key != "slices"}
    torch.testing.assert_close(
        event(pr.odeint_event, **given), event(torchdiffeq.odeint_event, **theirs), rtol=1e-6, atol=1e-6
    )


def test_events_on_pairs_by_any_interface_and_at_the_start() -> None:
    def fall(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], torch.full_like(y[1], -9.81)

    y0, t0 = (torch.tensor([2.0], dtype=D), torch.zeros(1, dtype=D)), torch.tensor(0.0, dtype=D)
    given: dict[str, Any] = {"event_fn": lambda t, y: y[0]}
    expected = torchdiffeq.odeint_event(fall, y0, t0, **given)
    for interface in (pr.odeint, torchdiffeq.odeint):
        t, y = pr.odeint_event(fall, y0, t0, odeint_interface=interface, **given)
        torch.testing.assert_close((t, *y), (expected[0], *expected[1]), rtol=1e-8, atol=1e-8)
    for more in ({}, {"slices": 4}):
        t, y = pr.odeint_event(fall, y0, t0, event_fn=lambda t, y: y[1], **more)
        assert float(t) == 0.0
        assert torch.equal(y[0][1], y0[0])


def test_parameters_of_the_event_have_derivatives() -> None:
    level = torch.tensor(0.3, dtype=D, requires_grad=True)
    t, _ = pr.odeint_event(
        lambda t, y: -y, torch.ones(1, dtype=D), torch.tensor(0.0, dtype=D), event_fn=lambda t, y: y - level
    )
    (slope,) = torch.autograd.grad(t, level)
    assert float(t.detach()) == pytest.approx(-float(level.detach().log()), abs=1e-6)
    assert float(slope) == pytest.approx(-1 / 0.3, rel=1e-6)


@pytest.mark.parametrize("given", [{}, {"slices": 4}], ids=str)
def test_an_event_that_never_comes_ends_with_a_status(given: Any) -> None:
    with pytest.raises(pr.SolveError, match="No event came") as caught:
        pr.odeint_event(
            Counted(), Y0, torch.tensor(0.0, dtype=D), event_fn=lambda t, y: y[0] + 50, rtol=1e-3, atol=1e-5,
            method="dopri5", options={"max_num_steps": 60}, **given,
        )  # fmt: skip
    solution = caught.value.solution
    assert solution.status is pr.Status.NO_EVENT
    assert solution.ts[1] > 5
    assert torch.isfinite(solution.us).all()
    start = torch.tensor(0.0, dtype=D)
    with pytest.raises(pr.SolveError, match=r"no event up to t=.*underflowed at t=(0\.99|1\.0)"):
        pr.odeint_event(
            lambda t, y: y**2, torch.ones(1, dtype=D), start, event_fn=lambda t, y: y[0] + 50, rtol=1e-3, **given
        )
