"""Faults of ranks: those of `benchmarks/rank_faults.py`, in any state of their exchange."""

from __future__ import annotations

from pathlib import Path

import rank_faults

from trials import Report


def faulty_ranks(count: int, folder: Path, seed: int = 0) -> Report:
    """Jobs of two or three ranks of which one is killed, ends, is stopped, gets a signal or raises: all of them end."""
    found = rank_faults.run(count, first=seed)
    kinds = ", ".join(f"{found[name]} {name}" for name in ("kills", "signals", "exceptions"))
    texts = [str(text).splitlines()[0][:200] for text in found["texts"]]
    return Report(f"faults of ranks ({kinds})", int(found["faults"]), broken=texts)
