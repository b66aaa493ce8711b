"""Which steps of a pipeline's loop may share a turn, and how the loop receives the number of its step.

Steps share a turn if everything that the loop computes from their number has the same value. A switch such as
``i < stop`` makes two groups of steps, and a round makes one turn for each group with lanes.
"""

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters.diffusers._loop_source import LoopSource, Use, read_loop
from diffusion_adapters.diffusers._loop_syntax import GUIDANCE
from diffusion_adapters.diffusers._numbers import TORCH
from diffusion_adapters.diffusers._timesteps import Chain, Noted, at_all, itself

MOST = 4
"""The most groups of steps, or a quarter of the steps if that is more: each group costs a call of its own in a round. A
bound on the cost, not a measured optimum."""

_BY_NUMBER = ("control_guidance_start", "control_guidance_end", "skip_guidance_layers", "adapter_conditioning_factor")
"""Arguments that are known to switch by the number of the step, for loops that cannot be read."""

Number = Callable[[], "int | None"]

_warned: set[CodeType] = set()


class LoopSteps:
    """The steps of one loop over timesteps.

    Args:
        name: The name of the pipeline, for errors.
        frame: The frame of the loop.
        timesteps: The timesteps of the loop, ``(n,)``.
        given: Arguments of the call, by name.

    Attributes:
        source: The analysis of its source; ``None`` if it cannot be read.
        groups: For each step the number of its group.
        of_grid: The same for the grid's timesteps, ``(n,)``.
        number: The number of the next timestep of the loop, until it is taken.
        numbered: Whether the loop receives its number from here.
    """

    def __init__(self, name: str, frame: FrameType | None, timesteps: Tensor, given: dict[str, Any]) -> None:
        self.name, self._frame, self._timesteps, self._given = name, frame, timesteps, given
        self._code = None if frame is None else frame.f_code
        self.source: LoopSource | None = None
        self.groups = [0] * len(timesteps)
        self.of_grid = torch.zeros(0, dtype=torch.int64)
        self.numbered = self._decided = False
        self.number: int | None = None
        if frame is not None:
            owner = frame.f_locals.get("self")
            self.source = read_loop(frame.f_code, frame.f_lineno, None if owner is None else type(owner))

    @property
    def many(self) -> bool:
        """Whether there is more than one group."""
        return max(self.groups, default=0) > 0

    def timestep(self, number: int) -> Tensor:
        """The timestep that the loop receives in a turn. Its value matters only where there are several groups."""
        if not self.many:
            return self._timesteps[0]
        return Noted.of(self._timesteps[number].clone(), itself, self.note_decision)

    def take_number(self) -> int | None:
        """The number of the timestep that the loop has just taken."""
        number, self.number = self.number, None
        self.numbered = self.numbered or number is not None
        return number

    def note_decision(self, of: Chain | None) -> None:
        """Records that Python has converted the timestep to a number.

        That counts for nothing where the groups are made by that expression, or where it is a decision that is the same
        in all steps.

        Args:
            of: The function of the timestep that was decided by; ``None`` where it became a number.
        """
        if self._decided or self.accounts_for(caller()):
            return
        self._decided = not _all_equal(of, self._timesteps)

    def refuse_decisions(self) -> None:
        """Raises where the timestep was converted to a number that the groups do not depend on."""
        if self._decided:
            raise ValueError(
                f"{self.name} converts the timestep to a Python number (if, int, float, item) inside its loop. Several "
                "timesteps are computed at once, so that it has no single value; expected a pipeline, and arguments, "
                "for which nothing but the network depends on the timestep: for example one without a second "
                "transformer for low noise"
            )

    def accounts_for(self, frame: FrameType | None) -> bool:
        """Whether the groups are made by the conversion of the timestep in this frame, or in a call from it."""
        frame = outside(frame)
        if self.source is None or frame is None or frame.f_code is not self._code:
            return False
        return any(use.value is not None and use.line <= frame.f_lineno <= use.end for use in self.source.uses)

    def find_groups(self, grid: Tensor) -> None:
        """Finds the groups of steps, once the loop's variables are known.

        Args:
            grid: Timesteps of the grid, ``(n,)``, each of them one that the loop runs over.

        Raises:
            ValueError: The loop does something in its steps that cannot be done for many of them at once.
        """
        frame, self._frame = self._frame, None
        if self.source is None or frame is None:
            self._warn_unread()
        elif self.source.uses:
            values = [self._values(use, frame) for use in self.source.uses]
            for use, of_steps in zip(self.source.uses, values, strict=True):
                self._check(use, of_steps)
            numbers: dict[Any, int] = {}
            self.groups = [numbers.setdefault(step, len(numbers)) for step in zip(*values, strict=True)]
            if len(numbers) > max(MOST, len(self.groups) // 4):
                use, of_steps = max(zip(self.source.uses, values, strict=True), key=lambda pair: len(set(pair[1])))
                self._refuse(use, f"which has {len(set(of_steps))} values in {len(of_steps)} steps")
        self.of_grid = torch.tensor(self._of_grid(grid))

    def pick(self, group: int, turn: int, order: int) -> int:
        """The number of the step that stands for a group in a turn: one that advances the loop's progress bar."""
        if not self.many:
            return min(turn, len(self.groups) - 1)
        steps = [i for i, of in enumerate(self.groups) if of == group]
        return max([i for i in steps if (i + 1) % max(order, 1) == 0] or steps)

    # --- values -------------------------------------------------------------------------------------------------------

    def _values(self, use: Use, frame: FrameType) -> list[Any]:
        """The value of a use in each step; equal values where the difference does not matter."""
        assert self.source is not None
        space = {**frame.f_locals, GUIDANCE: guidance_in}
        values: list[Any] = []
        for i, t in enumerate(self._timesteps):
            space.update({name: v for name, v in ((self.source.index, i), (self.source.timestep, t)) if name})
            values.append(_value(use, frame.f_globals, space, i))
        return values

    def _check(self, use: Use, values: list[Any]) -> None:
        """Raises where a use with these values cannot be computed for several steps at once."""
        if use.persists and (use.value is None and any(v is not None for v in values)):
            self._refuse(use, f"which {use.persists}")
        if len(set(values)) <= 1:
            return
        if use.persists:
            self._refuse(use, f"which {use.persists} in some steps, for all that follow")
        if use.by_index and not self.numbered:
            self._refuse(use, "whose number cannot be passed to its loop")

    def _refuse(self, use: Use, why: str) -> None:
        assert self.source is not None
        given = [f"{name}={_short(self._given[name])}" for name in use.arguments if name in self._given]
        by = f" Given: {', '.join(given)}." if given else ""
        names = [name for name in use.arguments if name not in self._given]
        by = by or (f" It depends on {', '.join(names)}." if 0 < len(names) <= 4 else "")
        raise ValueError(
            f"{self.name} does different things in different steps of its loop: {_short(use.text, 90)} "
            f"({self.source.file}, line {use.line}), {why}.{by} Many steps are computed together; expected arguments "
            "for which steps differ only in their timestep, or in a switch that each step can compute on its own: "
            "run the pipeline itself"
        )

    def _warn_unread(self) -> None:
        """Without source: refuses arguments that are known to depend on the step, and warns about everything else."""
        given = [name for name in _BY_NUMBER if self._given.get(name) not in (None, 0.0, 1.0, [0.0], [1.0])]
        if given:
            raise ValueError(
                f"{self.name} came with {given[0]}={self._given[given[0]]!r}, and the source of its loop cannot be "
                "read; expected source, which shows what depends on the number of a step, or the pipeline itself"
            )
        if self._code is not None and self._code in _warned:
            return
        _warned.update(() if self._code is None else (self._code,))
        warnings.warn(
            f"the source of the loop of {self.name} cannot be read, so that it is not known whether its steps depend "
            "on their number; what does, is computed for another step without notice",
            RuntimeWarning,
            stacklevel=2,
        )

    def _of_grid(self, grid: Tensor) -> list[int]:
        if not self.many:
            return [0] * len(grid)
        steps, found = self._timesteps.detach().cpu(), []
        for t in grid.detach().cpu():
            at = (steps == t).nonzero().flatten().tolist() or [int((steps - t).abs().argmin())]
            groups = {self.groups[i] for i in at}
            if len(groups) > 1:
                raise ValueError(
                    f"{self.name} visits timestep {float(t):g} twice, as the second stage of one step and the first of "
                    "the next, and does not do the same in both; expected a switch between two steps: another "
                    "num_inference_steps, another fraction, or a scheduler with one stage"
                )
            found += groups
        return found


def _all_equal(of: Chain | None, timesteps: Tensor) -> bool:
    """Whether a decision is the same at all timesteps."""
    if of is None:
        return False
    outcomes = at_all(of, timesteps).bool()
    return bool((outcomes == outcomes[:1]).all())


def _value(use: Use, names: dict[str, Any], space: dict[str, Any], step: int) -> Any:
    """The value of a use in a step; ``None`` where it is not reached."""
    for test, wanted in use.guards:
        try:
            if bool(eval(test, names, space)) != wanted:
                return None
        except Exception:
            continue
    if use.value is None:
        return ("unknown", step)
    try:
        return ("value", _frozen(eval(use.value, names, space)))
    except Exception:
        return ("unknown", step)


def _frozen(value: Any) -> Any:
    """A hashable stand-in for a value, equal where the values are equal."""
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.detach().flatten().tolist())
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, bool | int | float | str | bytes | type(None)):
        return value
    return id(value)


def _short(value: Any, most: int = 40) -> str:
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= most else text[: most - 3] + "..."


# --- guiders ----------------------------------------------------------------------------------------------------------


def guidance_in(guider: Any, step: int, steps: Any, timestep: Any) -> Any:
    """The switches of a guider of diffusers in a step, as a value to compare."""
    at = copy(guider)
    at.set_state(step=step, num_inference_steps=steps, timestep=timestep)
    if any(getattr(guider, name, None) for name in vars(guider) if "momentum" in name):
        return step  # it keeps a mean of what was before
    switches = [name for name in dir(type(guider)) if name.startswith("_is_") and name.endswith("_enabled")]
    levels = range(len(getattr(guider, "guidance_start", None) or ()))
    by_level = [getattr(at, "_is_fdg_enabled_for_level", bool)(level) for level in levels]
    return *(getattr(at, name)() for name in switches), *by_level, step < getattr(guider, "zero_init_steps", 0)


# --- passing the loop its number --------------------------------------------------------------------------------------


def outside(frame: FrameType | None) -> FrameType | None:
    """The first frame, from here outwards, that is not part of this package, of a progress bar or of torch."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")).split(".")
        ours = module[:2] == ["diffusion_adapters", "diffusers"] or module[0] in ("tqdm", "torch", "contextlib")
        if not ours:
            return frame
        frame = frame.f_back
    return None


def caller() -> FrameType | None:
    """The pipeline's frame that is waiting for this one."""
    return outside(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]


def with_numbers(function: Any, number: Number) -> Any:
    """The function, with an ``enumerate`` that numbers its denoising loop by the steps that are computed.

    It is the same code, under the same decorators, with another ``enumerate`` among its globals, and with a ``torch``
    that keeps track of numbers computed from the timestep.

    Args:
        function: ``__call__`` of a pipeline's class.
        number: The number of the timestep that was taken just now; ``None`` for any other loop.
    """

    def numbered(iterable: Iterable[Any], start: int = 0) -> Iterator[tuple[int, Any]]:
        number()
        for count, item in builtins.enumerate(iterable, start):
            given = number()
            yield (count if given is None else start + given), item

    return _remade(function, numbered) or function


def _remade(function: Any, numbered: Any) -> Any:
    if not isinstance(function, FunctionType):
        return None
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        names, cells = {**function.__globals__, "enumerate": numbered}, function.__closure__
        if names.get("torch") is torch:
            names["torch"] = TORCH
    else:
        made = _remade(inner, numbered)
        own = function.__closure__ or ()
        if made is None or not any(cell.cell_contents is inner for cell in own):
            return None
        names = function.__globals__
        cells = tuple(CellType(made) if cell.cell_contents is inner else cell for cell in own)
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def split(groups: Tensor, at: Tensor) -> list[tuple[int, Tensor | None]]:
    """Lanes at timesteps, group by group: numbers of groups, and of the lanes in them (``None`` for all)."""
    of = groups[at.cpu()]
    found = of.unique().tolist()
    if len(found) == 1:
        return [(int(found[0]), None)]
    return [(int(group), (of == group).nonzero().flatten().to(at.device)) for group in found]


def joined(parts: list[tuple[Tensor | None, Tensor]]) -> Tensor:
    """Values of groups of lanes, in the order of the lanes."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.cat([rows for rows, _ in parts if rows is not None])
    return torch.cat([value for _, value in parts])[order.argsort()]
