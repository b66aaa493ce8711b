"""Trains the classifiers that samples are measured by, and keeps the features of some held-out data: minutes each.

    python benchmarks/networks/train_classifiers.py                      # all of them
    python benchmarks/networks/train_classifiers.py strokes

Each writes ``NAME-classifier.safetensors``: the classifier's weights, and features and labels of two halves of the
held-out data, as many of each class. The first half is what samples are compared to; the second is compared to the
first as well, so that the figures of real data stand beside those of samples.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from networks import data
from networks.classifiers import CLASSIFIERS, Classifier, FixedFeatures
from networks.load import FOLDER, NAMES, SPECS
from networks.training import Recipe, fit

RECIPES = {
    "fashion": Recipe(steps=1500, batch=128, lr=3e-3, ema=0.99),
    "photos": Recipe(steps=500, batch=256, lr=3e-3, ema=0.99),
    "speech": Recipe(steps=800, batch=64, lr=3e-3, ema=0.99),
    "strokes": Recipe(steps=2000, batch=128, lr=3e-3, ema=0.99),
}
KEPT = 1000
"""Samples of each half whose features are kept."""


def train_classifier(name: str, found: data.Data) -> Classifier:
    """The classifier, trained on the training data alone."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    classifier, recipe = CLASSIFIERS[name](), RECIPES[name]
    if isinstance(classifier.features, FixedFeatures):
        plain = classifier.features.plain(found.x)
        classifier.features.shift.copy_(plain.mean(0))
        classifier.features.scale.copy_(plain.std(0))

    def loss() -> Tensor:
        rows = torch.randint(len(found.x), (recipe.batch,), generator=generator)
        return functional.cross_entropy(classifier(found.x[rows]), found.y[rows], label_smoothing=0.05)

    @torch.no_grad()
    def wrong(average: nn.Module) -> float:
        return (average(found.x_held).argmax(1) != found.y_held).double().mean().item()

    return fit(classifier, loss, recipe, wrong)


def balanced(labels: Tensor, classes: int, count: int) -> Tensor:
    """Rows of the first ``count`` in all, the classes in turn."""
    rows = torch.stack([(labels == k).nonzero()[: count // classes, 0] for k in range(classes)], 1)
    return rows.flatten()


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in options.names or NAMES:
        found = getattr(data, name)()
        print(f"{name}: share of held-out data that is taken for another class")
        classifier = train_classifier(name, found)
        kept = {f"classifier.{key}": value.half() for key, value in classifier.state_dict().items()}
        classifier.load_state_dict({key: value.half() for key, value in classifier.state_dict().items()})
        middle, classes = len(found.x_held) // 2, len(SPECS[name].classes)
        for half, rows in (("first", slice(None, middle)), ("second", slice(middle, None))):
            x, y = found.x_held[rows], found.y_held[rows]
            chosen = balanced(y, classes, min(KEPT, middle))
            with torch.no_grad():
                kept[f"{half}.features"] = classifier.features(x[chosen]).half()
            kept[f"{half}.labels"] = y[chosen].to(torch.int8)
        path = options.folder / f"{name}-classifier.safetensors"
        save_file({key: value.contiguous() for key, value in kept.items()}, path)
        path.chmod(0o644)
        print(f"{path.stat().st_size / 1e6:.2f} MB: {path}")


if __name__ == "__main__":
    main()
