"""Solutions in files: tensors in the format of safetensors, all else as JSON in its header. It contains no code.

A digest over everything detects damaged files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described, kind_of
from parareal._core.multistep_state import Carried, Memory
from parareal._core.trees import State
from parareal._core.version import __version__
from parareal.results._run_identity import digest

FORMAT, VERSION = "parareal.Solution", 1

LEFT = 3600.0
"""Seconds after which an incomplete file is removed whose process may run elsewhere and does not run here. A choice,
and a long one. Those of dead processes that would be seen here are removed at once."""


def save(
    packed: dict[str, Any], tensors: dict[str, Tensor], path: str | os.PathLike[str], previous: Path | None = None
) -> None:
    """Writes JSON and tensors to one file; a file that is replaced is kept as ``previous``."""
    safetensors = _safetensors()
    check_place(path)
    packed = {"format": FORMAT, "version": VERSION, "written_by": __version__, **packed}
    # The digest covers the JSON and every tensor: a file that is cut short, or written by two at once, is detected.
    metadata = {"parareal": json.dumps({**packed, "sha256": _digest(packed, tensors)})}
    path = Path(path)
    _remove_leftovers(path)
    name = _part(path)
    try:
        name.touch(exist_ok=False)
        mode = name.stat().st_mode  # safetensors makes files that others cannot read
        safetensors.torch.save_file(tensors, name, metadata)
        name.chmod(mode)
        with name.open("r+b") as file:  # on the disk, and not in a buffer, before it takes another's place
            os.fsync(file.fileno())
        if previous is not None:
            with suppress(FileNotFoundError):  # there is none, or another process has just moved it
                os.replace(path, previous)
        os.replace(name, path)
    except safetensors.SafetensorError as error:
        raise _not_written(path, error) from error
    finally:
        name.unlink(missing_ok=True)


def _not_written(path: Path, error: Exception) -> OSError:
    """Converts an error of the file system that safetensors raises to the usual one."""
    found = re.search(r"os error (\d+)", str(error))
    text = (
        f"the solution was not written ({error}); expected a place with enough room and the right to write: what was "
        "there before is still there"
    )
    return OSError(int(found[1]) if found else errno.EIO, text, str(path))


def _host() -> str:
    """The name of this machine, as a part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9-]", "_", platform.node())


@cache
def _processes() -> str:
    """Which processes can be seen from here, as a part of the name of a file.

    Containers may share a folder and the name of their machine, and still not see each other's processes.
    """
    with suppress(OSError):
        space = os.stat("/proc/self/ns/pid").st_ino
        text = f"{Path('/proc/sys/kernel/random/boot_id').read_text()} {space}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]
    return "0"


def _remove_leftovers(path: Path) -> None:
    """Removes old incomplete files of processes of this machine that were killed."""
    if os.name != "posix":  # on other systems asking for a process would end it
        return
    part = re.compile(rf"{re.escape(path.name)}\.{re.escape(_host())}\.([0-9a-f]+)\.(\d+)\.[0-9a-f]{{32}}\.part")
    with suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            match = part.fullmatch(entry.name)
            with suppress(OSError):  # another process removes it as well
                if match and not _runs(int(match[2])):
                    seen = match[1] == _processes() != "0"
                    if seen or time.time() - entry.stat().st_mtime > LEFT:
                        os.unlink(entry.path)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def as_path(path: Any) -> Path:
    """The path of a file; raises for what is no name."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f'path={path!r} is {kind_of(path)}; expected the name of a file, such as "run.safetensors"')
    text = os.fspath(path)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f'{text!r} is not the name of a file; expected one such as "run.safetensors"')
    if not Path(text).name:
        raise ValueError(f"{text!r} is a folder; expected the name of a file, such as {str(Path(text, 'run'))!r}")
    return Path(text)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises unless a file of that name can be made: it makes one beside it, and removes it."""
    as_path(path)
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(Path(path).parent)!r}; make it before {str(path)!r} is written"
        )
    if Path(path).is_dir():
        raise ValueError(f"{str(path)!r} is a folder; expected the name of a file, such as {str(Path(path, 'run'))!r}")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{str(path)!r} is a device, a pipe or a socket; expected the name of a file to write to")
    part = _part(Path(path))
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, f"no file can be made there: {error.strerror}", str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """The name of an incomplete file: each process, and each thread of one, has one of its own."""
    return path.with_name(f"{path.name}.{_host()}.{_processes()}.{os.getpid()}.{uuid.uuid4().hex}.part")


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """JSON and tensors of a file, checked against its digest."""
    safetensors, path = _safetensors(), as_path(path)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; expected one that solution.save(path) wrote")
    if not Path(path).is_file():
        raise ValueError(f"{str(path)!r} is no file; expected one that solution.save(path) wrote")
    packed, tensors = _whole(path, safetensors)
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
        raise damaged(path, "what it holds is not what was written")
    return known, tensors


def _whole(path: str | os.PathLike[str], safetensors: Any) -> tuple[Any, dict[str, Tensor]]:
    """What a file holds.

    It is opened once, as it may be replaced meanwhile, and read as bytes: where safetensors reads a file by itself, it
    has torch make the tensors, and Ctrl-C in there is lost to an error that looks like that of a damaged file.
    """
    try:
        content = Path(path).read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        told = header.get("__metadata__", {}).get("parareal")
        return None if told is None else json.loads(told), tensors
    except (safetensors.SafetensorError, ValueError, RuntimeError, OSError, LookupError, AssertionError) as error:
        raise damaged(path, str(error)) from None


def damaged(path: str | os.PathLike[str], why: str) -> ValueError:
    """The error for a file that `save` has not written."""
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


def number(value: Tensor, kind: type) -> Any:
    """One number of one system, or a tensor of those of a batch."""
    return kind(value) if value.ndim == 0 else value


# --- trees of tensors ------------------------------------------------------------------------------------------------


def put(tensors: dict[str, Tensor], name: str, leaf: Tensor) -> None:
    # A copy of its own: safetensors takes no two tensors in one memory.
    leaf = leaf.detach().cpu().resolve_conj().resolve_neg()
    tensors[name] = (torch.view_as_real(leaf) if leaf.is_complex() else leaf).clone(
        memory_format=torch.contiguous_format
    )


def put_state(tensors: dict[str, Tensor], name: str, state: State) -> Any:
    """Puts the tensors of a state; returns the rest: nested lists, with the dtype of a tensor in its place."""
    parts = list(_parts(state))
    for i, leaf in enumerate(parts):
        put(tensors, f"{name}.{i}", leaf)
    return _spec(state)


def put_history(tensors: dict[str, Tensor], name: str, state: State) -> Any:
    """The multistep history of a state, if any."""
    if not isinstance(state, Carried):
        return None
    put(tensors, f"{name}.clock", state.memory.clock)
    return [put_state(tensors, f"{name}.{i}", list(state.memory[i])) for i in (0, 1)]


def get_history(tensors: dict[str, Tensor], name: str, specs: Any, u: State) -> State:
    if specs is None:
        return u
    device = trees.leaves(u)[0].device
    values, states = (tuple(get_state(tensors, f"{name}.{i}", spec, device)) for i, spec in enumerate(specs))
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
            f"the state holds {described(state)}, which a file cannot hold; expected tuples, lists and dicts"
        )
    for key in state:
        if not isinstance(key, str):
            raise TypeError(f"the state holds a dict with the key {key!r}; expected strings as keys: {str(key)!r}")
    return {"dict": [[key, _spec(part)] for key, part in state.items()]}


def get_state(tensors: dict[str, Tensor], name: str, spec: Any, device: torch.device) -> State:
    numbers = iter(range(len(tensors)))

    def build(spec: Any) -> State:
        if isinstance(spec, str):
            leaf, dtype = tensors[f"{name}.{next(numbers)}"], getattr(torch, spec)
            return (torch.view_as_complex(leaf) if dtype.is_complex else leaf).to(device)
        if "dict" in spec:
            return {key: build(part) for key, part in spec["dict"]}
        return tuple(map(build, spec["tuple"])) if "tuple" in spec else [build(part) for part in spec["list"]]

    return build(spec)
