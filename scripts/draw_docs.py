"""Draws the pictures of the pages `docs/plots.md` and `docs/gallery.md` into docs/images.

Those of `plots.md` are what its own snippets draw: the figure that stands last when the picture is named. Those of the
gallery are drawn here, from the parts of the scripts in examples/. Run it with `python scripts/draw_docs.py`, and give
names of pictures to draw these alone.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import diffusion_adapters as da
import parareal as pr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
lorenz, heat, kepler = map(import_module, ("lorenz", "heat", "kepler"))
neuron, brownian, quickstart = map(import_module, ("fitzhugh_nagumo", "geometric_brownian_motion", "quickstart"))
IMAGES = ROOT / "docs" / "images"
LARGEST = 60_000  # bytes
PART = re.compile(
    r"^```python\n(?P<code>.*?)^```$|^!\[[^\]]*\]\(images/(?P<name>\w+)\.png\)$", re.MULTILINE | re.DOTALL
)


def save(figure: mpl.figure.Figure, name: str) -> None:
    """Writes a picture with a palette of 128 colours, which is all that these need."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path = IMAGES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    image.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {size / 1000:.0f} kB")
    if size > LARGEST:
        sys.exit(f"{path} has {size} bytes; expected at most {LARGEST}")


def draw_snippets(page: Path, names: list[str]) -> None:
    """Runs the snippets of a page, and saves the last figure wherever a picture stands."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for part in PART.finditer(page.read_text(encoding="utf-8")):
        if part["code"] is not None:
            exec(compile(part["code"], str(page), "exec"), namespace)
        else:
            if not names or part["name"] in names:
                save(plt.gcf(), part["name"])
            plt.close("all")


FIRST = {"ls": "none", "marker": "o", "ms": 8, "mfc": "none", "color": "#440154"}
LATER = {"ls": "none", "marker": "s", "ms": 4, "color": "#21918c"}


# --- the gallery: a function for each example ------------------------------------------------------------------------


def two_panels(width: float = 10.0, height: float = 3.6, **shape: Any) -> tuple[Any, Any]:
    _, (left, right) = plt.subplots(1, 2, figsize=(width, height), layout="constrained", **shape)
    return left, right


def gallery_lorenz() -> None:
    problem, u0 = pr.ODE(lorenz.lorenz), torch.tensor(lorenz.START, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(*lorenz.SPAN, slices=40, steps=100)
    serial = pr.serial(problem, u0, grid, fine=pr.RK4())
    stop = pr.Tolerance(rtol=0.0, atol=1e-8, norm="max")
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.RK4(steps=4), stop=stop, keep="all")
    left, right = two_panels()
    left.plot(serial.ts, serial.us[:, 0], color="0.7", lw=4, label="sequential")
    for k, style in {0: FIRST, 1: LATER}.items():
        left.plot(grid.edges, sol.iterates.after(k)[:, 0], label=f"iterate {k}", **style)
    left.set(xlabel="t", ylabel="x at the slice edges", ylim=(None, 29))
    left.legend(ncols=3, frameon=False, fontsize="small", loc="upper center")
    pr.plot.errors(sol, serial, ax=right)


def gallery_heat() -> None:
    problem, u0, grid, _ = heat.setup()
    fine, stop = pr.SDIRK2(), pr.Tolerance(rtol=0.0, atol=1e-6)
    serial = pr.serial(problem, u0, grid, fine=fine)
    call: dict[str, Any] = {"fine": fine, "stop": stop, "schedule": pr.Wavefront(), "keep": "all"}
    sol = pr.solve(problem, u0, grid, coarse=pr.ImplicitEuler(), **call)
    left, right = two_panels()
    x = np.linspace(0.0, 1.0, heat.POINTS + 2)
    for n, color in zip((0, 1, 2, 4, 8), plt.colormaps["viridis"](np.linspace(0.0, 0.85, 5)), strict=True):
        left.plot(x, np.pad(serial.us[n], 1), color=color, label=f"{grid.edges[n]:.4f}")
    left.set(xlabel="x", ylabel="temperature, sequential run")
    left.legend(title="t", frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    first = (sol.iterates.after(0) - serial.us).abs().max().item()
    pr.plot.convergence(
        {"implicit Euler": sol}, serial, bounds={"0.298 an iteration": lambda k: first * 0.298**k}, ax=right
    )


def gallery_kepler() -> None:
    problem, u0, grid, _ = kepler.setup()
    stop = pr.Tolerance(rtol=1e-8, atol=1e-10)
    call: dict[str, Any] = {"fine": pr.DormandPrince(), "coarse": pr.RK4(steps=2), "schedule": pr.Wavefront()}
    sol = pr.solve(problem, u0, grid, stop=stop, keep="all", **call)
    left, right = two_panels(height=4.4, width_ratios=[1, 1.6])
    a = np.linspace(0.0, 2 * np.pi, 200)
    b = (1 - kepler.ECCENTRICITY**2) ** 0.5
    left.plot(np.cos(a) - kepler.ECCENTRICITY, b * np.sin(a), color="0.7", lw=3, label="exact")
    for k, style in {0: FIRST, 2: LATER}.items():
        x, y = sol.iterates.after(k)[:, :2].T
        left.plot(x, y, label=f"iterate {k}", **style)
    left.plot(0, 0, marker="*", ms=11, color="black", ls="none")
    left.set(xlabel="x", ylabel="y", aspect="equal")
    left.legend(ncols=3, frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
    pr.plot.timeline(sol, ax=right)


def gallery_fitzhugh_nagumo() -> None:
    problem, u0 = pr.ODE(neuron.neuron), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    grid = pr.TimeGrid.uniform(*neuron.SPAN, slices=neuron.SLICES, steps=neuron.STEPS)
    serial = pr.serial(problem, u0, grid, fine=pr.RK4())
    stop = pr.Tolerance(rtol=1e-8, atol=1e-10)
    call: dict[str, Any] = {"fine": pr.RK4(), "stop": stop, "schedule": pr.Wavefront()}
    runs = {name: pr.solve(problem, u0, grid, coarse=coarse, **call) for name, coarse in neuron.COARSE.items()}
    left, right = two_panels(width_ratios=[1, 1.3])
    left.plot(serial.ts, serial.us[:, 0], color="#440154", marker="o", ms=3, label="v")
    left.plot(serial.ts, serial.us[:, 1], color="#21918c", marker="s", ms=3, label="w")
    left.set(xlabel="t", ylabel="state at the slice edges", ylim=(None, 2.9))
    left.legend(ncols=2, frameon=False, fontsize="small", loc="upper center")
    pr.plot.convergence(runs, ax=right).set_ylim(1e-13, 1e6)


def gallery_geometric_brownian_motion() -> None:
    problem, u0, grid = brownian.setup()
    stop = pr.Tolerance(rtol=1e-6, atol=0.0)
    call: dict[str, Any] = {"fine": pr.Milstein(), "coarse": pr.Milstein(), "schedule": pr.Wavefront(), "samples": True}
    sol = pr.solve(problem, u0, grid, stop=stop, **call)
    left, right = two_panels()
    left.plot(sol.ts, sol.us[:, :24, 0], color="#21918c", alpha=0.5, lw=0.8)
    left.plot(sol.ts, sol.us[..., 0].mean(1), color="black", lw=2, label=f"mean of {brownian.PATHS} paths")
    left.plot(sol.ts, (brownian.DRIFT * sol.ts).exp(), color="black", ls="--", label="exact mean")
    left.set(xlabel="t", ylabel="u, 24 of the paths")
    left.legend(frameon=False, fontsize="small", loc="upper left")
    pr.plot.increments(sol, ax=right)


def gallery_quickstart() -> None:
    labels = torch.arange(10)
    model = da.load_digits().with_conditioning(label=labels)
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    serial = da.sample(model, noise, steps=100, parallel=False)
    runs = [da.sample(model, noise, steps=100, rtol=quickstart.RTOL, **o) for o in quickstart.METHODS.values()]
    left, right = two_panels(width_ratios=[1.5, 1])
    rows = [np.hstack([np.pad(x[0], 1, constant_values=-1.0) for x in out.samples.numpy()]) for out in (serial, *runs)]
    left.imshow(np.vstack(rows), cmap="gray_r", vmin=-1, vmax=1)
    names = [
        f"{name}\n{out.solution.stats.rounds} rounds"
        for name, out in zip(("serial", *quickstart.METHODS), (serial, *runs), strict=True)
    ]
    left.set_yticks([4.5, 14.5, 24.5], names)
    left.set_xticks([])
    pr.plot.increments(runs[1].solution, ax=right)


GALLERY: dict[str, Callable[[], None]] = {
    "gallery_lorenz": gallery_lorenz,
    "gallery_heat": gallery_heat,
    "gallery_kepler": gallery_kepler,
    "gallery_fitzhugh_nagumo": gallery_fitzhugh_nagumo,
    "gallery_geometric_brownian_motion": gallery_geometric_brownian_motion,
    "gallery_quickstart": gallery_quickstart,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="pictures to draw (default: all)")
    names = parser.parse_args().names
    if not names or any(name.startswith("plot_") for name in names):
        draw_snippets(ROOT / "docs" / "plots.md", names)
    for name, draw in GALLERY.items():
        if not names or name in names:
            draw()
            save(plt.gcf(), name)
            plt.close("all")


if __name__ == "__main__":
    main()
