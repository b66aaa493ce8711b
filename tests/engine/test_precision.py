"""States of every precision: a run works in it, or is refused by one sentence before any work."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.complex128)
SPLIT = ("IMEXEuler", "ARS222", "ARS443", "Lie", "Strang")
METHODS = [
    *("Euler", "Midpoint", "Heun", "RK4", "Ralston", "SSPRK33", "ThreeEighths", "DormandPrince", "BogackiShampine"),
    *("CashKarp", "Heun3", "Kutta3", "ImplicitEuler", "ImplicitMidpoint", "Trapezoid", "SDIRK2", "ExponentialEuler"),
    *("ETDRK2", "ETDRK4", "DPMSolver", "DPMSolverPP", "UniPC", "DEIS", "StoermerVerlet", *SPLIT),
]
FINE: dict[str, pr.Integrator] = {name: getattr(pr, name)() for name in METHODS}
FINE |= {
    "AdamsBashforth": pr.AdamsBashforth(2),
    "carried": pr.AdamsBashforth(2, restart=False),
    "RadauIIA": pr.RadauIIA(2),
    "GaussLegendre": pr.GaussLegendre(2),
    "LobattoIIIC": pr.LobattoIIIC(2),
    "krylov": pr.SDIRK2(krylov=True, steps=1),
    "Adaptive": pr.Adaptive(rtol=1e-2, atol=1e-3),
    "SciPy": pr.SciPy(rtol=1e-2, atol=1e-3),
    "TorchDiffEq": pr.TorchDiffEq("bosh3", rtol=1e-2, atol=1e-3),
    "fixed": pr.TorchDiffEq("rk4"),
    "fixed steps": pr.TorchDiffEq("rk4", options={"step_size": 0.0625}),
    "Adams": pr.TorchDiffEq("implicit_adams", options={"step_size": 0.0625}),
    "Propagator": pr.Propagator(lambda t0, t1, u: 0.8 * u),
}
if find_spec("torchode") is not None:
    FINE["TorchODE"] = pr.TorchODE(rtol=1e-3, atol=1e-4)
COARSE: dict[str, Any] = {
    "Euler": pr.Euler(),
    "Identity": pr.Identity(),
    "LinearFlow": pr.LinearFlow(0.9),
    "Secant": pr.Secant(pr.Identity()),
    "pairs": pr.Secant(pr.Euler(), 2),
    "neighbours": pr.Secant(pr.Identity(), neighbours=(1,)),
    "Jacobian": pr.Jacobian(),
    "diagonal": pr.Jacobian("diagonal"),
    "probes": pr.Jacobian("diagonal", probes=2),
    "TrustRegion": pr.TrustRegion(pr.Jacobian()),
    "trusted diagonal": pr.TrustRegion(pr.Jacobian("diagonal")),
    "Anderson": pr.Anderson(pr.Secant(pr.Identity()), 3),
    "Damped": pr.Damped(pr.Euler()),
    "Relaxed": pr.Relaxed(pr.Euler(), 2),
    "implicit": pr.ImplicitEuler(1),
    "implicit inside": pr.Damped(pr.Secant(pr.ImplicitEuler(1))),
    "Multilevel": pr.Multilevel(pr.Euler(), pr.Euler(), 2),
    "implicit level": pr.Multilevel(pr.Euler(), pr.ImplicitEuler(1), 2),
    "third level": pr.Multilevel(pr.Euler(), pr.Multilevel(pr.Euler(), pr.ImplicitEuler(1), 2), 2),
}
SCHEDULES = (None, pr.Barrier(), pr.Windowed(2))
CASES = [(name, "Euler") for name in FINE] + [("Heun", name) for name in COARSE] + [("AdamsBashforth", "Secant")]


class Called:
    """Right-hand sides around one function of the time, which count their calls."""

    def __init__(self, begin: float = 0.0) -> None:
        self.calls, self._begin = 0, begin

    def f(self, t: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        return -0.5 * u + 0.1 * torch.cos(3 * (t - self._begin)).to(u.dtype)

    def problem(self, fine: str) -> pr.Problem:
        if fine in SPLIT:
            return pr.ODE(split=(lambda t, u: -0.5 * u, self.f))
        if fine == "StoermerVerlet":
            return pr.SeparableODE(self.f)
        kinds = FINE[fine].traits.solves
        return pr.ODE(self.f) if any(issubclass(pr.ODE, kind) for kind in kinds) else pr.SemilinearODE(-0.5, self.f)


def start(fine: str, dtype: torch.dtype) -> Any:
    u0 = torch.tensor([1.0, -0.5, 0.3]).to(dtype)
    return (u0, u0.clone()) if fine == "StoermerVerlet" else u0


def first(u: Any) -> Tensor:
    return u[0] if isinstance(u, tuple) else u


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.sweep(60)
def test_it_works_or_is_refused_before_any_work(case: tuple[str, str], schedule: Any, dtype: torch.dtype) -> None:
    fine, coarse = case
    if coarse in ("Multilevel", "implicit level", "third level"):
        schedule = pr.Barrier()
    called = Called()
    problem, u0 = called.problem(fine), start(fine, dtype)
    options: dict[str, Any] = {"fine": FINE[fine], "coarse": COARSE[coarse], "schedule": schedule}
    refused = ""
    try:
        sol = pr.solve(problem, u0, GRID, stop=pr.Iterations(4), **options)
    except TypeError as error:
        refused = str(error)
    if refused:
        assert dtype in (torch.float16, torch.bfloat16) or fine in ("SciPy", "TorchODE")
        assert "expected float32 or float64" in refused
        assert called.calls == 0
        return
    ref = pr.serial(problem, u0, GRID, fine=FINE[fine])
    assert first(sol.u).dtype == dtype
    assert torch.isfinite(first(sol.u).abs().float()).all()
    rtol = 8 * torch.finfo(dtype).eps
    assert float((first(sol.u) - first(ref.u)).abs().max()) <= rtol * max(1.0, float(first(ref.u).abs().max()))


@pytest.mark.parametrize("dtype", [torch.complex32, torch.float8_e4m3fn], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_dtypes_that_torch_hardly_knows_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"in which torch has few operations; expected torch\.float16.*use u0\.to\("):
        pr.solve(pr.ODE(Called().f), torch.ones(2).to(dtype), GRID, fine=pr.RK4(), coarse=pr.Euler())


@pytest.mark.parametrize("fine", FINE)
@pytest.mark.sweep(20)
def test_late_times_are_as_exact_as_early_ones(fine: str) -> None:
    """Times are float64, whatever the state is: 2**20 + t has as many digits as float32 has for t."""
    if fine == "Propagator":
        return
    ends: list[Tensor] = []
    for begin in (0.0, 2.0**20):
        problem, u0 = Called(begin).problem(fine), start(fine, torch.float32)
        grid = pr.TimeGrid.uniform(begin, begin + 1, 4, 2)
        sol = pr.solve(problem, u0, grid, fine=FINE[fine], coarse=pr.Identity(), stop=pr.Iterations(4))
        ends.append(first(sol.u))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("coarse", COARSE)
@pytest.mark.parametrize("gradients", ["none", "unroll", "adjoint"])
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.sweep(14)
def test_autocast_around_the_run_and_inside_the_right_hand_side(coarse: str, gradients: Any, inside: bool) -> None:
    net = torch.nn.Linear(3, 3)
    u0 = torch.tensor([1.0, -0.5, 0.3]).requires_grad_(gradients != "none")

    def f(t: Tensor, u: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
            value = net(u)  # in bfloat16, but where torch.func does not lower it
        return -value.to(u.dtype)

    nested = coarse in ("Multilevel", "implicit level", "third level")
    options: dict[str, Any] = {"schedule": pr.Barrier()} if nested else {}
    options |= {"gradients": "adjoint" if gradients == "adjoint" else "unroll", "stop": pr.Iterations(4)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not inside):
        if gradients == "adjoint" and nested:
            return
        sol = pr.solve(pr.ODE(f), u0, GRID, fine=pr.Heun(), coarse=COARSE[coarse], **options)
        ref = pr.serial(pr.ODE(f), u0, GRID, fine=pr.Heun())
    assert sol.u.dtype == torch.float32
    torch.testing.assert_close(sol.u, ref.u, rtol=2e-2, atol=2e-2)
    if gradients != "none":
        (grad,) = torch.autograd.grad(sol.u.sum(), u0)
        assert grad.isfinite().all()
