"""What samples are measured by: features of the data, and a classifier on top of them.

Where the classes are things, the features are the last hidden layer of a classifier trained on the same data. For the
patches of photographs they are fixed: brightness and colour of parts of a patch, and how strongly random filters
answer. A classifier sees data as they are: decoded, where samples are latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 64


class Classifier(nn.Module):
    """A classifier: ``features`` gives its last hidden layer, ``head`` the logits of the classes."""

    features: nn.Module
    head: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Pictures(Classifier):
    """Of images or spectrograms of one channel, by convolutions; ``side`` is a multiple of 4."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(32 * ((side // 4 + 1) // 2) ** 2, FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, classes)


class Strokes(Classifier):
    """Of pen strokes, a perceptron."""

    def __init__(self, points: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * points, 128),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(128, FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, classes)


class FixedFeatures(nn.Module):
    """Means of the parts of a patch in each colour, and the mean answer of random filters in absolute value."""

    filters: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, filters: int = 48, size: int = 5, parts: int = 4) -> None:
        super().__init__()
        self.parts = parts
        drawn = torch.randn(filters, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("filters", drawn - drawn.mean((2, 3), keepdim=True))
        count = filters + 3 * parts * parts
        self.register_buffer("shift", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))

    def plain(self, x: Tensor) -> Tensor:
        """The features before each is brought to mean 0 and variance 1."""
        means = functional.adaptive_avg_pool2d(x, self.parts).flatten(1)
        answers = functional.conv2d(x, self.filters).abs().mean((2, 3))
        return torch.cat((means, (answers + 1e-2).log()), 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.plain(x) - self.shift) / self.scale


class Patches(Classifier):
    """Of patches in colour: a linear classifier of fixed features."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = FixedFeatures()
        self.head = nn.Linear(len(self.features.shift), classes)


CLASSIFIERS = {
    "fashion": lambda: Pictures(28, 10),
    "photos": lambda: Patches(2),
    "speech": lambda: Pictures(32, 10),
    "strokes": lambda: Strokes(8, 10),
}
