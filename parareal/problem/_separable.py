"""Separable equations: positions move by their momenta alone, and momenta by the positions alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.problem._derivatives import PLAIN
from parareal.problem._lane_calls import Batching, OnLanes
from parareal.problem._ode import ODE, check_rows


def halves(u: State) -> tuple[State, State]:
    """Position and momentum of a state that is a pair."""
    first, second = u.values() if isinstance(u, dict) else u  # pyright: ignore
    return first, second  # pyright: ignore


def joined(q: State, p: State, like: Any) -> State:
    """The pair of a position and a momentum, of the kind of ``like``: a tuple, named or not, a list or a dict."""
    if isinstance(like, dict):
        return dict(zip(like, (q, p), strict=True))  # pyright: ignore
    if hasattr(like, "_fields"):
        return type(like)(q, p)
    return type(like)((q, p))


def check_pair(u0: State, who: str) -> None:
    """Raises unless a state is a pair of trees of the same structure, shapes and dtypes."""
    pair = isinstance(u0, tuple | list | dict) and len(u0) == 2  # pyright: ignore
    if not pair:
        came = f"a tensor of shape {tuple(u0.shape)}" if isinstance(u0, Tensor) else described(u0)
        raise ValueError(
            f"{who} came with a state that is {came}; expected a pair of position and momentum (or velocity), which "
            "move by one another: u0 = (q0, p0)"
        )
    q, p = halves(u0)
    if trees.structure(q) != trees.structure(p):
        raise ValueError(
            f"{who} came with a position and a momentum of different structure, {trees.structure(q)} and "
            f"{trees.structure(p)}; expected the same"
        )
    for a, b in zip(trees.leaves(q), trees.leaves(p), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"{who} came with a position of shape {tuple(a.shape)} ({a.dtype}) and a momentum of shape "
                f"{tuple(b.shape)} ({b.dtype}); expected the same for both"
            )


@dataclass(frozen=True, eq=False, init=False)
class SeparableODE(ODE):
    """The equations dq/dt = velocity(t, p), dp/dt = force(t, q) of a separable problem, for `StoermerVerlet`.

    With the Hamiltonian T(p) + V(q), ``velocity`` is the gradient of T and ``force`` minus that of V. States are pairs
    ``(q, p)``, tuples, lists or dicts of two, both of the same structure and shapes. Methods that do not split see the
    whole right-hand side.

    Args:
        force: ``force(t, q)`` is dp/dt, called as `ODE` describes.
        velocity: ``velocity(t, p)`` is dq/dt; or what multiplies p, a number or a tensor that broadcasts to it, such as
            1 / mass, which costs no evaluation.
        batching: How both are called; see `ODE`.
        per_sample: See `ODE`; both functions are then called with it.

    Raises:
        TypeError: ``force`` is not callable, or ``velocity`` neither a function nor a number or tensor.
        ValueError: ``velocity`` is not finite; from `solve`, the state is not a pair, or ``velocity`` does not fit.

    Source:
        E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration (Springer, 2006), section I.1.

    Examples:
        >>> import torch, parareal as pr
        >>> pendulum = pr.SeparableODE(lambda t, q: -torch.sin(q))
        >>> u0 = torch.tensor([1.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> grid = pr.TimeGrid.uniform(0.0, 3.0, slices=6, steps=50)
        >>> sol = pr.solve(pendulum, u0, grid, fine=pr.StoermerVerlet(), coarse=pr.StoermerVerlet())
        >>> sol.iterations
        3
    """

    velocity: Any = 1.0
    _velocity: OnLanes | None = field(init=False, repr=False)

    def __init__(
        self,
        force: Callable[..., Any],
        velocity: Callable[..., Any] | complex | Tensor = 1.0,
        batching: Batching = "vmap",
        per_sample: State = None,
    ) -> None:
        for name, value in (("f", force), ("velocity", velocity), ("batching", batching), ("per_sample", per_sample)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_calls", OnLanes(self.f, self.batching, "force"))
        object.__setattr__(self, "derivatives", PLAIN)
        check_rows(self.per_sample)
        given, calls = self.velocity, None
        if isinstance(given, bool) or not (callable(given) or isinstance(given, Number | Tensor)):
            raise TypeError(
                f"velocity is {described(given)}; expected a function velocity(t, p), or a number or a tensor that "
                "multiplies p, such as 1 / mass"
            )
        if isinstance(given, Number | Tensor):
            if not bool(torch.isfinite(torch.as_tensor(given)).all()):
                raise ValueError("velocity is not finite; expected what multiplies p, such as 1 / mass")
        else:
            calls = OnLanes(given, self.batching, "velocity")
        object.__setattr__(self, "_velocity", calls)
        object.__setattr__(self, "parts", (ODE(self._drift_alone, "native"), ODE(self._kick_alone, "native")))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.f, self.velocity, self.batching, self.per_sample)

    @property
    def force(self) -> Callable[..., Any]:
        """The function ``force(t, q)``."""
        return self.f

    @property
    def evaluates_velocity(self) -> bool:
        """Whether ``velocity`` is a function, and not what multiplies p."""
        return self._velocity is not None

    def compared(self) -> dict[str, Any]:
        """What multiplies the momentum, if it is no function."""
        return {} if self.evaluates_velocity else {"velocity": self.velocity}

    def bind(self, u0: State, grid: Any, fine: Any) -> SeparableODE:
        """Returns itself after a check of the state."""
        check_pair(u0, type(self).__name__)
        if isinstance(self.velocity, Tensor):
            for leaf in trees.leaves(halves(u0)[1]):
                try:
                    shape = torch.broadcast_shapes(self.velocity.shape, leaf.shape)
                except RuntimeError:
                    shape = None
                if shape != leaf.shape:
                    raise ValueError(
                        f"velocity has shape {tuple(self.velocity.shape)} and the momentum {tuple(leaf.shape)}; "
                        "expected a shape that broadcasts to the momentum's"
                    )
        return self

    def kick(self, t: Tensor, u: State, rows: State = None) -> State:
        """dp/dt on L lanes, of the shape of p, from whole states."""
        return self._calls(t, halves(u)[0], rows)

    def drift(self, t: Tensor, u: State, rows: State = None) -> State:
        """dq/dt on L lanes, of the shape of q, from whole states."""
        p = halves(u)[1]
        if self._velocity is not None:
            return self._velocity(t, p, rows)
        given = self.velocity

        def leaf(x: Tensor) -> Tensor:
            return x * (given.to(x) if isinstance(given, Tensor) and not given.is_complex() else given)

        return trees.map(leaf, p)

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """The whole right-hand side on L lanes."""
        return joined(self.drift(t, u, rows), self.kick(t, u, rows), u)

    def _drift_alone(self, t: Tensor, u: State, rows: State = None) -> State:
        return joined(self.drift(t, u, rows), trees.map(torch.zeros_like, halves(u)[1]), u)

    def _kick_alone(self, t: Tensor, u: State, rows: State = None) -> State:
        return joined(trees.map(torch.zeros_like, halves(u)[0]), self.kick(t, u, rows), u)
