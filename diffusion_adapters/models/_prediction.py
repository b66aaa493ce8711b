"""Every quantity that a network may predict is a row (a, b): P = a x0 + b eps.

With x = alpha x0 + sigma eps known as well, two rows determine both x0 and eps, so that any prediction
turns into any other by one formula with two coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from diffusion_adapters._validate import check_floating, one_of
from diffusion_adapters.noise_schedules._base import NoiseSchedule

Prediction: TypeAlias = Literal["eps", "x0", "v", "score", "velocity"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)

_HINTS = {
    **dict.fromkeys(("epsilon", "noise", "e", "predeps", "predepsilon", "prednoise", "n"), "eps"),
    **dict.fromkeys(
        ("sample", "originalsample", "xstart", "predxstart", "data", "denoised", "x", "clean", "predx0"), "x0"
    ),
    **dict.fromkeys(("vprediction", "vpred", "predv", "vparam"), "v"),
    **dict.fromkeys(("scorefunction", "scorefn", "gradlogp"), "score"),
    **dict.fromkeys(("flow", "flowprediction", "flowmatching", "rectifiedflow", "vectorfield", "u", "vel"), "velocity"),
}
"""Names of other libraries, spelled as `plain_name` spells them, and those of this library."""


class Row(NamedTuple):
    """``weight * P = a * x0 + b * eps``; ``weight`` keeps the score, which diverges at sigma = 0, finite."""

    a: Tensor | float
    b: Tensor | float
    weight: Tensor | float = 1.0


class Levels(NamedTuple):
    """Alpha and sigma, and their derivatives if a velocity is involved."""

    alpha: Tensor
    sigma: Tensor
    alpha_dot: Tensor | None = None
    sigma_dot: Tensor | None = None


def levels_at(schedule: NoiseSchedule, t: Tensor, velocity: bool = False) -> Levels:
    """The levels of a schedule at float64 times ``t``, with derivatives where a ``velocity`` takes part."""
    slopes = (schedule.alpha_dot(t), schedule.sigma_dot(t)) if velocity else (None, None)
    return Levels(schedule.alpha(t), schedule.sigma(t), *slopes)


def _velocity(at: Levels) -> Row:
    if at.alpha_dot is None or at.sigma_dot is None:
        raise ValueError(
            'prediction "velocity" needs the slopes of the schedule: pass alpha_dot=schedule.alpha_dot(t) and '
            "sigma_dot=schedule.sigma_dot(t)"
        )
    return Row(at.alpha_dot, at.sigma_dot)


ROWS: dict[str, Callable[[Levels], Row]] = {
    "eps": lambda at: Row(0.0, 1.0),
    "x0": lambda at: Row(1.0, 0.0),
    "v": lambda at: Row(-at.sigma, at.alpha),
    "score": lambda at: Row(0.0, -1.0, at.sigma),
    "velocity": _velocity,
}


def check_prediction(name: str, what: str = "prediction") -> str:
    """``name``, one of the known predictions.

    Raises:
        ValueError: It is another; the message lists the known ones.
    """
    return one_of(name, PREDICTIONS, what, hints={key: f'{what}="{value}"' for key, value in _HINTS.items()})


def convert(
    value: Tensor,
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    *,
    source: str,
    target: str,
    alpha_dot: Tensor | None = None,
    sigma_dot: Tensor | None = None,
) -> Tensor:
    """Turns one prediction at x into another.

    The predictions are ``"eps"``, ``"x0"``, ``"v"`` = alpha eps - sigma x0, ``"score"`` = -eps/sigma and ``"velocity"``
    = dx/dt = alpha' x0 + sigma' eps, in the schedule's own time. Where alpha or sigma is 0 a conversion is finite
    whenever the answer is determined there; x0 from eps where alpha = 0 is not, nor eps from x0 where sigma = 0.

    Args:
        value: The prediction, shape ``(B, *rest)``.
        x: The noisy sample, of the shape and dtype of ``value``.
        alpha: One for each sample, float64, shape ``(B,)`` or ``()``.
        sigma: Likewise.
        source: What ``value`` is.
        target: The prediction to return.
        alpha_dot: The derivative of alpha, needed only where a velocity takes part.
        sigma_dot: The derivative of sigma, likewise.

    Returns:
        The prediction wanted, of the shape and dtype of ``value``.

    Raises:
        TypeError: ``value`` or ``x`` is not a real floating-point tensor.
        ValueError: A prediction is unknown, or the derivatives of a velocity are missing.

    Source:
        v: Progressive Distillation for Fast Sampling of Diffusion Models (arXiv 2202.00512); velocity: Stochastic
        Interpolants: A Unifying Framework for Flows and Diffusions (arXiv 2303.08797).

    Examples:
        >>> import torch
        >>> x0, eps = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> alpha, sigma = torch.tensor([0.6]), torch.tensor([0.8])
        >>> convert(eps, alpha * x0 + sigma * eps, alpha, sigma, source="eps", target="x0")
        tensor([[2.]])
    """
    source, target = check_prediction(source, "source"), check_prediction(target, "target")
    check_floating(value, "value")
    check_floating(x, "x")
    if source == target:
        return value
    levels = Levels(alpha, sigma, alpha_dot, sigma_dot)
    return between(value, x, levels, ROWS[source](levels), ROWS[target](levels))


def between(value: Tensor, x: Tensor, at: Levels, source: Row, target: Row) -> Tensor:
    """The prediction of row ``target`` from that of row ``source``; see `convert`."""
    return combined(value, x, *factors_between(at, source, target))


def factors_between(at: Levels, source: Row, target: Row) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """The factors of x and of the prediction of row ``source`` in that of row ``target``, and what divides the sum."""
    determinant = at.alpha * source.b - at.sigma * source.a
    from_x = target.a * source.b - target.b * source.a
    from_value = source.weight * (at.alpha * target.b - at.sigma * target.a)
    if isinstance(from_x, float) and from_x == 0.0:  # one row is a multiple of the other
        return 0.0, from_value / (determinant * target.weight), 1.0
    return from_x, from_value, determinant * target.weight


def combined(
    value: Tensor, x: Tensor, from_x: Tensor | float, from_value: Tensor | float, divisor: Tensor | float
) -> Tensor:
    """What `factors_between` makes of a prediction."""
    if isinstance(from_x, float) and from_x == 0.0:
        return per_row(from_value, x) * value
    # Divided at the end: where alpha = 1 the difference x - x0 is then exact.
    mixed = per_row(from_x, x) * x + per_row(from_value, x) * value
    return mixed / per_row(divisor, x)


def per_row(scalars: Tensor | float, x: Tensor) -> Tensor | float:
    """Scalars of shape ``(B,)`` or ``()`` cast and shaped so that they multiply ``x`` of shape ``(B, *rest)``."""
    if not isinstance(scalars, Tensor):
        return scalars
    scalars = scalars.to(x.dtype)
    return scalars.reshape(-1, *[1] * (x.ndim - 1)) if scalars.ndim and x.ndim > 1 else scalars
