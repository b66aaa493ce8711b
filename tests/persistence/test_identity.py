"""What a run was of is compared before another one goes on from it: the noise, numbers in tensors, and the problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import parareal as pr
from parareal.results import _tensor_file
from parareal.results._run_identity import exactly, nameless

D = torch.float64
GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=4, steps=3)
U0 = torch.tensor([0.5, 1.0, 1.5], dtype=D)
POINTS = GRID.points
DW = torch.linspace(-0.5, 0.5, 36, dtype=D).reshape(12, 3)


def forbidden(*args: Any) -> Any:
    raise AssertionError("no work is to be done")


def go(problem: Any, fine: Any, **options: Any) -> pr.Solution:
    given = {"coarse": pr.Identity(), "stop": pr.Tolerance(0.0, 0.0), "executor": pr.Serial(), "throw": False}
    return pr.solve(problem, U0, GRID, fine=fine, **{**given, **options})


def sde(work: bool, path: pr.NoisePath | None = None, **more: Any) -> pr.SDE:
    drift = (lambda t, u: 0.1 * u) if work else forbidden
    if path is None:
        more["generator"] = torch.Generator().manual_seed(1)
    return pr.SDE(drift, lambda t, u: torch.full_like(u, 0.3), path=path, **more)


@dataclass(frozen=True, eq=False)
class Bridge(pr.FrozenPath):
    """A path of one's own, with a number."""

    level: float = 0.0


def changed(leaf: Tensor) -> Tensor:
    """One number of a tensor moved by one unit in its last place."""
    new = leaf.clone()
    new.view(-1)[-1] = torch.nextafter(new.view(-1)[-1], torch.tensor(9.0, dtype=leaf.dtype))
    return new


FROZEN = pr.FrozenPath(POINTS, DW, 0.1 * DW)
BROWN = pr.BrownianPath(torch.linspace(0.0, 2.0, 25, dtype=D), seed=3)
NOISE: dict[str, tuple[Callable[[bool], pr.SDE], Callable[[bool], pr.SDE], str]] = {
    "increments": (partial(sde, path=FROZEN), partial(sde, path=pr.FrozenPath(POINTS, changed(DW), 0.1 * DW)), "path"),
    "areas": (partial(sde, path=FROZEN), partial(sde, path=pr.FrozenPath(POINTS, DW, changed(0.1 * DW))), "path"),
    "no areas": (partial(sde, path=FROZEN), partial(sde, path=pr.FrozenPath(POINTS, DW)), "path"),
    "dtype": (partial(sde, path=FROZEN), partial(sde, path=pr.FrozenPath(POINTS, DW.float(), 0.1 * DW)), "path"),
    "points": (
        partial(sde, path=BROWN),
        partial(sde, path=pr.BrownianPath(torch.linspace(0.0, 2.0, 49, dtype=D), seed=3)),
        "path",
    ),
    "clock": (partial(sde, path=BROWN), partial(sde, path=pr.BrownianPath(BROWN.points, 3, lambda t: 4 * t)), "path"),
    "kind of path": (partial(sde, path=FROZEN), partial(sde, path=BROWN), "path|noise"),
    "a path": (sde, partial(sde, path=BROWN), "path|noise"),
    "own": (partial(sde, path=Bridge(POINTS, DW)), partial(sde, path=Bridge(POINTS, DW, level=1.0)), "path"),
    "noise": (sde, partial(sde, noise="scalar"), "noise = 'diagonal'.*'scalar'"),
    "calculus": (
        partial(sde, noise="additive"),
        partial(sde, noise="additive", calculus="stratonovich"),
        "calculus = 'ito'",
    ),
}


@pytest.mark.parametrize("what", NOISE)
def test_other_noise_is_refused_before_any_work(what: str, tmp_path: Path) -> None:
    ours, other, message = NOISE[what]
    fine = pr.Milstein()  # for both calculi
    first = go(ours(True), fine, stop=pr.Iterations(1))
    first.save(tmp_path / "run")
    for resume in (first, pr.Solution.load(tmp_path / "run")):
        with pytest.raises(ValueError, match=message):
            go(other(False), fine, resume=resume)
        assert go(ours(True), fine, resume=resume).status is pr.Status.FINAL


def test_the_same_noise_made_again_goes_on() -> None:
    for make in (
        lambda: pr.FrozenPath(POINTS.clone(), DW.t().contiguous().t(), 0.1 * DW),
        lambda: pr.BrownianPath(BROWN.points.clone(), np.int64(3), clock=lambda t: t),  # type: ignore[arg-type]
    ):
        first = go(sde(True, make()), pr.EulerMaruyama(), stop=pr.Iterations(1))
        assert go(sde(True, make()), pr.EulerMaruyama(), resume=first).status is pr.Status.FINAL


def test_channels_are_compared() -> None:
    def general(columns: int) -> pr.SDE:
        def diffusion(t: Tensor, u: Tensor) -> Tensor:
            return torch.stack([0.1 * u] * columns, -1)

        generator = torch.Generator().manual_seed(1)
        return pr.SDE(lambda t, u: u, diffusion, noise="general", channels=columns, generator=generator)

    first = go(general(1), pr.EulerMaruyama(), stop=pr.Iterations(1))
    with pytest.raises(ValueError, match=r"channels = 1, .* 2"):
        go(general(2), pr.EulerMaruyama(), resume=first)


# --- numbers in tensors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [1e-8, 1.00004e-6, np.nextafter(1e-6, 1.0)])
def test_tolerances_in_tensors_are_compared_to_the_last_digit(other: float, tmp_path: Path) -> None:
    def fine(rtol: float) -> pr.Adaptive:
        return pr.Adaptive(rtol=torch.tensor([rtol, 1e-3, 1e-3], dtype=D), atol=0.1)

    problem = pr.ODE(lambda t, u: torch.cos(t) * u)
    first = go(problem, fine(1e-6), stop=pr.Iterations(1))
    first.save(tmp_path / "run")
    for resume in (first, pr.Solution.load(tmp_path / "run")):
        assert go(problem, fine(1e-6), resume=resume).status is pr.Status.FINAL
        with pytest.raises(ValueError, match="fine propagator Adaptive"):
            go(pr.ODE(forbidden), fine(other), resume=resume)


@dataclass(frozen=True, eq=False)
class Holder:
    """Something of one's own that shows little of what it holds."""

    inside: Any
    name: str = "x"

    def __repr__(self) -> str:
        return f"Holder({self.name})"


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.int64)


@given(st.data())
def test_texts_differ_where_one_bit_does(data: st.DataObject) -> None:
    """Whatever lies around a tensor; and they do not depend on how torch prints, or on strides."""
    dtype = data.draw(st.sampled_from(DTYPES))
    size = data.draw(st.integers(1, 2000))
    base = torch.arange(size, dtype=torch.float64).div(3).to(dtype)
    other = base.clone()
    raw = other.view(torch.uint8).view(-1)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 5))
    if data.draw(st.booleans()) and dtype is not torch.bfloat16:
        tensors: list[Any] = [base.numpy(), other.numpy(), base.numpy()[::-1][::-1]]
    else:
        tensors = [base, other, base.flip(0).flip(0)]

    kinds = data.draw(st.integers(0, 2**31))

    def around(leaf: Any) -> Any:
        choose = np.random.default_rng(kinds)
        makers: list[Callable[[Any], Any]] = [
            lambda x: [x, 1],
            lambda x: {"a": x},
            lambda x: (x,),
            Holder,
            lambda x: partial(torch.add, alpha=x),
        ]
        for i in choose.integers(0, len(makers), choose.integers(0, 4)):
            leaf = makers[i](leaf)
        return leaf

    a, b, again = (exactly(around(leaf)) for leaf in tensors)
    assert a != b
    torch.set_printoptions(precision=1, threshold=3)
    try:
        assert a == again == exactly(around(tensors[0]))
    finally:
        torch.set_printoptions(profile="default")


PLAIN = (
    pr.RK4(),
    pr.Adaptive("tsit5", rtol=1e-3),
    pr.SciPy("DOP853", max_step=0.5),
    pr.Tolerance(1e-3),
    0.1,
    "x",
    None,
)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_texts_of_plain_values_are_those_in_older_files(value: Any) -> None:
    assert exactly(value) == nameless(repr(value))


def test_options_of_methods_that_are_no_dataclasses_are_compared() -> None:
    jacobians = [np.full((3, 3), 0.1 + i * 1e-14) for i in range(2)]
    a, b = (exactly(pr.SciPy("Radau", jac=jac)) for jac in jacobians)
    assert a != b
    assert a == exactly(pr.SciPy("Radau", jac=jacobians[0].copy()))


# --- the problem ------------------------------------------------------------------------------------------------------


def test_numbers_of_a_problem_are_compared() -> None:
    rates = torch.tensor([-1.0, -0.5, -2.0], dtype=D)
    first = go(pr.SemilinearODE(rates, lambda t, u: 0.1 * u), pr.ETDRK4(), stop=pr.Iterations(1))
    assert go(pr.SemilinearODE(rates.clone(), lambda t, u: 0.1 * u), pr.ETDRK4(), resume=first).converged
    with pytest.raises(ValueError, match="a problem with linear = "):
        go(pr.SemilinearODE(changed(rates), forbidden), pr.ETDRK4(), resume=first)
    pairs = U0[:1], U0[:1]
    options = {"fine": pr.StoermerVerlet(), "coarse": pr.Identity(), "executor": pr.Serial()}
    first = pr.solve(pr.SeparableODE(lambda t, q: -q, 1.0), pairs, GRID, stop=pr.Iterations(1), **options)
    with pytest.raises(ValueError, match=r"velocity = 1.0, and this call has 0.5"):
        pr.solve(pr.SeparableODE(forbidden, 0.5), pairs, GRID, resume=first, **options)


# --- files of older versions ------------------------------------------------------------------------------------------


def older(path: Path) -> pr.Solution:
    """The file as it was written before what problems say of themselves was in it."""
    with safe_open(path, framework="pt") as file:
        packed = json.loads(file.metadata()["parareal"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del packed["standing"]["compared"], packed["sha256"]
    packed["sha256"] = _tensor_file._digest(packed, tensors)
    save_file(tensors, path, {"parareal": json.dumps(packed)})
    return pr.Solution.load(path)


def test_a_file_of_an_older_version_goes_on_or_says_that_it_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "run"
    problem = pr.ODE(lambda t, u: torch.cos(t) * u)
    go(problem, pr.RK4(), stop=pr.Iterations(1)).save(path)
    assert go(problem, pr.RK4(), resume=older(path)).status is pr.Status.FINAL
    go(sde(True), pr.EulerMaruyama(), stop=pr.Iterations(1)).save(path)
    loaded = older(path)
    assert loaded.iterations == 1
    with pytest.raises(ValueError, match=r"older version, .* noise, calculus, channels and path it had in its SDE"):
        go(sde(False), pr.EulerMaruyama(), resume=loaded)


def test_a_file_with_four_digits_of_a_tensor_says_so(tmp_path: Path) -> None:
    path, fine = tmp_path / "run", pr.Adaptive(rtol=torch.tensor([1e-6, 1e-3, 1e-3], dtype=D))
    problem = pr.ODE(lambda t, u: torch.cos(t) * u)
    first = go(problem, fine, stop=pr.Iterations(1))
    assert first.standing is not None
    object.__setattr__(first.standing.identity, "fine", repr(fine))
    first.save(path)
    with pytest.raises(ValueError, match="older version, which kept four digits"):
        go(problem, fine, resume=older(path))
