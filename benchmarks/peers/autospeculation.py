"""Autospeculative decoding: DDPM's law, with the steps ahead proposed by the model's own last prediction.

Diffusion Models are Secretly Exchangeable: Parallelizing DDPMs via Autospeculation, arXiv 2505.03983. In terms of
t = (alpha/sigma)^2 and y = t x/alpha, a step of DDPM is y' = y + h m(t, y) + sqrt(h) xi, where m is the predicted clean
data. A prediction held fixed proposes all steps ahead; one wide call evaluates the model at the proposals; each is
accepted or rejected, and reflected at the first that is rejected, so that the sample is one of DDPM's law. It is not
the sample that the sequential run draws from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def autospeculative(
    mean: Callable[[Tensor, Tensor], Tensor],
    t: Tensor,
    y: Tensor,
    generator: torch.Generator,
    reuse: bool = False,
) -> tuple[Tensor, int, int]:
    """Samples of ``y`` at the end, rounds, and evaluations of all samples.

    Args:
        mean: The prediction of clean data, of t ``(L,)`` and y ``(L, D)``.
        t: Rising, ``(N + 1,)``, float64.
        y: Initial states ``(B, D)``, float64; the samples are independent.
        generator: Of the noise and of what is accepted.
        reuse: Propose with the prediction of the verifying call at the state before the rejected one: one round for
            each attempt in place of two. The law is the same. The paper evaluates anew.
    """
    steps, (count, size) = len(t) - 1, y.shape
    h = t.diff()[:, None, None]
    frontier, rows = torch.zeros(count, dtype=torch.long), torch.arange(count)
    numbers = torch.arange(steps)[:, None]
    rounds = evaluations = 0
    prediction: Tensor | None = None
    while bool((frontier < steps).any()):
        live = frontier < steps
        fresh = prediction is None or not reuse
        if fresh:
            prediction = mean(t[frontier.clamp(max=steps - 1)], y)
            rounds, evaluations = rounds + 1, evaluations + int(live.sum())
        assert prediction is not None
        xi = torch.randn(steps, count, size, dtype=torch.float64, generator=generator)
        chance = torch.rand(steps, count, dtype=torch.float64, generator=generator)
        ahead = numbers >= frontier  # (N, B)
        moves = torch.where(ahead[..., None], h * prediction + h.sqrt() * xi, 0.0)
        proposed = y + moves.cumsum(0)
        before = torch.cat([y[None], proposed[:-1]])
        check = numbers > frontier if fresh else ahead
        exact = prediction.expand(steps, count, size).clone()
        if bool(check.any()):
            n, b = check.nonzero(as_tuple=True)
            exact[n, b] = mean(t[n], before[n, b])
            rounds, evaluations = rounds + 1, evaluations + len(n)
        apart = h.sqrt() * (prediction - exact)
        along = (xi * apart).sum(-1)
        square = (apart * apart).sum(-1)
        rejected = ahead & (chance.log() > -along - square / 2)
        first = torch.where(rejected, numbers, steps).min(0).values
        place = first.clamp(max=steps - 1)
        xi_, apart_, exact_ = xi[place, rows], apart[place, rows], exact[place, rows]
        share = (along / square.clamp(min=1e-300))[place, rows][:, None]
        reflected = before[place, rows] + h[place, 0] * exact_ + h[place, 0].sqrt() * (xi_ - 2 * share * apart_)
        y = torch.where((first < steps)[:, None], reflected, torch.where(live[:, None], proposed[-1], y))
        frontier = torch.where(live, torch.minimum(first + 1, torch.full_like(first, steps)), frontier)
        prediction = exact_
    return y, rounds, evaluations
