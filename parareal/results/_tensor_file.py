"""Solutions in files: tensors in the format of safetensors, all else as JSON in its header. Nothing in it is code.

A digest over everything tells a damaged file from a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal.results._history import History, IterationReport
from parareal._core.multistep_state import Carried, Memory, bare
from parareal.results._snapshot import Past
from parareal.results._record import Record
from parareal.results._solution import Solution, Stats, Status
from parareal.persistence._resume import Identity, Standing, digest
from parareal._core.trees import State

FORMAT, VERSION = "parareal.Solution", 1


def save(solution: Solution, path: str | os.PathLike[str], previous: Path | None = None) -> None:
    """See `Solution.save`; a file that is replaced is kept as ``previous``."""
    safetensors = _safetensors()
    check_place(path)
    tensors: dict[str, Tensor] = {}
    packed = {"format": FORMAT, "version": VERSION, **_pack(solution, tensors)}
    metadata = {"parareal": json.dumps({**packed, "sha256": _digest(packed, tensors)})}
    path = Path(path)
    name = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        name.touch()
        mode = name.stat().st_mode  # what safetensors makes is for nobody else to read
        safetensors.torch.save_file(tensors, name, metadata)
        name.chmod(mode)
        with name.open("r+b") as file:  # on the disk, and not in a buffer, before it takes another's place
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(name, path)
    finally:
        name.unlink(missing_ok=True)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises unless a file of that name can be made."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(Path(path).parent)!r}; make it before {str(path)!r} is written"
        )
    if Path(path).is_dir():
        raise ValueError(f"{str(path)!r} is a folder; expected the name of a file, such as {str(Path(path, 'run'))!r}")


def load(path: str | os.PathLike[str], device: torch.device | str) -> Solution:
    """See `Solution.load`."""
    safetensors = _safetensors()
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; expected one that solution.save(path) wrote")
    if not Path(path).is_file():
        raise ValueError(f"{str(path)!r} is no file; expected one that solution.save(path) wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content: Any = (file.metadata() or {}).get("parareal")
            packed = None if content is None else json.loads(content)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, str(error)) from None
    known: dict[str, Any] = packed if isinstance(packed, dict) else {}  # pyright: ignore[reportUnknownVariableType]
    if known.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} is a file of safetensors, but no solution; expected one that solution.save(path) wrote"
        )
    if known.get("version") != VERSION:
        raise ValueError(
            f"{str(path)!r} is in version {known.get('version')!r} of the format {FORMAT!r}; expected version "
            f"{VERSION}: load it with the torch-parareal that wrote it, {known.get('written_by')!r}"
        )
    if known.pop("sha256", None) != _digest(known, tensors):
        raise _damaged(path, "what it holds is not what was written")
    return _unpack(known, tensors, torch.device(device))


def _damaged(path: str | os.PathLike[str], why: str) -> ValueError:
    return ValueError(
        f"{str(path)!r} is damaged or no solution at all ({why}); expected a whole file that solution.save(path) "
        "wrote: copy it anew, or take an older one"
    )


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ImportError("saving and loading needs safetensors: pip install 'torch-parareal[save]'") from error
    return safetensors


def _digest(packed: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    names = sorted(tensors)
    text = json.dumps([packed, names]) + digest([tensors[name] for name in names])
    return hashlib.sha256(text.encode()).hexdigest()


# --- a solution as tensors and JSON ----------------------------------------------------------------------------------


def _pack(solution: Solution, tensors: dict[str, Tensor]) -> dict[str, Any]:
    from parareal import __version__

    history = solution.history
    _put(tensors, "ts", solution.ts)
    if history:
        full = [report.kept for report in history if report.kept is not None]
        if full:
            _put(tensors, "history.increments", torch.stack(full))
        if len(full) < len(history):  # summaries
            largest = [torch.as_tensor(report.increment, dtype=torch.float64) for report in history]
            _put(tensors, "history.increment", torch.stack(largest))
        _put(tensors, "history.frontier", torch.stack([torch.as_tensor(report.frontier) for report in history]))
    _put(tensors, "iterations", torch.as_tensor(solution.iterations))
    if solution.error_estimate is not None:
        _put(tensors, "error_estimate", torch.as_tensor(solution.error_estimate, dtype=torch.float64))
    if solution.residuals is not None:
        _put(tensors, "residuals", solution.residuals)
    return {
        "written_by": __version__,
        "us": _put_state(tensors, "us", solution.us),
        "status": solution.status.name,
        "sample_status": None if solution.sample_status is None else [s.name for s in solution.sample_status],
        "history": [[report.iteration, report.rounds, report.evaluations] for report in history],
        "summaries": [[i, report.slices] for i, report in enumerate(history) if report.kept is None],
        "stats": solution.stats.to_dict(),
        "iterates": None if solution.iterates is None else _pack_record(solution.iterates, tensors),
        "standing": None if solution.standing is None else _pack_standing(solution.standing, tensors),
    }


def _unpack(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Solution:
    samples = packed["sample_status"]
    iterations, history = tensors["iterations"], _unpack_history(packed, tensors)
    us, estimate = _get_state(tensors, "us", packed["us"], device), tensors.get("error_estimate")
    return Solution(
        us=us,
        ts=tensors["ts"],
        status=Status[packed["status"]],
        iterations=int(iterations) if iterations.ndim == 0 else iterations,
        history=history,
        stats=Stats(**packed["stats"]),
        sample_status=None if samples is None else tuple(Status[name] for name in samples),
        error_estimate=float(estimate) if estimate is not None and estimate.ndim == 0 else estimate,
        residuals=tensors.get("residuals"),
        iterates=None if packed["iterates"] is None else _unpack_record(packed["iterates"], tensors, device),
        standing=None if packed["standing"] is None else _unpack_standing(packed["standing"], tensors, device, us),
    )


def _unpack_history(packed: Any, tensors: dict[str, Tensor]) -> History:
    summaries: dict[int, int] = dict(packed.get("summaries", []))  # files of older versions have none
    full, reports = iter(tensors.get("history.increments", ())), list[IterationReport]()
    for i, (iteration, rounds, evaluations) in enumerate(packed["history"]):
        frontier: Any = _number(tensors["history.frontier"][i], int)
        if i in summaries:
            largest: Any = _number(tensors["history.increment"][i], float)
            reports.append(IterationReport(iteration, None, frontier, rounds, evaluations, largest, summaries[i]))
        else:
            reports.append(IterationReport(iteration, next(full), frontier, rounds, evaluations))
    return History(reports)


def _number(value: Tensor, kind: type) -> Any:
    """One number of one system, or a tensor of those of a batch."""
    return kind(value) if value.ndim == 0 else value


def _pack_record(record: Record, tensors: dict[str, Tensor]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for name in ("u", "fine", "coarse"):
        state = getattr(record, name)
        packed[name] = None if state is None else _put_state(tensors, f"iterates.{name}", state)
        if state is not None:
            _put(tensors, f"iterates.has_{name}", getattr(record, f"has_{name}"))
    if record.lanes is not None:
        _put(tensors, "iterates.lanes", record.lanes)
    return packed


def _unpack_record(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Record:
    states = {
        name: None if spec is None else _get_state(tensors, f"iterates.{name}", spec, device)
        for name, spec in packed.items()
    }
    masks = {f"has_{name}": tensors.get(f"iterates.has_{name}") for name in packed}
    return Record(**states, **masks, lanes=tensors.get("iterates.lanes"))  # pyright: ignore[reportArgumentType]


_ARRAYS = ("reached", "number", "iteration", "frontier", "proven", "errors", "residuals")


def _pack_standing(at: Standing, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name in _ARRAYS:
        _put(tensors, f"standing.{name}", torch.from_numpy(getattr(at, name)))
    for name, array in at.account.items():
        _put(tensors, f"standing.account.{name}", torch.from_numpy(array))
    for key, rows in at.increments.items():
        _put(tensors, f"standing.increments.{key}", torch.from_numpy(rows))
    _put(tensors, "standing.points", at.identity.points)
    identity = at.identity
    return {
        "u": _put_state(tensors, "standing.u", bare(at.u)) if at.own else None,
        "memory": _put_memory(tensors, "standing.memory", at.u),
        "past": None if at.past is None else _pack_past(at.past, tensors),
        "statuses": [status and status.name for status in at.statuses],
        "increments": list(at.increments),
        "account": list(at.account),
        "rule": at.rule,
        "identity": {name: getattr(identity, name) for name in ("problem", "fine", "state", "samples", "bounds")}
        | {"data": identity.digest},
    }


def _unpack_standing(packed: Any, tensors: dict[str, Tensor], device: torch.device, us: State) -> Standing:
    arrays: dict[str, np.ndarray[Any, Any]] = {name: tensors[f"standing.{name}"].numpy() for name in _ARRAYS}
    identity: dict[str, Any] = packed["identity"]
    own = packed["u"] is not None
    if own:
        u = _get_state(tensors, "standing.u", packed["u"], device)
    elif identity["samples"]:
        u = trees.map(lambda leaf: leaf.transpose(0, 1).flatten(0, 1).unsqueeze(1), us)
    else:
        u = us
    u = _get_memory(tensors, "standing.memory", packed["memory"], u)
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
        _put(tensors, f"standing.past.{name}", torch.from_numpy(getattr(past, name)))
    states = {
        key: {
            "u": _put_state(tensors, f"standing.past.{key}", bare(state)),
            "memory": _put_memory(tensors, f"standing.past.{key}.memory", state),
        }
        for key, state in past.states.items()
    }
    return {"correction": past.correction, "states": states}


def _unpack_past(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Past:
    places, edges = (tensors[f"standing.past.{name}"].numpy() for name in ("places", "edges"))
    states: dict[str, State] = {}
    for key, spec in packed["states"].items():
        u = _get_state(tensors, f"standing.past.{key}", spec["u"], device)
        states[key] = _get_memory(tensors, f"standing.past.{key}.memory", spec["memory"], u)
    return Past(packed["correction"], places, edges, states)


# --- trees of tensors ------------------------------------------------------------------------------------------------


def _put(tensors: dict[str, Tensor], name: str, leaf: Tensor) -> None:
    # A copy of its own: safetensors takes no two tensors in one memory.
    leaf = leaf.detach().cpu().resolve_conj().resolve_neg()
    tensors[name] = (torch.view_as_real(leaf) if leaf.is_complex() else leaf).contiguous().clone()


def _put_state(tensors: dict[str, Tensor], name: str, state: State) -> Any:
    """Its tensors; returns what is left: nests of lists, with the dtype of a tensor in its place."""
    parts = list(_parts(state))
    for i, leaf in enumerate(parts):
        _put(tensors, f"{name}.{i}", leaf)
    return _spec(state)


def _put_memory(tensors: dict[str, Tensor], name: str, state: State) -> Any:
    """The memory that travels with a state, if any."""
    if not isinstance(state, Carried):
        return None
    _put(tensors, f"{name}.clock", state.memory.clock)
    return [_put_state(tensors, f"{name}.{i}", list(state.memory[i])) for i in (0, 1)]


def _get_memory(tensors: dict[str, Tensor], name: str, specs: Any, u: State) -> State:
    if specs is None:
        return u
    device = trees.leaves(u)[0].device
    values, states = (tuple(_get_state(tensors, f"{name}.{i}", spec, device)) for i, spec in enumerate(specs))
    return Carried(u, Memory(values, states, tensors[f"{name}.clock"].to(device)))


def _parts(state: State) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
        return
    for part in state.values() if isinstance(state, dict) else state:  # pyright: ignore
        yield from _parts(part)


def _spec(state: Any) -> Any:
    if isinstance(state, Tensor):
        return str(state.dtype).removeprefix("torch.")
    if type(state) in (tuple, list):
        return {type(state).__name__: [_spec(part) for part in state]}
    if type(state) is not dict:
        raise TypeError(
            f"the state holds a {type(state).__name__}, which a file cannot hold; expected tuples, lists and dicts"
        )
    for key in state:
        if not isinstance(key, str):
            raise TypeError(f"the state holds a dict with the key {key!r}; expected strings as keys: {str(key)!r}")
    return {"dict": [[key, _spec(part)] for key, part in state.items()]}


def _get_state(tensors: dict[str, Tensor], name: str, spec: Any, device: torch.device) -> State:
    numbers = iter(range(len(tensors)))

    def build(spec: Any) -> State:
        if isinstance(spec, str):
            leaf, dtype = tensors[f"{name}.{next(numbers)}"], getattr(torch, spec)
            return (torch.view_as_complex(leaf) if dtype.is_complex else leaf).to(device)
        if "dict" in spec:
            return {key: build(part) for key, part in spec["dict"]}
        return tuple(map(build, spec["tuple"])) if "tuple" in spec else [build(part) for part in spec["list"]]

    return build(spec)
