"""Earlier iterates, which some corrections use: captured from a run and restored into a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.results._snapshot import EarlierIterates, SecantPairs

if TYPE_CHECKING:
    from parareal._core.ring_buffer import Ring
    from parareal.engine._update import Iterates


def take_out(it: Iterates, name: str, number: Ints, going: Bools) -> EarlierIterates | None:
    """Those of slices marked in ``going``, whose boundaries go back to iterate ``number[m]`` if they are beyond it."""
    mixing, lookback, first = it.setup.traits.mixing, it.layout.lookback, it.state.lanes.fine_first
    if not (lookback or mixing) or not going.any():
        return None
    base = np.minimum(it.state.current, number[:, None])
    # A slice looks back from one iterate: if its boundaries differ, the run restarts without earlier iterates.
    going = going & (base[:, 1:] >= 0) & (base[:, :-1] == base[:, 1:])
    slices = np.where(going & (first >= 0), np.minimum(base[:, 1:] - first, lookback), 0)
    slices = _known(slices, base[:, :-1], [(ring, int(key == "u")) for key, ring in _of_slices(it).items()])
    boundaries = np.zeros_like(it.state.current)
    if mixing:
        boundaries[:, 1:] = np.where(going, np.minimum(base[:, 1:] - it.state.first[:, 1:], mixing), 0)
        boundaries = _known(boundaries, base, [(it.rings.u, 0), (it.rings.update, 0)])
    earlier = EarlierIterates(name, np.maximum(slices, 0), np.maximum(boundaries, 0), {})
    for key, ring, depth in _kinds(it, earlier):
        for back in range(1, int(depth.max(initial=0)) + 1):
            system, n = (depth >= back).nonzero()
            value = ring.take(system * depth.shape[1] + n, base[system, n] - back)
            earlier.states[f"{key}.{back}"] = value[0] if _bare(it, key) else value
    return earlier if earlier.states else None


def _bare(it: Iterates, key: str) -> bool:
    """Whether fine solutions are kept without their tangents, as only the stopping rule looks back to them."""
    return key == "fine" and it.setup.carries and not it.setup.traits.lookback


def put_back(it: Iterates, earlier: EarlierIterates, number: Ints) -> None:
    """Restores them beside the current iterates, whose numbers are given."""
    for key, ring, depth in _kinds(it, earlier):
        most = int(depth.max(initial=0))
        if most:  # before the current iterates would be overwritten by those before them
            ring.reserve(most + 1)
        for back in range(1, most + 1):
            system, n = (depth >= back).nonzero()
            value = trees.map(lambda leaf: leaf.to(it.layout.device), earlier.states[f"{key}.{back}"])
            value = it.setup.correction.lift(value) if _bare(it, key) else value
            ring.put(system * depth.shape[1] + n, number[system] - back, value)
    it.state.look_back(earlier.slices, earlier.boundaries if it.setup.traits.mixing else None)


_CLEAR = 300.0
"""Moves are to be that many times as large as rounding, for a pair to say something of the propagator."""


def secant_pairs(it: Iterates) -> SecantPairs | None:
    """The last two fine solutions of slices, where both are known and their inputs differ; else ``None``.

    Where a window is narrower than the grid, they are gone by the end of the run.
    """
    traits, lanes, rings = it.setup.correction.traits, it.state.lanes, it.rings
    if not traits.pairs or traits.carries or it.layout.windowed or not (it.layout.free and it.layout.whole):
        return None
    last, there = lanes.fine_arrived.reshape(-1), (lanes.fine_arrived > lanes.fine_first).reshape(-1)
    place, n = np.arange(last.size), np.maximum(last, 1)
    boundary = place + place // it.layout.slices
    for back in (0, 1):
        there = there & rings.fine.has(place, n - back) & rings.u.has(boundary, n - back)
    if not there.any():
        return None
    u, before = (without_history(rings.u.peek(boundary, n - back)) for back in (0, 1))
    moves = trees.sub(u, before)
    changes = trees.sub(*(without_history(rings.fine.peek(place, n - back)) for back in (0, 1)))
    clear = torch.from_numpy(there).to(it.layout.device) & _clear(moves, u) & _clear(changes, changes)

    def chosen(leaf: torch.Tensor) -> torch.Tensor:
        return torch.where(clear.reshape(-1, *[1] * (leaf.ndim - 1)), leaf.detach(), 0.0)

    return SecantPairs(trees.map(chosen, moves), trees.map(chosen, changes))


def _clear(moves: State, states: State) -> torch.Tensor:
    """Which lanes have moved clearly more than rounding, ``(L,)``; those that are not finite have not."""
    parts = [(leaf.detach(), one.detach()) for leaf, one in zip(trees.leaves(moves), trees.leaves(states), strict=True)]
    moved, size = (
        torch.stack([part[i].abs().double().reshape(len(part[i]), -1).square().sum(1) for part in parts]).sum(0)
        for i in (0, 1)
    )
    unit = _CLEAR * max(torch.finfo(leaf.dtype).eps for leaf, _ in parts)
    return torch.isfinite(moved) & (moved > unit * unit * size)


def _kinds(it: Iterates, earlier: EarlierIterates) -> list[tuple[str, Ring, Ints]]:
    """Each kind of earlier iterate: its name, its ring buffer, and how many iterates back it goes."""
    rings = _of_slices(it)
    depth = earlier.boundaries
    if "u" in rings:  # of a boundary for itself, or for the slice on its right
        depth = np.maximum(depth, np.pad(earlier.slices, ((0, 0), (0, 1))))
    kinds = [("u", it.rings.u, depth)]
    kinds += [(key, ring, earlier.slices) for key, ring in rings.items() if key != "u"]
    if it.setup.traits.mixing:
        kinds.append(("update", it.rings.update, earlier.boundaries))
    return kinds


def _of_slices(it: Iterates) -> dict[str, Ring]:
    """The ring buffers of which a slice uses earlier iterates: a multistep method uses only fine solutions."""
    rings: dict[str, Ring] = {"fine": it.rings.fine}
    if it.setup.traits.lookback:
        if it.setup.traits.uses_input:
            rings["u"] = it.rings.u
        if not it.layout.free:
            rings["coarse"] = it.rings.coarse
    return rings


def _known(depth: Ints, base: Ints, rings: list[tuple[Ring, int]]) -> Ints:
    """How far back all rings go, at most ``depth``; rings with a 1 have one more place for each system."""
    depth = depth.copy()
    for back in range(1, int(depth.max(initial=0)) + 1):
        system, n = (depth >= back).nonzero()
        kept = np.ones(len(n), dtype=bool)
        for ring, more in rings:
            kept &= ring.has(system * (depth.shape[1] + more) + n, base[system, n] - back)
        depth[system[~kept], n[~kept]] = back - 1
    return depth
