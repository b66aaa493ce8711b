"""Semilinear equations: a linear part that is solved exactly, and the rest.

An exponential integrator uses only the `Split` of an equation: what to evaluate, how states decay under the linear part
alone, and in which variable the rest is smooth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import factorial
from numbers import Number
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.host import index_to, sent, to_device
from parareal._core.norms import modulus
from parareal._core.trees import State
from parareal.problem._derivatives import PLAIN
from parareal.problem._lane_calls import Batching
from parareal.problem._ode import ODE

Prediction: TypeAlias = Literal["data", "noise"]

Factors: TypeAlias = tuple[Tensor, ...]
"""Factors of a state on L lanes: one tensor of shape ``(L,)`` for all leaves, or for each leaf one of shape
``(L, *state)``, or of a shape that broadcasts against it; float64 or complex128."""

_TERMS = 20
"""Terms of the series of phi functions where |z| < 1: the next is below 1 / 20!, 4e-19, under float64's rounding."""


class Weights(NamedTuple):
    """The weights of a step from ``t0`` to ``t1``.

    With N a polynomial in x, which goes from 0 to 1 over the step, the sum of a_j x^j, the solution is
    u1 = keep u + the sum of j! a_j phi[j].

    Attributes:
        h: Length of the step in the variable in which N is interpolated, ``(L,)``; may be infinite.
        keep: Weight of the state.
        phi: Weights of N and its derivatives in x: phi[j] stands for h phi_{j+1}(c h), c the linear part.
        unit: Converts N to units of the state, about the length of the step, ``(L,)``, finite, not zero.
        scale: The part of phi that is not h phi_{j+1}(c h), ``(L,)``: one, but where states are scaled over a step.
    """

    h: Tensor
    keep: Factors
    phi: list[Factors]
    unit: Tensor
    scale: Tensor


class Split(NamedTuple):
    """How an equation is split into a linear part and the rest, N.

    Attributes:
        function: The function to evaluate at ``(t, u)``, on lanes.
        rest: ``rest(t, u, value)`` is N, from the value of ``function``.
        level: The variable in which N is interpolated, at times ``t``; float64, may be infinite at the ends of a grid.
        time: The inverse of ``level``.
        weights: ``weights(t0, t1, n)`` are the `Weights` of a step, with ``n`` entries of ``phi``.
        endless: Whether ``level`` may be infinite at the ends of a grid.
        on_host: Whether ``level``, ``time`` and ``weights`` also take times on the host, whatever the device of the
            states: weights are then computed there, and sent.
    """

    function: Callable[..., State]
    rest: Callable[[Tensor, State, State], State]
    level: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor, Tensor, int], Weights]
    endless: bool = False
    on_host: bool = False


class Semilinear(ABC):
    """A problem that exponential integrators can solve."""

    @abstractmethod
    def split(self, prediction: Prediction) -> Split:
        """The split of the equation.

        Args:
            prediction: Which split, for equations that have several: the model of a diffusion ODE may predict the
                clean data or the noise. Others have one split, and ignore this.
        """


@dataclass(frozen=True, eq=False, init=False)
class SemilinearODE(ODE, Semilinear):
    """The initial value problem du/dt = linear u + f(t, u), for methods that solve the linear part exactly.

    Args:
        linear: A number, or a tensor, or a tree of them like the state, whose shapes broadcast against those of the
            state's leaves: the linear part is diagonal. Where it is a matrix, write the equation in its eigenvectors,
            as a Fourier transform does for derivatives in space.
        f: The rest of the right-hand side; see `ODE`.
        batching: See `ODE`.
        per_sample: See `ODE`.

    Methods that are not exponential see the whole right-hand side.

    Raises:
        TypeError: ``linear`` is something else, or ``f`` is not callable.
        ValueError: ``linear`` is not finite; from `solve`, that it does not fit the state.

    Source:
        M. Hochbruck, A. Ostermann, Exponential integrators, Acta Numerica 19 (2010).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.SemilinearODE(-50.0, lambda t, u: 50.0 * torch.cos(t) * torch.ones_like(u))
        >>> grid = pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=20)
        >>> u0 = torch.zeros(1, dtype=torch.float64)
        >>> sol = pr.solve(problem, u0, grid, fine=pr.ETDRK4(), coarse=pr.ExponentialEuler())
        >>> sol.iterations
        2
    """

    linear: Any = 0.0

    def __init__(
        self, linear: Any, f: Callable[..., Any], batching: Batching = "vmap", per_sample: State = None
    ) -> None:
        for name, value in (("linear", linear), ("f", f), ("batching", batching), ("per_sample", per_sample)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        self._prepare(PLAIN)  # linear is another thing here
        parts = [self.linear] if isinstance(self.linear, Number) else trees.leaves(self.linear)
        for part in parts:
            if isinstance(part, bool) or not isinstance(part, Number | Tensor):
                raise TypeError(f"linear holds {described(part)}; expected a number, or tensors like the state's")
            if not bool(torch.isfinite(_as_tensor(part)).all()):
                raise ValueError("linear is not finite; expected the coefficient of u in the right-hand side")
        object.__setattr__(self, "linear", parts[0] if isinstance(self.linear, Number) else self.linear)
        object.__setattr__(self, "parts", (ODE(self.linear_rhs, "native"), ODE(self.nonlinear, "native")))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.linear, self.f, self.batching, self.per_sample)

    def compared(self) -> dict[str, Any]:
        """The linear part."""
        return {"linear": self._parts}

    def bind(self, u0: State, grid: Any, fine: Any) -> SemilinearODE:
        """Returns itself after a check that the linear part fits the state."""
        leaves = trees.leaves(u0)
        parts = self._parts
        if len(parts) > 1 and trees.structure(self.linear) != trees.structure(u0):
            raise ValueError(
                f"linear is a tree of {len(parts)} tensors and the state one of {len(leaves)}; expected the same tree"
            )
        for part, leaf in zip(parts * len(leaves) if len(parts) == 1 else parts, leaves, strict=True):
            try:
                shape = torch.broadcast_shapes(part.shape, leaf.shape)
            except RuntimeError:
                shape = None
            if shape != leaf.shape:
                raise ValueError(
                    f"linear has shape {tuple(part.shape)} and the state {tuple(leaf.shape)}; expected a shape that "
                    "broadcasts to the state's: a diagonal. Write a matrix in its eigenvectors"
                )
            if part.is_complex() and not leaf.is_complex():
                raise ValueError(
                    f"linear is complex and the state {leaf.dtype}; expected a complex state, or real numbers"
                )
        return self

    @property
    def _parts(self) -> list[Tensor]:
        return [_as_tensor(part) for part in trees.leaves(self.linear)]

    def nonlinear(self, t: Tensor, u: State, rows: State = None) -> State:
        """f(t, u) on L lanes."""
        return self._calls(t, u, rows)

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """The whole right-hand side on L lanes."""
        return trees.add(self._calls(t, u, rows), self._times(u))

    def linear_rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """Linear u on L lanes."""
        return self._times(u)

    def linear_flow(self, t0: Tensor, t1: Tensor, u: State) -> State:
        """States after the linear part alone, from ``t0`` to ``t1``, ``(L,)``."""
        h = t1 - t0
        keep = [torch.exp(part.to(h.device, _wide(part)) * h.reshape(-1, *[1] * part.ndim)) for part in self._parts]
        return lincomb([(tuple(keep), u)])

    def linear_solve(self, h: Tensor, u: State) -> State:
        """The solution x of x - h linear x = u on L lanes, ``h`` of shape ``(L,)``."""
        factors = [1 / (1 - h.reshape(-1, *[1] * part.ndim) * part.to(h.device, _wide(part))) for part in self._parts]
        return lincomb([(tuple(factors), u)])

    def _times(self, u: State) -> State:
        if len(self._parts) > 1:
            return trees.map(lambda leaf, part: leaf * part.to(leaf), u, self.linear)
        part = self._parts[0]
        return trees.map(lambda leaf: leaf * part.to(device=leaf.device, dtype=_dtype(part, leaf)), u)

    def split(self, prediction: Prediction = "data") -> Split:
        """The linear part is ``linear``, N is f, and time is the variable."""
        return Split(self.nonlinear, _value, _same, _same, partial(linear_weights, self._parts), on_host=True)


def plain_split(problem: ODE) -> Split:
    """No linear part: N is the right-hand side."""
    return Split(problem.rhs, _value, _same, _same, partial(linear_weights, [torch.zeros(())]), on_host=True)


def linear_weights(linear: list[Tensor], t0: Tensor, t1: Tensor, n: int) -> Weights:
    """The weights of a diagonal linear part."""
    h = t1 - t0
    one = torch.ones_like(h)
    if len(linear) == 1 and linear[0].ndim == 0 and linear[0] == 0:
        return Weights(h, (one,), [(h / factorial(k),) for k in range(1, n + 1)], h, one)
    # Numbers go where the times are, and times to where larger factors are.
    c = [part.to(dtype=_wide(part)) for part in linear]
    c = [part.to(h.device) if part.ndim == 0 or h.device.type != "cpu" else part for part in c]
    steps = [(h if part.device == h.device else to_device(h, part.device)).reshape(-1, *[1] * part.ndim) for part in c]
    keep = tuple(torch.exp(part * step) for part, step in zip(c, steps, strict=True))
    each = [scaled_phis(step, part, n) for part, step in zip(c, steps, strict=True)]
    return Weights(h, keep, [tuple(phis[k] for phis in each) for k in range(n)], h, one)


def scaled_phis(h: Tensor, c: Tensor, n: int, scale: Tensor | float = 1.0, first: Tensor | None = None) -> list[Tensor]:
    """``scale`` times h phi_1(c h), ..., h phi_n(c h), with phi_k(z) the sum of z^j / (j + k)! over j.

    ``first`` is the first of them where it is known better; then h may be infinite, with a scale of zero.

    For one phi the formula is accurate everywhere. Others follow by recurrence: upwards where c h is large, and
    downwards from a series where it is small, since the upward recurrence loses digits there.
    """
    z = c * h
    safe = torch.where(c == 0, 1, c)
    up = [scale * torch.where(c == 0, h + 0 * c, torch.expm1(z) / safe) if first is None else first]
    if n == 1:
        return up
    for k in range(1, n):
        up.append((up[-1] / h - scale / factorial(k)) / safe)
    small = modulus(z) < 1
    w, step = torch.where(small, z, 0), torch.where(small, h, 0)
    series = torch.full_like(w, 1 / factorial(_TERMS + n))
    for j in range(_TERMS - 1, -1, -1):
        series = _product(series, w) + 1 / factorial(j + n)
    down = [series]
    for k in range(n - 1, 0, -1):
        down.insert(0, _product(down[0], w) + 1 / factorial(k))
    return [torch.where(small, scale * step * low, high) for low, high in zip(down, up, strict=True)]


def lincomb(terms: list[tuple[Factors, State]]) -> State:
    """The sum of states times their factors, without fused operations: see `trees.axpy`."""
    like = terms[0][1]
    leaves = [trees.leaves(state) for _, state in terms]
    sums: list[Tensor] = []
    for i in range(len(leaves[0])):
        total: Tensor | None = None
        each = _beside([factors[i if len(factors) > 1 else 0] for factors, _ in terms], leaves[0][i])
        for factor, parts in zip(each, leaves, strict=True):
            term = _scaled(factor, parts[i])
            total = term if total is None else total.add_(term)
        assert total is not None
        sums.append(total)
    return trees.rebuild(sums, like)


def beside_factor(numbers: Tensor, factor: Tensor) -> Tensor:
    """Numbers of each lane, shaped so that they go with a factor, on its device."""
    if numbers.device != factor.device:
        numbers = to_device(numbers, factor.device)
    return numbers.reshape(-1, *[1] * (factor.ndim - 1)) if factor.ndim > 1 else numbers


def _beside(factors: list[Tensor], leaf: Tensor) -> list[Tensor]:
    """Factors on the device of a leaf; those that are numbers of each lane get there together, in its dtype."""
    away = [factor for factor in factors if factor.device != leaf.device]
    if not away:
        return factors
    numbers = [factor for factor in away if factor.ndim == 1]
    arrived = iter(sent(leaf.device, *numbers, dtype=_dtype(numbers[0], leaf)) if numbers else ())
    here: list[Tensor] = []
    for factor in factors:
        if factor.device != leaf.device:
            factor = next(arrived) if factor.ndim == 1 else to_device(factor, leaf.device)
        here.append(factor)
    return here


def together(factors: list[Tensor], like: State) -> list[Tensor]:
    """Factors where states lie, in one copy, if they are real numbers of each lane on the host; else as they are."""
    alike = isinstance(like, Tensor) and all(f.ndim == 1 and f.device.type == "cpu" for f in factors)
    if not alike or like.device.type == "cpu" or any(f.is_complex() or f.requires_grad for f in factors):
        return factors
    return sent(like.device, *factors, dtype=_dtype(factors[0], like))


def chosen(mask: Tensor, a: State, b: Any) -> State:
    """``a`` on lanes of the mask, elsewhere ``b``, a state or a function of ``a``'s leaves."""
    if mask.device != (device := trees.leaves(a)[0].device):
        if bool(mask.all()):
            return a
        if not bool(mask.any()):
            return trees.map(b, a) if callable(b) else b
        mask = index_to(device, mask.numpy())

    def leaf(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return trees.map(leaf, a, trees.map(b, a) if callable(b) else b)


def _scaled(factor: Tensor, leaf: Tensor) -> Tensor:
    if factor.dtype != (dtype := _dtype(factor, leaf)):
        factor = factor.to(dtype)
    lanes, *shape = factor.shape  # what broadcasts against a state does so from the right
    return _product(factor.reshape(lanes, *[1] * (leaf.ndim - factor.ndim), *shape), leaf)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Without fused operations: the complex product of torch depends on the position in the stack."""
    if not (a.is_complex() and b.is_complex()):
        return a * b
    return torch.complex(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def _dtype(factor: Tensor, leaf: Tensor) -> torch.dtype:
    return leaf.dtype if factor.is_complex() or not leaf.is_complex() else leaf.real.dtype


def _wide(part: Tensor) -> torch.dtype:
    return torch.promote_types(part.dtype, torch.float64)


def _as_tensor(part: Any) -> Tensor:
    """Numbers as they are: torch would make single precision of them."""
    if isinstance(part, Tensor):
        return part
    return torch.as_tensor(part, dtype=torch.complex128 if isinstance(part, complex) else torch.float64)


def _value(t: Tensor, u: State, value: State) -> State:
    return value


def _same(t: Tensor) -> Tensor:
    return t
