"""Computes the independent figures of ``tests/helpers/reference/`` and fills the tables of ``docs/reference.md``.

`python scripts/reproduce.py` takes the stored figures and writes the tables, in about a minute;
`python scripts/reproduce.py --independent` first computes the figures anew, in 40 digits, which takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from reference import cases, figures, tables


def independent() -> dict[str, Any]:
    """All that is stored."""
    runs: dict[str, Any] = {}
    for name, setting in (cases.INDEPENDENT | cases.PUBLISHED).items():
        listed = tables.PUBLISHED.get(name, {}).get("max_error_by_iteration_from_0")
        # As many iterations as were published; iteration N has no error.
        runs[name] = figures.with_rounding(setting, listed and min(len(listed) - 1, setting.slices))
        print(name, ", ".join(f"{e:.1e}" for e in runs[name]["errors"]), flush=True)
    return runs


def main() -> None:
    """Computes, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--independent", action="store_true", help="compute the independent figures anew")
    torch.set_num_threads(1)
    if parser.parse_args().independent:
        tables.STORED.write_text(json.dumps(independent(), indent=1) + "\n")
    page = tables.PAGE.read_text()
    for name in tables.TABLES:
        start = page.index(tables.header(name))
        end = page.index("\n\n", start)
        table = tables.markdown(name)
        print(table, end="\n\n", flush=True)
        page = page[:start] + table + page[end:]
    tables.PAGE.write_text(page)


if __name__ == "__main__":
    main()
