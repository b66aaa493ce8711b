"""Where a run stands between two iterations: all that it takes to continue it, as plain data.

That is the states at the slice boundaries, which of them are final, and how many iterations were made. Whatever else a
run holds is computed from these: coarse values and first stages anew, at the price of one coarse step a slice. What
corrections look back to (`Secant`, `Anderson`, and all with a multistep method) is kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.multistep_state import bare
from parareal._core.trees import State
from parareal.results._run_identity import Identity
from parareal.results._status import Status
from parareal.results._tensor_file import get_memory, get_state, put, put_memory, put_state


@dataclass(frozen=True, eq=False)
class Past:
    """Earlier iterates and their solutions, of M systems of N slices.

    Attributes:
        correction: Whose memory it is.
        places: How many iterates before the last are known with their solutions, of each slice, ``(M, N)``.
        edges: How many are known with the recursion's updates, of each edge, ``(M, N + 1)``.
        states: By kind and how far back: "u.1" are the iterates before the last, leaves ``(K, *state)``, of the K edges
            that have them, in order. "fine.1" and "coarse.1" are those of slices, "update.1" again of edges.
    """

    correction: str
    places: Ints
    edges: Ints
    states: dict[str, State]


@dataclass(frozen=True, eq=False)
class Standing:
    """Where M systems of N slices stand.

    Attributes:
        u: What the edges hold, system by system, leaves ``(M * (N + 1), *state)``; `parareal.Carried` where states
            carry the memory of a multistep method.
        own: Whether these differ from the states of the solution beside it, which may be further on at some edges.
        reached: Which edges hold a state, ``(M, N + 1)``.
        number: What the next iterates are counted from, ``(M,)``.
        iteration: Iterations made, ``(M,)``.
        frontier: Slices final or accepted, ``(M,)``.
        proven: Slices final without any accepted, ``(M,)``.
        errors: Estimated errors, ``(M,)``.
        residuals: Relative defects as last seen, ``(M, N)``.
        statuses: How systems ended; ``None`` for those that did not.
        increments: Those of iterations that are not in the history yet, ``(M, N)`` each.
        account: What the stopping rule remembers.
        rule: The stopping rule.
        past: What the correction looks back to, if it does.
        identity: What it was a run of.
    """

    u: State
    own: bool
    reached: Bools
    number: Ints
    iteration: Ints
    frontier: Ints
    proven: Ints
    errors: Floats
    residuals: Floats
    statuses: tuple[Status | None, ...]
    increments: dict[int, Floats]
    account: dict[str, Any]
    rule: str
    past: Past | None
    identity: Identity


_ARRAYS = ("reached", "number", "iteration", "frontier", "proven", "errors", "residuals")


def pack_standing(at: Standing, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name in _ARRAYS:
        put(tensors, f"standing.{name}", torch.from_numpy(getattr(at, name)))
    for name, array in at.account.items():
        put(tensors, f"standing.account.{name}", torch.from_numpy(array))
    for key, rows in at.increments.items():
        put(tensors, f"standing.increments.{key}", torch.from_numpy(rows))
    put(tensors, "standing.points", at.identity.points)
    identity = at.identity
    return {
        "u": put_state(tensors, "standing.u", bare(at.u)) if at.own else None,
        "memory": put_memory(tensors, "standing.memory", at.u),
        "past": None if at.past is None else _pack_past(at.past, tensors),
        "statuses": [status and status.name for status in at.statuses],
        "increments": list(at.increments),
        "account": list(at.account),
        "rule": at.rule,
        "identity": {name: getattr(identity, name) for name in ("problem", "fine", "state", "samples", "bounds")}
        | {"data": identity.digest},
    }


def unpack_standing(packed: Any, tensors: dict[str, Tensor], device: torch.device, us: State) -> Standing:
    arrays: dict[str, np.ndarray[Any, Any]] = {name: tensors[f"standing.{name}"].numpy() for name in _ARRAYS}
    identity: dict[str, Any] = packed["identity"]
    own = packed["u"] is not None
    if own:
        u = get_state(tensors, "standing.u", packed["u"], device)
    elif identity["samples"]:
        u = trees.map(lambda leaf: leaf.transpose(0, 1).flatten(0, 1).unsqueeze(1), us)
    else:
        u = us
    u = get_memory(tensors, "standing.memory", packed["memory"], u)
    return Standing(
        u=u,
        own=own,
        **arrays,
        statuses=tuple(None if name is None else Status[name] for name in packed["statuses"]),
        increments={key: tensors[f"standing.increments.{key}"].numpy() for key in packed["increments"]},
        account={name: tensors[f"standing.account.{name}"].numpy() for name in packed["account"]},
        rule=packed["rule"],
        past=None if packed["past"] is None else _unpack_past(packed["past"], tensors, device),
        identity=Identity(points=tensors["standing.points"], bounds=tuple(identity.pop("bounds")), **identity),
    )


def _pack_past(past: Past, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name in ("places", "edges"):
        put(tensors, f"standing.past.{name}", torch.from_numpy(getattr(past, name)))
    states = {
        key: {
            "u": put_state(tensors, f"standing.past.{key}", bare(state)),
            "memory": put_memory(tensors, f"standing.past.{key}.memory", state),
        }
        for key, state in past.states.items()
    }
    return {"correction": past.correction, "states": states}


def _unpack_past(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Past:
    places, edges = (tensors[f"standing.past.{name}"].numpy() for name in ("places", "edges"))
    states: dict[str, State] = {}
    for key, spec in packed["states"].items():
        u = get_state(tensors, f"standing.past.{key}", spec["u"], device)
        states[key] = get_memory(tensors, f"standing.past.{key}.memory", spec["memory"], u)
    return Past(packed["correction"], places, edges, states)
