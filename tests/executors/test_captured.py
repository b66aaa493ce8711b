"""`pr.Captured`: calls are replayed as graphs do it, on a recorder that traces the operations of a call on the CPU."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from graphs import Traced
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import diffusion_adapters as da
import parareal as pr
from parareal.executors import _captured


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the recorder did."""
    notes: list[str] = []
    monkeypatch.setattr(_captured, "RECORDER", lambda: Traced(notes))
    return notes


def test_a_call_is_captured_once_for_each_shape(log: list[str]) -> None:
    calls: list[int] = []

    def f(t: Tensor, u: Tensor, power: int = 1) -> Tensor:
        calls.append(len(u))
        return (t[:, None] + u) ** power

    g = pr.Captured(f)
    kept = []
    for i in range(6):
        n = 2 + i % 2
        t, u = torch.rand(n), torch.rand(n, 3)
        kept.append((g(t, u), (t[:, None] + u)))
    assert g.graphs == 2
    assert calls == [2, 2, 2, 3, 3, 3]  # twice to warm up, and once recorded
    assert log.count("record") == 2
    assert log.count("replay") == 6
    for value, expected in kept:  # later replays do not overwrite what was returned
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(g(t, u, power=2), (t[:, None] + u) ** 2)
    torch.testing.assert_close(g(t, u, power=2.0), (t[:, None] + u) ** 2)
    assert g.graphs == 4  # what is no tensor is part of the graph
    torch.testing.assert_close(g(t.double(), u), t[:, None].double() + u)
    assert g.graphs == 5
    g.forget()
    assert g.graphs == 0


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    nested=st.booleans(),
    expanded=st.booleans(),
)
def test_values_are_those_of_the_function(seed: int, sizes: list[int], nested: bool, expanded: bool) -> None:
    before, _captured.RECORDER = _captured.RECORDER, lambda: Traced([])
    try:
        w = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))

        def f(t: Tensor, u: Any) -> Any:
            new = tree_map(lambda leaf: torch.tanh(leaf @ w) + t[:, None], u)
            return {"a": new, "b": (t,)} if nested else new

        g = pr.Captured(f)
        generator = torch.Generator().manual_seed(seed + 1)
        for n in sizes:
            t = torch.rand(1, generator=generator).expand(n) if expanded else torch.rand(n, generator=generator)
            u: Any = torch.rand(n, 3, generator=generator)
            u = [u, (2 * u,)] if nested else u
            torch.testing.assert_close(g(t, u), f(t, u))
        assert g.graphs == len({*sizes})
    finally:
        _captured.RECORDER = before


def test_parameters_may_change_in_place(log: list[str]) -> None:
    network = nn.Linear(3, 3).requires_grad_(False)
    g, x = pr.Captured(network), torch.rand(2, 3)
    g(x)
    network.weight.mul_(2.0)
    torch.testing.assert_close(g(x), network(x))
    network.to(torch.float64)
    torch.testing.assert_close(g(x.double()), network(x.double()))
    assert g.graphs == 1
    network.eval()
    torch.testing.assert_close(g(x.double()), network(x.double()))
    assert (g.graphs, log.count("record")) == (1, 3)
    assert g.module is network
    assert pr.Captured(pr.Captured(network.forward)).module is network


def test_too_many_shapes_are_called_as_they_are(log: list[str]) -> None:
    g = pr.Captured(lambda u: 2 * u, max_graphs=2)
    for n in (1, 2):
        g(torch.ones(n))
    with pytest.warns(RuntimeWarning, match=r"max_graphs=2 shapes.*pad_to"):
        torch.testing.assert_close(g(torch.ones(3)), torch.full((3,), 2.0))
    torch.testing.assert_close(g(torch.ones(4)), torch.full((4,), 2.0))  # warned once
    torch.testing.assert_close(g(torch.ones(2)), torch.full((2,), 2.0))
    assert g.graphs == 2


def test_a_value_on_the_host_cannot_be_captured(log: list[str]) -> None:
    def f(u: Tensor) -> Tensor:
        return u * 2 if u.sum().item() > 0 else u * 3

    g = pr.Captured(f)
    with pytest.warns(RuntimeWarning, match=r"f cannot be captured \(operation not permitted"):
        assert g(torch.ones(2)).tolist() == [2.0, 2.0]
    assert g(-torch.ones(2)).tolist() == [-3.0, -3.0]
    assert g.graphs == 0


def test_gradients_are_not_lost(log: list[str]) -> None:
    network = nn.Linear(3, 3)
    g, x = pr.Captured(network), torch.rand(2, 3)
    with pytest.warns(RuntimeWarning, match=r"need gradients.*no_grad"):
        g(x).sum().backward()
    assert network.weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(g(x), network(x))
    assert g.graphs == 1
    y = x.clone().requires_grad_()
    h = pr.Captured(torch.sin)
    h(x)
    torch.testing.assert_close(torch.autograd.grad(h(y).sum(), y)[0], y.cos())
    torch.testing.assert_close(torch.func.jvp(h, (x,), (torch.ones_like(x),))[1], x.cos())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(h(dual)).tangent, x.cos())
    torch.testing.assert_close(torch.vmap(h)(x), x.sin())


def test_errors_of_the_function_are_its_own(log: list[str]) -> None:
    def f(u: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pr.Captured(f)(torch.ones(1))


def test_copies_capture_anew(log: list[str]) -> None:
    g, x = pr.Captured(nn.Linear(2, 2).requires_grad_(False)), torch.rand(1, 2)
    expected = g(x)
    for other in (copy.deepcopy(g), pickle.loads(pickle.dumps(g)), copy.copy(g)):
        assert other.graphs == 0
        torch.testing.assert_close(other(x), expected)
    assert "max_graphs=16" in repr(g)


def test_on_a_cpu_calls_are_made_as_they_are() -> None:
    seen: list[int] = []

    def f(u: Tensor) -> Tensor:
        seen.append(1)
        return 2 * u

    g = pr.Captured(f)
    g(torch.ones(2))
    g(torch.ones(2))
    assert (g.graphs, len(seen)) == (0, 2)
    assert "f" in repr(g)


def test_sampling_with_a_captured_network(log: list[str]) -> None:
    model = da.load_digits()
    captured = pr.Captured(model.network)
    other = da.DiffusionModel(captured, model.noise_schedule, model.prediction)
    assert other.dtype == model.dtype
    for seed in range(3):
        noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        options: dict[str, Any] = {"steps": 16, "executor": pr.Batched(pad_to=(4, 16))}
        out, ref = da.sample(other, noise, **options), da.sample(model, noise, **options)
        assert torch.equal(out.samples, ref.samples)
    assert log.count("record") == captured.graphs <= 2


def test_a_captured_right_hand_side(log: list[str]) -> None:
    problem = pr.ODE(pr.Captured(torch.vmap(lambda t, u: torch.sin(3 * t) - u * u)), batching="native")
    plain = pr.ODE(lambda t, u: torch.sin(3 * t) - u * u)
    grid, u0 = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=4), torch.rand(3, dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler()}
    a = pr.solve(problem, u0, grid, executor=pr.Batched(pad_to=8), **options)
    torch.testing.assert_close(a.us, pr.solve(plain, u0, grid, **options).us)
    assert log.count("record") == 1


def test_within_torch_compile(log: list[str]) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    g = pr.Captured(lambda u: 2 * u)
    compiled = torch.compile(lambda u: g(u) + 1, backend=counter, dynamic=False)
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 3.0))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((3,), TypeError, "fn is an int"),
        ((torch.sin, 0), ValueError, "max_graphs"),
        ((torch.sin, 2.0), TypeError, "max_graphs"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pr.Captured(*arguments)
