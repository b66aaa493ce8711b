"""A snapshot of a run between two iterations: all that it takes to continue it, as plain data.

That is the states at the slice boundaries and a copy of the `RunState`. All else is computed from these:
coarse values and first stages again, at the cost of one coarse step a slice. Earlier iterates, which some corrections
use (`Secant`, `Anderson`, and all with a multistep method), are stored with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.described import brief
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.results._run_identity import Identity, Text
from parareal.results._run_state import RUNNING, STATUSES, RunState
from parareal.results._status import Status
from parareal.results._tensor_file import get_history, get_state, put, put_history, put_state


@dataclass(frozen=True, eq=False)
class EarlierIterates:
    """Iterates before the current ones and their solutions, of M systems of N slices.

    Attributes:
        correction: The correction that uses them.
        slices: How many iterates before the last are known with their solutions, of each slice, ``(M, N)``.
        boundaries: How many are known with the recursion's updates, of each boundary, ``(M, N + 1)``.
        states: By kind and how far back: "u.1" are the iterates before the last, leaves ``(count, *state)``, of the
            boundaries that have them, in order. "fine.1" and "coarse.1" are those of slices, "update.1" again of
            boundaries.
    """

    correction: str
    slices: Ints
    boundaries: Ints
    states: dict[str, State]


@dataclass(frozen=True, eq=False)
class SecantPairs:
    """What the last two fine solutions of slices have in common, for a run that starts from this one.

    Attributes:
        moves: How far their inputs are apart, leaves ``(M * N, *state)``; zero where there is no pair.
        changes: How far the solutions are apart, likewise.
    """

    moves: State
    changes: State


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A snapshot of M systems of N slices between two iterations.

    Attributes:
        u: States at the boundaries, system by system, leaves ``(M * (N + 1), *state)``; `parareal.Carried` where states
            carry the history of a multistep method.
        own: Whether these differ from the states of the solution, which may be ahead at some boundaries.
        state: Frontiers, iterates and how systems have ended; those that can be continued are running.
        increments: Those of iterations that are not in the history yet, ``(M, N)`` each.
        record: The error record of the stopping rule.
        rule: The stopping rule.
        earlier: What the correction looks back to, if it does.
        identity: What it was a run of.
        pairs: Secant pairs of slices, where the correction makes use of such. They are not written to files.
    """

    u: State
    own: bool
    state: RunState
    increments: dict[int, Floats]
    record: dict[str, Any]
    rule: str
    earlier: EarlierIterates | None
    identity: Identity
    pairs: SecantPairs | None = None

    def __repr__(self) -> str:
        return f"Snapshot({brief(self.u)}, {self.identity.problem}, {self.state!r})"


# Names in files are those of format version 1, which other versions read: "standing" is the snapshot, "account" the
# error record, "memory" the multistep history, "past" the earlier iterates, "places" slices, "edges" boundaries.
_ARRAYS = ("reached", "number", "iteration", "frontier", "proven", "errors", "residuals")


def pack_snapshot(at: Snapshot, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name, array in at.state.pack(_ARRAYS).items():
        put(tensors, f"standing.{name}", torch.from_numpy(array))
    for name, array in at.record.items():
        put(tensors, f"standing.account.{name}", torch.from_numpy(array))
    for key, rows in at.increments.items():
        put(tensors, f"standing.increments.{key}", torch.from_numpy(rows))
    put(tensors, "standing.points", at.identity.points)
    identity = at.identity
    return {
        "u": put_state(tensors, "standing.u", without_history(at.u)) if at.own else None,
        "memory": put_history(tensors, "standing.memory", at.u),
        "past": None if at.earlier is None else _pack_earlier(at.earlier, tensors),
        "statuses": [status and status.name for status in at.state.statuses],
        "increments": list(at.increments),
        "account": list(at.record),
        "rule": at.rule,
        "identity": {name: getattr(identity, name) for name in ("problem", "fine", "state", "samples", "bounds")}
        | {"data": identity.digest},
        "compared": identity.texts,
    }


def unpack_snapshot(packed: Any, tensors: dict[str, Tensor], device: torch.device, us: State) -> Snapshot:
    arrays: dict[str, np.ndarray[Any, Any]] = {name: tensors[f"standing.{name}"].numpy() for name in _ARRAYS}
    codes = [RUNNING if name is None else STATUSES.index(Status[name]) for name in packed["statuses"]]
    state = RunState.new(*arrays["residuals"].shape)
    state.unpack({**arrays, "status": np.array(codes)})
    identity, texts = packed["identity"], packed.get("compared")  # missing in files of older versions
    compared = None if texts is None else {name: Text(text) for name, text in texts.items()}
    # Most snapshots have the same states as the solution: these are in the file once.
    own = packed["u"] is not None
    if own:
        u = get_state(tensors, "standing.u", packed["u"], device)
    elif identity["samples"]:
        u = trees.map(lambda leaf: leaf.transpose(0, 1).flatten(0, 1).unsqueeze(1), us)
    else:
        u = us
    return Snapshot(
        u=get_history(tensors, "standing.memory", packed["memory"], u),
        own=own,
        state=state,
        increments={key: tensors[f"standing.increments.{key}"].numpy() for key in packed["increments"]},
        record={name: tensors[f"standing.account.{name}"].numpy() for name in packed["account"]},
        rule=packed["rule"],
        earlier=None if packed["past"] is None else _unpack_earlier(packed["past"], tensors, device),
        identity=Identity(
            points=tensors["standing.points"], bounds=tuple(identity.pop("bounds")), compared=compared, **identity
        ),
    )


def _pack_earlier(earlier: EarlierIterates, tensors: dict[str, Tensor]) -> dict[str, Any]:
    put(tensors, "standing.past.places", torch.from_numpy(earlier.slices))
    put(tensors, "standing.past.edges", torch.from_numpy(earlier.boundaries))
    states = {
        key: {
            "u": put_state(tensors, f"standing.past.{key}", without_history(state)),
            "memory": put_history(tensors, f"standing.past.{key}.memory", state),
        }
        for key, state in earlier.states.items()
    }
    return {"correction": earlier.correction, "states": states}


def _unpack_earlier(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> EarlierIterates:
    slices, boundaries = (tensors[f"standing.past.{name}"].numpy() for name in ("places", "edges"))
    states: dict[str, State] = {}
    for key, spec in packed["states"].items():
        u = get_state(tensors, f"standing.past.{key}", spec["u"], device)
        states[key] = get_history(tensors, f"standing.past.{key}.memory", spec["memory"], u)
    return EarlierIterates(packed["correction"], slices, boundaries, states)
