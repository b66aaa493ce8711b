"""Whether a network is a function of its input: in training mode many are not, and the iteration cannot settle."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from diffusion_adapters._validate import kind_of

_STATISTICS = (nn.modules.batchnorm._NormBase,)  # pyright: ignore[reportPrivateUsage]
_RECURRENT = (nn.RNNBase, nn.MultiheadAttention)


def check_mode(network: Any) -> None:
    """Raises where a network that is called is in training mode, and has layers that then behave differently.

    Networks are found behind functions, partials and objects that call them. Dropout of `torch.nn.functional` cannot be
    seen; `parareal` warns where it draws random numbers.

    Raises:
        ValueError: A layer is random, or changes what it holds with every call.

    Warns:
        RuntimeWarning: A module's own code asks whether it is training.
    """
    for found in networks_of(network):
        for name, part in found.named_modules():
            if not part.training:
                continue
            where = f"{type(found).__name__}{'.' + name if name else ''}"
            if why := why_unsteady(part):
                raise ValueError(
                    f"the network is in training mode, and its layer {where}, {kind_of(part)}, {why}: it is no "
                    "function of its input, so that the result would be wrong; expected evaluation mode: "
                    "network.eval()"
                )
            if asks(part):
                warnings.warn(
                    f"the network is in training mode, and the code of {where}, {kind_of(part)}, asks for it "
                    "(self.training): what it does then may be no function of its input. Use network.eval()",
                    RuntimeWarning,
                    stacklevel=2,
                )


def why_unsteady(part: nn.Module) -> str:
    """Why a module in training mode is not a function of its input; empty if it may be one."""
    name = getattr(part, "original_name", type(part).__name__)  # of scripted modules
    if "drop" in name.lower() or "StochasticDepth" in name:
        rates = [getattr(part, rate, 0.0) for rate in ("p", "drop_prob", "drop_rate", "rate")]
        if any(isinstance(rate, float | int) and rate > 0 for rate in rates):
            return "leaves out parts at random"
    if isinstance(part, _RECURRENT) and part.dropout > 0 and getattr(part, "num_layers", 2) > 1:
        return "leaves out parts at random"
    if isinstance(part, nn.RReLU) and part.lower != part.upper:
        return "has a random slope"
    if isinstance(part, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
        return "takes the statistics of whatever is computed together"
    if isinstance(part, _STATISTICS) and part.track_running_stats:
        return "changes its statistics with every call"
    before: dict[int, Any] = vars(part).get("_forward_pre_hooks", {})
    hooks = [type(hook).__name__ for hook in before.values()]
    if name == "_SpectralNorm" or "SpectralNorm" in hooks:
        return "takes another step of a power iteration in every call"
    return ""


def asks(part: nn.Module) -> bool:
    """Whether code of a class that is not torch's own reads ``training``."""
    own = [kind for kind in type(part).__mro__ if issubclass(kind, nn.Module) and not _of_torch(kind.__module__)]
    codes = [value.__code__ for kind in own for value in vars(kind).values() if isinstance(value, FunctionType)]
    return any("training" in code.co_names for code in _nested(codes))


def _of_torch(module: str) -> bool:
    return module == "torch" or module.startswith("torch.")


def _nested(codes: list[CodeType]) -> Iterator[CodeType]:
    for code in codes:
        yield code
        yield from _nested([part for part in code.co_consts if isinstance(part, CodeType)])


def networks_of(called: Any, depth: int = 6) -> list[nn.Module]:
    """Modules that are called when ``called`` is, as far as can be seen: not others that an object holds."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def look(thing: Any, left: int) -> None:
        if id(thing) in seen or left == 0:
            return
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            found.append(thing)
            parts = [value for part in thing.modules() for value in vars(part).values() if _calls(value)]
        else:
            parts = _parts_of(thing)
        for part in parts:
            look(part, left - 1)

    look(called, depth)
    return found


def _calls(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | nn.Module)


def _parts_of(thing: Any) -> list[Any]:
    """What a function, a partial, a method or an object that can be called refers to."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, MethodType):
        if isinstance(thing.__self__, nn.Module):
            return [thing.__self__]
        return [*_parts_of(thing.__func__), *_attributes(thing.__self__, thing.__func__)]
    if isinstance(thing, FunctionType):
        names = {name for code in _nested([thing.__code__]) for name in code.co_names}
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        known = [thing.__globals__[name] for name in names if name in thing.__globals__]
        return [*cells, *(each for each in known if _calls(each) or isinstance(each, nn.Module))]
    call = getattr(type(thing), "__call__", None)  # noqa: B004
    if isinstance(call, FunctionType):
        return [*_parts_of(call), *_attributes(thing, call)]
    return []


def _attributes(owner: Any, fn: Any) -> list[Any]:
    """Those that a method's code names."""
    names = {name for code in _nested([fn.__code__]) for name in code.co_names} if isinstance(fn, FunctionType) else ()
    own = getattr(owner, "__dict__", {})
    return [own[name] for name in names if name in own]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
