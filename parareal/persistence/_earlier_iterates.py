"""Earlier iterates, which some corrections use: captured from a run and restored into a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal.results._snapshot import EarlierIterates

if TYPE_CHECKING:
    from parareal._core.ring_buffer import Ring
    from parareal.engine._update import Iterates


def take_out(it: Iterates, name: str, number: Ints, going: Bools) -> EarlierIterates | None:
    """Captures those of slices in ``going``, whose boundaries go back to iterate ``number[m]`` if they are ahead."""
    mixing, lookback, first = it.setup.correction.traits.mixing, it.layout.lookback, it.state.lanes.fine_first
    if not (lookback or mixing) or it.setup.correction.traits.carries or not going.any():
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
            earlier.states[f"{key}.{back}"] = ring.take(system * depth.shape[1] + n, base[system, n] - back)
    return earlier if earlier.states else None


def put_back(it: Iterates, earlier: EarlierIterates, number: Ints) -> None:
    """Restores them beside the current iterates, whose numbers are given."""
    for key, ring, depth in _kinds(it, earlier):
        most = int(depth.max(initial=0))
        if most:  # before the current iterates would be overwritten by those before them
            ring.reserve(most + 1)
        for back in range(1, most + 1):
            system, n = (depth >= back).nonzero()
            value = trees.map(lambda leaf: leaf.to(it.layout.device), earlier.states[f"{key}.{back}"])
            ring.put(system * depth.shape[1] + n, number[system] - back, value)
    it.state.look_back(earlier.slices, earlier.boundaries if it.setup.correction.traits.mixing else None)


def _kinds(it: Iterates, earlier: EarlierIterates) -> list[tuple[str, Ring, Ints]]:
    """Each kind of earlier iterate: its name, its ring buffer, and how many iterates back it goes."""
    rings = _of_slices(it)
    depth = earlier.boundaries
    if "u" in rings:  # of a boundary for itself, or for the slice on its right
        depth = np.maximum(depth, np.pad(earlier.slices, ((0, 0), (0, 1))))
    kinds = [("u", it.rings.u, depth)]
    kinds += [(key, ring, earlier.slices) for key, ring in rings.items() if key != "u"]
    if it.setup.correction.traits.mixing:
        kinds.append(("update", it.rings.update, earlier.boundaries))
    return kinds


def _of_slices(it: Iterates) -> dict[str, Ring]:
    """The ring buffers of which a slice uses earlier iterates: a multistep method uses only fine solutions."""
    rings: dict[str, Ring] = {"fine": it.rings.fine}
    if it.setup.correction.traits.lookback:
        if it.setup.correction.traits.uses_input:
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
