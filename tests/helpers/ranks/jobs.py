"""What the processes of a pool do together; every function is called on all ranks at once.

Properties are run by Hypothesis on every rank with the same examples, one after another. All ranks see whether any of
them has found a fault, so that they stay together while it looks for a smaller one.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ranks import pace
from strategies import Case, cases, classical, corrections, distance, equal, shrinking
from torch import Tensor

import parareal as pr
from parareal.distributed._process_group import Link

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def together(group: Any, check: Callable[[], None]) -> None:
    """Runs a check on all ranks, which do not talk in it; raises on all of them where it fails on any."""
    text = None
    try:
        check()
    except Exception as error:
        text = "".join(traceback.format_exception(error))
    texts: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(texts, text, group=group)
    assert not any(texts), [text for text in texts if text]


def solve(case: Case, coarse: pr.Correction, **options: Any) -> pr.Solution:
    with torch.no_grad():
        return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **options)


def same_run(a: pr.Solution, b: pr.Solution, rtol: float = 0.0) -> None:
    """The same decisions and states, bit for bit, and the same figures within ``rtol``; costs apart."""
    torch.testing.assert_close(a.us, b.us, rtol=0.0, atol=0.0, equal_nan=True)  # edges not reached hold NaN
    assert a.status is b.status
    assert a.sample_status == b.sample_status
    assert torch.equal(torch.as_tensor(a.iterations), torch.as_tensor(b.iterations))
    assert len(a.history) == len(b.history)
    for x, y in zip(a.history, b.history, strict=True):
        torch.testing.assert_close(x.increments, y.increments, rtol=rtol, atol=0.0, equal_nan=True)
        assert torch.equal(torch.as_tensor(x.frontier), torch.as_tensor(y.frontier))
    estimates = torch.as_tensor(a.error_estimate), torch.as_tensor(b.error_estimate)
    torch.testing.assert_close(*estimates, rtol=rtol, atol=0.0, equal_nan=True)


def schedules(slices: int) -> st.SearchStrategy[pr.Schedule]:
    windows = st.integers(1, slices).map(pr.Windowed)
    return st.sampled_from((pr.Barrier(), pr.Wavefront())) | windows


def stops() -> st.SearchStrategy[pr.StoppingRule]:
    return st.one_of(
        st.just(NEVER),
        st.integers(1, 6).map(pr.Iterations),
        st.builds(pr.Tolerance, st.sampled_from((1e-2, 1e-4)), st.just(1e-6), freeze=st.booleans()),
        st.builds(pr.Tolerance, st.just(1e-3), st.just(1e-6), rule=st.sampled_from(("defect", "error"))),
    )


def coarse_propagators() -> st.SearchStrategy[pr.Correction]:
    """Those without sums over many slices, whose order would depend on where blocks end."""
    return classical().filter(lambda correction: not correction.stacked)


NORMS = 1e-13
"""What rounding may come to in figures made of norms: these sum the squares of a state's few elements in an order that
depends on how many states lie side by side, and estimates add up a handful of their ratios."""


def rank_of(group: Any) -> int:
    return dist.get_rank(group)


def dies(group: Any, where: int) -> None:
    """One process is killed, and another waits for it."""
    if dist.get_rank(group) == where:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


# --- lanes over ranks ------------------------------------------------------------------------------------------------


def lanes_are_only_dealt_out(group: Any, examples: int) -> None:
    """Over the ranks a run is what it is in one process, bit for bit, with the same counts."""
    executor = pr.Distributed(group, local=pr.Serial())

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(cases())
        coarse, schedule = data.draw(corrections()), data.draw(schedules(case.grid.num_slices))
        options: dict[str, Any] = {"schedule": schedule, "stop": data.draw(stops()), "throw": False}
        one = solve(case, coarse, executor=pr.Serial(), **options)
        many = solve(case, coarse, executor=executor, **options)

        def compare() -> None:
            same_run(one, many)
            counted = {"rounds", "evaluations", "fine_evaluations", "coarse_evaluations", "max_lanes"}
            spent, expected = many.stats.to_dict(), one.stats.to_dict()
            assert {name: spent[name] for name in counted} == {name: expected[name] for name in counted}

        together(group, compare)

    check()


def samples_too(group: Any, examples: int) -> None:
    """Batches of samples, solved together, by both ways over ranks."""

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(cases(batch=(3,), one_step=True))
        coarse = data.draw(coarse_propagators())
        options: dict[str, Any] = {"stop": data.draw(stops()), "samples": True, "throw": False}
        one = solve(case, coarse, executor=pr.Serial(), **options)
        lanes = solve(case, coarse, executor=pr.Distributed(group, local=pr.Serial()), **options)
        classical = solve(case, coarse, executor=pr.Serial(), schedule=pr.Barrier(), **options)
        blocks = solve(case, coarse, executor=pr.Serial(), schedule=pr.RankPipeline(group), **options)

        def compare() -> None:
            same_run(one, lanes)
            same_run(classical, blocks, NORMS)

        together(group, compare)

    check()


# --- blocks over ranks -----------------------------------------------------------------------------------------------


def blocks_give_the_iterates_of_barrier(group: Any, examples: int) -> None:
    """Whatever the number of ranks, a pipeline ends with what the classical order ends with, bit for bit."""

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(cases(max_slices=9))
        coarse, stop = data.draw(coarse_propagators()), data.draw(stops())
        one = solve(case, coarse, executor=pr.Serial(), stop=stop, throw=False, schedule=pr.Barrier())
        many = solve(case, coarse, executor=pr.Serial(), stop=stop, throw=False, schedule=pr.RankPipeline(group))
        together(group, lambda: same_run(one, many, NORMS))

    check()


def sums_in_other_rows_differ_by_rounding(group: Any, examples: int) -> None:
    """Corrections that sweep over many slices in one go sum in another order where a block ends."""

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(cases(max_slices=9, with_stiff=False))
        coarse = data.draw(st.sampled_from((pr.Identity(), pr.Zero(), pr.LinearFlow(shrinking))))
        stop = pr.Iterations(data.draw(st.integers(1, 9)))
        one = solve(case, coarse, stop=stop, throw=False, schedule=pr.Barrier())
        many = solve(case, coarse, stop=stop, throw=False, schedule=pr.RankPipeline(group))

        def compare() -> None:
            assert distance(one.us, many.us) <= case.rounding
            assert one.status is many.status
            assert one.iterations == many.iterations

        together(group, compare)

    check()


def any_correction_ends_with_the_serial_run(group: Any, examples: int) -> None:
    """After as many iterations as slices, with whatever correction: bit for bit."""

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(cases(max_slices=6, with_stiff=False))
        coarse = data.draw(corrections().filter(lambda c: not c.mixing))
        many = solve(case, coarse, executor=pr.Serial(), stop=NEVER, throw=False, schedule=pr.RankPipeline(group))
        ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
        together(group, lambda: _is_serial(many, ref))

    check()


def _is_serial(many: pr.Solution, ref: pr.Solution) -> None:
    assert equal(many.us, ref.us), distance(many.us, ref.us)
    assert many.converged


# --- what goes wrong -------------------------------------------------------------------------------------------------

U0 = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
GRID = pr.TimeGrid.uniform(0.0, 3.0, slices=6, steps=5)


def ways(group: Any, timeout: float | None = None) -> dict[str, dict[str, Any]]:
    timeout = pace.limit() if timeout is None else timeout
    return {
        "lanes": {"executor": pr.Distributed(group, timeout=timeout)},
        "blocks": {"schedule": pr.RankPipeline(group, timeout=timeout)},
    }


def plain(problem: pr.Problem | None = None, u0: Any = U0, grid: pr.TimeGrid = GRID, **options: Any) -> pr.Solution:
    problem = problem or pr.ODE(lambda t, u: torch.cos(t) * u - 0.3 * u**3)
    with torch.no_grad():
        return pr.solve(problem, u0, grid, **{"fine": pr.RK4(), "coarse": pr.Euler(), "stop": NEVER, **options})


class Doubtful(pr.Tolerance):
    """Says after two iterations, once, that it has met a tolerance that it has not met."""

    def begin(self, start: Any) -> Any:
        return DoubtfulState(self, super().begin(start))


class DoubtfulState:
    def __init__(self, rule: pr.Tolerance, inside: Any) -> None:
        self.rule, self.inside, self.doubts = rule, inside, True

    def decide(self, seen: Any) -> pr.Verdict:
        decision, yes = self.inside.decide(seen), torch.ones(len(seen.systems), dtype=torch.bool).numpy()
        if self.doubts and seen.iteration[0] == 2:
            return decision._replace(stop=yes, converged=yes, sound=~yes)
        return decision._replace(sound=yes)

    def account(self) -> dict[str, Any]:
        return self.inside.account()

    def reopen(self, systems: Any, times: int) -> None:
        self.doubts = False
        self.inside.reopen(systems, times)


def opened_again(group: Any) -> bool:
    """A run that has accepted too much is opened again on all ranks, which end as one process does."""
    one = plain(stop=Doubtful(1e-9, 0.0), schedule=pr.Barrier())
    assert one.iterations > 2
    many = plain(stop=Doubtful(1e-9, 0.0), schedule=pr.RankPipeline(group, timeout=20.0))
    together(group, lambda: same_run(one, many, NORMS))
    return True


def caught(call: Callable[[], Any]) -> tuple[str, str, bool]:
    """The type and the text of what it raises, and whether a partial solution comes with it."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__, str(error), isinstance(getattr(error, "solution", None), pr.Solution)
    return "", "", False


def _failing(group: Any, where: int, after: int) -> pr.ODE:
    calls = [0]

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls[0] += 1
        if dist.get_rank(group) == where and calls[0] > after:
            raise ZeroDivisionError(f"in call {calls[0]}")
        return torch.cos(t) * u

    return pr.ODE(f, batching="loop")


def one_raises(group: Any, way: str, where: int, after: int) -> tuple[tuple[str, str, bool], bool]:
    """What comes of it on this rank, and whether the group can be used afterwards."""
    came = caught(lambda: plain(_failing(group, where, after), **ways(group)[way]))
    return came, torch.equal(plain(**ways(group)[way]).us, plain().us)


def left_behind(group: Any, way: str) -> list[str]:
    """What still refers to the group's link after a run, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        plain(**ways(group)[way])
        links = [each for each in gc.get_objects() if isinstance(each, Link)]
        return [repr(other)[:200] for other in gc.get_referrers(*links)] if links else []
    finally:
        gc.enable()


def values_change(group: Any, where: int) -> tuple[tuple[str, str, bool], bool]:
    """The same, where one rank's values are of another dtype from some call on."""
    calls = [0]

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls[0] += 1
        return -(u.float() if dist.get_rank(group) == where and calls[0] > 7 else u)

    problem = pr.ODE(f, batching="native")
    came = caught(lambda: plain(problem, **ways(group)["lanes"]))
    return came, torch.equal(plain(**ways(group)["lanes"]).us, plain().us)


def callback_raises(group: Any, way: str, where: int, path: str | None) -> tuple[str, str, bool]:
    def callback(report: pr.IterationReport) -> None:
        if report.iteration == 2 and dist.get_rank(group) == where:
            raise LookupError("no")

    return caught(lambda: plain(callback=callback, checkpoint=path, **ways(group)[way]))


def callback_stops(group: Any, way: str, where: int) -> tuple[str, int]:
    def callback(report: pr.IterationReport) -> bool:
        return report.iteration == 2 and dist.get_rank(group) == where

    solution = plain(callback=callback, **ways(group)[way])
    return solution.status.name, int(solution.iterations)


def they_disagree(group: Any, way: str, on: str) -> tuple[str, str, bool]:
    other = dist.get_rank(group) == dist.get_world_size(group) - 1
    options: dict[str, Any] = dict(ways(group)[way])
    if on == "shape":
        options["u0"] = U0[:3] if other else U0
    elif on == "dtype":
        options["u0"] = U0.float() if other else U0
    elif on == "value":
        options["u0"] = U0 + other
    elif on == "grid":
        options["grid"] = pr.TimeGrid.uniform(0.0, 3.0 + other, slices=6, steps=5)
    elif on == "slices":
        options["grid"] = pr.TimeGrid.uniform(0.0, 3.0, slices=6 + other, steps=5)
    elif on == "fine":
        options["fine"] = pr.Heun() if other else pr.RK4()
    elif on == "stop":
        options["stop"] = pr.Iterations(2 + other)
    elif on == "noise":
        seed = torch.Generator().manual_seed(int(other))
        options["problem"] = pr.SDE(lambda t, u: -u, lambda t, u: 0.1 * u, generator=seed)
        options["fine"], options["coarse"] = pr.EulerMaruyama(), pr.EulerMaruyama()
    elif on == "refusal":
        options["max_iterations"] = -1 if other else None
    return caught(lambda: plain(**options))


def gradients(group: Any, way: str) -> tuple[str, str, bool]:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    u0 = U0.clone().requires_grad_()
    problem = pr.ODE(lambda t, u: weight * u)
    return caught(lambda: pr.solve(problem, u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), **ways(group)[way]))


def refused(group: Any) -> list[tuple[str, str, bool]]:
    lanes, blocks = pr.Distributed(group), pr.RankPipeline(group)
    return [
        caught(lambda: plain(executor=lanes, schedule=blocks)),
        caught(lambda: plain(schedule=blocks, keep="all")),
        caught(lambda: plain(schedule=blocks, dense=False)),
        caught(lambda: plain(schedule=blocks, coarse=pr.Anderson(pr.Identity()))),
        caught(lambda: plain(u0=U0.to("meta"), executor=lanes)),
        caught(lambda: plain(executor=pr.Distributed("time"))),
        caught(lambda: plain(schedule=pr.RankPipeline(dist.GroupMember.NON_GROUP_MEMBER))),
    ]


def a_rank_never_comes(group: Any, way: str) -> tuple[tuple[str, str, bool], float]:
    """The last rank is elsewhere; the others give it up after the time told."""
    began = time.perf_counter()
    came = ("", "", False)
    if dist.get_rank(group) < dist.get_world_size(group) - 1:
        came = caught(lambda: plain(**ways(group, timeout=1.5)[way]))
    return came, time.perf_counter() - began


def halted(group: Any, way: str, path: str) -> int:
    """Stops after two iterations, which are saved."""
    return int(plain(checkpoint=path, callback=lambda report: report.iteration == 2, **ways(group)[way]).iterations)


def gone_on(group: Any, way: str, path: str) -> tuple[float, list[int], int]:
    """Goes on from there: how far from an undisturbed run it ends, iterations made now, and all of them."""
    made: list[int] = []
    again = plain(checkpoint=path, callback=lambda report: made.append(report.iteration), **ways(group)[way])
    return float((again.us - plain().us).abs().max()), made, len(again.history)


def foreign(group: Any, way: str, path: str) -> tuple[str, str, bool]:
    return caught(lambda: plain(checkpoint=path, **ways(group)[way]))


# --- shapes of groups ------------------------------------------------------------------------------------------------


def beside_a_sharded_model(group: Any) -> bool:
    """A mesh of two dimensions: lanes over one, the columns of a layer over the other."""
    from torch.distributed.device_mesh import DeviceMesh

    mesh = DeviceMesh("cpu", torch.arange(4).reshape(2, 2), mesh_dim_names=("time", "model"))
    model = mesh["model"].get_group()
    torch.manual_seed(1)
    weight = torch.randn(8, 6, dtype=torch.float64) / 3
    mine = weight.chunk(2)[mesh["model"].get_local_rank()]

    def f(t: Tensor, u: Tensor) -> Tensor:
        hidden = torch.tanh(u @ mine.T) @ mine  # a part of the sum over hidden units
        dist.all_reduce(hidden, group=model)
        return -hidden

    def whole(t: Tensor, u: Tensor) -> Tensor:
        return -torch.tanh(u @ weight.T) @ weight

    one = plain(pr.ODE(whole, batching="native"), stop=pr.Iterations(3))
    problem = pr.ODE(f, batching="native")
    many = plain(problem, stop=pr.Iterations(3), executor=pr.Distributed(mesh["time"]))
    torch.testing.assert_close(many.us, one.us, rtol=1e-12, atol=1e-14)
    return True


def traffic(group: Any, slices: int, elements: int, iterations: int) -> dict[str, int]:
    """Bytes of states that this rank has sent, as counted, and as seen at torch's own functions."""
    from unittest import mock

    from parareal.distributed import _block_engine, _lane_parallel, _mailbox

    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=3), torch.linspace(0.1, 1.0, elements)
    seen, engines, lanes = {"letters": 0, "lanes": 0}, [], []
    real, finish, settle = dist.isend, _block_engine.BlockEngine.finish, _lane_parallel._Joined.calls

    def isend(tensor: Tensor, *args: Any, **more: Any) -> Any:
        kind = "letters" if more["tag"] == _mailbox._TAG else "lanes"
        seen[kind] += tensor.numel() * tensor.element_size()
        return real(tensor, *args, **more)

    def finished(engine: Any) -> None:
        engines.append(engine.sent)
        finish(engine)

    def calls(self: Any, lanes_: int) -> int:
        lanes.append(self.sent)
        return settle(self, lanes_)

    options: dict[str, Any] = {"stop": pr.Iterations(iterations), "grid": grid, "u0": u0}
    problem = pr.ODE(lambda t, u: -u, batching="native")
    with (
        mock.patch.object(dist, "isend", isend),
        mock.patch.object(_block_engine.BlockEngine, "finish", finished),
        mock.patch.object(_lane_parallel._Joined, "calls", calls),
    ):
        plain(problem, schedule=pr.RankPipeline(group), **options)
        run = plain(problem, executor=pr.Distributed(group), **options)
    size = u0.numel() * u0.element_size()
    return {
        "edges": engines[0],
        "all": seen["letters"],
        "lanes": lanes[-1],
        "seen": seen["lanes"],
        "evaluations": run.stats.evaluations,
        "state": size,
    }


def pipeline_rounds(group: Any, slices: int, steps: int, iterations: int) -> int:
    """Rounds of a pipeline whose fine solves take so many, and whose coarse ones take one."""
    problem, grid = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=steps)
    options: dict[str, Any] = {
        "grid": grid,
        "fine": pr.Euler(),
        "coarse": pr.Euler(),
        "stop": pr.Iterations(iterations),
    }
    return pr.solve(problem, torch.ones(3), **options, schedule=pr.RankPipeline(group)).stats.rounds
