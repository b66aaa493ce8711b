"""How good samples of digits are, by a classifier that was trained on the same real images as the network.

It takes a second to train and is the same each time. Its last hidden layer gives the features in which distances are
measured; samples are held against the images that neither it nor the network has seen.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
from networks.quality import energy_test, frechet
from torch import Tensor, nn
from torch.nn import functional

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")


@functools.cache
def _images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sys.path.append(SCRIPTS)
    from train_digits import split

    return split()


@functools.cache
def _judge() -> tuple[nn.Module, nn.Module]:
    """Features, and what makes labels of them."""
    x, y, _, _ = _images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 32), nn.SiLU())
        head = nn.Linear(32, 10)
        optimiser = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=3e-3, weight_decay=0.05)
        with torch.enable_grad():
            for _ in range(300):
                loss = functional.cross_entropy(head(body(x + 0.1 * torch.randn_like(x))), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return body.eval(), head.eval()


def training_images() -> tuple[Tensor, Tensor]:
    """Real images, and their labels."""
    return _images()[:2]


def held_out() -> tuple[Tensor, Tensor]:
    """Real images that were not trained on, and their labels."""
    return _images()[2:]


@torch.no_grad()
def quality(samples: Tensor, labels: Tensor) -> dict[str, float]:
    """Distances of samples from the real training images, and how often they show what was asked for.

    Returns:
        ``frechet``, the Fréchet distance to the training images in the classifier's features; ``accuracy``, the share
        that the classifier takes for their label; ``p``, of a two-sample test against the held-out images.
    """
    body, head = _judge()
    x, _, x_held, _ = _images()
    found = body(samples.float())
    return {
        "frechet": frechet(found, body(x)),
        "accuracy": float((head(found).argmax(1) == labels).double().mean()),
        "p": energy_test(found, body(x_held))[1],
    }
