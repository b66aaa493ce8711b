"""How runs over several processes end when something goes wrong on one of them, at random moments.

Jobs of 2 and 3 ranks, split by lanes and by blocks of slices, with a checkpoint and without. One rank is killed, ends
its process, is stopped, gets a signal or raises, in a random state of its exchange with the others. It prints after how
many faults a rank did not end, or ended otherwise than it should, and how long they took. Run it with
`python benchmarks/rank_faults.py`: about 260 kills, 480 signals and 220 exceptions, each in a job of its own or in one
of processes that are kept, some seconds long where the machine is busy. `--cases 100` is quicker.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from ranks import injected, states
from ranks.pool import Pool

WEIGHTS = {"killed": 5, "gone": 1, "stopped": 1, "impatient": 1, "SIGTERM": 5, "SIGINT": 4, "raises": 5}
"""How often each kind of fault is drawn."""
SIGNALS = (*states.SIGNALS, "stopped", "impatient")
KILLS = ("killed", "gone")


def drawn(number: int) -> states.Fault:
    """The fault of a number: always the same."""
    chance = random.Random(number)
    kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    fault = chance.choice([each for each in states.everything() if each.kind == kind])
    return replace(fault, at=chance.random(), seed=chance.randrange(1, 10**6))


def run(cases: int, first: int = 0) -> dict[str, Any]:
    """Tries random faults.

    Args:
        cases: How many.
        first: The number of the first; those of one number are always the same.

    Returns:
        ``faults``, ``kills``, ``signals`` and ``exceptions`` that came to their victim; ``hangs``, faults after which
        some rank did not end; ``wrong``, those after which a rank ended otherwise than it should, or the group did not
        work again after an exception or signal; ``seconds`` from the fault to the end of all ranks: ``median`` and
        ``longest``, and ``stopped`` the longest after the time limit of a group with a stopped rank; ``texts`` of all
        that went wrong.
    """
    pool, kinds, seconds, over, texts = Pool(3), Counter[str](), [0.0], [0.0], []
    hangs = 0
    try:
        for number in range(first, first + cases):
            fault = drawn(number)
            outcome = injected.tried(pool, fault)
            if outcome.happened:
                kinds[fault.kind] += 1
                if fault.kind == "stopped":
                    over.append(outcome.seconds - outcome.timeout)
                else:
                    seconds.append(outcome.seconds)
            hangs += bool(outcome.hangs)
            if outcome.hangs or outcome.wrong:
                texts.append(f"{number}: {fault}\n{outcome.wrong}")
    finally:
        pool.close()
    return {
        "faults": sum(kinds.values()),
        "kills": sum(kinds[kind] for kind in KILLS),
        "signals": sum(kinds[kind] for kind in SIGNALS),
        "exceptions": kinds["raises"],
        "hangs": hangs,
        "wrong": len(texts) - hangs,
        "seconds": {"median": statistics.median(seconds), "longest": max(seconds), "stopped": max(over)},
        "texts": texts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=960, help="how many faults")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    options = parser.parse_args()
    found = run(options.cases, options.first)
    seconds = found["seconds"]
    print(
        f"{found['faults']} faults that came to their victim, of {options.cases} tried: {found['kills']} kills, "
        f"{found['signals']} signals, {found['exceptions']} exceptions"
    )
    print(f"did not end: {found['hangs']}; ended otherwise than they should: {found['wrong']}")
    print(
        f"seconds from the fault to the end of the last rank: median {seconds['median']:.2f}, longest "
        f"{seconds['longest']:.2f}; after the time limit, where a rank was stopped: at most {seconds['stopped']:.2f}"
    )
    for text in found["texts"]:
        print(text)


if __name__ == "__main__":
    main()
