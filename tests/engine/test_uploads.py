"""Numbers of the host on their way to a device: many in one copy, unchanged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffusion_adapters as da
import parareal as pr
from parareal._core import host

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from pretend_device import DEVICE, counting


def test_numbers_of_all_kinds_arrive_unchanged_in_one_copy() -> None:
    host._SENT.clear()
    indices = [np.array([3, 1, 2]), np.array([[5, 0], [0, 5]]), np.array([True, False, True]), np.array([9, 8])]
    numbers = [torch.rand(3, 5), torch.rand(2, dtype=torch.float64), torch.rand(1, 1, 3)]
    taken: list[torch.Tensor] = []
    with counting() as counts:
        upload = host.Upload(DEVICE)
        upload.indices([*indices, np.arange(4)])  # a range needs no index
        upload.numbers(numbers, torch.float32, taken.extend)
        upload.send()
        assert counts.totals[1:] == (1, 0)
        there = [host.index_to(DEVICE, index) for index in indices]
        assert counts.totals[1:] == (1, 0)
        for index, sent in zip(indices, there, strict=True):
            assert np.array_equal(sent.cpu().numpy(), index)
            assert np.array_equal(host.values_of(sent).numpy(), index)
        for number, sent in zip(numbers, taken, strict=True):
            assert torch.equal(sent.cpu(), number.to(torch.float32))


def test_what_waits_goes_with_the_next_numbers() -> None:
    host._SENT.clear()
    index, numbers = np.array([4, 1, 7]), torch.rand(5, dtype=torch.float64)
    with counting() as counts:
        upload = host.Upload(DEVICE)
        upload.indices([index])
        upload.wait()
        assert counts.totals[1] == 0
        there = host.to_device(numbers, DEVICE, torch.float32)
        sent = host.index_to(DEVICE, index)
        host.send_waiting()  # nothing is left
        assert counts.totals[1:] == (1, 0)
        assert torch.equal(there.cpu(), numbers.to(torch.float32))
        assert np.array_equal(sent.cpu().numpy(), index)


def test_a_table_is_sent_once() -> None:
    rows = torch.rand(6, 2, dtype=torch.float64)
    host._SENT.clear()
    with counting() as counts:
        table = host.Table(rows)
        for index in (np.arange(2, 5), np.array([3]), np.array([5, 0, 1])):
            assert torch.equal(table.rows(index, DEVICE).cpu(), rows[torch.from_numpy(index)])
        assert counts.totals[1] == 2  # the table, and the index that is no range


def test_an_error_leaves_the_states_before_it() -> None:
    """Boundaries are written many at a time; what a right-hand side then changes in place is not among them."""
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=6, steps=2)
    calls: list[Any] = []

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        calls.append(t)
        return u.neg_() if len(calls) == 8 else -u

    ref = pr.serial(pr.ODE(lambda t, u: -u, "native"), torch.ones(3), grid, fine=pr.Euler())
    assert (ref.stats.rounds, ref.stats.evaluations, ref.stats.calls, ref.stats.max_lanes) == (12, 12, 12, 1)
    try:
        pr.serial(pr.ODE(f, "native"), torch.ones(3), grid, fine=pr.Euler())
    except ValueError as error:
        us = error.solution.us  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise AssertionError("expected an error")
    assert torch.equal(us[:4], ref.us[:4])
    assert bool(us[4:].isnan().all())


def test_a_network_may_change_its_times_in_place() -> None:
    noise = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out: list[torch.Tensor] = []
    for changed in (lambda t: t * 2, lambda t: t.mul_(2)):
        model = da.DiffusionModel(lambda x, t, changed=changed: torch.tanh(x) * changed(t)[:, None], da.VP(), "eps")
        out += [da.sample(model, noise, steps=8, parallel=parallel).samples for parallel in (True, False)]
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[1], out[3])
