"""A diffusion model is a network together with what its output means and at which noise levels it was trained.

Classifier-free guidance is a network too, one that calls another on both branches at once, so that a guided model can
be used wherever a model can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

import parareal as pr
from diffusion_adapters._validate import check_floating, finite, kind_of
from diffusion_adapters.models._conditioning import check_conditioning, expand, map_tensors, stack_branches
from diffusion_adapters.models._prediction import Prediction, check_prediction, convert, levels_at, per_row
from diffusion_adapters.noise_schedules._base import NoiseSchedule


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A network, its noise schedule and what it predicts.

    Args:
        network: Called as ``network(x, t, **conditioning)`` with x of shape ``(B, *rest)`` and t of shape ``(B,)`` in
            the schedule's own time; it returns a prediction of the shape of x. A `torch.nn.Module` whose parameters
            have another dtype than x gets x in that dtype, and its result is cast back. t has the dtype that x has in
            the call, except that half precision gets float32 times, because it cannot tell them apart.
        noise_schedule: The schedule that the network was trained on.
        prediction: What the network returns: ``"eps"``, ``"x0"``, ``"v"`` = alpha eps - sigma x0, ``"score"`` =
            -eps/sigma, or ``"velocity"`` = dx/dt in the schedule's own time (for `Flow` eps - x0).
        conditioning: Further arguments of the network. Tensors have a leading axis with one entry for each sample, or
            of size 1 to share it; they may lie in nested dicts, lists and tuples, and the network sees them with one
            entry for each row of x. Anything else is passed on as it is.

    Raises:
        TypeError: ``network`` is not callable, ``noise_schedule`` is not a schedule, ``conditioning`` is not a dict of
            names, or the network returns something other than a real floating-point tensor.
        ValueError: ``prediction`` is unknown, a tensor of the conditioning has no leading axis, or the network returns
            another shape than that of x.

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.DiffusionModel(lambda x, t: x / (1 + t[:, None] ** 2) ** 0.5, da.VP(), prediction="eps")
        >>> model.predict(torch.ones(4, 2), torch.tensor(0.5), "x0").shape
        torch.Size([4, 2])
    """

    network: Callable[..., Any]
    noise_schedule: NoiseSchedule
    prediction: Prediction = "eps"
    conditioning: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        network: Any = self.network
        if not callable(network):
            raise TypeError(f"network is {kind_of(network)}; expected a callable network(x, t, **conditioning)")
        schedule: Any = self.noise_schedule
        if not isinstance(schedule, NoiseSchedule):
            came = f"the class {schedule.__name__}" if isinstance(schedule, type) else f"{kind_of(schedule)}"
            raise TypeError(f"noise_schedule is {came}; expected a NoiseSchedule such as da.VP()")
        check_prediction(self.prediction)
        object.__setattr__(self, "conditioning", _as_names(self.conditioning, "conditioning"))
        check_conditioning(self.conditioning)

    def with_conditioning(self, **conditioning: Any) -> DiffusionModel:
        """The same model with these arguments added to its conditioning, or put in place of those of the same name.

        Raises:
            ValueError: The model is `guided`: it has two branches, and the choice is ambiguous.
        """
        if isinstance(self.network, _Guided):
            raise ValueError(
                f"with_conditioning({', '.join(conditioning)}) came for a guided model, whose branches have their own "
                "conditioning; add it before: da.guided(model.with_conditioning(...), scale, cond, uncond), or put it "
                "into cond and uncond"
            )
        return replace(self, conditioning={**(self.conditioning or {}), **conditioning})

    def predict(self, x: Tensor, t: Tensor | float, target: Prediction | None = None) -> Tensor:
        """The network's prediction at x, converted to ``target``.

        Args:
            x: Noisy samples, floating point, shape ``(B, *rest)``.
            t: Their times, shape ``(B,)`` or ``()``, or a number.
            target: The prediction wanted; ``None`` for the network's own.

        Returns:
            The prediction, of the shape and dtype of x.

        Raises:
            TypeError: ``x`` is not a real floating-point tensor, or ``t`` is not real.
            ValueError: ``target`` is unknown, x has no axis of samples, or ``t`` or the conditioning does not fit their
                number.
        """
        target = self.prediction if target is None else target
        check_prediction(target, "target")
        check_floating(x, "x")
        if x.ndim == 0:
            raise ValueError("x has no axis; expected shape (B, *rest), one entry for each sample: x[None]")
        check_conditioning(self.conditioning, x.shape[0])
        t = _times(t, x)
        value = self.evaluate(x, t, dict(self.conditioning or {}), self.dtype)
        levels = levels_at(self.noise_schedule, t, velocity="velocity" in (self.prediction, target))
        return convert(value, x, **levels._asdict(), source=self.prediction, target=target)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that the network computes in: that of a module's first floating-point parameter, else x's own."""
        network: Any = self.network.module if isinstance(self.network, pr.Captured) else self.network
        if not isinstance(network, nn.Module):
            return None
        return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)

    @property
    def guidance(self) -> float:
        """The scale of classifier-free guidance, the largest of all samples; 1 without."""
        scale = (self.conditioning or {}).get("scale", 1.0) if isinstance(self.network, _Guided) else 1.0
        if isinstance(scale, Tensor):
            return float(scale.abs().max()) if scale.numel() else 1.0
        return abs(float(scale))

    def evaluate(self, x: Tensor, t: Tensor | float, conditioning: dict[str, Any], dtype: torch.dtype | None) -> Tensor:
        """One call of the network, its output in the dtype of x.

        Args:
            x: Shape ``(B, *rest)``.
            t: Float64, shape ``(B,)``, or a number.
            conditioning: For these rows; see `DiffusionModel`.
            dtype: `DiffusionModel.dtype`, which takes as long to look up as a small layer takes to run.

        Returns:
            The network's output, in the dtype of x.

        Raises:
            TypeError: ``x`` or the output is not a real floating-point tensor.
            ValueError: The output has another shape than x.
        """
        check_floating(x, "x")
        if not isinstance(t, Tensor):
            t = _times(t, x)
        dtype = x.dtype if dtype is None else dtype
        time = t.to(torch.promote_types(dtype, torch.float32))
        value = self.network(x.to(dtype), time, **expand(conditioning, x.shape[0]))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the network returned {kind_of(value)}; expected a tensor. Wrap it, for example "
                "lambda x, t, **conditioning: network(x, t, **conditioning).sample"
            )
        if not value.is_floating_point():
            raise TypeError(
                f"the network returned a tensor of {value.dtype} for x of {x.dtype}; expected real floating point. "
                "Wrap it to compute in float32, or to return the real part"
            )
        if value.shape != x.shape:
            raise ValueError(
                f"the network returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}; expected the same. "
                "Where it predicts a variance as well, wrap it to return the first half of its channels"
            )
        return value.to(x.dtype)


def _times(t: Any, x: Tensor) -> Tensor:
    """``t`` as float64 times of shape ``(B,)``, on the device of x."""
    if isinstance(t, Real) and not isinstance(t, bool):
        t = torch.tensor(float(t), dtype=torch.float64)
    expected = f"expected a real time for each of the {x.shape[0]} samples, or one for all"
    if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool:
        came = str(t.dtype) if isinstance(t, Tensor) else f"{kind_of(t)}"
        raise TypeError(f"t is {came}; {expected}: torch.as_tensor(t, dtype=torch.float64)")
    if t.shape not in ((), (1,), x.shape[:1]):
        raise ValueError(f"t has shape {tuple(t.shape)}; {expected}: shape ({x.shape[0]},) or ()")
    return t.to(device=x.device, dtype=torch.float64).expand(x.shape[0])


def _as_names(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{what} is {kind_of(value)}; expected a dict from argument names to values")
    return dict(value)


class _Guided(nn.Module):
    """Calls a network on two branches in one batch and extrapolates; a module, so that its parameters are found."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, t: Tensor, scale: Any, cond: dict[str, Any], uncond: dict[str, Any], **shared: Any
    ) -> Any:
        both = stack_branches({**shared, **uncond}, {**shared, **cond})
        value = self.network(torch.cat([x, x]), torch.cat([t, t]), **both)
        sound = isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (2 * x.shape[0],)
        if not sound:
            return value  # the model of this network raises the error
        without, given = value.chunk(2)
        return without + per_row(scale, x) * (given - without)


def guided(
    model: DiffusionModel,
    scale: float | Tensor,
    cond: Mapping[str, Any],
    uncond: Mapping[str, Any],
) -> DiffusionModel:
    """Classifier-free guidance: eps = eps_u + scale (eps_c - eps_u), both branches in one batch, unconditional first.

    It acts on the network's output whatever that predicts. At one x every prediction is an affine function of eps, and
    the weights of the two branches sum to one, so that the result is the same for all of them.

    Args:
        model: The model; its own conditioning is part of both branches.
        scale: 1 is the conditional model, 0 the unconditional one; a tensor of shape ``(samples,)`` gives each its own.
        cond: Conditioning of the conditional branch, such as ``{"label": labels}``; see `DiffusionModel`.
        uncond: Conditioning of the other branch: the same names, with what stands for "no condition".

    Returns:
        A model whose network makes one call of twice the batch; labels follow their samples.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: The model is guided already, ``scale`` is not finite or has more than one axis, or ``cond`` and
            ``uncond`` differ in names or in the tensors' shapes.

    Source:
        Classifier-Free Diffusion Guidance (arXiv 2207.12598), with scale = 1 + w.

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> def network(x, t, label):
        ...     return x * label[:, None]
        >>> labels = torch.tensor([1.0, 2.0])
        >>> model = da.guided(da.DiffusionModel(network, da.VP()), 3.0, {"label": labels}, {"label": 0 * labels})
        >>> model.predict(torch.ones(2, 1), torch.tensor(0.5)).flatten().tolist()
        [3.0, 6.0]
    """
    given: Any = model
    if not isinstance(given, DiffusionModel):
        raise TypeError(f"model is {kind_of(given)}; expected a DiffusionModel")
    if isinstance(model.network, _Guided):
        raise ValueError(
            "model is guided already, and guidance of both branches alike would change nothing; expected the model "
            "that came before: da.guided(model, scale, cond, uncond) once, with the cond, uncond and scale wanted"
        )
    shared = dict(model.conditioning or {})
    branches = {
        "cond": {**shared, **_as_names(cond, "cond")},
        "uncond": {**shared, **_as_names(uncond, "uncond")},
    }
    if isinstance(scale, Tensor):
        if scale.ndim > 1 or scale.is_complex() or scale.dtype == torch.bool:
            raise ValueError(
                f"scale is a tensor of shape {tuple(scale.shape)} and {scale.dtype}; expected a number, or one for "
                "each sample"
            )
        if not bool(torch.isfinite(scale).all()):
            raise ValueError(f"scale holds NaN or Inf: {scale.tolist()}; expected finite numbers")
        strength: float | Tensor = scale.reshape(-1)
    else:
        strength = finite(scale, "scale")
    for branch in branches.values():
        check_conditioning(branch)
    stack_branches(_one_row(branches["uncond"]), _one_row(branches["cond"]))
    return replace(model, network=_Guided(model.network), conditioning={"scale": strength, **branches})


def _one_row(branch: dict[str, Any]) -> dict[str, Any]:
    """A branch with one row of every tensor, so that two can be compared before the number of samples is known."""
    return map_tensors(lambda tensor: tensor[:1], branch)
