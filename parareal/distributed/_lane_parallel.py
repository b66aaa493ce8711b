"""The lanes of a round split over the processes of a `torch.distributed` group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import kind_of
from parareal._core.scopes import scope
from parareal._core.signals import held_back
from parareal._core.trees import State
from parareal.distributed._exchange import Swap, suits
from parareal.distributed._process_group import Like, Link
from parareal.distributed._reports import to_bytes
from parareal.executors._base import Executor, blocks
from parareal.executors._local import Batched, check_inner
from parareal.results._run_identity import Identity, exactly


@dataclass(frozen=True)
class Distributed(Executor):
    """Every round's lanes split over the processes of a group, one block of lanes each.

    Every process makes the same call of `solve` with the same arguments, in a script started by ``torchrun``, and every
    one ends with the same `Solution`. Each evaluates its share of the lanes and gets the values of all others; all
    else is computed everywhere. So a round sends the values of its lanes and nothing else: one state for each
    lane to each other process. Lanes need not divide evenly, and there may be fewer of them than processes.

    A process that raises makes all raise: its own exception there, `RankError` with its traceback elsewhere. Ctrl-C and
    SIGTERM, on any process, end the run on all of them at the end of a round. With ``solve(..., checkpoint=path)``
    rank 0 writes the file, and a job that is started again continues from it.

    A model that is itself split over processes can be combined with it, on a mesh of two dimensions: the group is that
    of one dimension, ``mesh["time"]``, and all processes along the other take the same lanes. Nothing is differentiated
    across processes: call `solve` under ``torch.no_grad()``, or on states and parameters with ``requires_grad=False``.

    Args:
        group: A process group; a `torch.distributed.device_mesh.DeviceMesh` of one dimension; or ``None`` for the
            default group. States lie on a device that its backend carries: the CPU for gloo, a GPU for NCCL.
        local: How each process evaluates its own lanes, a `Batched` or `Serial`; ``Batched()`` by default.
        timeout: Seconds after which a process that does not answer counts as lost: more than the longest round takes.

    Raises:
        TypeError: ``group``, ``local`` or ``timeout`` has the wrong type.
        ValueError: ``timeout`` is not positive. From `solve`, that there is no group, that it does not carry the
            device of the state, or that processes came with other problems, states or grids.

    Examples:
        >>> Distributed(timeout=60.0).local
        Batched(max_lanes=None, devices=None, pad_to=None)
    """

    group: Any = field(default=None, repr=False)
    local: Executor = field(default_factory=Batched)
    timeout: float = 300.0

    def __post_init__(self) -> None:
        check_inner(self.local, "local")
        check_timeout(self.timeout)

    @scope
    def joined(self) -> Generator[Executor]:
        """This executor in a run; an exception is reported to the other processes."""
        with linked(self.group, self.timeout, "pr.Distributed()") as link:
            with self.local.joined() as local:
                yield _Joined(link, local)
            link.settle()  # no process leaves before all have finished

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once on every process that has lanes."""
        with self.joined() as joined:
            return joined.evaluate(fn, args, lanes)

    def calls(self, lanes: int) -> int:
        """As many as the process with most lanes makes."""
        with self.joined() as joined:
            return joined.calls(lanes)

    def padded(self, lanes: int) -> int:
        """The padding lanes of all processes."""
        with self.joined() as joined:
            return joined.padded(lanes)


def check_timeout(timeout: Any) -> None:
    """Raises unless it is a number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r} is {kind_of(timeout)}; expected seconds, such as 300.0")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"timeout={timeout!r} is not a time to wait; expected seconds above 0, such as 300.0")


@scope
def linked(group: Any, timeout: float, name: str) -> Generator[Link]:
    """A link to the other processes, which reports signals and exceptions to them."""
    link: Link | None = None
    early = 0

    def note(number: int) -> None:
        nonlocal early
        early = number
        if link is not None:
            link.signal = number

    def at_once() -> None:
        if link is not None:
            link.leave()

    with held_back(note, at_once) as heed:
        link = Link(group, timeout, name)
        link.signal = early
        try:
            yield link
        except BaseException as error:
            link.tell(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                heed()
            raise
        finally:
            link.release()


def signature(parts: dict[str, Any]) -> dict[str, str]:
    """The arguments that processes must agree on, as texts."""
    texts: dict[str, str] = {"torch": torch.__version__}
    for name, part in parts.items():
        if isinstance(part, Identity):
            texts |= {
                "problem": part.problem,
                "fine propagator": part.fine,
                "state": part.state,
                "samples": str(part.samples),
                "grid": f"{len(part.bounds) - 1} slices, {_numbers(part.points)} cut at {part.bounds}",
                "per-sample data or noise": part.digest[:16],
            }
            texts |= {f"{name} of the problem": text for name, text in (part.texts or {}).items()}
        else:
            texts[name] = exactly(part) if not isinstance(part, str) else part
    return texts


def _numbers(points: Tensor) -> str:
    from parareal.results._run_identity import digest

    return f"{len(points)} points {points[0].item():g} ... {points[-1].item():g} ({digest([points])[:16]})"


def compare(link: Link, texts: dict[str, str]) -> None:
    """Raises, on every process, unless all have the same.

    Raises:
        ValueError: They differ.
    """
    link.settle()
    everyone = link.all(texts)
    for name in texts:
        values = [other.get(name) for other in everyone]
        if len(set(values)) > 1:
            listed = "; ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
            link.over = True
            raise ValueError(
                f"the processes of the group disagree on the {name}: {listed}; expected the same call with the same "
                "arguments on every rank"
            )


class Crew(Executor):
    """The base of executors of several processes: their joint operations.

    Args:
        link: The processes.
        name: The executor or schedule, for errors.
    """

    def __init__(self, link: Link, name: str) -> None:
        self.link, self._name = link, name
        self.leads = link.rank == 0

    def meet(self, state: State, parts: Callable[[], dict[str, Any]]) -> None:
        self.link.check_device(state, self._name)
        compare(self.link, signature(parts()))

    def shared(self, make: Callable[[], Any]) -> Any:
        error, raw = None, None
        if self.leads:
            try:
                raw = to_bytes(make())
            except BaseException as raised:
                error = raised
        self.link.settle(error)
        return self.link.shared(raw)


class _Joined(Crew):
    """A `Distributed` in one run."""

    def __init__(self, link: Link, local: Executor) -> None:
        super().__init__(link, "pr.Distributed()")
        self._local = local
        self._known: dict[Any, State] = {}

    def agree(self, figures: Tensor) -> Tensor:
        self.link.settle()
        return self.link.same(figures)

    def any(self, flag: bool) -> bool:
        return self.link.settle(flag=flag)

    @property
    def sent(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.link.sent

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        link = self.link
        sizes = blocks(lanes, link.size)
        start, own = sum(sizes[: link.rank]), sizes[link.rank]
        device = trees.leaves(args)[0].device
        key = _key(fn, args)
        like = None if key is None else self._known.get(key)
        error, value, swap = None, None, None
        try:
            if like is not None and suits(link, device):
                swap = Swap(link, like, sizes)
            if own:
                some = slice(start, start + own)
                value = self._local.evaluate(fn, tuple(trees.lanes(arg, some) for arg in args), own)
                _check_plain(value)
                _check_like(value, like, own)
        except BaseException as raised:
            error, value = raised, None
        if swap is not None:
            return swap.give(value, error)
        link.settle(error)
        return link.gather(value, like if like is not None else self._learn(key, value, sizes), sizes, device)

    def calls(self, lanes: int) -> int:
        return self._local.calls(-(-lanes // self.link.size))

    def padded(self, lanes: int) -> int:
        return sum(self._local.padded(own) for own in blocks(lanes, self.link.size) if own)

    def _learn(self, key: Any, value: State, sizes: Sequence[int]) -> State:
        """Shapes and dtypes of the values; a process without a lane receives them.

        All processes request the same functions in the same order, so that all know the same ones.
        """
        like = None if value is None else trees.map(Like.of, value)
        if not sizes[-1]:
            like = self.link.shared(to_bytes(like))
        if key is not None:
            if len(self._known) > 256:
                self._known.clear()
            self._known[key] = like
        return like


def _key(fn: Any, args: tuple[Any, ...]) -> Any:
    """The key of a function and the kind of its arguments; ``None`` if it cannot be one."""
    key = (fn, tuple(Like.of(leaf) for leaf in trees.leaves(args)))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _check_like(value: State, like: State | None, lanes: int) -> None:
    """Raises if shapes or dtypes differ from those of the last call, which the others expect."""
    if any(leaf.shape[:1] != (lanes,) for leaf in trees.leaves(value)):
        shapes = [tuple(leaf.shape) for leaf in trees.leaves(value)]
        raise ValueError(f"the right-hand side gave values of shapes {shapes} for {lanes} lanes; expected one for each")
    now = trees.map(Like.of, value)
    if like is not None and now != like:
        raise ValueError(
            f"the right-hand side gave values like {now}, and before, for arguments like these, like {like}; expected "
            "the same shapes and dtypes each time"
        )


def _check_plain(value: State) -> None:
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in trees.leaves(value)):
        raise ValueError(
            "the right-hand side gave values that ask for gradients, and nothing is differentiated across processes; "
            "expected the call under torch.no_grad(), or states and parameters with requires_grad=False"
        )
