"""Is the shipped digit denoiser any good? Prints figures and writes a contact sheet of its samples.

    python scripts/evaluate_digits.py                   # writes out/digits.png

The judge is a classifier trained on the real training images alone. It is asked about the held-out real digits and
about samples drawn with 50 plain DDIM steps ("Denoising Diffusion Implicit Models", arXiv 2010.02502), written out here
so that nothing else of the library takes part. Good samples are recognised as often, and as surely, as real digits are,
and lie as far from the training images as the held-out ones do (nearer would be memorisation).
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor
from train_digits import DEFAULT_OUT, T_MIN, alpha_sigma, split

from diffusion_adapters.models._digits import DigitsNetwork, read_network


@torch.inference_mode()
def ddim(
    network: DigitsNetwork, noise: Tensor, label: Tensor | None, *, steps: int = 50, guidance: float = 1.0
) -> Tensor:
    """Samples (B, 1, 8, 8) from noise (B, 1, 8, 8), in ``steps`` DDIM steps of equal length in t from 1 to 1e-3."""
    times = torch.linspace(1.0, T_MIN, steps + 1, dtype=torch.float64)
    alphas, sigmas = alpha_sigma(times)
    x = noise
    for n in range(steps):
        eps = network(x, times[n], label)
        if guidance != 1.0:
            plain = network(x, times[n])
            eps = plain + guidance * (eps - plain)
        clean = (x - sigmas[n] * eps) / alphas[n]
        x = (alphas[n + 1] * clean + sigmas[n + 1] * eps).to(noise.dtype)
    return x


def nearest(images: Tensor, others: Tensor) -> Tensor:
    """Distance (B,) of each image to the nearest of ``others``: root mean square over the pixels."""
    return torch.cdist(images.flatten(1), others.flatten(1)).min(dim=1).values / 8


def coverage(images: Tensor, real: Tensor, radius: Tensor) -> float:
    """Share of the ``real`` images that have one of ``images`` within their own ``radius``, shape (len(real),)."""
    return (torch.cdist(real.flatten(1), images.flatten(1)).min(dim=1).values / 8 <= radius).double().mean().item()


def judge_images(judge: CalibratedClassifierCV, name: str, images: Tensor, label: Tensor | None, train: Tensor) -> None:
    """Print one row: share recognised as ``label``, mean confidence, distance to the training images."""
    chances = torch.as_tensor(judge.predict_proba(images.flatten(1).double().numpy()))
    sure, guess = chances.max(dim=1)
    right = "     -" if label is None else f"{100 * (guess == label).double().mean().item():5.1f}%"
    low, middle = torch.quantile(nearest(images, train), torch.tensor([0.05, 0.5])).tolist()
    print(f"{name:34s} {len(images):6d} {right:>9s} {100 * sure.mean().item():10.1f}% {middle:10.3f} {low:10.3f}")


@torch.inference_mode()
def timings(network: DigitsNetwork, repeats: int = 300) -> None:
    """Print the median time of a call by batch size, for one and two threads."""
    before = torch.get_num_threads()
    print("\nmedian time of one call")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        medians = {}
        for batch in (1, 8, 32, 64):
            x, t = torch.randn(batch, 1, 8, 8), torch.rand(batch).clamp(min=T_MIN)
            label = torch.zeros(batch, dtype=torch.long)
            elapsed = []
            for _ in range(repeats):
                began = time.perf_counter()
                network(x, t, label)
                elapsed.append(time.perf_counter() - began)
            medians[batch] = statistics.median(elapsed[repeats // 10 :]) * 1e6
        row = "   ".join(f"batch {batch}: {value:.0f} us" for batch, value in medians.items())
        print(f"  {threads} thread(s)   {row}   t(32)/t(1) = {medians[32] / medians[1]:.2f}")
    torch.set_num_threads(before)


def contact_sheet(groups: dict[str, Tensor], path: Path) -> None:
    """Write a picture: one panel a group, each of 10 x 10 images, a digit a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(5 * len(groups), 5.3), layout="constrained")
    for axis, (title, images) in zip(axes, groups.items(), strict=True):
        framed = torch.nn.functional.pad(images[:100, 0].clamp(-1, 1), (1, 1, 1, 1), value=0.0)
        axis.imshow(framed.view(10, 10, 10, 10).permute(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\npicture: {path}")


def main() -> None:
    """Print the table and the timings, write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--samples", type=int, default=2000, help="how many of each kind, a multiple of 10")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/digits.png"))
    options = parser.parse_args()

    x, y, x_held, y_held = split()
    network = read_network(options.weights)
    judge = CalibratedClassifierCV(SVC(C=10, gamma="scale"), ensemble=False, cv=5)
    judge.fit(x.flatten(1).double().numpy(), y.numpy())
    generator = torch.Generator().manual_seed(options.seed)
    noise = torch.randn(3, options.samples, 1, 8, 8, generator=generator)
    label = torch.arange(10).repeat_interleave(options.samples // 10)
    conditional = ddim(network, noise[0], label, steps=options.steps)
    guided = ddim(network, noise[1], label, steps=options.steps, guidance=2.0)
    unconditional = ddim(network, noise[2], None, steps=options.steps)

    print(f"{sum(p.numel() for p in network.parameters())} parameters, {options.weights.stat().st_size / 1e6:.2f} MB\n")
    print(f"{'':34s} {'':6s} {'label':>9s} {'mean':>11s} {'distance to training set':>21s}")
    print(f"{'images':34s} {'count':>6s} {'accuracy':>9s} {'confidence':>11s} {'median':>10s} {'5%':>10s}")
    for name, images, digits in (
        ("held-out real digits", x_held, y_held),
        ("samples, conditional", conditional, label),
        ("samples, guidance 2", guided, label),
        ("samples, unconditional", unconditional, None),
    ):
        judge_images(judge, name, images, digits, x)
    radius = torch.cdist(x_held.flatten(1), x_held.flatten(1)).kthvalue(6, dim=1).values / 8
    count = len(x)
    print(
        "\ncoverage: share of held-out digits with an image inside the distance to their fifth held-out neighbour: "
        f"{100 * coverage(x, x_held, radius):.1f}% by {count} training images, "
        f"{100 * coverage(unconditional[:count], x_held, radius):.1f}% by as many unconditional samples"
    )
    timings(network)
    by_digit = torch.arange(options.samples).view(10, -1)[:, :10].flatten()
    real = torch.cat([x_held[y_held == digit][:10] for digit in range(10)])
    contact_sheet(
        {"held-out real": real, "conditional samples": conditional[by_digit], "unconditional samples": unconditional},
        options.out,
    )


if __name__ == "__main__":
    main()
