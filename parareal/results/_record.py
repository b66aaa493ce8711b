"""All iterates and solutions of a run, to study the iteration itself: `solve(..., keep="all")`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.checks import kind_of
from parareal._core.described import brief_fields
from parareal._core.host import index_to
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.results._tensor_file import get_state, put, put_state


@dataclass(frozen=True, eq=False)
class Record:
    """Every iterate of a run, with its coarse and fine solutions.

    Iterates are numbered: U_n^0 is the first guess of boundary n, U_n^k the k-th state that it took after that. With
    `Barrier` all boundaries have taken theirs after k iterations; with `Wavefront` those on the left may be further
    ahead; with `Windowed` each has a count of its own. What was not computed is NaN, and False in the mask: a boundary
    that has become final takes no further iterates.

    Attributes:
        u: Iterates U_n^k: the tree of the initial state, leaves ``(K + 1, N + 1, *state)``, K the largest number; with
            ``samples=True`` leaves ``(K + 1, N + 1, B, *rest)``.
        fine: Fine solutions F_n(U_n^k), leaves ``(K + 1, N, *state)``.
        coarse: Coarse solutions G_n(U_n^k), likewise; ``None`` where the correction has no propagator.
        has_u: Which iterates there are, bool, ``(K + 1, N + 1)``, or ``(K + 1, N + 1, B)``.
        has_fine: The same of fine solutions, ``(K + 1, N)`` or ``(K + 1, N, B)``.
        has_coarse: The same of coarse solutions, or ``None``.
        lanes: Which lanes were in which round, int64, ``(entries, 5)``: the round, the one after it, 0 for a coarse or
            1 for a fine lane, the iterate from which the lane started, and the slice; with ``samples=True`` the sample
            as well, ``(entries, 6)``. One row is one evaluation, except for methods whose requests take several rounds.
            ``None`` in files of versions that did not keep it.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u * u), pr.TimeGrid.uniform(0.0, 2.0, slices=4, steps=8)
        >>> call = dict(fine=pr.RK4(), coarse=pr.Euler(), schedule=pr.Barrier(), stop=pr.Iterations(2))
        >>> kept = pr.solve(problem, torch.ones(3), grid, keep="all", **call).iterates
        >>> kept.u.shape, kept.fine.shape, kept.has_fine.sum(1).tolist()
        (torch.Size([3, 5, 3]), torch.Size([3, 4, 3]), [4, 3, 0])
        >>> kept.lanes[:5].tolist()  # the first coarse sweep, and the first round of the fine lanes
        [[0, 1, 0, 0, 0], [1, 2, 0, 0, 1], [2, 3, 0, 0, 2], [3, 4, 0, 0, 3], [4, 5, 1, 0, 0]]
        >>> bool((kept.after(2) == pr.solve(problem, torch.ones(3), grid, **call).us).all())
        True
    """

    u: State
    fine: State
    coarse: State | None
    has_u: Tensor
    has_fine: Tensor
    has_coarse: Tensor | None
    lanes: Tensor | None = None

    def __repr__(self) -> str:
        return brief_fields(self)

    def after(self, k: int) -> State:
        """The states at the boundaries at number k, leaves ``(N + 1, *state)``: their last iterate up to that one.

        Raises:
            TypeError: ``k`` is not an int.
            ValueError: ``k`` is not one of 0 ... K.
        """
        last = len(self.has_u) - 1
        if isinstance(k, bool) or not isinstance(k, int | np.integer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"k={k!r} is {kind_of(k)}; expected an int in 0 ... {last}")
        if not 0 <= k <= last:
            raise ValueError(f"k={k} is no iterate of this record; expected 0 ... {last}")
        number = torch.arange(k + 1).reshape(-1, *[1] * (self.has_u.ndim - 1))
        newest = torch.where(self.has_u[: k + 1], number, -1).amax(0)

        def leaf(x: Tensor) -> Tensor:
            index = newest.clamp(min=0).to(x.device).reshape(1, *newest.shape, *[1] * (x.ndim - 1 - newest.ndim))
            return x.gather(0, index.expand(1, *x.shape[1:]))[0]

        return trees.map(leaf, self.u)


class Recorder:
    """Collects iterates and solutions, and makes a `Record` of them.

    Args:
        systems: Number of systems, M.
        slices: Slices of each, N.
        samples: Whether the systems are samples.
        coarse: Whether there is a coarse propagator.
        before: The record of the run that is resumed.
        rounds: Its rounds.

    Attributes:
        log: Which lanes were in which round, see `Counters`.
    """

    def __init__(
        self, systems: int, slices: int, samples: bool, coarse: bool, before: Record | None, rounds: int = 0
    ) -> None:
        self.log: list[tuple[int, int, bool, Ints]] = []
        self._rounds = rounds
        self._systems, self._slices, self._samples, self._before = systems, slices, samples, before
        self._coarse = coarse or (before is not None and before.coarse is not None)
        self._parts: dict[str, list[tuple[Ints, Ints, State]]] = {"u": [], "fine": [], "coarse": []}

    @property
    def continues(self) -> bool:
        """Whether this record continues another one."""
        return self._before is not None

    def add(self, what: str, ids: Ints, iterate: Ints, value: State) -> None:
        """States or values at places ``ids``: a boundary's number ``m (N + 1) + n``, a slice's ``m N + n``."""
        self._parts[what].append((ids, iterate.copy(), trees.clone(without_history(value))))

    def record(self) -> Record:
        """The complete record."""
        # The table is dense: a row for each iterate that any boundary has taken.
        last = max((int(part[1].max()) for parts in self._parts.values() for part in parts if len(part[1])), default=0)
        if self._before is not None:
            last = max(last, len(self._before.has_u) - 1)
        like = self._parts["u"][0][2]
        (u, has_u), (fine, has_fine) = self._table("u", last, like), self._table("fine", last, like)
        if not self._coarse:
            return Record(u, fine, None, has_u, has_fine, None, self._lanes())
        coarse, has_coarse = self._table("coarse", last, like)
        return Record(u, fine, coarse, has_u, has_fine, has_coarse, self._lanes())

    def _lanes(self) -> Tensor:
        """The log as a table, after that of the run before."""
        rows = [np.zeros((0, 5 + self._samples), dtype=np.int64)]
        if self._before is not None and self._before.lanes is not None:
            rows.append(self._before.lanes.numpy())
        for begun, ended, coarse, ids in self.log:
            iterate, place = np.divmod(ids, self._systems * self._slices)
            system, n = np.divmod(place, self._slices)
            when = np.full((len(ids), 3), (begun + self._rounds, ended + self._rounds, not coarse))
            rows.append(np.column_stack([when, iterate, n, *([system] if self._samples else [])]))
        return torch.from_numpy(np.concatenate(rows))

    def _table(self, what: str, last: int, like: State) -> tuple[State, Tensor]:
        places = self._slices + (what == "u")
        count = self._systems * places
        known = np.zeros((last + 1) * count, dtype=bool)
        table = trees.map(lambda x: x.new_full(((last + 1) * count, *x.shape[1:]), float("nan")), like)
        for ids, iterate, value in self._parts[what]:
            rows = iterate * count + ids
            known[rows] = True
            index = index_to(trees.leaves(like)[0].device, rows)
            table = trees.map(lambda x, new, index=index: x.index_copy(0, index, new), table, value)
        mask = torch.from_numpy(known).reshape(last + 1, self._systems, places)

        def shaped(leaf: Tensor) -> Tensor:
            leaf = leaf.reshape(last + 1, self._systems, places, *leaf.shape[1:])
            return leaf.squeeze(3).transpose(1, 2) if self._samples else leaf[:, 0]

        table, mask = trees.map(shaped, table), mask.transpose(1, 2) if self._samples else mask[:, 0]
        return self._with_before(what, table, mask.contiguous())

    def _with_before(self, what: str, table: State, mask: Tensor) -> tuple[State, Tensor]:
        before: State = None if self._before is None else getattr(self._before, what)
        if self._before is None or before is None:
            return table, mask
        # If both runs have an iterate, that of the later run is the one that it continued from.
        had: Tensor = getattr(self._before, f"has_{what}")
        old, mask = had & ~mask[: len(had)], mask.clone()
        mask[: len(had)] |= had

        def leaf(now: Tensor, then: Tensor) -> Tensor:
            chosen = old.to(now.device).reshape(*old.shape, *[1] * (now.ndim - old.ndim))
            return torch.cat([torch.where(chosen, then.to(now.device), now[: len(had)]), now[len(had) :]])

        return trees.map(leaf, table, before), mask


def pack_record(record: Record, tensors: dict[str, Tensor]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for name in ("u", "fine", "coarse"):
        state = getattr(record, name)
        packed[name] = None if state is None else put_state(tensors, f"iterates.{name}", state)
        if state is not None:
            put(tensors, f"iterates.has_{name}", getattr(record, f"has_{name}"))
    if record.lanes is not None:
        put(tensors, "iterates.lanes", record.lanes)
    return packed


def unpack_record(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Record:
    states = {
        name: None if spec is None else get_state(tensors, f"iterates.{name}", spec, device)
        for name, spec in packed.items()
    }
    masks = {f"has_{name}": tensors.get(f"iterates.has_{name}") for name in packed}
    return Record(**states, **masks, lanes=tensors.get("iterates.lanes"))  # pyright: ignore[reportArgumentType]
