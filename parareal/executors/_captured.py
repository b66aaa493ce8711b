"""CUDA graphs: a function that is called again and again with arguments of a few shapes is captured, and replayed.

A graph is the list of kernels that a call has started, with the addresses that they read and write. Replaying it starts
all of them at once, where Python starts one after another: for a small batch that is most of the time of a call.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from parareal._core import trees
from parareal._core.checks import check_count, described
from parareal._core.forward_mode import transformed
from parareal._core.references import attributes

Call = Callable[[list[Tensor]], Any]


class Recorder(Protocol):
    """Makes graphs."""

    def takes(self, device: torch.device) -> bool:
        """Whether calls on this device can be captured now."""
        ...

    def warm_up(self, call: Call, tensors: list[Tensor], device: torch.device) -> Any:
        """Makes the call where captures are made: libraries choose their kernels, and set them up, in first calls."""
        ...

    def record(self, call: Call, tensors: list[Tensor], device: torch.device) -> tuple[Any, Callable[[], object]]:
        """Captures the call on these tensors.

        Returns:
            The value, in tensors that each replay writes to, and the replay.
        """
        ...


class CudaGraphs:
    """The recorder of CUDA graphs."""

    def __init__(self) -> None:
        self._pools: dict[torch.device, Any] = {}

    def takes(self, device: torch.device) -> bool:
        """On a GPU, unless a capture is under way, of which this call is then a part."""
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def warm_up(self, call: Call, tensors: list[Tensor], device: torch.device) -> Any:
        """On a stream beside the current one."""
        with torch.cuda.device(device):
            current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
            beside.wait_stream(current)
            with torch.cuda.stream(beside):
                value = call(tensors)
            current.wait_stream(beside)
        return value

    def record(self, call: Call, tensors: list[Tensor], device: torch.device) -> tuple[Any, Callable[[], object]]:
        """All graphs of a device share their memory: one replay follows another, and values are copied in between."""
        with torch.cuda.device(device):
            graph = torch.cuda.CUDAGraph()
            pool = self._pools.get(device)
            # Other threads may allocate meanwhile, such as those of other devices.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                value = call(tensors)
            self._pools[device] = graph.pool()
        return value, graph.replay


RECORDER: Callable[[], Recorder] = CudaGraphs
"""What makes the recorder of a function."""


@dataclass(frozen=True, eq=False)
class Graph:
    """One captured call: the tensors that it reads and writes, and what runs it."""

    inputs: list[Tensor]
    value: Any
    replay: Callable[[], object]

    def __call__(self, tensors: list[Tensor]) -> Any:
        """The value for these arguments, in tensors of its own: the next replay overwrites those of the graph."""
        for mine, given in zip(self.inputs, tensors, strict=True):
            mine.copy_(given)
        self.replay()
        return trees.map(_copied, self.value)


class _Held:
    """The graphs of a function. A copy of the function for another device has its own, and copies none of these."""

    __slots__ = ("graphs", "lock", "recorder", "standing", "warned")
    shared_by_copies = True

    def __init__(self) -> None:
        self.graphs: dict[Hashable, Graph | None] = {}
        self.lock = threading.RLock()
        self.recorder = RECORDER()
        self.standing: Any = None
        self.warned = False


class Captured:
    """A function whose calls on a GPU are captured as CUDA graphs, one for each shape of its arguments, and replayed.

    A call then costs what its kernels take, and not what Python takes to start them. Use it for a network or a
    right-hand side, together with ``executor=pr.Batched(pad_to=...)``, so that calls come in few shapes. On a CPU, and
    inside of `torch.func.vmap` and `torch.compile`, calls are made as they are.

    Within its calls the function must

    - be a function of its arguments and of tensors that stay where they are, as parameters do;
    - ask for no value on the host: no ``.item()``, no ``if`` about a tensor.

    A function that cannot be captured is called as it is, after a warning; so it is where its values need gradients.
    Calls whose arguments carry derivatives are made as they are. What else it does in Python happens only while it is
    captured. A module that is moved, cast, or set to another mode is captured anew; after its tensors have been
    replaced in other ways, and not changed in place, call `forget`.

    Args:
        fn: The function, module or method ``module.forward``: of tensors and of anything hashable, to tensors in
            tuples, lists and dicts.
        max_graphs: Most graphs: each keeps memory for its intermediate values. Calls of further shapes are made as they
            are, after a warning.

    Raises:
        TypeError: ``fn`` is not callable, or ``max_graphs`` is not an int.
        ValueError: ``max_graphs`` is below 1.

    Source:
        The CUDA graphs of torch, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(pr.Captured(lambda t, u: -u), batching="native")
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> fixed = pr.Batched(pad_to=4)
        >>> pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler(), executor=fixed).converged
        True
    """

    def __init__(self, fn: Callable[..., Any], max_graphs: int = 16) -> None:
        given: Any = fn
        if not callable(given):
            raise TypeError(f"fn is {described(given)}; expected a function or a module")
        check_count(max_graphs, "max_graphs")
        self.fn, self.max_graphs = fn, max_graphs
        self._held = _Held()

    def __repr__(self) -> str:
        return f"Captured({self._name}, max_graphs={self.max_graphs})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fn, self.max_graphs)

    def __copy__(self) -> Captured:
        made = object.__new__(type(self))
        for name, part in attributes(self).items():
            object.__setattr__(made, name, _Held() if name == "_held" else part)
        return made

    def forget(self) -> None:
        """Drops all graphs; the next calls are captured anew."""
        held = self._held
        with held.lock:
            held.graphs.clear()
            held.recorder = RECORDER()

    @property
    def graphs(self) -> int:
        """How many graphs there are."""
        return sum(graph is not None for graph in self._held.graphs.values())

    @property
    def module(self) -> nn.Module | None:
        """The module that is called, if it is one, or one's method."""
        owner = getattr(self.fn, "__self__", None) if not isinstance(self.fn, nn.Module | Captured) else self.fn
        return owner.module if isinstance(owner, Captured) else owner if isinstance(owner, nn.Module) else None

    @property
    def _name(self) -> str:
        owner = self.module
        return type(owner).__name__ if owner is not None else getattr(self.fn, "__name__", type(self.fn).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the function."""
        parts, how = trees.flattened((args, kwargs))
        device = self._device(parts)
        if device is None:
            return self.fn(*args, **kwargs)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        others = tuple(Tensor if isinstance(part, Tensor) else (type(part), part) for part in parts)
        shapes = tuple((part.shape, part.dtype) for part in tensors)
        key = (how, shapes, others, device, _modes(device))
        if not _hashable(key):
            return self.fn(*args, **kwargs)
        held = self._held
        with held.lock:
            if (standing := self._standing()) != held.standing:
                self.forget()
                held.standing = standing
            if key not in held.graphs:
                held.graphs[key] = self._captured(parts, how, device)
            graph = held.graphs[key]
            if graph is not None:
                return graph(tensors)
        return self.fn(*args, **kwargs)

    def _standing(self) -> Any:
        """What changes where a module is moved, cast, or set to another mode."""
        owner = self.module
        if owner is None:
            return None
        first = next(owner.parameters(), None)
        return owner.training, None if first is None else first.data_ptr()

    def _device(self, parts: list[Any]) -> torch.device | None:
        """The device of all tensors among the arguments, if a call with them can be captured."""
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not tensors or torch.compiler.is_compiling() or any(map(_differentiated, tensors)):
            return None
        device = tensors[0].device
        alike = all(part.device == device for part in tensors)
        return device if alike and self._held.recorder.takes(device) else None

    def _captured(self, parts: list[Any], how: Any, device: torch.device) -> Graph | None:
        """The graph of a call, ``None`` where there can be none."""
        name = self._name
        if self.graphs >= self.max_graphs:
            self._warn(
                f"{name} is called with more than max_graphs={self.max_graphs} shapes of arguments, and with further "
                "ones as it is; expected few shapes: executor=pr.Batched(pad_to=...)"
            )
            return None
        # Plain tensors of its own: what Python knows of the arguments' values is not known of those to come.
        own = [part.detach().clone() for part in parts if isinstance(part, Tensor)]

        def call(tensors: list[Tensor]) -> Any:
            left = iter(tensors)
            args, kwargs = trees.unflattened([next(left) if isinstance(p, Tensor) else p for p in parts], how)
            return self.fn(*args, **kwargs)

        with _Uncached(device):
            values = [self._held.recorder.warm_up(call, own, device) for _ in range(2)]
            if why := _why_not(values[-1], device):
                self._warn(f"{name} {why}")
                return None
            try:
                value, replay = self._held.recorder.record(call, own, device)
            except RuntimeError as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                self._warn(
                    f"{name} cannot be captured ({said[0]}), and is called as it is; expected a function that asks for "
                    "no value on the host (.item(), if about a tensor) and makes its tensors on the device"
                )
                return None
        return Graph(own, value, replay)

    def _warn(self, text: str) -> None:
        if not self._held.warned:
            self._held.warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Uncached:
    """Autocast keeps no lowered parameters: a graph would read them after they are gone."""

    def __init__(self, device: torch.device) -> None:
        self._kind = device.type

    def __enter__(self) -> None:
        self._before = torch.is_autocast_cache_enabled()
        if self._before:
            torch.clear_autocast_cache()
            torch.set_autocast_cache_enabled(False)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_cache_enabled(self._before)


def _modes(device: torch.device) -> tuple[Any, ...]:
    """What else decides which kernels a call starts."""
    kind, dtype = device.type, None
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), dtype


def _why_not(value: Any, device: torch.device) -> str:
    """Why calls with such a value cannot be replayed; empty if they can."""
    for leaf in trees.flattened(value)[0]:
        if not isinstance(leaf, Tensor):
            continue
        if leaf.requires_grad:
            return (
                "has values that need gradients, which a graph does not give: it is called as it is; expected calls "
                "under torch.no_grad()"
            )
        if leaf.device != device:
            return f"returns a tensor on {leaf.device} for arguments on {device}: it is called as it is"
    return ""


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _differentiated(tensor: Tensor) -> bool:
    """Whether it carries derivatives, or stands for many tensors inside of a transformation of `torch.func`."""
    return (tensor.requires_grad and torch.is_grad_enabled()) or transformed(tensor)
