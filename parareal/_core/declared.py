"""Declarations as data: one frozen record, ``traits``, says what a part needs, and old class attributes still work.

A class declares its traits in one of three ways, and all of them can be read in both forms:

- ``traits = Record(...)`` in the class body;
- a property ``traits``, where they depend on the object's fields;
- plain class attributes, fields or properties with the names of the record's fields, collected into a record.

The nearest declaration in the order of the base classes counts, as for any attribute. `Declared` reads a single trait
as an attribute (``part.order``), `Collected` builds the record of a class that has attributes (``part.traits``).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Generic, TypeVar

from parareal._core.checks import described

T = TypeVar("T")
R = TypeVar("R")

_MISSING: Any = object()


class Declared(Generic[T]):
    """An attribute that is read from the record ``traits`` of its object, unless a subclass sets it.

    It has no annotation where it stands, so that subclasses may make a field, a property or a plain value of it.

    Args:
        default: The value where no subclass sets it, for an attribute that is no part of the record.
    """

    def __init__(self, default: Any = _MISSING) -> None:
        self._default, self.name = default, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, part: Any, owner: Any = None) -> T:
        # Dataclasses look for defaults on the class, where there shall be none: a field without a default stays one.
        if part is None:
            raise AttributeError(f"{owner.__name__} has no {self.name} of its own: read it from an object")
        return getattr(part.traits, self.name) if self._default is _MISSING else self._default


class Collected(Generic[R]):
    """The record of a class that declares its traits by attributes.

    Args:
        record: The class of the record.
        names: The traits that may be given by attributes.
        required: Those of them without which a class is not complete.
        example: What to write.
    """

    def __init__(self, record: type[R], names: tuple[str, ...], required: tuple[str, ...], example: str) -> None:
        self._record, self._names, self._required, self._example = record, names, required, example

    def __get__(self, part: Any, owner: Any = None) -> R:
        kind, found = type(part), set[str]()
        if part is None:
            raise AttributeError(f"{owner.__name__} has no traits of its own: read them from an object")
        inherited = None
        for base in kind.__mro__:
            space = vars(base)
            found |= {name for name in self._names if not isinstance(space.get(name, _UNSET), Declared)}
            declared = space.get("traits", self)
            if not isinstance(declared, Collected):
                inherited = declared.__get__(part, kind) if hasattr(declared, "__get__") else declared
                break
        found |= {name for name in self._names if name in getattr(part, "__dict__", ())}
        given = {name: getattr(part, name) for name in found}
        missing = [name for name in self._required if name not in given]
        if inherited is None and missing:
            raise TypeError(
                f"{kind.__name__} declares no {' and no '.join(missing)}; expected traits in the class body, such as "
                f"{self._example}"
            )
        try:
            return self._record(**kind.traits_defaults, **given) if inherited is None else replace(inherited, **given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{kind.__name__}: {error}") from None

    def settle(self, kind: type) -> None:
        """Called for each new subclass: it gets a record of its attributes, or has declared one, which is checked."""
        declared = vars(kind).get("traits")
        if declared is None or isinstance(declared, Collected):
            kind.traits = self  # pyright: ignore[reportAttributeAccessIssue]
            return
        if hasattr(declared, "__get__"):  # a property
            return
        if not isinstance(declared, self._record):
            raise TypeError(
                f"traits of {kind.__name__} is {described(declared)}; expected a record such as {self._example}"
            )
        for name in self._names:
            value = vars(kind).get(name, _UNSET)
            if not isinstance(value, Declared) and value != getattr(declared, name):
                raise TypeError(
                    f"{kind.__name__} declares {name} twice, as {value!r} and as {getattr(declared, name)!r} in its "
                    "traits; expected it in traits alone"
                )
        defaults: dict[str, Any] = kind.traits_defaults  # pyright: ignore[reportAttributeAccessIssue]
        if any(getattr(declared, name) != value for name, value in defaults.items()):
            kind.traits = replace(declared, **defaults)  # pyright: ignore


_UNSET: Declared[Any] = Declared()


def names_of(record: type) -> tuple[str, ...]:
    """The names of a record's fields."""
    return tuple(field.name for field in fields(record))
