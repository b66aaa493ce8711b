"""Runs of several processes: the same results as in one, whatever the number of ranks, and no deadlock."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from ranks import jobs, kinds, pace, troubles
from ranks.pool import Pool

import parareal as pr

pytestmark = pytest.mark.xdist_group("ranks")  # one pool of processes, not one for each worker

WAYS = ("lanes", "blocks")


def examples(few: int) -> int:
    """How many examples of a law over ranks: more under the profiles of Hypothesis that take more."""
    return max(1, few * settings().max_examples // 15)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


def test_processes_that_were_lost_are_replaced_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(2)
    try:
        with pytest.raises(AssertionError, match="rank 1 died in the midst of the job, exit code -9"):
            pool.run(2, jobs.dies, 1)
        assert pool.pids == []
        assert pool.run(2, jobs.rank_of) == [0, 1]
        before = pool.pids
        with pytest.raises(AssertionError, match="TypeError"):
            pool.run(2, jobs.rank_of, "too much")
        assert pool.run(2, jobs.rank_of) == [0, 1]
        assert not set(before) & set(pool.pids)
        before = pool.pids
        monkeypatch.setenv(pace.GIVEN, "0.5")
        with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] have not answered for 1 s"):
            pool.run(2, jobs.dies, -1)
        for pid in before:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    finally:
        pool.close()


# --- the same results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "law",
    [
        jobs.lanes_are_only_dealt_out,
        jobs.samples_too,
        jobs.blocks_give_the_iterates_of_barrier,
        jobs.sums_in_other_rows_differ_by_rounding,
        jobs.any_correction_ends_with_the_serial_run,
    ],
)
@pytest.mark.sweep(10)
def test_law(pool: Pool, size: int, law: Any) -> None:
    pool.run(size, law, examples(8))


def test_lanes_of_a_model_that_is_sharded_over_another_dimension(pool: Pool) -> None:
    assert pool.run(4, jobs.beside_a_sharded_model) == [True] * 4


def test_a_pipeline_is_opened_again_on_all_ranks(pool: Pool) -> None:
    assert pool.run(3, jobs.opened_again) == [True] * 3


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_run_keeps_its_group(pool: Pool, way: str) -> None:
    """The threads of a group that `destroy_process_group` does not end abort the process if they free a tensor while
    the interpreter ends."""
    assert pool.run(2, jobs.left_behind, way) == [[], []]


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "slices"), [(2, 8), (3, 8), (4, 4), (4, 3)])
def test_a_pipeline_sends_one_state_for_each_iteration_and_block_edge(pool: Pool, size: int, slices: int) -> None:
    elements, iterations = 16384, 3
    sent = pool.run(size, jobs.traffic, slices, elements, iterations)
    least = pool.run(1, jobs.traffic, slices, elements, iterations)
    assert least[0]["all"] == least[0]["lanes"] == 0
    edges = min(size, slices) - 1
    state = sent[0]["state"]
    starts = [sum(len(part) for part in torch.arange(slices).tensor_split(size)[:r]) for r in range(1, edges + 1)]
    # An edge is final, and sent no more, after as many iterations as there are slices on its left.
    expected = sum(min(iterations, start) for start in starts) * state
    assert sum(rank["edges"] for rank in sent) == pytest.approx(expected, rel=1e-3)  # and which are final: a byte
    assert sum(rank["all"] for rank in sent) <= 1.1 * iterations * edges * state


@pytest.mark.parametrize("size", [2, 3, 4])
def test_lanes_send_their_values_and_nothing_else(pool: Pool, size: int) -> None:
    sent = pool.run(size, jobs.traffic, 8, 4096, 3)
    values = sent[0]["evaluations"] * sent[0]["state"]
    # The last round's own bytes are counted after the figures are taken: it has at most as many lanes as slices.
    assert sum(rank["lanes"] for rank in sent) <= values * (size - 1)
    assert sum(rank["lanes"] for rank in sent) >= (values - 8 * sent[0]["state"]) * (size - 1)
    # Seen at torch's functions: the values of all rounds but the first, before which nobody knows what they look like.
    assert (values - 8 * sent[0]["state"]) * (size - 1) <= sum(rank["seen"] for rank in sent) <= values * (size - 1)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("slices", "steps", "iterations"), [(6, 9, 1), (6, 9, 3), (7, 11, 7), (3, 5, 2), (12, 16, 4)])
@pytest.mark.sweep(8)
def test_simulated_rounds_are_those_of_runs(
    pool: Pool, size: int, slices: int, steps: int, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation of many ranks of `benchmarks/distributed.py`, held to runs."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    model = importlib.import_module("network.model")
    blocks = [len(part) for part in torch.arange(slices).tensor_split(size)]
    times = model.pipeline(blocks, iterations, model.Slices(float(steps), 1.0, 1.0), model.Network())
    made, simulated = pool.run(size, jobs.pipeline_rounds, slices, steps, iterations), round(times.solved)
    if size == 1:
        assert made == [simulated]
    else:  # what comes late, on one machine or another, is a round of its own
        assert min(made) == max(made) >= simulated


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("where", "after"), [(0, 0), (0, 7), (1, 0), (1, 7)])
@pytest.mark.sweep(6)
def test_a_rank_that_raises_makes_all_raise(pool: Pool, way: str, size: int, where: int, after: int) -> None:
    for rank, ((name, text, partial), usable) in enumerate(pool.run(size, jobs.one_raises, way, where, after)):
        assert name == ("ZeroDivisionError" if rank == where else "RankError"), text
        assert partial
        assert usable
        if rank != where:
            assert f"rank {where} of {size} raised ZeroDivisionError: in call" in text
            assert "Its traceback" in text
            assert "in f" in text


@pytest.mark.parametrize("where", [0, 1])
def test_values_that_change_their_kind_are_refused(pool: Pool, where: int) -> None:
    for rank, ((name, text, partial), usable) in enumerate(pool.run(3, jobs.values_change, where)):
        assert name == ("RankError" if rank != where else "TypeError")
        assert "dtype" in text
        assert partial
        assert usable


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("size", "where"), [(2, 1), (3, 0), (3, 2)])
@pytest.mark.sweep(8)
def test_so_does_one_whose_callback_raises(
    pool: Pool, way: str, size: int, where: int, kept: bool, tmp_path: Path
) -> None:
    path = str(tmp_path / "run.file") if kept else None
    for rank, (name, text, partial) in enumerate(pool.run(size, jobs.callback_raises, way, where, path)):
        assert name == ("LookupError" if rank == where else "RankError"), text
        assert partial
        if rank != where:
            assert f"rank {where} of {size} raised LookupError: no" in text
            assert "in callback" in text


@pytest.mark.parametrize("where", [0, 2])
def test_any_callback_stops_lanes(pool: Pool, where: int) -> None:
    assert pool.run(3, jobs.callback_stops, "lanes", where) == [("STOPPED", 2)] * 3


def test_the_first_callback_stops_a_pipeline(pool: Pool) -> None:
    assert pool.run(3, jobs.callback_stops, "blocks", 0) == [("STOPPED", 2)] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("shape", "disagree on the state"),
        ("dtype", "disagree on the state"),
        ("value", "disagree on the initial state"),
        ("grid", "disagree on the grid"),
        ("slices", "disagree on the grid"),
        ("fine", "disagree on the fine propagator"),
        ("stop", "disagree on the stopping rule"),
        ("noise", "disagree on the per-sample data or noise"),
    ],
)
def test_ranks_that_disagree_are_told_so_on_every_rank(pool: Pool, way: str, on: str, words: str) -> None:
    for name, text, _ in pool.run(3, jobs.they_disagree, way, on):
        assert name == "ValueError"
        assert words in text
        assert "rank 2: " in text
        assert "expected the same call" in text


@pytest.mark.parametrize("way", WAYS)
def test_what_one_rank_refuses_the_others_hear_of(pool: Pool, way: str) -> None:
    answers = pool.run(3, jobs.they_disagree, way, "refusal")
    assert [name for name, _, _ in answers] == ["RankError", "RankError", "ValueError"]
    assert all("max_iterations" in text for _, text, _ in answers)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_refused(pool: Pool, way: str) -> None:
    for name, text, _ in pool.run(2, jobs.gradients, way):
        assert name in ("ValueError", "RankError")
        assert "torch.no_grad()" in text


def test_what_does_not_go_together_is_refused_on_every_rank(pool: Pool) -> None:
    words = [
        "expected how one process evaluates its lanes",
        'keep="all" came with',
        "dense=False came with",
        "looks at all boundaries together",
        "the state lies on 'meta'",
        "group='time'",
        "this process is not in it",
    ]
    for answers in pool.run(2, jobs.refused):
        assert [name for name, _, _ in answers] == ["TypeError", *["ValueError"] * 4, "TypeError", "TypeError"]
        for (_, text, _), word in zip(answers, words, strict=True):
            assert word in text
            assert "expected" in text


def test_without_a_group_it_says_how_to_get_one() -> None:
    for options in ({"executor": pr.Distributed()}, {"schedule": pr.RankPipeline()}):
        with pytest.raises(ValueError, match=r"init_process_group\(\).*torchrun"):
            jobs.plain(**options)


@pytest.mark.parametrize("made", [pr.Distributed, pr.RankPipeline])
def test_settings_are_checked(made: Any) -> None:
    with pytest.raises(TypeError, match="timeout='1' is a str; expected seconds"):
        made(timeout="1")
    with pytest.raises(ValueError, match=r"timeout=0\.0 is not a time to wait"):
        made(timeout=0.0)
    with pytest.raises(TypeError, match="local is a Distributed; expected how one process"):
        pr.Distributed(local=pr.Distributed())


@pytest.mark.parametrize("size", [2, 3, 4])
def test_whatever_raises_wherever_and_whenever_all_hear_of_it(pool: Pool, size: int) -> None:
    pool.run(size, troubles.raised_anywhere, examples(15))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.sweep(4)
def test_a_signal_on_any_rank_ends_all_in_order(pool: Pool, way: str, number: int, kept: bool) -> None:
    pool.run(2, troubles.a_signal, way, int(number), kept, examples(8))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [2, 3])
def test_so_does_one_at_any_moment(pool: Pool, way: str, size: int) -> None:
    pool.run(size, troubles.a_signal_at_any_moment, way, True, examples(6))


@pytest.mark.parametrize(("before", "after"), [(("blocks", 3), ("lanes", 2)), (("lanes", 3), ("blocks", 2))])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_job_goes_on_with_other_ranks_in_another_way(
    pool: Pool, before: tuple[str, int], after: tuple[str, int], damaged: bool, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    assert pool.run(before[1], jobs.halted, before[0], str(path)) == [2] * before[1]
    if damaged:  # then the one before it is taken
        path.write_bytes(path.read_bytes()[:-100])
    (way, size), expected = after, list(range(3, 7))  # it was saved once more as it ended
    for difference, made, reports in pool.run(size, jobs.gone_on, way, str(path)):
        assert difference <= 1e-14  # states are of size 1
        assert made == expected
        assert reports == 6


@pytest.mark.parametrize("way", WAYS)
def test_a_foreign_checkpoint_is_refused_on_every_rank(pool: Pool, way: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"something else")
    for rank, (name, text, _) in enumerate(pool.run(2, jobs.foreign, way, str(path))):
        assert name == ("RankError" if rank else "ValueError")
        assert "the checkpoint cannot be continued" in text
    assert path.read_bytes() == b"something else"


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_does_not_come_is_given_up(way: str) -> None:
    pool = Pool(2)
    try:
        for (name, text, _), seconds in pool.run(2, jobs.a_rank_never_comes, way)[:-1]:
            assert name == "RankError"
            assert "has not answered for 1.5 s" in text
            assert seconds < pace.limit() / 2  # of the group: the run's own limit counts
    finally:
        pool.close()


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.sweep(10)
def test_kinds_of_problems_and_methods(pool: Pool, kind: str) -> None:
    for found in pool.run(2, kinds.runs, kind):
        for difference, same, status, _ in found:
            assert same, status
            # Stacks of other heights are rounded otherwise; states are of size 1, and errors grow little.
            assert difference <= {"half": 0.04, "nested": 1e-6}.get(kind, 1e-13)
