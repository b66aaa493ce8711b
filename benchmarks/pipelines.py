"""Every pipeline class of the installed diffusers, in sequence and through `parallelize`.

Builds each with tiny parts of random weights (``tests/helpers/diffusion/recipes``), without downloads, and compares the
results. Each class is tried in turn; what was found is kept in a file, so that a run which is cut short continues where
it was. ``--table`` writes the table of ``docs/support.md``.

    python benchmarks/pipelines.py [--only REGEX] [--again | --bad] [--trace] [--table]
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


WHY: dict[str, str] = {
    r"scheduler (\w+) is not supported": "its scheduler, `{0}`, is not in the table of schedulers",
    r"scheduler (\w+) has no step": "its scheduler, `{0}`, has no `step`",
    "skip_prk_steps": "its scheduler begins with Runge-Kutta steps; `skip_prk_steps=True` works",
    r"different steps of its loop: (.{1,90}?)(?:[.][.][.])? [(]/": "its steps differ by their number: `{0}`",
    "changes the latents between two steps": "it changes the latents between two steps",
    "converts the timestep": "it makes a number of the timestep",
    "were not found in the arguments": "its network does not get the latents as they are",
    r"step of \w+ with (\w+)=": "it passes `{0}` to `step`",
    "before its network": "it has a loop within its loop, with a scheduler for each frame",
}
"""Short reasons for what `parallelize` says."""


def table(known: dict[str, Any]) -> str:
    """The table of the documentation, one row for each class."""
    rows: list[str] = []
    for name in sorted(classes()):
        found = [one for key, one in known.items() if key.partition(",")[0] == name]
        results = {one["result"] for one in found} - {"recipe"}
        if not results:
            rows.append(f"| `{name}` | not tried | |")
        elif "equal" in results:
            rows.append(f"| `{name}` | equal | |")
        else:
            rows.append(f"| `{name}` | {results.pop()} | {reason(found[0]['says'])} |")
    return "\n".join(["| pipeline | result | why |", "|---|---|---|", *rows])


def reason(says: str) -> str:
    for pattern, short in WHY.items():
        match = re.search(pattern, says)
        if match:
            return short.format(*(part.strip().replace("|", "/") for part in match.groups()))
    return says.partition(";")[0]


def write_table(known: dict[str, Any], page: Path) -> None:
    """Replaces the table between its marks in a page."""
    before, begin, rest = page.read_text().partition("<!-- pipelines -->\n")
    _, end, after = rest.partition("<!-- end of pipelines -->")
    page.write_text(f"{before}{begin}\n{table(known)}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for the recipes to try")
    parser.add_argument("--again", action="store_true", help="try those again that are known")
    parser.add_argument("--bad", action="store_true", help="try those again that are not equal")
    parser.add_argument("--trace", action="store_true", help="print tracebacks")
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "pipelines.json", help="the file of results")
    parser.add_argument("--table", action="store_true", help="only write the table into docs/support.md")
    options = parser.parse_args()
    options.kept.parent.mkdir(exist_ok=True, parents=True)
    known = json.loads(options.kept.read_text()) if options.kept.exists() else {}
    if options.table:
        return write_table(known, ROOT / "docs" / "support.md")
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
