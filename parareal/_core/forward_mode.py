"""Forward-mode derivatives, which torch can take in one thread at a time.

The levels of forward-mode differentiation belong to the process: two threads that differentiate at once end each
other's. Derivatives are therefore taken in turn.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

from parareal._core.locks import ForkSafeLock
from parareal._core.scopes import of_torch, scope

VMAPPED = (
    "the right-hand side depends on, in which it cannot run: its decisions would be different ones for each; expected "
    "it outside: give each of many parameters a sample of its own, by samples=True and per_sample=parameters in the "
    "problem, or call solve for one after another"
)
"""How the message of an error about a solve inside of torch.func.vmap ends."""

_C: Any = torch._C._functorch  # pyright: ignore
_turn: ContextVar[ForkSafeLock] = ContextVar("turn", default=ForkSafeLock())  # noqa: B039  one for all threads


@scope
def differentiating() -> Generator[None]:
    """One thread at a time, for as long as a derivative takes.

    What is differentiated may take derivatives itself, and may have other threads take them: it waits for these. So
    whoever has the turn hands out another one, to itself and to the threads that it starts with its context.
    """
    with _turn.get().current:
        token, before = _turn.set(ForkSafeLock()), _Levels.now()
        try:
            yield
        except BaseException:
            before.restore()
            raise
        finally:
            _turn.reset(token)


@scope
def without_left_levels() -> Generator[None]:
    """Levels of torch.func that an interrupted computation leaves behind in this thread are removed.

    Ctrl-C may come when torch has entered a level and has not yet noted that it must leave it.
    """
    depth = _C.get_dynamic_layer_stack_depth()
    try:
        yield
    except BaseException:
        _leave_layers(depth)
        raise


def transformed(tensor: Tensor) -> bool:
    """Whether it carries a tangent, or stands for many tensors inside of a transformation of `torch.func`.

    The tensor itself is asked: the level of forward mode may be one that another thread has entered.
    """
    return stands_for_many(tensor) or forward_ad.unpack_dual(tensor).tangent is not None


def inside() -> bool:
    """Whether this thread is inside of a transformation of `torch.func`."""
    return _C.get_dynamic_layer_stack_depth() > 0


def stands_for_many(tensor: Tensor) -> bool:
    """Whether it stands for many tensors inside of a transformation of `torch.func`."""
    return bool(_C.is_functorch_wrapped_tensor(tensor))


@dataclass(frozen=True)
class _Levels:
    """The levels of differentiation that have been entered: of this thread, of torch.func.jvp, of forward mode."""

    depth: int
    jvp: int
    dual: int

    @classmethod
    def now(cls) -> _Levels:
        level = forward_ad._current_level  # pyright: ignore[reportPrivateUsage]
        return cls(_C.get_dynamic_layer_stack_depth(), eager_transforms.JVP_NESTING, level)

    def restore(self) -> None:
        """Leaves those that were entered since; whoever calls it has the turn, so that they are no other thread's."""
        _leave_layers(self.depth)
        eager_transforms.JVP_NESTING = self.jvp
        if self.dual < 0:  # there is one at most
            with suppress(RuntimeError):  # there is none
                torch._C._exit_dual_level(level=0)  # pyright: ignore
        forward_ad._current_level = self.dual  # pyright: ignore[reportPrivateUsage]


def _leave_layers(depth: int) -> None:
    if _C.get_dynamic_layer_stack_depth() > depth:
        _C.pop_dynamic_layer_stack_and_undo_to_depth(depth)


@scope
def derivatives_for(who: str, fix: str) -> Generator[None]:
    """`differentiating`, with an error that says the fix where torch cannot take the derivatives.

    The function itself has just worked at this very point, so that what torch refuses is the derivative. Errors that
    the function raises itself are left as they are.

    Args:
        who: Who needs derivatives of what.
        fix: What to do about it, after "expected torch operations that have forward derivatives".

    Raises:
        ValueError: Torch cannot take them.
    """
    try:
        with differentiating():
            yield
    except RuntimeError as error:
        if not of_torch(error):
            raise
        raise ValueError(
            f"{who}, and torch.func.jvp could not take them ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"expected torch operations that have forward derivatives{fix}"
        ) from error
