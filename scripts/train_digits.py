"""Train the 8x8 digit denoiser that ships in ``diffusion_adapters/data``: some minutes on two CPU cores.

    python scripts/train_digits.py                      # writes diffusion_adapters/data/digits.safetensors
    python scripts/train_digits.py --steps 2000 --out /tmp/quick.safetensors

Data: ``sklearn.datasets.load_digits``, 1,797 scans of 8x8 pixels ("Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, CC BY 4.0). A fifth of them is held out and never seen in training: see ``split``. The same
seed gives the same weights up to the rounding of the linear algebra library.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from networks.training import Recipe, draw_times, fit

from diffusion_adapters import VP
from diffusion_adapters.models._digits import NO_LABEL, DigitsNetwork

DEFAULT_OUT = Path(__file__).parents[1] / "diffusion_adapters" / "data" / "digits.safetensors"
BETA_MIN, BETA_MAX, T_MIN = 0.1, 20.0, 1e-3
SLOPE = BETA_MAX - BETA_MIN
SCHEDULE = VP(BETA_MIN, BETA_MAX, T_MIN)


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (1437, 1, 8, 8) and labels (1437,), held-out images (360, 1, 8, 8) and labels (360,)."""
    pixels, digits = load_digits(return_X_y=True)
    parts = train_test_split(pixels, digits, test_size=0.2, stratify=digits, random_state=0)
    x, x_held, y, y_held = (torch.as_tensor(part) for part in parts)
    return to_images(x), y.long(), to_images(x_held), y_held.long()


def to_images(pixels: Tensor) -> Tensor:
    """Counts 0..16, shape (n, 64), as float32 images in [-1, 1], shape (n, 1, 8, 8)."""
    return (pixels.float() / 8 - 1).reshape(-1, 1, 8, 8)


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the variance-preserving schedule with linear beta, each the shape of ``t``."""
    log_alpha = -0.5 * (BETA_MIN * t + 0.5 * SLOPE * t * t)
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def residual_loss(network: DigitsNetwork, x: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
    """Squared error of the residual network F, whose target has unit variance at every t; shape (B,)."""
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma(t))
    weight = ((alpha * network.std) ** 2 + sigma**2) / (alpha * network.std) ** 2
    return (weight * (network(alpha * x + sigma * eps, t, label) - eps) ** 2).mean(dim=(1, 2, 3))


@torch.no_grad()
def held_out_loss(network: DigitsNetwork, x: Tensor, label: Tensor, repeats: int = 8) -> float:
    """Mean of ``residual_loss`` on images not trained on, always with the same noise."""
    generator = torch.Generator().manual_seed(1)
    x, label = x.repeat(repeats, 1, 1, 1), label.repeat(repeats)
    eps = torch.randn(x.shape, generator=generator)
    return residual_loss(network, x, draw_times(SCHEDULE, len(x), generator), eps, label).mean().item()


def train(options: argparse.Namespace, architecture: dict[str, float]) -> DigitsNetwork:
    """The moving average of the weights over ``options.steps`` steps of AdamW with a cosine learning rate."""
    torch.manual_seed(options.seed)  # initial weights and dropout; all other randomness has its own generator
    generator = torch.Generator().manual_seed(options.seed)
    x, y, x_held, y_held = split()
    network = DigitsNetwork(**architecture, dropout=options.dropout)
    network.mean.copy_(x.flatten(1).mean(0))
    network.std.copy_((x.flatten(1) - network.mean).square().mean().sqrt())

    def loss() -> Tensor:
        rows = torch.randint(len(x), (options.batch,), generator=generator)
        unlabelled = torch.rand(options.batch, generator=generator) < options.label_dropout
        label = torch.where(unlabelled, NO_LABEL, y[rows])
        eps = torch.randn(options.batch, 1, 8, 8, generator=generator)
        return residual_loss(network, x[rows], draw_times(SCHEDULE, options.batch, generator), eps, label).mean()

    recipe = Recipe(options.steps, options.batch, lr=options.lr, decay=options.decay, ema=options.ema, warm=500)
    return fit(network, loss, recipe, lambda average: held_out_loss(average, x_held, y_held), every=1000)


def main() -> None:
    """Train and write the weights with what is needed to rebuild the network and to know where it came from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.02, help="weight decay")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--label-dropout", type=float, default=0.15, help="share of images shown without their label")
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=4)
    options = parser.parse_args()

    architecture = {"width": options.width, "hidden": options.width, "depth": options.depth}
    architecture |= {"condition": 96, "frequencies": 8, "beta_min": BETA_MIN, "beta_max": BETA_MAX}
    network = train(options, architecture)
    training = {name: value for name, value in vars(options).items() if name != "out"}
    metadata = {
        "architecture": json.dumps(architecture),
        "normalisation": json.dumps({"pixels": [0, 16], "images": [-1.0, 1.0]}),
        "training": json.dumps(training),
        "split": "sklearn train_test_split(pixels, digits, test_size=0.2, stratify=digits, random_state=0); first part",
        "data": "Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (CC BY 4.0), "
        "as scikit-learn's load_digits",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, options.out, metadata=metadata
    )
    options.out.chmod(0o644)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, {options.out.stat().st_size / 1e6:.2f} MB: {options.out}")


if __name__ == "__main__":
    main()
