"""Forward-mode derivatives, which torch can take in one thread at a time.

The levels of forward-mode differentiation belong to the process: two threads that differentiate at once end each
other's. Derivatives are therefore taken in turn.
"""

from __future__ import annotations

from collections.abc import Generator
from contextvars import ContextVar

import torch

from parareal._core.locks import ForkSafeLock
from parareal._core.scopes import scope

_turn: ContextVar[ForkSafeLock] = ContextVar("turn", default=ForkSafeLock())  # noqa: B039  one for all threads


@scope
def differentiating() -> Generator[None]:
    """One thread at a time, for as long as a derivative takes.

    What is differentiated may take derivatives itself, and may have other threads take them: it waits for these. So
    whoever has the turn hands out another one, to itself and to the threads that it starts with its context.
    """
    with _turn.get().current:
        token = _turn.set(ForkSafeLock())
        try:
            yield
        finally:
            _turn.reset(token)


@scope
def derivatives_for(who: str, fix: str) -> Generator[None]:
    """`differentiating`, with an error that says the fix where torch cannot take the derivatives.

    The function itself has just worked at this very point, so that what fails is the derivative.

    Args:
        who: Who needs derivatives of what.
        fix: What to do about it, after "expected torch operations that have forward derivatives".

    Raises:
        ValueError: Torch cannot take them.
    """
    try:
        with differentiating():
            yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{who}, and torch.func.jvp could not take them ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"expected torch operations that have forward derivatives{fix}"
        ) from error
