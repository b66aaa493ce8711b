"""Gradients by the adjoint against those of the sequential run, by torch's own backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved import saved_bytes
from torch import Tensor, nn

import parareal as pr
from parareal.adjoint import _recursion, _slices

DOUBLE = torch.float64
TIGHT = pr.Tolerance(1e-13, 1e-15)
CLOSE = 1e-9
GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=5, steps=3)


class Net(nn.Module):
    def __init__(self, size: int = 2, width: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(size, width, generator=generator, dtype=DOUBLE))
        self.b = nn.Parameter(torch.randn(width, size, generator=generator, dtype=DOUBLE) / width)

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(u @ self.a + torch.cos(t)) @ self.b


def start(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).requires_grad_()


def loss(us: Any) -> Tensor:
    leaves = [us] if isinstance(us, Tensor) else [*us.values()] if isinstance(us, dict) else [*us]
    return sum(((leaf.abs() ** 2).sum() + leaf[-1].abs().sin().sum() for leaf in leaves), torch.zeros(()))


def assert_same(found: Any, expected: Any, close: float = CLOSE) -> None:
    for a, b in zip(found, expected, strict=True):
        if b is None or a is None:
            assert a is None or not a.any()
            assert b is None or not b.any()
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).abs().max()) <= close * float(b.abs().max().clamp(min=1e-300))


def both(
    make: Callable[[], pr.Problem],
    u0: Any,
    wanted: list[Tensor],
    grid: pr.TimeGrid = GRID,
    fine: Any = None,
    **options: Any,
) -> pr.Solution:
    """Asserts that both ways give the same gradients; returns the solution of the adjoint run."""
    fine, samples = fine or pr.RK4(), options.get("samples", False)
    options = {"coarse": pr.Heun(), "stop": TIGHT, **options}
    reference = pr.serial(make(), u0, grid, fine=fine, samples=samples)
    expected = torch.autograd.grad(loss(reference.us), wanted, allow_unused=True)
    solution = pr.solve(make(), u0, grid, fine=fine, gradients="adjoint", **options)
    found = torch.autograd.grad(loss(solution.us), wanted, allow_unused=True)
    assert_same(found, expected)
    return solution


FINE = [
    pr.RK4(),
    pr.Euler(steps=7),
    pr.AdamsBashforth(2),
    pr.AdamsBashforth(3, restart=True),
    pr.Trapezoid(),
    pr.Propagator(lambda t0, t1, u: u + (t1 - t0) * torch.sin(u.flip(-1)) * torch.cos(t0)),
]
COARSE = [
    pr.Heun(),
    pr.AdamsBashforth(2, steps=2),
    pr.ImplicitEuler(),
    pr.Identity(),
    pr.Zero(),
    pr.Secant(pr.Identity()),
    pr.Damped(pr.Euler(), 0.9),
    pr.Propagator(lambda t0, t1, u: torch.as_tensor(u.detach().numpy() * 0.9)),
]
SCHEDULES = [None, pr.Barrier(), pr.Wavefront(), pr.Windowed(2), pr.Windowed(3, initial="hold")]
EXECUTORS = [None, pr.Serial(), pr.Batched(max_lanes=2), pr.Batched(pad_to=(2, 4))]


@given(data=st.data())
def test_the_gradient_is_that_of_the_serial_run(data: st.DataObject) -> None:
    fine, coarse = data.draw(st.sampled_from(FINE)), data.draw(st.sampled_from(COARSE))
    samples = data.draw(st.booleans())
    falls = data.draw(st.booleans())
    slices, steps = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    points = torch.linspace(0.0, 1.5, slices * steps + 1 - data.draw(st.integers(0, steps - 1)), dtype=DOUBLE) ** 2
    grid = pr.TimeGrid.from_points(points.flip(0) if falls else points, slices)
    schedule = data.draw(st.sampled_from([s for s in SCHEDULES if s is None or (s.width or 1) <= slices]))
    parts, scanned = data.draw(st.sampled_from([1, 2, 16])), data.draw(st.sampled_from([0, 8]))
    net, u0 = Net(), start(3, 2) if samples else start(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_slices, "PART", parts)
        patch.setattr(_slices, "BRANCHES", 2)
        patch.setattr(_recursion, "_SCANNED", {"cpu": scanned})
        both(
            lambda: pr.ODE(net),
            u0,
            [u0, *net.parameters()],
            grid,
            fine,
            coarse=coarse,
            schedule=schedule,
            samples=samples,
            executor=data.draw(st.sampled_from(EXECUTORS)),
            verify=data.draw(st.booleans()),
        )


@pytest.mark.parametrize("scanned", [True, False])
def test_trees_complex_states_and_data_of_samples(scanned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recursion, "_SCANNED", {"cpu": 8 if scanned else 0})
    weight, rate = start(3), start(4, 3)
    u0 = {"x": start(4, 3), "z": (start(4) + 1j * start(4).detach().flip(0))}

    def f(t: Tensor, u: Any, rate: Tensor) -> Any:
        return {"x": torch.sin(u["x"] * weight) * rate, "z": 1j * u["z"] + u["x"].sum() * torch.cos(t)}

    def make() -> pr.ODE:
        return pr.ODE(f, per_sample=rate)

    both(make, u0, [u0["x"], u0["z"], weight, rate], samples=True)
    pair, factor = (start(2), start(3)), start(2)
    problem = pr.ODE(lambda t, u: (u[1].sum() * factor, torch.cat([u[0] * factor, u[1][:1]])), batching="loop")
    both(lambda: problem, pair, [*pair, factor])


def test_stochastic_and_exponential_methods() -> None:
    a, b, u0 = start(2), start(2), start(2)
    path = pr.BrownianPath(GRID.points, seed=3)
    both(
        lambda: pr.SDE(lambda t, u: -u * a, lambda t, u: 0.3 * torch.sin(u * b), path=path),
        u0,
        [u0, a, b],
        fine=pr.Milstein(),
        coarse=pr.EulerMaruyama(),
    )
    net = Net()
    problem = pr.SemilinearODE(-1.5, lambda t, u: net(t, u))
    both(lambda: problem, u0, [u0, *net.parameters()], fine=pr.ETDRK4(), coarse=pr.ExponentialEuler())


@pytest.mark.parametrize("fine", [pr.RK4(), pr.Heun(steps=4)], ids=["grid", "steps"])
@pytest.mark.parametrize("make", ["points", "ends"])
def test_gradients_with_respect_to_times(fine: pr.Integrator, make: str) -> None:
    net, u0 = Net(), start(2)

    def run(times: Tensor, step: Callable[..., Any]) -> Any:
        if make == "points":
            return step(pr.TimeGrid.from_points(times, 4))
        return step(pr.TimeGrid.uniform(times[0], times[-1], slices=4, steps=2))

    def serially(t: Tensor) -> Tensor:
        """The serial run, written out, for finite differences."""

        def solved(grid: pr.TimeGrid) -> Tensor:
            with torch.no_grad():
                return loss(pr.serial(pr.ODE(net), u0, grid, fine=fine).us)

        return run(t, solved)

    times = (torch.linspace(0.1, 1.3, 9, dtype=DOUBLE) ** 1.3).requires_grad_()
    solution = run(
        times,
        lambda grid: pr.solve(
            pr.ODE(net),
            u0,
            grid,
            fine=fine,
            coarse=pr.Euler(),
            stop=TIGHT,
            gradients="adjoint",
            schedule=pr.Windowed(2),
        ),
    )
    (found,) = torch.autograd.grad(loss(solution.us), times)
    step, expected = 1e-6, torch.zeros_like(times)
    for i in range(len(times)):
        move = torch.zeros_like(times)
        move[i] = step
        expected[i] = (serially(times.detach() + move) - serially(times.detach() - move)) / (2 * step)
    assert float((found - expected).abs().max()) <= 1e-7 * float(expected.abs().max())


# --- what the right-hand side depends on -----------------------------------------------------------------------------


def test_all_that_the_right_hand_side_refers_to_gets_gradients() -> None:
    class Latent(nn.Module):
        """Its context is computed by a network of the same module, and is no leaf."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.net, self.unused = nn.Linear(3, 2).double(), Net(), nn.Linear(1, 1).double()

        def forward(self, t: Tensor, u: Tensor) -> Tensor:
            return self.net(t, u) + self.context

    model, data, u0 = Latent(), start(3).detach(), start(2)
    wanted = [u0, *model.parameters()]
    grads: list[Any] = []
    for way in ("serial", "adjoint"):
        model.context = model.encoder(data)
        if way == "serial":
            us = pr.serial(pr.ODE(model), u0, GRID, fine=pr.RK4()).us
        else:
            us = pr.solve(pr.ODE(model), u0, GRID, fine=pr.RK4(), coarse=pr.Heun(), stop=TIGHT, gradients="adjoint").us
        grads.append(torch.autograd.grad(loss(us) + model.context.sum(), wanted, allow_unused=True))
    assert_same(grads[1], grads[0])
    assert grads[1][1].abs().sum() > 0  # the encoder's


def test_parameters_of_another_branch_are_found() -> None:
    early, late, u0 = Net(), Net(width=3), start(2)
    both(
        lambda: pr.ODE(lambda t, u: early(t, u) if t < 1.0 else late(t, u), batching="loop"),
        u0,
        [u0, *early.parameters(), *late.parameters()],
    )


def test_a_tensor_and_what_was_computed_from_it_are_told_apart_or_refused() -> None:
    weight, u0 = start(2), start(2)
    twice = 2 * weight
    both(lambda: pr.ODE(lambda t, u: torch.sin(u) * twice), u0, [u0, twice])
    with pytest.raises(ValueError, match="computed from it"):
        pr.solve(
            pr.ODE(lambda t, u: torch.sin(u) * twice + weight),
            u0,
            GRID,
            fine=pr.RK4(),
            coarse=pr.Heun(),
            gradients="adjoint",
        )


def test_hidden_tensors_are_an_error_and_not_a_missing_gradient() -> None:
    weight, u0 = start(2), start(2)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Heun(), "gradients": "adjoint"}
    hidden = iter([2 * weight] * 1000)
    with pytest.raises(ValueError, match="not found among what it refers to"):
        pr.solve(pr.ODE(lambda t, u: -u * next(hidden)), u0, GRID, **options)
    late = iter([weight] * 1000)
    problem = pr.ODE(lambda t, u: -u * next(late) if float(t) > 1.0 else -u, batching="loop")
    solution = pr.solve(problem, u0, GRID, **options)
    with pytest.raises(RuntimeError, match="knew nothing"):
        solution.u.sum().backward()


# --- backward passes --------------------------------------------------------------------------------------------------


def adjoint_run(u0: Tensor, net: Net, **options: Any) -> pr.Solution:
    options = {"fine": pr.RK4(), "coarse": pr.Heun(), "stop": TIGHT, **options}
    return pr.solve(pr.ODE(net), u0, GRID, gradients="adjoint", **options)


def test_a_second_derivative_is_refused_with_a_sentence() -> None:
    net, u0 = Net(), start(2)
    (first,) = torch.autograd.grad(adjoint_run(u0, net).u.sum(), u0, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients='unroll'"):
        first.sum().backward()


def test_the_graph_can_be_kept_and_gradients_accumulate() -> None:
    net, u0 = Net(), start(2)
    solution = adjoint_run(u0, net)
    solution.us.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in net.parameters()]
    solution.us.sum().backward()
    assert_same([p.grad for p in net.parameters()], [2 * one for one in once], 1e-14)
    assert solution.adjoint is not None
    assert solution.adjoint.passes == 2


def test_a_scan_takes_the_rounds_of_one_slice_and_as_many_more_for_parameters() -> None:
    net, u0 = Net(), start(2)
    alone = 2 * 3 * 4  # each slice forward and back, all side by side
    for params, rounds in ((False, alone), (True, 2 * alone)):
        net.requires_grad_(params)
        solution = adjoint_run(u0, net, coarse=pr.Jacobian())
        solution.u.sum().backward()
        assert solution.adjoint is not None
        assert solution.adjoint.stats is not None
        assert solution.adjoint.stats.rounds == rounds


def test_no_graph_where_none_is_needed() -> None:
    net, u0 = Net(), start(2).detach()
    with torch.no_grad():
        assert not adjoint_run(u0, net).us.requires_grad
    assert adjoint_run(u0, net).us.requires_grad
    net.requires_grad_(False)
    solution = adjoint_run(u0, net)
    assert not solution.us.requires_grad
    assert solution.adjoint is None


def test_parameters_changed_before_the_backward_pass_are_noticed() -> None:
    net, u0 = Net(), start(2)
    solution = adjoint_run(u0, net)
    with torch.no_grad():
        net.a.mul_(2.0)
    with pytest.raises(RuntimeError, match="inplace operation"):
        solution.u.sum().backward()


def test_autocast_holds_in_the_backward_pass() -> None:
    net, u0 = Net().float(), start(2).detach().float()
    seen: list[torch.dtype] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        value = torch.tanh(u @ net.a) @ net.b
        seen.append(value.dtype)
        return value

    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = pr.solve(
            pr.ODE(f, batching="loop"), u0, GRID, fine=pr.RK4(), coarse=pr.Heun(), gradients="adjoint", throw=False
        )
    seen.clear()
    solution.u.sum().backward()
    assert {*seen} == {torch.bfloat16}
    assert net.a.grad is not None


def test_what_is_kept_does_not_grow_with_steps_and_iterations() -> None:
    net, u0 = Net(), start(40, 2)
    problem = pr.ODE(net, batching="loop")

    def kept(steps: int, iterations: int = 1) -> int:
        grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=steps)
        options: dict[str, Any] = {"coarse": pr.Euler(), "stop": pr.Iterations(iterations)}
        return saved_bytes(lambda: pr.solve(problem, u0, grid, fine=pr.Heun(), gradients="adjoint", **options))

    assert kept(1) == kept(8) == kept(2, iterations=4)


def test_forward_and_backward_take_fewer_rounds_than_the_serial_run() -> None:
    net, u0 = Net(), start(2)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=16, steps=8)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Heun(), "stop": pr.Tolerance(1e-6)}
    solution = pr.solve(pr.ODE(net), u0, grid, gradients="adjoint", **options)
    solution.u.sum().backward()
    assert solution.adjoint is not None
    assert solution.adjoint.stats is not None
    assert solution.adjoint.way == "scan"
    serial = 2 * pr.serial(pr.ODE(net), u0, grid, fine=pr.Heun()).stats.rounds
    assert solution.stats.rounds + solution.adjoint.stats.rounds < serial / 2


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"gradients": "adjiont"}, ValueError, "'unroll'.*'adjoint'"),
        ({"gradients": None}, TypeError, "gradients is None"),
        ({"gradients": "adjoint", "dense": False}, ValueError, "dense=True"),
        ({"gradients": "adjoint", "executor": pr.Batched(devices=["cpu", "cpu"])}, ValueError, "without devices"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        pr.solve(pr.ODE(lambda t, u: -u), start(2), GRID, fine=pr.RK4(), coarse=pr.Euler(), **options)


def test_where_the_states_are_not_finite_neither_are_gradients() -> None:
    u0 = torch.tensor([2.0], dtype=DOUBLE, requires_grad=True)
    grid = pr.TimeGrid.uniform(0.0, 3.0, slices=4, steps=40)
    problem = pr.ODE(lambda t, u: u**3)
    solution = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Euler(), gradients="adjoint", throw=False)
    assert solution.status is pr.Status.NONFINITE
    (found,) = torch.autograd.grad(solution.u.sum(), u0)
    assert not bool(torch.isfinite(found).all())
