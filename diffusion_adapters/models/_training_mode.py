"""Whether a network is a function of its input: in training mode many are not, and the iteration cannot settle."""

from __future__ import annotations

import warnings
from types import FunctionType
from typing import Any

from torch import nn

from diffusion_adapters._validate import kind_of
from diffusion_adapters.models._held_networks import nested, networks_of

_STATISTICS = (nn.modules.batchnorm._NormBase,)  # pyright: ignore[reportPrivateUsage]
_RECURRENT = (nn.RNNBase, nn.MultiheadAttention)


def check_mode(network: Any) -> None:
    """Raises where a network that is called is in training mode, and has layers that then behave differently.

    Networks are found behind functions, partials, objects that call them, and containers. Dropout of
    `torch.nn.functional` cannot be seen; `parareal` warns where it draws random numbers.

    Raises:
        ValueError: A layer is random, or changes what it holds with every call.

    Warns:
        RuntimeWarning: A module's own code asks whether it is training.
    """
    for found in networks_of(network):
        check_modules(found, "the network", "network", stacklevel=3)


def check_modules(network: nn.Module, what: str, name: str, stacklevel: int = 2) -> None:
    """The same for the modules of one network.

    Args:
        network: The network.
        what: What to call it.
        name: The expression for it in the remedy, ``{name}.eval()``.
        stacklevel: Whose line a warning names.

    Raises:
        ValueError: As in `check_mode`.

    Warns:
        RuntimeWarning: Likewise.
    """
    for path, part in network.named_modules():
        if not part.training:
            continue
        where = f"{type(network).__name__}{'.' + path if path else ''}"
        if why := why_unsteady(part):
            raise ValueError(
                f"{what} is in training mode, and its layer {where}, {kind_of(part)}, {why}: it is no function of its "
                f"input, so that the result would be wrong; expected evaluation mode: {name}.eval()"
            )
        if asks(part):
            warnings.warn(
                f"{what} is in training mode, and the code of {where}, {kind_of(part)}, asks for it (self.training): "
                f"what it does then may be no function of its input. Use {name}.eval()",
                RuntimeWarning,
                stacklevel=stacklevel,
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
    own = [kind for kind in type(part).__mro__ if issubclass(kind, nn.Module) and not _harmless(kind.__module__)]
    codes = [value.__code__ for kind in own for value in vars(kind).values() if isinstance(value, FunctionType)]
    return any("training" in part.co_names for code in codes for part in nested(code))


_LAYOUT_ONLY = ("diffusers.models.resnet", "diffusers.models.unets.unet_dreamlite")
"""Modules whose layers ask whether they are training for the order of numbers in memory, and not for the numbers."""


def _harmless(module: str) -> bool:
    return module == "torch" or module.startswith("torch.") or module in _LAYOUT_ONLY
