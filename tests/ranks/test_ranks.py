"""Runs of several processes: the same results as in one, whatever the number of ranks, and no deadlock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ranks import jobs
from ranks.pool import Pool

import parareal as pr


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "law",
    [
        jobs.lanes_are_only_dealt_out,
        jobs.samples_too,
        jobs.blocks_give_the_iterates_of_barrier,
        jobs.any_correction_ends_with_the_serial_run,
    ],
)
def test_law(pool: Pool, size: int, law: object) -> None:
    pool.run(size, law, 12)  # type: ignore[arg-type]
