"""The calls of the networks of a pipeline: analysed at the first call, then made for all lanes of a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from diffusion_adapters.diffusers._network_proxy import Known, Lanes, Plan, find_layout, learn
from diffusion_adapters.diffusers._stacked import Places, Stacked, as_rows, as_stacks, stacks


@dataclass(eq=False)
class NetworkCalls:
    """The calls of a pipeline's networks.

    Attributes:
        name: The name of the pipeline, for errors.
        timesteps: The timesteps of the grid, ``(n,)``.
        expected: The latents of this turn, as the input of the network holds them.
        plans: A plan for each kind of call.
        known: Tensors made for the lanes of this round.
        checked: Whether the pipeline is known to leave the latents unchanged between two steps.
        samples: How many samples there are.
        stacked: Whether the pipeline receives outputs in the shape of its own batch, see `_stacked`.
    """

    name: str
    timesteps: Tensor
    expected: Tensor
    plans: dict[Any, Plan] = field(default_factory=dict[Any, Plan])
    known: Known = field(default_factory=Known)
    checked: bool = False
    samples: int = 1
    stacked: bool = False

    def learn(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan | None:
        """How the pipeline calls this network; ``None`` where the latents are not found among the arguments.

        Raises:
            ValueError: It passes no timestep to the network.
        """
        plan = learn(args, kwargs, self.expected, self.timesteps)
        self.stacked = self.stacked or (plan is not None and plan.listed)
        if plan is not None and not plan.times:
            raise ValueError(
                f"{self.name} calls its {type(module).__name__} without a timestep that could be replaced for each "
                "lane; expected the timestep of the loop, as it is or computed from by torch operations, among the "
                "arguments"
            )
        return plan

    def kind(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], group: int) -> Any:
        """A key for calls of the same kind: the network, the group of steps, and the rows of the arguments."""
        rows: list[int] = []
        for value in (args, kwargs):
            each_tensor(value, lambda leaf: rows.append(-1 if leaf.ndim == 0 or self._of_lanes(leaf) else len(leaf)))
        return id(module), group, tuple(rows)

    def _of_lanes(self, value: Tensor) -> bool:
        return isinstance(value, Stacked) or self.known.has(value)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: Plan, lanes: Lanes
    ) -> Any:
        """A call for all lanes, in place of the pipeline's own."""
        if not self.stacked:
            args, kwargs = plan.expand(args, kwargs, lanes, self.known)
            value = module(*args, **kwargs)
            self.known.add(value)
            return value
        x = lanes.x
        places, groups = Places(lanes.samples, len(x), self.samples, x.device), plan.layout.groups
        for tensor in stacks((args, kwargs)):
            self.known.add(tensor)
        args, kwargs = plan.expand(args, kwargs, lanes, self.known)
        args, kwargs = as_rows((args, kwargs), places)
        return as_stacks(module(*args, **kwargs), places, groups, len(x), plan.listed)

    def check_untouched(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], latents: Tensor) -> None:
        """Raises unless the network's input holds these latents where the plan says."""
        self.checked = True
        layout = find_layout(plan.latents(args, kwargs, latents), latents)
        if layout is None or layout.offset != plan.layout.offset:
            raise ValueError(
                f"{self.name}, or a callback, changes the latents between two steps, in a way that is not known here; "
                "such a run depends on the order of its steps: expected latents that only scheduler.step changes"
            )


def each_tensor(value: Any, fn: Callable[[Tensor], Any]) -> None:
    """Calls ``fn`` with every tensor of a pytree."""
    if isinstance(value, Tensor):
        fn(value)
    elif isinstance(value, dict):
        for item in value.values():
            each_tensor(item, fn)
    elif isinstance(value, list | tuple):
        for item in value:
            each_tensor(item, fn)
