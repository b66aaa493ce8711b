"""Draws the pictures of the start page and of the pages architecture, plots, studies and gallery in `docs/`.

Those of `plots.md` and `studies.md` are what their own snippets draw: the figure that stands last when the picture is
named. Those of the gallery are drawn here, from the parts of the scripts in examples/. All of them go into docs/images.
Run it with `python scripts/draw_docs.py`, and give names of pictures to draw these alone.
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


# --- the start page and the architecture ------------------------------------------------------------------------------

STEPS, SHOWN = 100, (2, 4, 6, 8, 10)


def gain() -> None:
    """The same two digits after as many sequential network calls, by the sequential and by the parallel sampler."""
    model = da.load_digits().with_conditioning(label=torch.tensor([3, 8]))
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    times = model.noise_schedule.times(STEPS)

    def serial(calls: int) -> Any:
        return da.sample(model, noise, spacing=times[: calls + 1], parallel=False).samples

    def parallel(rounds: int) -> Any:
        stop = pr.Iterations(rounds)
        out = da.sample(model, noise, steps=STEPS, stop=stop)
        assert out.solution.stats.rounds == rounds
        return out.samples

    rows = {"sequential": [serial(k) for k in (*SHOWN, STEPS)], "parallel in time": [parallel(k) for k in SHOWN]}
    figure, axes = plt.subplots(2, len(SHOWN) + 1, figsize=(8.6, 2.5), layout="constrained")
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for ax, image in zip(row, images, strict=False):
            ax.imshow(np.hstack([np.pad(x[0], 1, constant_values=-1.0) for x in image]), cmap="gray_r", vmin=-1, vmax=1)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    for ax, calls in zip(axes[0], (*SHOWN, STEPS), strict=True):
        ax.set_title(f"{calls} calls", fontsize="medium")
    difference = (rows["parallel in time"][-1] - rows["sequential"][-1]).abs().max().item()
    axes[1, -1].axis("off")
    axes[1, -1].text(0.5, 0.5, f"done: differs\nby {difference:.0e} at most", ha="center", va="center")
    figure.suptitle(f"Network calls one after another, {STEPS} DDIM steps", fontsize="medium")


LAYERS = (
    ("your call", ("solve, serial", "odeint", "plan", "study", "check_propagator", "plot", "theory")),
    ("the run", ("_run", "adjoint", "persistence", "distributed")),
    ("the recursion", ("engine",)),
    ("the axes", ("corrections", "schedules", "executors", "stopping")),
    ("the equation", ("problem", "grid", "integrators")),
    ("shared", ("results", "_core")),
)
FOLDERS = {"odeint": "compat", "plan": "planning", "study": "studies", "check_propagator": "diagnostics"}
DIFFUSION = ("diffusers", "sampling", "equations", "models", "noise_schedules")


def rooms() -> None:
    """The packages as rooms: a room uses those below it."""
    _, ax = plt.subplots(figsize=(9.2, 4.6), layout="constrained")
    left, width, height = 2.0, 11.0, 0.78

    def room(x: float, y: float, wide: float, text: str, color: str) -> None:
        ax.add_patch(plt.Rectangle((x, y), wide, height, fc=color, ec="0.3", lw=0.8))
        ax.text(x + wide / 2, y + height / 2, text, ha="center", va="center", fontsize=9 if len(text) < 28 else 7.5)

    for n, (title, names) in enumerate(LAYERS):
        y = len(LAYERS) - n - 1.0
        ax.text(left - 0.2, y + height / 2, title, ha="right", va="center", fontsize=9, style="italic")
        each = width / len(names)
        for i, name in enumerate(names):
            folder = f"\n{FOLDERS[name]}/" if name in FOLDERS else ""
            color = "#fde725" if name == "engine" else "#d8e2dc"
            room(left + i * each, y, each - 0.08, name + folder, color)
    for n, name in enumerate(DIFFUSION):
        room(left + width + 0.6, len(LAYERS) - 1.0 - n * (len(LAYERS) - 1) / (len(DIFFUSION) - 1), 2.4, name, "#b5d4e9")
    ax.text(left + width / 2, len(LAYERS) + 0.05, "parareal", ha="center", fontsize=10, weight="bold")
    ax.text(left + width + 1.8, len(LAYERS) + 0.05, "diffusion_adapters", ha="center", fontsize=10, weight="bold")
    ax.set(xlim=(0.0, left + width + 3.1), ylim=(-0.1, len(LAYERS) + 0.4))
    ax.axis("off")


GALLERY: dict[str, Callable[[], None]] = {
    "gain": gain,
    "rooms": rooms,
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
    for page, prefix in (("plots", "plot_"), ("studies", "study_")):
        if not names or any(name.startswith(prefix) for name in names):
            draw_snippets(ROOT / "docs" / f"{page}.md", names)
    for name, draw in GALLERY.items():
        if not names or name in names:
            draw()
            save(plt.gcf(), name)
            plt.close("all")


if __name__ == "__main__":
    main()
