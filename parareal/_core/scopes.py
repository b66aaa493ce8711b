"""Contexts around users' functions, and notes on what these raise."""

from __future__ import annotations

import dis
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, suppress
from functools import wraps
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def scope(fn: Callable[P, Generator[T, None, None]]) -> Callable[P, AbstractContextManager[T]]:
    """`contextlib.contextmanager` for contexts in which users' functions are called.

    That one sets an attribute of each exception that leaves it; where the exception's class refuses this, an
    AttributeError takes its place.
    """

    @wraps(fn)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Scope(fn(*args, **kwargs))

    return make


class _Scope(AbstractContextManager[T], Generic[T]):
    def __init__(self, run: Generator[T, None, None]) -> None:
        self._run = run

    def __enter__(self) -> T:
        return next(self._run)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is None:
            for _ in self._run:
                raise RuntimeError("a context has yielded twice")
            return False
        try:
            self._run.throw(error)
        except StopIteration as ended:  # the error was dealt with, unless it is the error
            return ended is not error
        except BaseException as left:
            # A StopIteration leaves a generator as the cause of a RuntimeError.
            if left is not error and not (isinstance(error, StopIteration) and left.__cause__ is error):
                raise
            BaseException.with_traceback(error, traceback)  # without the frames in here, and past its class
            return False
        raise RuntimeError("a context has yielded again after an exception")


def add_note(error: BaseException, text: str) -> None:
    """Adds a note to an exception that takes one; some take no attributes."""
    with suppress(AttributeError, TypeError):
        error.add_note(text)


def of_torch(error: BaseException) -> bool:
    """Whether an error is one with which torch says that it cannot do something, and not the user's own.

    An error of the user's comes from a ``raise`` outside of torch, or is of a class of its own. Those of torch have
    general classes and come from its own code, or, where they are raised below Python, from a call.
    """
    kind, traceback = type(error), error.__traceback__
    if kind not in (RuntimeError, NotImplementedError) and not kind.__module__.startswith("torch."):
        return False
    if traceback is None:
        return True
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    raised = code.co_code[traceback.tb_lasti] == _RAISE
    return not raised or code.co_filename.startswith(_TORCH)


_RAISE, _TORCH = dis.opmap["RAISE_VARARGS"], os.path.dirname(torch.__file__) + os.sep
