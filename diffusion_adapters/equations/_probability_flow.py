"""The probability-flow ODE of a diffusion model as a `parareal.ODE`, in coordinates where Euler is DDIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import check_floating, kind_of
from diffusion_adapters.equations._coordinates import Coordinates, Name, coordinates_for
from diffusion_adapters.equations._point_table import PointTable
from diffusion_adapters.models._conditioning import split
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.models._prediction import ROWS, combined, factors_between, per_row
from diffusion_adapters.models._training_mode import check_mode
from diffusion_adapters.noise_schedules._check import check_schedule
from parareal.extend import select, sent, values_of


@dataclass(frozen=True, eq=False)
class DiffusionODE(pr.ODE, pr.Semilinear):
    """A `parareal.ODE` with its coordinates, from which exponential integrators get the split."""

    coordinates: Coordinates = field(kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = partial(DiffusionODE, coordinates=self.coordinates)
        return remade, (self.f, self.batching, self.per_sample)

    def compared(self) -> dict[str, Any]:
        """The coordinates with their noise schedule, and what the network predicts."""
        prediction = self.f.model.prediction if isinstance(self.f, RightHandSide) else None
        return {"coordinates": self.coordinates, "prediction": prediction}

    def bind(self, u0: Any, grid: Any, fine: Any) -> pr.ODE:
        """As of any ODE; what depends on the points of the grid alone is computed once for all of them."""
        if isinstance(self.f, RightHandSide):
            self.f.expect(grid.points)
        return super().bind(u0, grid, fine)

    def split(self, prediction: pr.Prediction) -> pr.Split:
        """N is x0 (``"data"``) or eps (``"noise"``), interpolated in lambda = log(alpha/sigma)."""
        return diffusion_split(self, self.coordinates, prediction)


@dataclass(frozen=True, eq=False)
class ProbabilityFlow:
    """The result of `probability_flow`; it unpacks into ``problem, to_x, from_x``.

    Attributes:
        problem: The ODE in its own variable tau, for states u of shape ``(B, *rest)``.
        coordinates: The change of variables: ``coordinates.tau(t)`` and ``coordinates.time(tau)`` convert times.
    """

    problem: DiffusionODE
    coordinates: Coordinates

    def __iter__(self) -> Iterator[Any]:
        return iter((self.problem, self.to_x, self.from_x))

    def to_x(self, tau: Tensor | float, u: Tensor) -> Tensor:
        """The noisy sample x from the ODE's state u.

        Args:
            tau: The ODE's own variable, as in ``grid.points`` and ``solution.ts``: float64, shape ``()`` for one time,
                or ``(L,)`` for one to each entry of u's leading axis, so that ``to_x(sol.ts, sol.us)`` is the path.
            u: States.

        Returns:
            x, of the shape and dtype of u.

        Raises:
            TypeError: ``u`` is not a real floating-point tensor.
        """
        check_floating(u, "u")
        return self.coordinates.to_x(_as_time(tau, u), u)

    def from_x(self, tau: Tensor | float, x: Tensor) -> Tensor:
        """The ODE's state u from the noisy sample x; the inverse of `to_x`."""
        check_floating(x, "x")
        return self.coordinates.from_x(_as_time(tau, x), x)

    def grid(self, times: Tensor, slices: int | None = None) -> pr.TimeGrid:
        """The grid of the ODE's variable at these times of the schedule, cut into slices.

        Args:
            times: Times of the schedule, ``(n + 1,)``, falling from noise to data, or rising from data to noise.
            slices: How many slices; ``None`` for about the square root of the steps.

        Raises:
            TypeError: ``times`` is not a tensor of real numbers.
            ValueError: Two neighbouring times, or the log-SNR at them, are equal or go the wrong way.
        """
        given: Any = times
        if not isinstance(given, Tensor) or given.is_complex() or given.dtype == torch.bool:
            came = str(given.dtype) if isinstance(given, Tensor) else f"{kind_of(given)}"
            raise TypeError(f"times is {came}; expected a tensor of real numbers: model.noise_schedule.times(50)")
        times = times.to(torch.float64)
        _check_monotone(times, times, "times")
        tau = self.coordinates.tau(times)
        _check_monotone(tau, times, f"noise levels of {self.coordinates.noise_schedule!r}")
        return pr.TimeGrid.from_points(tau, slices=slices)


def _check_monotone(values: Tensor, times: Tensor, what: str) -> None:
    """Raises where neighbours among the values at ``times`` are equal, or change direction."""
    if values.ndim != 1 or len(values) < 2:
        return  # the grid raises the error
    steps = values.diff()
    wrong = ~(steps * steps[0] > 0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        how = "stand still" if steps[i] == 0 else "turn back" if bool(steps[i].isfinite()) else "are not all finite"
        raise ValueError(
            f"{what} {how} from times[{i}]={times[i].item()} to times[{i + 1}]={times[i + 1].item()}; expected times "
            "that only fall (or only rise), of noise levels that all differ: leave out those that repeat a level, "
            "or take model.noise_schedule.times(50)"
        )


def _as_time(tau: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(tau, dtype=torch.float64, device=like.device)


def probability_flow(model: DiffusionModel, coordinates: Name | None = None) -> ProbabilityFlow:
    """The probability-flow ODE of a model, whose solution from noise to data is a sample.

    The state is z = x/alpha over the variable s = sigma/alpha, where dz/ds = eps. For `Flow`, and where alpha is nearly
    0 at the noisy end, it is u = x/(alpha + sigma) over r = sigma/(alpha + sigma), where du/dr = eps - x0; for `Flow`
    these are x, t and the velocity. Explicit Euler is DDIM in both. Heun in the first, with alpha = 1, is that of
    Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).

    States are float32 or float64 of shape ``(B, *rest)``; the right-hand side folds slices and samples into one batch.
    Conditioning with an entry for each sample follows its sample, and fixes B.

    Args:
        model: The model.
        coordinates: ``"ratio"`` for z over s, ``"share"`` for u over r; ``None`` chooses as above. Explicit Euler is
            the same in both; iterations are not, and Picard iteration is quicker in the second.

    Returns:
        A `ProbabilityFlow`, which unpacks into ``problem, to_x, from_x``; ``to_x(tau, u)`` and ``from_x(tau, x)``
        convert states at a value ``tau`` of the ODE's variable.

    Raises:
        TypeError: ``model`` is not a `DiffusionModel`.
        ValueError: ``coordinates`` is unknown, or the schedule starts without signal and the model predicts eps or the
            score, which do not determine the data there.

    Source:
        Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), section 4.3; that
        Euler is DDIM: Denoising Diffusion Implicit Models (arXiv 2010.02502), section 4.3.

    Examples:
        >>> import torch, parareal as pr, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> flow = da.probability_flow(model)
        >>> problem, to_x, from_x = flow
        >>> grid = flow.grid(model.noise_schedule.times(20), slices=5)
        >>> z = from_x(grid.points[0], torch.tensor([[0.5], [-0.5]]))
        >>> sol = pr.solve(problem, z, grid, fine=pr.Euler(), coarse=pr.Euler())
        >>> to_x(sol.ts[-1], sol.u).round().flatten().tolist()
        [1.0, -1.0]
    """
    given: Any = model
    if not isinstance(given, DiffusionModel):
        raise TypeError(f"model is {kind_of(given)}; expected a DiffusionModel(network, noise_schedule)")
    check_schedule(model.noise_schedule, everywhere=False)
    chosen = coordinates_for(model.noise_schedule, coordinates)
    check_start(model)
    leaves, join = split(dict(model.conditioning or {}))
    return ProbabilityFlow(
        DiffusionODE(
            RightHandSide(model, chosen, join, model.dtype),
            batching="fold",
            per_sample=leaves or None,
            coordinates=chosen,
        ),
        chosen,
    )


@dataclass(frozen=True, eq=False)
class RightHandSide:
    """du/dtau from the network's output. A class, not a function in a function, so that it can be pickled."""

    model: DiffusionModel
    coordinates: Coordinates
    join: Callable[[list[Tensor]], dict[str, Any]]
    dtype: torch.dtype | None
    _checked: list[bool] = field(default_factory=list[bool], init=False, repr=False)
    _expected: list[PointTable] = field(default_factory=list["PointTable"], init=False, repr=False)

    def expect(self, points: Tensor) -> None:
        """Says at which values of tau most calls will be; the results do not depend on it."""
        self._expected[:] = [PointTable(points, self._numbers)]

    def __call__(self, tau: Tensor, u: Tensor, rows: list[Tensor] | None = None) -> Tensor:
        if not self._checked:  # at the first call, and not at construction: models are also made for training
            check_mode(self.model.network)
            self._checked.append(True)
        model, numbers = self.model, None
        for table in self._expected:
            numbers = table.at(tau)
        if numbers is None:
            numbers = sent(tau.device, *self._numbers(values_of(tau)))
        t, scale, *factors = numbers
        if u.dtype == t.dtype or self.dtype == t.dtype:  # no copy is made of it, and a network may change it in place
            t = t.clone()
        x = per_row(scale, u) * u
        value = model.evaluate(x, t, self.join(rows or []), self.dtype)
        return combined(value, x, *factors) if factors else value

    def _numbers(self, tau: Tensor) -> list[Tensor | float]:
        """Time and x/u, and what makes du/dtau of the network's output where the two differ, at ``tau``."""
        model, coordinates, schedule = self.model, self.coordinates, self.model.noise_schedule
        direct = model.prediction == coordinates.same_as  # the network's output is the derivative itself
        t = coordinates.time(tau)
        levels = coordinates.levels(tau, t)
        if model.prediction == "velocity" and not direct:
            levels = levels._replace(alpha_dot=schedule.alpha_dot(t), sigma_dot=schedule.sigma_dot(t))
        factors = () if direct else factors_between(levels, ROWS[model.prediction](levels), coordinates.rate)
        return [t, coordinates.scale(levels), *factors]


def check_start(model: DiffusionModel) -> None:
    """Raises where the schedule begins without signal and the prediction does not determine the data there."""
    schedule = model.noise_schedule
    silent = schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64)).item() == 0
    if silent and model.prediction in ("eps", "score"):
        raise ValueError(
            f'prediction="{model.prediction}" does not determine the data where alpha is 0, as it is at t_max='
            f"{schedule.t_max} of {schedule!r}; use a model that predicts v, x0 or a velocity, or a schedule that ends "
            "before"
        )


def diffusion_split(problem: DiffusionODE, coordinates: Coordinates, prediction: pr.Prediction) -> pr.Split:
    """The split of a diffusion ODE, with x0 or eps of the model assumed to be smooth in lambda.

    The state of a step that begins without signal does not determine x0, so it comes from the model in both cases; in
    a step that begins without noise, eps does. Such steps are endless, of order 1, and the same in both.
    """
    data = prediction == "data"

    def takes_data(a: Tensor, b: Tensor) -> Tensor:
        return b != 0 if data else a == 0

    def rest(tau: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        mask = takes_data(*coordinates.shares(values_of(tau)))
        if mask.device == u.device:
            return select(mask, *coordinates.split_lanes(tau, u, slope))
        if bool(mask.all()):  # the host knows which of the two is needed
            return coordinates.x0_lanes(tau, u, slope)
        if not bool(mask.any()):
            return coordinates.eps_lanes(tau, u, slope)
        return select(mask, *coordinates.split_lanes(tau, u, slope))

    def weights(t0: Tensor, t1: Tensor, n: int) -> pr.Weights:
        h = coordinates.level(t1) - coordinates.level(t0)
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(t1)
        of_data = takes_data(a0, b0)
        keep = torch.where(of_data, b1 / b0, a1 / a0)
        scale = torch.where(of_data, a1, -b1)
        grown = torch.where(a1 == 0, -keep * a0, -a1 * torch.expm1(-h))
        first = torch.where(of_data, grown, b1 - keep * b0)
        phi = pr.scaled_phis(h, h.new_tensor(-1.0 if data else 1.0), n, scale, first)
        return pr.Weights(h, (keep,), [(part,) for part in phi], phi[0], scale)

    return pr.Split(problem.rhs, rest, coordinates.level, coordinates.at_level, weights, endless=True, on_host=True)
