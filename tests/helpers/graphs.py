"""A recorder for `pr.Captured` that needs no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten


class NoReads(TorchDispatchMode):
    """Raises where a value is needed on the host, as a GPU does during a capture."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal"):
            raise RuntimeError("operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


class Traced:
    """A recorder on the CPU. Like a graph it knows operations and addresses of tensors, and nothing of Python."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def takes(self, device: torch.device) -> bool:
        return True

    def warm_up(self, call: Callable[[list[Tensor]], Any], tensors: list[Tensor], device: torch.device) -> Any:
        self.log.append("warm up")
        return call(tensors)

    def record(
        self, call: Callable[[list[Tensor]], Any], tensors: list[Tensor], device: torch.device
    ) -> tuple[Any, Callable[[], object]]:
        self.log.append("record")
        found: list[Any] = []

        def traced(*given: Tensor) -> list[Tensor]:
            leaves, how = tree_flatten(call([*given]))
            found[:] = [how]
            return leaves

        with NoReads():
            module = make_fx(traced)(*tensors)
        outputs = [torch.full_like(leaf, float("nan")) for leaf in module(*tensors)]

        def replay() -> None:
            self.log.append("replay")
            for mine, new in zip(outputs, module(*tensors), strict=True):
                mine.copy_(new)

        return tree_unflatten(outputs, found[0]), replay
