"""Names of choices, and what was probably meant by one that is unknown: a misspelling, or another library's name."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from parareal._core.checks import described

METHOD_HINTS = {
    "rk45": '{name}="dopri5"',
    "rk23": '{name}="bosh3"',
    "dop853": '{name}="dopri8"',
    "heun": '{name}="heun2"',
    "radau": 'pr.SciPy("Radau")',
    "bdf": 'pr.SciPy("BDF")',
    "lsoda": 'pr.SciPy("LSODA")',
    "dormandprince": '{name}="dopri5"',
    "tsitouras": '{name}="tsit5"',
}
"""SciPy's names of methods, and names of tableaus, for arguments that take torchdiffeq's."""

NORM_HINTS = {"l2": 'norm="rms"', "rmse": 'norm="rms"', "mean": 'norm="rms"', "inf": 'norm="max"', "linf": 'norm="max"'}
BATCHING_HINTS = {
    "batch": 'batching="native"',
    "batched": 'batching="native"',
    "vectorized": 'batching="native"',
    "none": 'batching="loop"',
    "serial": 'batching="loop"',
}

_OBJECTS = {
    "dopri5": 'pr.Adaptive("dopri5")',
    "tsit5": 'pr.Adaptive("tsit5")',
    "bosh3": 'pr.Adaptive("bosh3")',
    "dopri8": 'pr.Adaptive("dopri8")',
    "rk45": 'pr.SciPy("RK45")',
    "radau": 'pr.SciPy("Radau")',
    "bdf": 'pr.SciPy("BDF")',
    "lsoda": 'pr.SciPy("LSODA")',
    "heun2": "pr.Heun()",
    "picard": "pr.Identity()",
    "paradigms": "pr.Identity()",
    "none": "pr.Identity()",
    "jacobi": "pr.Zero()",
    "newton": "pr.Jacobian()",
    "deer": "pr.Jacobian()",
    "srds": "pr.Euler()",
    "parareal": "pr.Euler()",
    "pipelined": "pr.Wavefront()",
    "sequential": "pr.Serial()",
    "parallel": "pr.Batched()",
}
"""Names that people may try for a method, a correction, a schedule or an executor, spelled as `plain_name` does."""


def one_of(value: Any, known: Iterable[str], name: str, other: str = "", hints: Mapping[str, str] | None = None) -> str:
    """``value``, one of the ``known`` names.

    Args:
        value: The value.
        known: The names.
        name: The name of the argument.
        other: Other values that are possible in place of a name.
        hints: What to write in place of names of other libraries, spelled as `plain_name` spells them; ``{name}``
            stands for the name of the argument. Those that name no known choice are left out.

    Raises:
        TypeError: It is no string.
        ValueError: It is another string; the message lists the known names, and the one that was probably meant.
    """
    known = list(known)
    names = ", ".join(map(repr, known))
    expected = f"expected one of {names}{', or ' + other if other else ''}"
    if not isinstance(value, str):
        instead = f". Call the class to make one: {name}={value.__name__}(...)" if isinstance(value, type) else ""
        raise TypeError(f"{name} is {described(value)}; {expected}{instead}")
    if value not in known:
        meant = _meant(value, known, name, hints or {})
        raise ValueError(f"{name}={value!r} is unknown; {expected}{meant and f'. Did you mean {meant}?'}")
    return value


def check_keys(keys: Iterable[Any], known: Iterable[str], of: str) -> None:
    """Raises unless all names of options are known: otherwise a mistyped one would be ignored."""
    known = list(known)
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(plain_name(str(key)), {plain_name(one): one for one in known}, n=1)
            meant = {plain_name(one): one for one in known}[close[0]] if close else ""
            raise ValueError(
                f"option {key!r} is unknown to {of}; expected any of {', '.join(map(repr, known))}"
                f"{meant and f'. Did you mean {meant!r}?'}"
            )


def plain_name(name: str) -> str:
    """A name in lower case without separators, and with "++" for "pp": "DPM-Solver++ (2M)" becomes "dpm++2m"."""
    short = re.sub(r"[^a-z0-9+]", "", name.lower())
    for ending in ("scheduler", "sampler", "discrete"):
        short = short.removesuffix(ending)
    return short.removeprefix("sample").replace("dpmsolver", "dpm").replace("dpmpp", "dpm++") or short


def _meant(value: str, known: list[str], name: str, hints: Mapping[str, str]) -> str:
    """What to write, or nothing where no name is near."""
    short, spelled = plain_name(value), {plain_name(one): f'{name}="{one}"' for one in known}
    said = {key: hint.format(name=name) for key, hint in hints.items()}
    # A hint of one of the choices is good where there is that choice.
    said = {key: hint for key, hint in said.items() if not hint.startswith(f'{name}="') or hint in spelled.values()}
    return _near(short, {**spelled, **said})


def _near(short: str, options: Mapping[str, str]) -> str:
    """The option of a name, or of the one that is nearest; nothing where none is near."""
    if short in options:
        return options[short]
    close = difflib.get_close_matches(short, options, n=1, cutoff=0.75)
    longer = [one for one in options if len(short) > 2 and one.startswith(short)]
    if close or len({options[one] for one in longer}) == 1:
        return options[close[0] if close else longer[0]]
    return ""


def check_kind(
    value: Any, kinds: type | tuple[type, ...], name: str, example: str, function: str = "", number: Any = None
) -> None:
    """Raises unless ``value`` is an object of one of some kinds; says what was probably meant by a name or a class.

    Args:
        value: The value.
        kinds: The classes; the first is named as the one that is expected.
        name: The name of the argument.
        example: What to write.
        function: What to write where a function came, which it names as ``fn``.
        number: A function from a number that came to what to write in its place.

    Raises:
        TypeError: It is something else.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, kinds):
        return
    came, meant = described(value), ""
    if isinstance(value, str):
        came = f"{came}, {value!r}"
        meant = _object(value, kinds)
    elif isinstance(value, type):
        meant = _made(value) if issubclass(value, kinds) else ""
    elif isinstance(value, int | float) and not isinstance(value, bool):
        came, meant = f"{came}, {value!r}", number(value) if number else ""
    elif callable(value) and not hasattr(value, "traits"):
        meant = function
    raise TypeError(
        f"{name} is {came}; expected {kinds[0].__name__}, for example {example}"
        f"{meant and f'. Did you mean {name}={meant}?'}"
    )


def _object(value: str, kinds: tuple[type, ...]) -> str:
    """What to write for an object by its name."""
    public = {plain_name(one.__name__): _made(one) for one in _subclasses(kinds)}
    fitting = {key: made for key, made in _OBJECTS.items() if made.split("(")[0] in _calls(kinds)}
    return _near(plain_name(value), {**fitting, **public})


def _calls(kinds: tuple[type, ...]) -> set[str]:
    return {f"pr.{one.__name__}" for one in _subclasses(kinds)}


def _subclasses(kinds: Iterable[type]) -> list[type]:
    """The public classes of these kinds."""
    found: list[type] = []
    for kind in kinds:
        for one in kind.__subclasses__():
            found += [one] if _prefix(one) and not inspect.isabstract(one) else []
            found += _subclasses([one])
    return found


def _prefix(kind: type) -> str:
    """How users write the module of a public class."""
    for package, short in (("parareal", "pr."), ("diffusion_adapters", "da.")):
        if getattr(sys.modules.get(package), kind.__name__, None) is kind:
            return short
    return ""


def _made(kind: type) -> str:
    """A call of a class, with dots where it needs arguments."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needs = any(one.default is inspect.Parameter.empty and one.kind not in kinds for one in parameters)
    return f"{_prefix(kind)}{kind.__name__}({'...' if needs else ''})"
