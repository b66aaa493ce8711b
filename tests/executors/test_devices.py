"""Lanes over several devices of one process. Here the devices are the CPU twice, or the one that holds no values."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, corrections, equal
from torch import Tensor, nn

import parareal as pr
from parareal.executors._multi_device import replica

META = torch.device("meta")
GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=5)
U0 = torch.linspace(0.5, 1.5, 4)
GLOBAL = nn.Linear(4, 4)


def solve(f: Callable[..., Any], u0: Tensor = U0, **options: Any) -> pr.Solution:
    options = {"fine": pr.RK4(), "coarse": pr.Euler(), "stop": pr.Iterations(3), **options}
    return pr.solve(pr.ODE(f), u0, GRID, **options)


@given(cases(), corrections(), st.integers(1, 3), st.sampled_from((None, 1, 2)))
def test_it_is_the_run_of_one_device(case: Case, coarse: pr.Correction, devices: int, max_lanes: int | None) -> None:
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": pr.Iterations(3), "throw": False}
    # Lane by lane on either side: what a lane gives may depend on the lanes beside it, by rounding.
    problem = pr.ODE(case.problem.f, batching="loop")
    one = pr.solve(problem, case.u0, case.grid, executor=pr.Serial(), **options)
    executor = pr.Batched(max_lanes, devices=["cpu"] * devices)
    many = pr.solve(problem, case.u0, case.grid, executor=executor, **options)
    torch.testing.assert_close(many.us, one.us, rtol=0.0, atol=0.0, equal_nan=True)
    assert many.stats.rounds == one.stats.rounds
    assert many.stats.evaluations == one.stats.evaluations


def test_a_round_is_split_evenly_over_threads() -> None:
    seen: list[tuple[str, int]] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.append((threading.current_thread().name, len(u)))
        return -u

    problem = pr.ODE(f, batching="native")
    executor = pr.Batched(devices=["cpu"] * 3)
    sol = pr.solve(problem, U0, GRID, fine=pr.Euler(), coarse=pr.Zero(), stop=pr.Iterations(1), executor=executor)
    assert sol.stats.calls == sol.stats.rounds == 5
    assert [lanes for _, lanes in seen] == [2] * 15  # five rounds of six slices
    assert sum(name == threading.main_thread().name for name, _ in seen) == 5
    assert executor.calls(6) == 1
    assert pr.Batched(1, devices=["cpu"] * 3).calls(6) == 2


def test_threads_see_what_is_set_for_the_caller() -> None:
    grads, casts = set[bool](), set[bool]()

    def f(t: Tensor, u: Tensor) -> Tensor:
        grads.add(torch.is_grad_enabled())
        casts.add(torch.is_autocast_enabled("cpu"))
        return -u

    for grad in (False, True):
        grads.clear()
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
            solve(f, executor=pr.Batched(devices=["cpu", "cpu"]))
        assert grads == {grad}
    assert casts == {True}


class Owner:
    """Something that has a model, and not the model itself."""

    def __init__(self) -> None:
        self.nets = {"a": [nn.Linear(4, 4)]}
        self.name = "owner"

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        return self.nets["a"][0](u)

    def method(self, t: Tensor, u: Tensor) -> Tensor:
        return self(t, u)


def closure() -> Callable[..., Any]:
    net, scale = nn.Linear(4, 4), torch.ones(4)
    inner = lambda u: net(u) * scale  # noqa: E731
    return lambda t, u: inner(u)


def default() -> Callable[..., Any]:
    def f(t: Tensor, u: Tensor, net: nn.Module = nn.Linear(4, 4), *, scale: Tensor = torch.ones(4)) -> Tensor:
        return net(u) * scale

    return f


def of_a_global(t: Tensor, u: Tensor) -> Tensor:
    return [GLOBAL(v) for v in (u,)][0]  # noqa: RUF015  in code of its own


class Hidden(nn.Module):
    """A module that holds another where its ``to`` does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = {"a": [nn.Linear(4, 4)]}

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.nets["a"][0](u)


class Named(NamedTuple):
    net: nn.Module


@dataclasses.dataclass(slots=True)
class Slotted:
    net: nn.Module


def in_a(container: Any) -> Callable[..., Tensor]:
    return lambda t, u: next(iter(container))(u)


MADE = {
    "set": lambda: in_a({nn.Linear(4, 4)}),
    "frozen set": lambda: in_a(frozenset({nn.Linear(4, 4)})),
    "deque": lambda: in_a(collections.deque([nn.Linear(4, 4)])),
    "named tuple": lambda: in_a(Named(nn.Linear(4, 4))),
    "ordered dictionary": lambda: functools.partial(
        lambda nets, t, u: nets["a"](u), collections.OrderedDict(a=nn.Linear(4, 4))
    ),
    "hidden": Hidden,
    "slots": lambda: functools.partial(lambda one, t, u: one.net(u), Slotted(nn.Linear(4, 4))),
    "module": lambda: functools.partial(lambda net, t, u: net(u), nn.Linear(4, 4)),
    "closure": closure,
    "default": default,
    "global": lambda: of_a_global,
    "object": Owner,
    "method": lambda: Owner().method,
    "problem": lambda: pr.ODE(closure(), batching="native").rhs,
}


@pytest.mark.parametrize("name", MADE)
def test_a_replica_holds_nothing_of_the_original(name: str) -> None:
    f = MADE[name]()
    t, u = torch.zeros(3), torch.randn(3, 4)
    there, again = replica(f, META), replica(f, torch.device("cpu"))
    assert there(t.to(META), u.to(META)).device == META  # would raise if anything of it lay on the CPU
    assert again is not f
    assert equal(again(t, u), f(t, u))
    assert f(t, u).device.type == "cpu"


def test_what_holds_no_tensor_is_not_copied() -> None:
    calls: list[int] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls.append(1)
        return -u

    assert replica(f, META) is f


def test_weights_are_copied_anew_in_each_run() -> None:
    net = nn.Linear(4, 4)
    two = pr.Batched(devices=["cpu", "cpu"])
    with torch.no_grad():
        for _ in range(2):
            # Products of matrices round as their number of rows decides.
            torch.testing.assert_close(solve(lambda t, u: net(u), executor=two).us, solve(lambda t, u: net(u)).us)
            net.weight.mul_(0.5)


def test_an_exception_in_a_thread_comes_through_with_what_was_computed() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError("there")
        return -u

    with pytest.raises(ZeroDivisionError, match="there") as caught:
        solve(f, executor=pr.Batched(devices=["cpu", "cpu"]))
    assert caught.value.solution.status is pr.Status.INTERRUPTED  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if "parareal-device" in thread.name]


def test_gradients_would_go_to_the_copies() -> None:
    net = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"would go to copies of the model on cpu; expected the call under torch\.no"):
        solve(lambda t, u: net(u), executor=pr.Batched(devices=["cpu", "cpu"]))


@pytest.mark.parametrize(
    ("devices", "kind", "words"),
    [
        ("cpu", TypeError, r"devices='cpu' is a str; expected a list"),
        (2, TypeError, "devices=2 is an int; expected a list"),
        ([], ValueError, "devices is empty; expected at least one"),
        (["cpu", "nowhere"], ValueError, "devices has 'nowhere', which cannot be used here"),
        (["cuda:99"], ValueError, "devices has 'cuda:99', which cannot be used here"),
    ],
)
def test_devices_are_checked(devices: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        pr.Batched(devices=devices)


def test_the_state_lies_on_the_first() -> None:
    with pytest.raises(ValueError, match=r"the state lies on cpu, which is not among devices=\[meta\]"):
        solve(lambda t, u: -u, executor=pr.Batched(devices=["meta"]))
    with pytest.raises(ValueError, match=r"the state lies on cpu, which is not the first of devices=\['meta', 'cpu'\]"):
        solve(lambda t, u: -u, executor=pr.Batched(devices=["meta", "cpu"]))


class Scaled(pr.ODE):
    """With a signature, attributes and slots of its own, of which it is not pickled."""

    __slots__ = ("__sign",)

    def __init__(self, rate: Tensor, linear: bool) -> None:
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "_Scaled__sign", -1.0)
        super().__init__(lambda t, u: u, linear=linear)

    def rhs(self, t: Tensor, u: Tensor, rows: Any = None) -> Tensor:
        return self._Scaled__sign * self.rate * super().rhs(t, u, rows)  # pyright: ignore


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]])
def test_a_problem_of_ones_own_loses_nothing_where_it_is_copied(linear: bool, devices: Any) -> None:
    problem, u0 = Scaled(torch.tensor([1.0, 100.0], dtype=torch.float64), linear), torch.ones(2, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=3)
    options: dict[str, Any] = {"fine": pr.ImplicitEuler(), "coarse": pr.ImplicitEuler(), "stop": pr.Iterations(4)}
    sol = pr.solve(problem, u0, grid, executor=pr.Batched(devices=devices), **options)
    torch.testing.assert_close(sol.u, (1 + problem.rate / 12) ** -12.0)  # pyright: ignore


def test_copies_share_what_a_run_keeps_of_a_linear_problem() -> None:
    rates = torch.tensor([1.0, 100.0, 1e4], dtype=torch.float64)
    problem, u0 = pr.ODE(lambda t, u: -rates * u, linear=True), torch.ones(3, dtype=torch.float64)
    fine, executor = pr.RadauIIA(2), pr.Batched(devices=["cpu", "cpu"])
    sol = pr.solve(problem, u0, GRID, fine=fine, coarse=pr.ImplicitEuler(), executor=executor)
    z = -rates * 2.0 / 30
    step = (1 + z / 3) / (1 - 2 * z / 3 + z**2 / 6)
    torch.testing.assert_close(sol.us, step ** (5.0 * torch.arange(7)[:, None]), rtol=1e-3, atol=1e-6)
    kept: Any = problem.bind(u0, GRID, fine)
    made: Any = replica(kept.rhs, META).__self__  # pyright: ignore[reportFunctionMemberAccess]
    kept.derivatives.kept.matrix("here", lambda: rates)
    assert made is not kept
    assert made.derivatives.kept is kept.derivatives.kept
    assert replica(kept.rhs, META).__self__.derivatives.kept is made.derivatives.kept  # pyright: ignore


class Marked(pr.Propagator):
    """A propagator with an attribute that is not pickled."""

    scale: float

    def propagate(self, t0: Tensor, t1: Tensor, u: Tensor, rows: Any = None) -> Tensor:
        return self.scale * super().propagate(t0, t1, u, rows)


def test_a_method_and_a_captured_function_lose_nothing_either() -> None:
    rate = torch.tensor(0.5)
    method = Marked(lambda t0, t1, u: u * rate, "native")
    object.__setattr__(method, "scale", 2.0)
    sol = pr.solve(
        pr.ODE(of_a_global), U0, GRID, fine=method, coarse=pr.Zero(), executor=pr.Batched(devices=["cpu"] * 2)
    )
    assert torch.equal(sol.u, U0)
    captured: Any = pr.Captured(lambda t, u: rate * u)
    captured.label = "mine"
    made: Any = replica(captured, META)
    assert made.label == "mine"
    assert made._held is not captured._held


def test_a_pickled_problem_is_what_it_was() -> None:
    problem = pr.ODE(of_a_global, "native", linear=True)
    again = pickle.loads(pickle.dumps(problem))
    assert (again.f, again.batching, again.linear) == (of_a_global, "native", True)
    assert again.derivatives.kept is None
