"""What corrections with a memory look back to, taken out of a run and put into one that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal.results._snapshot import Past

if TYPE_CHECKING:
    from parareal._core.ring_buffer import Ring
    from parareal.engine._update import Iterates


def remember(it: Iterates, name: str, number: Ints, going: Bools) -> Past | None:
    """The memory of slices marked in ``going``, whose edges go back to iterate ``number[m]`` if they are beyond it."""
    mixing = it.traits.mixing
    if not (it.memory or mixing) or it.traits.carries or not going.any():
        return None
    base = np.minimum(it.held, number[:, None])
    going = going & (base[:, 1:] >= 0) & (base[:, :-1] == base[:, 1:])
    places = np.where(going & (it.since >= 0), np.minimum(base[:, 1:] - it.since, it.memory), 0)
    places = _known(places, base[:, :-1], [(ring, int(key == "u")) for key, ring in _of_slices(it).items()])
    edges = np.zeros_like(it.held)
    if mixing:
        edges[:, 1:] = np.where(going, np.minimum(base[:, 1:] - it.born[:, 1:], mixing), 0)
        edges = _known(edges, base, [(it.u, 0), (it.update_of, 0)])
    past = Past(name, np.maximum(places, 0), np.maximum(edges, 0), {})
    for key, ring, depth in _parts(it, past):
        for back in range(1, int(depth.max(initial=0)) + 1):
            system, n = (depth >= back).nonzero()
            past.states[f"{key}.{back}"] = ring.take(system * depth.shape[1] + n, base[system, n] - back)
    return past if past.states else None


def bring_back(it: Iterates, past: Past, number: Ints) -> None:
    """Puts it beside the iterates that edges hold, of which the number is given."""
    for key, ring, depth in _parts(it, past):
        most = int(depth.max(initial=0))
        if most:
            ring.reserve(most + 1)
        for back in range(1, most + 1):
            system, n = (depth >= back).nonzero()
            value = trees.map(lambda leaf: leaf.to(it.device), past.states[f"{key}.{back}"])
            ring.put(system * depth.shape[1] + n, number[system] - back, value)
    it.since = np.where(past.places > 0, number[:, None] - past.places, it.since)
    if it.traits.mixing:
        it.born = np.where(past.edges > 0, number[:, None] - past.edges, it.born)


def _parts(it: Iterates, past: Past) -> list[tuple[str, Ring, Ints]]:
    """What there is of each kind: its name, where it lies, and how many iterates back it goes."""
    rings = _of_slices(it)
    of_edges = past.edges
    if "u" in rings:  # of an edge for itself, or for the slice on its right
        of_edges = np.maximum(of_edges, np.pad(past.places, ((0, 0), (0, 1))))
    parts = [("u", it.u, of_edges)]
    parts += [(key, ring, past.places) for key, ring in rings.items() if key != "u"]
    if it.traits.mixing:
        parts.append(("update", it.update_of, past.edges))
    return parts


def _of_slices(it: Iterates) -> dict[str, Ring]:
    """Where that lies which is looked back to at a slice: a multistep method looks back to fine solutions alone."""
    rings = {"fine": it.f}
    if it.traits.lookback:
        if it.traits.uses_input:
            rings["u"] = it.u
        if not it.free:
            rings["coarse"] = it.g
    return rings


def _known(depth: Ints, base: Ints, rings: list[tuple[Ring, int]]) -> Ints:
    """How far back all rings go, at most ``depth``; rings with a 1 have a place more for each system."""
    depth = depth.copy()
    for back in range(1, int(depth.max(initial=0)) + 1):
        system, n = (depth >= back).nonzero()
        kept = np.ones(len(n), dtype=bool)
        for ring, more in rings:
            kept &= ring.has(system * (depth.shape[1] + more) + n, base[system, n] - back)
        depth[system[~kept], n[~kept]] = back - 1
    return depth
