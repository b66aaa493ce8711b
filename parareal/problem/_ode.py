"""A problem is an equation and the way its right-hand side is called on many lanes at once.

The engine always asks for many values together: times of shape ``(L,)`` and states whose leaves are
``(L, *state)``. A problem turns that into calls of the function that the user wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.problem._lane_calls import Batching, OnLanes

Stages: TypeAlias = Generator[tuple[Any, ...], State, State]
"""A computation on lanes that requests function values by yielding ``(function, *arguments)``; it is sent the
value (leaves ``(L, *state)``) and returns its result."""


class Problem(ABC):
    """The equation that `solve` solves: an `ODE`, a `SemilinearODE` or an `SDE`.

    Attributes:
        batching: How the user's function is called.
        per_sample: Data that belongs to the samples of a batch and follows them into every call, or ``None``.
    """

    batching: Batching
    per_sample: State

    def rows(self, samples: int | None, device: torch.device) -> State:
        """Data that follows the samples into every request, free ones too: leaves ``(samples, ...)``, or ``None``.

        Args:
            samples: How many there are, or ``None`` where the whole state is one system.
            device: The device of the state.
        """
        return self.per_sample

    @abstractmethod
    def bind(self, u0: State, grid: Any, fine: Any) -> Problem:
        """Returns the problem to be used for a run, before any work is done; raises if something does not fit.

        Args:
            u0: One system's initial state.
            grid: The time grid.
            fine: The fine propagator.
        """

    @abstractmethod
    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """The right-hand side on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``."""


@dataclass(frozen=True, eq=False)
class ODE(Problem):
    """The initial value problem du/dt = f(t, u).

    Args:
        f: The right-hand side. It returns a tree of the structure, shapes and dtypes of ``u``.
        batching: How ``f`` is called for L lanes:

            - ``"vmap"``: ``f`` takes a scalar ``t`` and one state; `torch.func.vmap` makes it many.
            - ``"native"``: ``f`` takes ``t`` of shape ``(L,)`` and leaves ``(L, *state)``.
            - ``"fold"``: state leaves are ``(B, *rest)``; ``f`` takes ``t`` of shape ``(L*B,)`` and leaves
              ``(L*B, *rest)``, which is how most networks are called.
            - ``"loop"``: ``f`` is called once per lane with a scalar ``t`` and one state (numpy code,
              data-dependent control flow). Numpy arrays are accepted as its result.
            - ``"auto"``: ``"vmap"``, and ``"loop"`` with one warning from the first call on that vmap refuses.
        per_sample: Data that belongs to the samples of a batch and follows them into every call, such as class
            labels: a tree of tensors whose leading axis is the number of samples. ``f`` is then called as
            ``f(t, u, rows)``, where ``rows`` holds, in the layout of the state's leaves, each lane's entries.

    Time is float64 whatever the dtype of the state. Cast it (``t.to(u.dtype)``) where dtypes would mix.

    Raises:
        TypeError: ``f`` is not callable, or ``per_sample`` holds something other than tensors.
        ValueError: ``batching`` is unknown.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -u)
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> bool(sol.converged)
        True
    """

    f: Callable[..., Any]
    batching: Batching = "vmap"
    per_sample: State = None
    _calls: OnLanes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_calls", OnLanes(self.f, self.batching))
        check_rows(self.per_sample)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.f, self.batching, self.per_sample)

    def bind(self, u0: State, grid: Any, fine: Any) -> ODE:
        """Returns itself: an ODE needs nothing from the run."""
        return self

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """du/dt on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``; the engine counts one round a call."""
        return self._calls(t, u, rows)


def check_rows(per_sample: State) -> None:
    """Raises unless per-sample data is a tree of tensors, or there is none."""
    if per_sample is None:
        return
    for leaf in trees.leaves(per_sample):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"per_sample holds a {type(leaf).__name__}; expected tensors with a leading sample axis")
