"""How good samples of the trained networks are, beside real data that neither network nor classifier has seen.

    python benchmarks/networks/quality.py                           # all networks: 1,000 samples in 50 serial steps
    python benchmarks/networks/quality.py strokes --count 500 --guidance 1 2 --picture out/strokes.png

`quality` takes samples of any sampler. All measures are of features of a classifier (see `classifiers`):

- the Fréchet distance: ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` with the means and covariances of both sets of
  features ("GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv 1706.08500).
  It falls with the number of samples, so it can be compared only between sets of one size;
- the energy distance ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, as a share of its first term (0: one law, 1: constants),
  and the p-value of a permutation test that both sets are of one law;
- the share of samples that the classifier takes for the class asked for, and its mean confidence.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import diffusion_adapters as da
from networks.classifiers import CLASSIFIERS, Classifier
from networks.load import FOLDER, NAMES, Network, load, part, read, ready

PERMUTATIONS = 199


@dataclass(frozen=True, eq=False)
class Reference:
    """A classifier, and features and labels of two halves of held-out data, the classes in turn."""

    classifier: Classifier
    first: Tensor
    second: Tensor
    labels: Tensor


@cache
def reference(name: str, folder: Path = FOLDER) -> Reference:
    """What samples of a network are compared to."""
    kept, _ = read(folder / f"{name}-classifier.safetensors")
    classifier = ready(CLASSIFIERS[name](), part(kept, "classifier"))
    first, second = kept["first.features"].float(), kept["second.features"].float()
    return Reference(classifier, first, second, kept["second.labels"].long())


@torch.no_grad()
def quality(name: str, samples: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """The measures of samples against the first half of the held-out data.

    Args:
        name: Of the network.
        samples: As the sampler returns them, ``(B, *shape)``, B at least 100; latents are decoded here.
        labels: The classes asked for, ``(B,)``; without them there is no ``"accuracy"``.

    Returns:
        ``"count"``, ``"frechet"``, ``"energy"``, ``"p_value"``, ``"confidence"`` and, with labels, ``"accuracy"``.
    """
    if len(samples) < 100 or not bool(torch.isfinite(samples).all()):
        raise ValueError(f"{len(samples)} samples, finite or not; expected at least 100, all finite")
    network, known = _network(name), reference(name)
    features = torch.cat([known.classifier.features(network.decode(rows.float())) for rows in samples.cpu().split(500)])
    return measures(known, features, None if labels is None else labels.cpu())


def held_out(name: str, count: int | None = None) -> dict[str, float]:
    """The same measures of real data: ``count`` of the second half of the held-out data (all by default)."""
    known = reference(name)
    return measures(known, known.second[:count], known.labels[:count])


@cache
def _network(name: str) -> Network:
    return load(name)


def measures(known: Reference, features: Tensor, labels: Tensor | None) -> dict[str, float]:
    """The measures of `quality` for features."""
    with torch.no_grad():
        chances = known.classifier.head(features).softmax(1)
    energy, p_value = energy_test(features, known.first)
    found = {
        "count": float(len(features)),
        "frechet": frechet(features, known.first),
        "energy": energy,
        "p_value": p_value,
        "confidence": chances.max(1).values.mean().item(),
    }
    if labels is not None:
        found["accuracy"] = (chances.argmax(1) == labels).double().mean().item()
    return found


def frechet(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance, squared as is usual, between Gaussians of the means and covariances of two sets of rows."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = _root(cov_a)
    mixed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * mixed)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def energy_test(a: Tensor, b: Tensor, permutations: int = PERMUTATIONS, most: int = 1000) -> tuple[float, float]:
    """The energy distance of two sets of rows as a share of 2 E|X - Y|, and its p-value; of the first 1,000 of each."""
    a, b = a[:most].double(), b[:most].double()
    both = torch.cat((a, b))
    distance = torch.cdist(both, both)
    generator = torch.Generator().manual_seed(0)
    inside = torch.zeros(permutations + 1, len(both), dtype=torch.float64)
    inside[0, : len(a)] = 1
    for row in inside[1:]:
        row[torch.randperm(len(both), generator=generator)[: len(a)]] = 1
    to_a, to_b = inside @ distance, (1 - inside) @ distance
    within_a = (to_a * inside).sum(1) / (len(a) * (len(a) - 1))
    within_b = (to_b * (1 - inside)).sum(1) / (len(b) * (len(b) - 1))
    between = (to_a * (1 - inside)).sum(1) / (len(a) * len(b))
    share = (2 * between - within_a - within_b) / (2 * between)
    return float(share[0]), float((share >= share[0]).double().mean())


# --- the table --------------------------------------------------------------------------------------------------------

HEADER = f"{'':26} {'count':>6} {'Fréchet':>8} {'energy':>8} {'p':>6} {'accuracy':>9} {'confidence':>11}"


def row(what: str, found: dict[str, float]) -> str:
    """One line of the table."""
    accuracy = f"{found['accuracy']:9.1%}" if "accuracy" in found else f"{'-':>9}"
    return (
        f"{what:26} {found['count']:6.0f} {found['frechet']:8.3f} {found['energy']:8.4f} {found['p_value']:6.3f} "
        f"{accuracy} {found['confidence']:11.1%}"
    )


@torch.no_grad()
def draw(name: str, count: int, steps: int, guidance: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples of the serial sampler (DDIM; for velocities Euler's method), and their labels."""
    network = _network(name)
    labels, noise = network.labels(count), network.noise(count, seed)
    parts = [
        da.sample(network.conditioned(y, guidance), x, steps, parallel=False).samples
        for x, y in zip(noise.split(250), labels.split(250), strict=True)
    ]
    return torch.cat(parts), labels


def picture(name: str, samples: Tensor, path: Path) -> None:
    """Draws the first 100 samples: a column is a class, where there are ten."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = _network(name).decode(samples[:100])
    figure, axes = plt.subplots(10, 10, figsize=(7, 7), layout="constrained")
    for axis, one in zip(axes.flat, shown, strict=False):
        if name == "strokes":
            axis.plot(*one, lw=1.5)
            axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
        else:
            axis.imshow((one.permute(1, 2, 0).squeeze(2).clamp(-1, 1) + 1) / 2, cmap="gray_r", vmin=0, vmax=1)
            if name == "speech":
                axis.invert_yaxis()
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--count", type=int, default=1000, help="samples of each kind")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--picture", type=Path, help="a folder: the first 100 samples of each kind are drawn there")
    options = parser.parse_args()
    print(HEADER)
    for name in options.names or NAMES:
        print(row(f"{name}, held-out data", held_out(name, options.count)), flush=True)
        for guidance in options.guidance:
            samples, labels = draw(name, options.count, options.steps, guidance)
            print(row(f"{name}, guidance {guidance:g}", quality(name, samples, labels)), flush=True)
            if options.picture:
                picture(name, samples, options.picture / f"{name}-{guidance:g}.png")


if __name__ == "__main__":
    main()
