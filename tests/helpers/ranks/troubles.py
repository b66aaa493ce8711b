"""Runs that something goes wrong in, anywhere and at any time: all ranks end, with what went wrong, and go on together.

As in `ranks.jobs` every function is called on all ranks at once, and draws the same examples on each.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from ranks.jobs import caught, plain, together, ways
from torch import Tensor

import parareal as pr
from parareal import _assemble
from parareal._core import ring_buffer, signals
from parareal.distributed import _block_engine
from parareal.persistence import _checkpoint
from parareal.results import _tensor_file

STOP = pr.Tolerance(0.0, 0.0, rule="defect")
PATCHED: dict[str, tuple[Any, str]] = {
    "correction": (pr.Coarse, "difference"),
    "correction, bound": (pr.Coarse, "bind"),
    "first guess": (pr.Coarse, "guess"),
    "stopping rule": (pr.Tolerance, "measure"),
    "stopping rule, deciding": (pr.Tolerance, "decide"),
    "stopping rule, beginning": (pr.Tolerance, "begin"),
    "state read": (ring_buffer.Ring, "take"),
    "state written": (ring_buffer.Ring, "put"),
    "memory of the rule": (_block_engine, "error_record"),
    "solution": (_assemble, "capture"),
    "checkpoint written": (_tensor_file, "save"),
    "checkpoint read": (_checkpoint.Checkpoint, "_read"),
}
PLACES = ("right-hand side", "callback", *PATCHED)


class TroubleError(Exception):
    """What goes wrong."""


class Visits:
    """Counts how often this rank comes to each place, and does something at the visits told."""

    def __init__(self, at: dict[str, tuple[int, Callable[[], None]]]) -> None:
        self._at, self._count, self.done = at, dict.fromkeys(PLACES, 0), False

    def __call__(self, place: str) -> None:
        self._count[place] += 1
        when, what = self._at.get(place, (0, None))
        if what is not None and self._count[place] == when:
            self.done = True
            what()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sees all visits to what is patched."""
        with ExitStack() as stack:
            for place, (owner, name) in PATCHED.items():
                stack.enter_context(mock.patch.object(owner, name, self._seen(place, getattr(owner, name))))
            yield

    def _seen(self, place: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*args: Any, **options: Any) -> Any:
            self(place)
            return real(*args, **options)

        return seen


def run(group: Any, way: str, visits: Visits, path: Path | None, slices: int, pause: float = 0.0) -> pr.Solution:
    def f(t: Tensor, u: Tensor) -> Tensor:
        visits("right-hand side")
        if pause:
            time.sleep(pause)
        return torch.cos(t)[:, None] * u - 0.3 * u**3

    grid = pr.TimeGrid.uniform(0.0, 3.0, slices=slices, steps=3)
    # Two signals in a row are one, however long a busy machine takes between them.
    with visits.watched(), mock.patch.object(signals, "_ONE", float("inf")):
        return plain(
            pr.ODE(f, batching="native"),
            grid=grid,
            fine=pr.Heun(),
            stop=STOP,
            checkpoint=path,
            callback=lambda report: visits("callback"),
            **ways(group)[way],
        )


@contextmanager
def folder(group: Any) -> Iterator[Path]:
    """One that all ranks share."""
    with tempfile.TemporaryDirectory() as made:
        names: list[Any] = [made]
        dist.broadcast_object_list(names, group_src=0, group=group)
        yield Path(names[0])
        dist.barrier(group)


def told(came: tuple[str, str, bool], hit: list[int], rank: int, size: int) -> None:
    """Where something was raised it is seen, and everywhere else it is said where and what that was."""
    name, text, _ = came
    if rank in hit:
        assert name == "TroubleError", (name, text)
    else:
        assert name == "RankError", (name, text)
        assert any(f"rank {where} of {size} raised TroubleError: on rank {where}" in text for where in hit), text
        assert "Its traceback" in text
        assert "in trouble" in text


def _good_as_new(group: Any, way: str, path: Path | None, slices: int, undisturbed: pr.Solution) -> None:
    """The group works as before, and a run goes on from what was saved."""
    again = run(group, way, Visits({}), path, slices)
    torch.testing.assert_close(again.us, undisturbed.us, rtol=1e-12, atol=0.0)
    assert again.iterations == undisturbed.iterations == len(again.history)


def raised_anywhere(group: Any, examples: int) -> None:
    """An exception on any ranks, in any part of a run and in any iteration."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    when = st.one_of(st.integers(1, 4), st.integers(1, 60))

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        way, kept = data.draw(st.sampled_from(("lanes", "blocks"))), data.draw(st.booleans())
        slices = data.draw(st.integers(1, 7))
        one = st.tuples(st.sampled_from(PLACES), when)
        at = data.draw(st.dictionaries(st.integers(0, size - 1), one, min_size=1, max_size=2))

        def trouble() -> None:
            raise TroubleError(f"on rank {rank}")

        with folder(group) as shared:
            path = shared / "run.safetensors" if kept else None
            visits = Visits({at[rank][0]: (at[rank][1], trouble)} if rank in at else {})
            undisturbed = run(group, way, Visits({}), None, slices)
            came = caught(lambda: run(group, way, visits, path, slices))
            hits: list[Any] = [None] * size
            dist.all_gather_object(hits, visits.done, group=group)
            hit = [other for other in range(size) if hits[other]]
            event(f"{way}: {'raised' if hit else 'not reached'}")

            def compare() -> None:
                if hit:
                    told(came, hit, rank, size)
                else:
                    assert came[0] == "", came

            together(group, compare)
            _good_as_new(group, way, path, slices, undisturbed)

    check()


def a_signal(group: Any, way: str, number: int, kept: bool, examples: int) -> None:
    """A signal on any rank, in any part of a run, or some time after; then all go on."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    name = {signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "SystemExit"}[signal.Signals(number)]
    places = [place for place in PLACES if place not in ("checkpoint read", "correction, bound")]

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        where, place = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(places))
        when, slices = data.draw(st.integers(1, 40)), data.draw(st.integers(2, 7))
        twice = data.draw(st.booleans())  # as from a launcher that has got it as well

        def send() -> None:
            for _ in range(1 + twice):
                os.kill(os.getpid(), number)

        with folder(group) as shared:
            path = shared / "run.safetensors" if kept else None
            visits = Visits({place: (when, send)} if rank == where else {})
            undisturbed = run(group, way, Visits({}), None, slices)
            came = caught(lambda: run(group, way, visits, path, slices))
            handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
            came_to: list[Any] = [None] * size
            dist.all_gather_object(came_to, (visits.done, came[0]), group=group)
            event(f"{place}: {sorted({each for _, each in came_to})}")

            def compare() -> None:
                assert handlers == [signal.SIG_DFL, signal.default_int_handler]
                names = {each for _, each in came_to}
                if not any(done for done, _ in came_to):
                    assert names == {""}
                elif len(names) == 2:  # so late that the others had ended in order
                    assert came_to[where] == (True, name)
                    assert {each for i, (_, each) in enumerate(came_to) if i != where} == {""}
                else:
                    assert names == {name}

            together(group, compare)
            _good_as_new(group, way, path, slices, undisturbed)

    check()


def a_signal_at_any_moment(group: Any, way: str, kept: bool, examples: int) -> None:
    """The same at any moment, in the midst of exchanges as well."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)

    @settings(max_examples=examples, phases=(Phase.generate,))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        where, delay = data.draw(st.integers(0, size - 1)), data.draw(st.floats(0.0, 0.15))
        twice = data.draw(st.booleans())

        def send() -> None:
            time.sleep(delay)
            for _ in range(1 + twice):
                os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=send)
        with folder(group) as shared:
            path = shared / "run.safetensors" if kept else None
            visits = Visits({"right-hand side": (1, sender.start)} if rank == where else {})
            undisturbed = run(group, way, Visits({}), None, 6)

            def interrupted() -> None:
                try:
                    run(group, way, visits, path, 6, pause=0.001)
                finally:
                    while sender.is_alive():  # a signal after the run is caught here, not in the tests' own code
                        time.sleep(0.001)
                    time.sleep(0.01)

            came = caught(interrupted)
            names: list[Any] = [None] * size
            dist.all_gather_object(names, came[0], group=group)
            event(f"{sorted(set(names))}")

            def compare() -> None:
                assert set(names) <= {"", "KeyboardInterrupt"}, names
                assert names[where] == "KeyboardInterrupt" or where not in range(min(size, 6))

            together(group, compare)
            _good_as_new(group, way, path, 6, undisturbed)

    check()
