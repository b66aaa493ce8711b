"""What the processes of a pool do together; every function is called on all ranks at once.

Properties are run by Hypothesis on every rank with the same examples, one after another. All ranks see whether any of
them has found a fault, so that they stay together while it looks for a smaller one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import Case, cases, classical, corrections, distance, equal, shrinking
from torch import Tensor

import parareal as pr

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def together(group: Any, check: Callable[[], None]) -> None:
    """Runs a check on all ranks; raises on all of them where it fails on any."""
    error = None
    try:
        check()
    except AssertionError as raised:
        error = raised
    texts: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(texts, None if error is None else str(error) or repr(error), group=group)
    assert not any(texts), [text for text in texts if text]


def solve(case: Case, coarse: pr.Correction, **options: Any) -> pr.Solution:
    with torch.no_grad():
        return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **options)


def same_run(a: pr.Solution, b: pr.Solution, rtol: float = 0.0) -> None:
    """The same decisions and states, bit for bit, and the same figures within ``rtol``; costs apart."""
    torch.testing.assert_close(a.us, b.us, rtol=0.0, atol=0.0, equal_nan=True)  # edges not reached hold NaN
    assert a.status is b.status and a.sample_status == b.sample_status
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
        blocks = solve(case, coarse, executor=pr.Serial(), schedule=pr.RankPipeline(group), **options)

        def compare() -> None:
            same_run(one, lanes)
            same_run(one, blocks, NORMS)

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
        one = solve(case, coarse, executor=pr.Serial(), stop=stop, throw=False)
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
        one = solve(case, coarse, stop=stop, throw=False)
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
        many = solve(
            case, coarse, executor=pr.Serial(), stop=NEVER, throw=False, schedule=pr.RankPipeline(group)
        )
        ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
        together(group, lambda: _is_serial(many, ref))

    check()


def _is_serial(many: pr.Solution, ref: pr.Solution) -> None:
    assert equal(many.us, ref.us), distance(many.us, ref.us)
    assert many.converged
