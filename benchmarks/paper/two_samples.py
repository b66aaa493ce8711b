"""Whether two sets of samples come from one distribution: a distance, and a test."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of the Gaussians that fit two sets of features, ``(n, D)``.

    Source:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, arXiv 1706.08500.
    """
    a, b = a.double(), b.double()
    one, two = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + one.trace() + two.trace() - 2 * mixed)


def p_value(a: Tensor, b: Tensor, permutations: int = 300) -> float:
    """Of a permutation test of the maximum mean discrepancy, with a Gaussian kernel as wide as the median distance.

    Source:
        A Kernel Two-Sample Test, Journal of Machine Learning Research 13 (2012).
    """
    both = torch.cat([a, b]).double()
    squares = torch.cdist(both, both).square()
    kernel = torch.exp(-squares / squares[squares > 0].median())
    m, n = len(a), len(b)
    weights = torch.cat([torch.full((m,), 1.0 / m), torch.full((n,), -1.0 / n)]).double()
    generator = torch.Generator().manual_seed(0)
    orders = [torch.arange(m + n), *(torch.randperm(m + n, generator=generator) for _ in range(permutations))]
    shuffled = torch.stack([weights[order] for order in orders])
    apart = ((shuffled @ kernel) * shuffled).sum(1)
    return float((apart >= apart[0]).double().mean())
