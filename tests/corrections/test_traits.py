"""Own parts declare what they need, by a record or by attributes, and whatever reads a part understands them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import parareal as pr
from parareal import theory

GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=4)
PROBLEM = pr.ODE(lambda t, u: -u * torch.cos(t))
U0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
MIDPOINT = pr.Midpoint().tableau


def solve(**options: Any) -> pr.Solution:
    return pr.solve(PROBLEM, U0, GRID, **{"fine": pr.RK4(), "coarse": pr.Euler(), "stop": pr.Iterations(3), **options})


# --- integrators ------------------------------------------------------------------------------------------------------


class Steps(pr.Integrator):
    """The explicit midpoint rule, without its declarations."""

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        h = (t1 - t0)[:, None]
        slope = yield problem.rhs, t0, u
        slope = yield problem.rhs, t0 + (t1 - t0) / 2, u + h / 2 * slope
        return u + h * slope


class ByRecord(Steps):
    traits = pr.IntegratorTraits(order=2, evaluations=2, shares_first_stage=True, tableau=MIDPOINT)


class ByAttributes(Steps):
    order = evaluations = 2
    shares_first_stage = True


@dataclass(frozen=True)
class ByFields(Steps):
    order: int = 2
    evaluations: int = 2
    shares_first_stage: bool = True
    steps: int | None = None


@dataclass(frozen=True)
class ByProperty(Steps):
    share: bool = True

    @property
    def traits(self) -> pr.IntegratorTraits:
        return pr.IntegratorTraits(order=2, evaluations=2, shares_first_stage=self.share, tableau=MIDPOINT)


class ByPart(ByRecord):
    order = 1  # said otherwise than by the class above, which counts for the rest


class InInit(Steps):
    def __init__(self) -> None:
        self.order, self.evaluations, self.shares_first_stage = 2, 2, True


OWN = [ByRecord(), ByAttributes(), ByFields(), ByProperty(), ByPart(), InInit()]


@pytest.mark.parametrize("method", OWN, ids=lambda method: type(method).__name__)
def test_an_integrator_of_ones_own_is_understood_by_all(method: pr.Integrator) -> None:
    expected = pr.IntegratorTraits(order=2, evaluations=2, shares_first_stage=True)
    assert replace(method.traits, tableau=None, order=2) == expected
    assert (method.evaluations, method.shares_first_stage, method.implicit, method.apart) == (2, True, False, False)
    assert (method.order, method.steps, method.solves) == (method.traits.order, None, (pr.ODE,))
    for role in ("fine", "coarse"):
        ours, theirs = solve(**{role: method}), solve(**{role: pr.Midpoint()})
        torch.testing.assert_close(ours.us, theirs.us, rtol=1e-14, atol=1e-14)
        assert replace(ours.stats, wall_time=0.0) == replace(theirs.stats, wall_time=0.0)
    coarse = pr.Coarse(method)
    for wrapped in (coarse, pr.Damped(coarse), pr.Secant(coarse)):
        counted = theory.counts(pr.Wavefront(), 6, 4, 3, fine=method, coarse=wrapped)
        stats = solve(fine=method, coarse=wrapped, schedule=pr.Wavefront()).stats
        assert (counted.rounds, counted.evaluations) == (stats.rounds, stats.evaluations)
    assert theory.rounds(pr.Barrier(), 6, 4, 3, fine=method) == theory.rounds(pr.Barrier(), 6, 4, 3, fine=pr.Midpoint())


def test_a_plan_reads_the_traits_of_parts_of_ones_own() -> None:
    coarse = [ByAttributes(), Pull(0.9), pr.Anderson(pr.Secant(Flow(0.9)))]
    found = pr.plan(PROBLEM, U0, (0.0, 2.0, 24), fine=ByRecord(), coarse=coarse, slices=[6], workers=4, budget=10.0)
    assert {one.name.partition(",")[0] for one in found.candidates} >= {"ByAttributes", "Pull(0.9)"}
    assert all(one.on_workers is not None for one in found.candidates if one.finished)


def test_the_stability_function_comes_from_the_traits() -> None:
    z = np.array([-0.5, 0.3j, -1.0 + 2.0j])
    reference = theory.stability_function(pr.Midpoint())(z)
    for method in (ByRecord(), ByProperty()):
        np.testing.assert_array_equal(theory.stability_function(method)(z), reference)

    class ByFunction(Steps):
        traits = pr.IntegratorTraits(evaluations=2, stability=lambda z, rest: 1 + (z + rest) + (z + rest) ** 2 / 2)

    np.testing.assert_allclose(
        theory.stability_function(ByFunction(), 3)(z), theory.stability_function(pr.Midpoint(), 3)(z)
    )
    with pytest.raises(TypeError, match=r"ByAttributes.*declares neither a tableau nor a stability.*stability=R"):
        theory.stability_function(ByAttributes())
    assert theory.stability_function(pr.Damped(pr.Identity(), 0.25))(-1.0) == 0.25


def test_who_asks_for_another_function_first_shares_nothing() -> None:
    class Split(pr.Integrator):
        traits = pr.IntegratorTraits(order=1, evaluations=1, shares_first_stage=True, solves=(pr.Semilinear,))

        def first_function(self, problem: Any) -> Any:
            return problem.split("data").function

        def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
            return (yield from pr.ExponentialEuler().step(problem, t0, t1, u))

    problem = pr.SemilinearODE(-1.0, lambda t, u: torch.cos(t) * u)
    for coarse in (Split(), pr.ExponentialEuler(), pr.Euler()):
        counted = theory.counts(pr.Barrier(), 6, 4, 2, fine=Split(), coarse=coarse)
        call = {"fine": Split(), "coarse": coarse, "schedule": pr.Barrier()}
        stats = pr.solve(problem, U0, GRID, **call, stop=pr.Iterations(2)).stats
        assert (counted.rounds, counted.evaluations) == (stats.rounds, stats.evaluations)


def test_a_multistep_class_need_not_say_that_it_is_one() -> None:
    class Alone(pr.Multistep):
        traits = pr.IntegratorTraits(order=1, evaluations=1)

        def begin(self, u: Tensor) -> pr.Memory:
            return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64))

        def variants(self, step: Any, steps: Any) -> Any:
            return 0 * step

        def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Any:
            return pr.Carried(u.u + (t1 - t0)[:, None] * (yield problem.rhs, t0, u.u), u.memory)

    assert Alone().traits.multistep
    assert not Alone().restart
    assert torch.equal(solve(fine=Alone(), stop=pr.Iterations(6)).us, pr.serial(PROBLEM, U0, GRID, fine=Alone()).us)
    with pytest.raises(ValueError, match="varies from step to step"):
        theory.rounds(pr.Barrier(), 6, 4, 3, fine=Alone())


# --- corrections ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pull(pr.Correction):
    """factor (new - old), declared by a record."""

    factor: float
    traits = pr.CorrectionTraits(uses_input=True)

    def guess(self, at: Any, new: pr.Known) -> Any:
        return new.u

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Any:
        return self.factor * (new.u - old.u)


class OldPull(Pull):
    """The same by attributes, which win over the record of the class above."""

    propagator = None
    uses_input = True
    lookback = 0


@dataclass(frozen=True)
class Flow(pr.Whitened):
    """The same as a flow, with the method's former name in it."""

    factor: float

    def scale(self, t: Tensor, u: Tensor) -> Tensor:
        base = torch.as_tensor(self.factor, dtype=torch.float64) ** (t / (GRID.edges[1] - GRID.edges[0]))
        return base.to(u.dtype).reshape(*t.shape, *[1] * (u.ndim - t.ndim))

    def whiten(self, t: Tensor, u: Tensor) -> Tensor:
        return u / self.scale(t, u)

    def colour(self, t: Tensor, w: Tensor) -> Tensor:
        return w * self.scale(t, w)

    def dual(self, t: Tensor, b: Tensor) -> Tensor:
        return b * self.scale(t, b)

    def guess(self, at: Any, new: pr.Known) -> Any:
        return new.u

    def guess_run(self, at: Any, u: Tensor, before: Any) -> Tensor:
        return u.unsqueeze(1).expand(-1, at.shape[1], -1)


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("wrap", [lambda c: c, pr.Damped, pr.Secant], ids=["alone", "damped", "secant"])
def test_a_correction_of_ones_own_is_understood_by_all(wrap: Any, schedule: pr.Schedule) -> None:
    stop = pr.Iterations(3) if schedule.width is None else pr.Iterations(6)
    first, *others = (solve(coarse=wrap(c), schedule=schedule, stop=stop) for c in (Pull(0.9), OldPull(0.9), Flow(0.9)))
    for other in others:
        torch.testing.assert_close(other.us, first.us, rtol=1e-11, atol=1e-12)
        assert other.stats.rounds == first.stats.rounds
    exact = solve(coarse=wrap(Pull(0.9)), schedule=schedule, stop=pr.Iterations(6)).us
    torch.testing.assert_close(exact, pr.serial(PROBLEM, U0, GRID, fine=pr.RK4()).us, rtol=1e-12, atol=1e-13)
    counted = theory.rounds(schedule, 6, 4, 3, fine=pr.RK4(), coarse=wrap(Pull(0.9)))
    assert schedule.width is not None or counted == first.stats.rounds


def test_a_wrapper_forwards_the_traits() -> None:
    own = pr.CorrectionTraits(uses_input=True)
    assert Pull(0.9).traits == OldPull(0.9).traits == own
    assert pr.Damped(Pull(0.9)).traits == own
    assert pr.Secant(Pull(0.9), memory=2).traits == replace(own, lookback=2, pairs=True)
    assert pr.Secant(Flow(0.9)).traits == replace(own, lookback=1, pairs=True, stacked=True)
    mixed_traits = replace(own, lookback=1, pairs=True, stacked=True, mixing=3)
    assert pr.Anderson(pr.Secant(Flow(0.9)), memory=3).traits == mixed_traits
    assert pr.Damped(pr.Jacobian()).traits.carries == 1
    around = pr.Secant(pr.Coarse(ByRecord()))
    assert around.propagator is around.traits.propagator
    mixed = solve(coarse=pr.Anderson(Flow(0.9)), stop=pr.Iterations(6))
    torch.testing.assert_close(mixed.us, pr.serial(PROBLEM, U0, GRID, fine=pr.RK4()).us, rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="sweeps slice after slice"):
        pr.Anderson(Pull(0.9))


def test_the_former_name_of_unwhiten_works_in_calls_and_in_subclasses() -> None:
    t, u = GRID.edges[:2], torch.ones(2, 2, dtype=torch.float64)
    flow = Flow(0.9)
    for unwhiten in (flow.unwhiten, flow.colour):
        torch.testing.assert_close(unwhiten(t, flow.whiten(t, u)), u)
    assert torch.equal(pr.Identity().colour(t, u), u)


@pytest.mark.parametrize("part", [pr.RK4(), ByRecord(), pr.Secant(Flow(0.5)), pr.Jacobian(), pr.Coarse(ByFields())])
def test_reading_traits_leaves_no_trace(part: Any) -> None:
    before = pickle.dumps(part)
    assert part.traits == part.traits
    assert pickle.dumps(part) == before
    assert pickle.loads(before).traits == part.traits


# --- malformed parts --------------------------------------------------------------------------------------------------


class Base(pr.Integrator):
    traits = pr.IntegratorTraits(order=1, evaluations=1)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return u + (t1 - t0)[:, None] * (yield problem.rhs, t0, u)


class NoYield(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return u + (t1 - t0)[:, None] * problem.rhs(t0, u)


class NoFunction(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return u + (t1 - t0)[:, None] * (yield t0, u)


class ValueAlone(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return u + (t1 - t0)[:, None] * (yield problem.rhs(t0, u))


class NoArguments(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return u + (t1 - t0)[:, None] * (yield problem.rhs)


class NoReturn(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        yield problem.rhs, t0, u


class TooWide(Base):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        return torch.cat([u, (yield problem.rhs, t0, u)], 1)


class LostBind(Base):
    def bind(self, problem: Any, u0: Any, grid: Any) -> Any:
        problem.rhs  # noqa: B018


class NoTraits(pr.Integrator):
    order = 1

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        yield problem.rhs, t0, u


class WrongFlag(Base):
    shares_first_stage = "yes"


BAD_METHODS: list[tuple[Any, type[Exception], str]] = [
    (NoYield(), TypeError, r"step of .*NoYield.* returned a Tensor; expected a generator.*yield problem\.rhs, t0, u"),
    (NoFunction(), TypeError, r"NoFunction.* yielded a Tensor, a Tensor; expected a function and its arguments.*yield"),
    (ValueAlone(), TypeError, r"ValueAlone.* yielded a Tensor; expected a function"),
    (NoArguments(), TypeError, r"NoArguments.* yielded a method; expected a function and its arguments"),
    (NoReturn(), TypeError, r"step of .*NoReturn.* returned None; expected states at t1.*return"),
    (
        TooWide(),
        ValueError,
        r"TooWide.* returned shape \(\d, 4\) for states of shape \(\d, 2\); expected the same",
    ),
    (LostBind(), TypeError, r"bind of .*LostBind.* returned None; expected the integrator.*return self"),
    (NoTraits(), TypeError, r"NoTraits declares no evaluations; expected traits .*pr\.IntegratorTraits"),
    (WrongFlag(), TypeError, r"WrongFlag: shares_first_stage='yes' is a str; expected True or False"),
]


@pytest.mark.parametrize("role", ["fine", "coarse", "serial"])
@pytest.mark.parametrize(
    ("method", "error", "match"), BAD_METHODS, ids=[type(case[0]).__name__ for case in BAD_METHODS]
)
def test_a_malformed_integrator_is_named(method: Any, error: type[Exception], match: str, role: str) -> None:
    run = partial(pr.serial, PROBLEM, U0, GRID, fine=method) if role == "serial" else partial(solve, **{role: method})
    with pytest.raises(error, match=match):
        run()


def test_a_multistep_method_returns_its_history_as_well() -> None:
    class Forgets(pr.AdamsBashforth):
        def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Any:
            return u.u + (t1 - t0)[:, None] * (yield problem.rhs, t0, u.u)

    with pytest.raises(TypeError, match=r"Forgets.*returned a Tensor; expected pr\.Carried"):
        pr.serial(PROBLEM, U0, GRID, fine=Forgets(2))


class Plain(pr.Correction):
    def guess(self, at: Any, new: pr.Known) -> Any:
        return new.u

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Any:
        return None


class NotStacked(Plain):
    traits = pr.CorrectionTraits(stacked=True)


class ClassPropagator(Plain):
    propagator = pr.Euler


class LostCorrection(Plain):
    propagator = None

    def bind(self, problem: Any, u0: Any, grid: Any, fine: Any) -> Any:
        problem.rhs  # noqa: B018


class ByDict(Plain):
    @property
    def traits(self) -> Any:
        return {"uses_input": True}


BAD_CORRECTIONS: list[tuple[Any, type[Exception], str]] = [
    (Plain(), TypeError, r"Plain declares no propagator; expected traits .*pr\.CorrectionTraits"),
    (NotStacked(), TypeError, r"stacked=True and has no guess_run and no difference_run; expected.*stacked=False"),
    (ClassPropagator(), TypeError, r"ClassPropagator: propagator is the class Euler; expected an integrator"),
    (LostCorrection(), TypeError, r"bind of .*LostCorrection.* returned None; expected the correction.*return self"),
    (ByDict(), TypeError, r"traits of .*ByDict.* is a dict; expected a pr\.CorrectionTraits"),
]


@pytest.mark.parametrize("wrap", [lambda c: c, pr.Damped, pr.Secant], ids=["alone", "damped", "secant"])
@pytest.mark.parametrize(("correction", "error", "match"), BAD_CORRECTIONS, ids=[c[2][:9] for c in BAD_CORRECTIONS])
def test_a_malformed_correction_is_named(correction: Any, error: type[Exception], match: str, wrap: Any) -> None:
    with pytest.raises(error, match=match):
        solve(coarse=wrap(correction))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: type("A", (Plain,), {"traits": {"lookback": 1}}),
            TypeError,
            "traits of A is a dict; expected",
        ),
        (lambda: type("A", (Plain,), {"traits": pr.CorrectionTraits}), TypeError, "is the class CorrectionTraits"),
        (
            lambda: type("A", (Base,), {"traits": pr.IntegratorTraits(evaluations=1), "evaluations": 2}),
            TypeError,
            "A declares evaluations twice, as 2 and as 1",
        ),
        (lambda: pr.CorrectionTraits(mixing=1), ValueError, "mixing=1 came with stacked=False"),
        (lambda: pr.CorrectionTraits(stacked=True, propagator=pr.Euler()), ValueError, "stacked=True came with a prop"),
        (
            lambda: pr.CorrectionTraits(lookback=1, uses_input=False),
            ValueError,
            "lookback=1 came with uses_input=F",
        ),
        (lambda: pr.CorrectionTraits(lookback=-1), ValueError, "lookback=-1 is too small"),
        (lambda: pr.IntegratorTraits(evaluations=1, order="two"), TypeError, "order='two' is a str; expected a number"),
        (lambda: pr.IntegratorTraits(evaluations=1, solves=[pr.ODE]), TypeError, r"solves=\[.*\]; expected a tuple"),
        (
            lambda: pr.IntegratorTraits(evaluations=1, tableau=[[0]]),
            TypeError,
            r"tableau is a list; expected",
        ),
    ],
)
def test_records_are_checked(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


# --- schedules --------------------------------------------------------------------------------------------------------


class Eager(pr.Schedule):
    def admit(self, progress: pr.Progress) -> Any:
        return np.ones_like(progress.fine_ready), progress.coarse_ready


class Early(pr.Schedule):
    def admit(self, progress: pr.Progress) -> Any:
        return progress.fine_ready, np.ones_like(progress.coarse_ready)


class OneMask(pr.Schedule):
    def admit(self, progress: pr.Progress) -> Any:
        return progress.fine_ready


class Lists(pr.Schedule):
    def admit(self, progress: pr.Progress) -> Any:
        return progress.fine_ready.tolist(), progress.coarse_ready


class Short(pr.Schedule):
    def admit(self, progress: pr.Progress) -> Any:
        return progress.fine_ready[:, :2], progress.coarse_ready


@pytest.mark.parametrize(
    ("schedule", "error", "match"),
    [
        (
            Eager(),
            ValueError,
            r"admit of .*Eager.* the fine lane of slice 0, which is not ready.*mask & progress",
        ),
        (Early(), ValueError, r"admit of .*Early.* the coarse lane of slice 1, which is not ready"),
        (OneMask(), TypeError, r"admit of .*OneMask.* returned an ndarray; expected two masks"),
        (Lists(), TypeError, r"admit of .*Lists.* returned a list for the fine lanes; expected a numpy array of bool"),
        (Short(), TypeError, r"Short.* of shape \(1, 2\) and bool for the fine lanes; expected .* shape \(1, 6\)"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, pr.Schedule) else None,
)
def test_a_schedule_that_admits_what_is_not_ready_is_named(schedule: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        solve(schedule=schedule)
