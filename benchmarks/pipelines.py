"""Every pipeline class of the installed diffusers, in sequence and through `parallelize`.

Builds each with tiny parts of random weights (``tests/helpers/diffusion/recipes``), without downloads, and compares the
results. Each class is tried in turn; what was found is kept in a file, so that a run which is cut short continues where
it was. ``--table`` writes the table of ``docs/support.md``.

    python benchmarks/pipelines.py [--only REGEX] [--again] [--table]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from diffusion.networks import diffusers
from diffusion.recipes import RECIPES, call, make

import diffusion_adapters as da

ROOT = Path(__file__).parents[1]
NEAR = 1e-4
"""The largest relative distance at which results are equal: what the documentation promises for the default."""


def classes() -> list[str]:
    """The pipelines of diffusers that can be imported, without those that only hold outputs or blocks."""
    found: list[str] = []
    for name in dir(diffusers):
        kind = getattr(diffusers, name, None) if "Pipeline" in name else None
        if (
            isinstance(kind, type)
            and issubclass(kind, diffusers.DiffusionPipeline)
            and kind is not diffusers.DiffusionPipeline
        ):
            found.append(name)
    return found


def attempt(name: str) -> dict[str, Any]:
    """One recipe: what came of it, and the sentence or distance that says so."""
    begun = time.perf_counter()
    found: dict[str, Any] = {"result": "", "says": ""}
    try:
        pipe = make(name)
        serial = call(pipe, name)
        if not bool(serial.isfinite().all()) or float(serial.std()) < 1e-3:
            return {"result": "recipe", "says": f"its own result is no sample: std {float(serial.std()):.1e}"}
        if not torch.equal(call(make(name), name), serial):
            return {"result": "recipe", "says": "its own result is another each time"}
    except Exception as error:
        return {"result": "recipe", "says": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fast = da.diffusers.parallelize(make(name))
            value = call(fast, name)
        far = float((value - serial).norm() / serial.norm()) if value.shape == serial.shape else float("inf")
        sequential = fast.solution is None or (fast.check is not None and fast.check.sequential)
        found["result"] = "sequential" if sequential else "equal" if far <= NEAR else "wrong"
        found["says"] = f"{far:.0e}"
        if fast.solution is not None:
            found["rounds"], found["check"] = fast.solution.stats.rounds, str(fast.check and fast.check.passed)
        if sequential:
            found["says"] = " | ".join(str(one.message) for one in caught if one.category is RuntimeWarning)
    except Exception as error:
        ours = "diffusion_adapters" in str(traceback.extract_tb(error.__traceback__)[-1].filename)
        found["result"] = "refused" if isinstance(error, ValueError) and ours else "internal"
        found["says"], found["trace"] = f"{type(error).__name__}: {error}", traceback.format_exc()
    found["seconds"] = round(time.perf_counter() - begun, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for the recipes to try")
    parser.add_argument("--again", action="store_true", help="try those again that are known")
    parser.add_argument("--bad", action="store_true", help="try those again that are not equal")
    parser.add_argument("--trace", action="store_true", help="print tracebacks")
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "pipelines.json", help="the file of results")
    options = parser.parse_args()
    options.kept.parent.mkdir(exist_ok=True, parents=True)
    known = json.loads(options.kept.read_text()) if options.kept.exists() else {}
    torch.set_num_threads(1)
    for name in RECIPES:
        stale = options.again or (options.bad and known.get(name, {}).get("result") != "equal")
        if not re.search(options.only, name) or (name in known and not stale):
            continue
        known[name] = attempt(name)
        options.kept.write_text(json.dumps(known, indent=1))
        one = known[name]
        print(
            f"{one['result']:10} {one.get('seconds', 0):5} {one.get('rounds', ''):3} {name}: {one['says'][:300]}",
            flush=True,
        )
        if options.trace and "trace" in one:
            print(one["trace"])


if __name__ == "__main__":
    main()
